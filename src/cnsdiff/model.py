"""What remains of training: embeddings and ids, enough to recommend.

This part is saved and served; nothing in it knows how it was trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from cnsdiff.data.ids import Vocabulary, id_column
from cnsdiff.errors import InputError
from cnsdiff.evaluation import EmbeddingScorer, rank
from cnsdiff.evaluation.dial import dial_bias
from cnsdiff.evaluation.evaluate import item_counts
from cnsdiff.frames import like_given

Cold = Literal["error", "popular"]


@dataclass(frozen=True)
class EmbeddingModel:
    """Users and items as vectors whose inner product, with the dial's share, is the score.

    Attributes
    ----------
    users, items
        The ids known; the row is the internal number.
    user_embeddings, item_embeddings
        ``(U, d)`` and ``(I, d)`` float32 on the CPU.
    train
        ``(U, I)`` the training pairs, which recommendations leave out.
    environment
        ``(I,)`` float32, ``σ_s · e``: what one unit of the dial adds to an item's score
        (:mod:`cnsdiff.evaluation.dial`).
    dial
        ``γ`` as chosen on validation; scores are read at it unless another is asked for.
    """

    users: pl.Series
    items: pl.Series
    user_embeddings: Tensor
    item_embeddings: Tensor
    train: sparse.csr_array
    environment: Tensor
    dial: float = 0.0

    def scorer(
        self, device: torch.device | str = "cpu", dial: float | None = None
    ) -> EmbeddingScorer:
        """The model as the evaluation sees it, read at ``dial`` or at the chosen one."""
        bias = self._bias(dial)
        return EmbeddingScorer(
            self.user_embeddings.to(device),
            self.item_embeddings.to(device),
            None if bias is None else bias.to(device),
        )

    def _bias(self, dial: float | None) -> Tensor | None:
        gamma = self.dial if dial is None else dial
        return None if gamma == 0 else dial_bias(self.environment, gamma)

    def recommend(
        self, users: Any, k: int = 20, *, cold: Cold = "error", dial: float | None = None
    ) -> Any:
        """See :meth:`cnsdiff.Recommender.recommend`."""
        _require_positive(k)
        k = min(k, len(self.items))
        if cold not in ("error", "popular"):
            raise InputError(f"cold must be 'error' or 'popular', not {cold!r}")
        asked = id_column(users)
        numbers = self._user_index.encode(asked)
        if cold == "error":
            mend = "; pass cold='popular' (--cold popular) to fall back"
            _require_known(numbers, asked, "user", mend)
        known = numbers >= 0
        items = np.full((len(numbers), k), -1, dtype=np.int64)
        scores = np.full((len(numbers), k), -np.inf, dtype=np.float32)
        if known.any():
            scorer = self.scorer(dial=dial)
            found = rank(scorer, torch.from_numpy(numbers[known]), k, exclude=self.train)
            items[known], scores[known] = found[0].numpy(), found[1].numpy()
        if not known.all():
            counts = item_counts(self.train).numpy()
            top = np.lexsort((np.arange(len(counts)), -counts))[:k]
            items[~known, : len(top)], scores[~known, : len(top)] = top, counts[top]
        return like_given(self._lists("user", asked, "item", items, scores), users)

    def score(self, users: Any, items: Any, *, dial: float | None = None) -> NDArray[np.float32]:
        """See :meth:`cnsdiff.Recommender.score`."""
        user_numbers = self._known(self._user_index, users, "user")
        item_numbers = self._known(self._item_index, items, "item")
        if len(user_numbers) != len(item_numbers):
            raise InputError(
                f"score needs as many users as items, not {len(user_numbers)} and "
                f"{len(item_numbers)}"
            )
        pairs = self.user_embeddings[user_numbers] * self.item_embeddings[item_numbers]
        scores, bias = pairs.sum(dim=1), self._bias(dial)
        if bias is not None:
            scores += bias[item_numbers]
        result: NDArray[np.float32] = scores.numpy()
        return result

    def similar(self, items: Any, k: int = 20) -> Any:
        """See :meth:`cnsdiff.Recommender.similar`."""
        _require_positive(k)
        numbers = self._known(self._item_index, items, "item")
        unit = torch.nn.functional.normalize(self.item_embeddings, dim=1)
        itself = pair_matrix(np.arange(len(numbers)), numbers, (len(numbers), len(self.items)))
        scorer = EmbeddingScorer(unit[torch.from_numpy(numbers)], unit)
        found, scores = rank(scorer, torch.arange(len(numbers)), k, exclude=itself)
        asked = self._item_index.decode(numbers)
        table = self._lists("item", asked, "similar", found.numpy(), scores.numpy())
        return like_given(table, items)

    def _lists(
        self,
        owner: str,
        asked: pl.Series,
        listed: str,
        items: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> pl.DataFrame:
        """Ranked lists ``(n, k)``, padded with -1, as one row per entry."""
        present = items >= 0
        ranks = np.broadcast_to(np.arange(1, items.shape[1] + 1), items.shape)
        return pl.DataFrame(
            {
                owner: asked.gather(np.repeat(np.arange(len(asked)), present.sum(axis=1))),
                listed: self._item_index.decode(items[present]),
                "score": scores[present],
                "rank": ranks[present],
            }
        )

    @cached_property
    def _user_index(self) -> Vocabulary:
        return Vocabulary(self.users)

    @cached_property
    def _item_index(self) -> Vocabulary:
        return Vocabulary(self.items)

    @staticmethod
    def _known(index: Vocabulary, ids: Iterable[Any], what: str) -> NDArray[np.int64]:
        asked = id_column(ids)
        numbers = index.encode(asked)
        _require_known(numbers, asked, what, "")
        return numbers


def pair_matrix(
    rows: NDArray[np.integer[Any]], columns: NDArray[np.integer[Any]], shape: tuple[int, int]
) -> sparse.csr_array:
    """Pairs as a CSR matrix of ones with sorted indices."""
    ones = np.ones(len(rows), dtype=np.float32)
    matrix = sparse.csr_array((ones, (rows, columns)), shape=shape)
    matrix.sort_indices()
    return matrix


def _require_known(numbers: NDArray[np.int64], asked: pl.Series, what: str, mend: str) -> None:
    unknown = numbers < 0
    if unknown.any():
        first = asked[int(np.argmax(unknown))]
        raise InputError(
            f"{int(unknown.sum())} of {len(numbers)} {what}s did not occur in training, the first "
            f"is {first!r}{mend}"
        )


def _require_positive(k: int) -> None:
    if k < 1:
        raise InputError(f"k must be at least 1, not {k}")
