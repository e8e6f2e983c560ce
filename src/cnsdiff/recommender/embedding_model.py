"""The fitted model: embeddings and ids, enough to recommend.

This part is saved and served; nothing in it knows how it was trained. It works in a process that
was forked after the model was loaded (gunicorn's ``--preload``, Celery, ``multiprocessing.Pool``).
"""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.base.errors import CnsdiffWarning, InputError
from cnsdiff.base.text import parameter
from cnsdiff.data.ids import IdIndex, column_of, frame_like, id_array, id_list
from cnsdiff.data.side_tables import Seen
from cnsdiff.data.splits import pair_matrix
from cnsdiff.environment import Environment
from cnsdiff.evaluation import EmbeddingScorer, rank
from cnsdiff.evaluation.dial import dial_bias
from cnsdiff.evaluation.metrics import item_counts
from cnsdiff.evaluation.ranking import Scorer
from cnsdiff.recommender.eligibility import Among, ItemChoice, SeenItems, barred, rows_of, user_keys

Cold = Literal["error", "popular"]
_IMPORTED_IN = os.getpid()


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
    seen
        What the log says of its users beyond them, which recommendations leave out, too; ``None``
        if it is not known (a run from before it was kept).
    dial_step
        ``(I,)`` float32, ``σ_s · e``: what one unit of the dial adds to an item's score
        (:mod:`cnsdiff.evaluation.dial`).
    dial
        ``γ`` as chosen on validation; scores are read at it unless another is asked for.
    environment
        What a rehearsal chose, which can be computed again at another moment.
    bias
        ``(I,)`` float32 what it adds to an item's score at the end of the training data, unless a
        dial is asked for.
    """

    users: pl.Series
    items: pl.Series
    user_embeddings: Tensor
    item_embeddings: Tensor
    train: csr_array
    dial_step: Tensor
    dial: float = 0.0
    seen: Seen | None = None
    environment: Environment | None = None
    bias: Tensor | None = None

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
        if dial is None and self.bias is not None:
            return self.bias
        gamma = self.dial if dial is None else dial
        return None if gamma == 0 else dial_bias(self.dial_step, gamma)

    def recommend(
        self,
        users: Any,
        k: int = 20,
        *,
        seen: SeenItems = "all",
        exclude: Any = None,
        only: Any = None,
        cold: Cold = "error",
        dial: float | None = None,
    ) -> Any:
        """See :meth:`cnsdiff.Recommender.recommend`."""
        # Check what is asked for, and find the users.
        _require_threads()
        k = self._length(k)
        for name, value, kind in (("cold", cold, Cold), ("seen", seen, SeenItems)):
            if value not in get_args(kind):
                raise _not_one_of(name, value, kind)
        column = column_of(users, "user")
        ids = id_list(column)
        numbers = self._user_index.find(ids)
        known = numbers >= 0
        if cold == "error" and not known.all():
            mend = f"; pass {parameter('cold', 'popular')} to fall back"
            raise _unknown(numbers, ids, "user", mend)
        # What may be shown: all but what is seen and excluded, or only what is named.
        excluded = None if exclude is None else ItemChoice.of("exclude", exclude, self._item_index)
        allowed = None if only is None else ItemChoice.of("only", only, self._item_index)
        out, among = self._of_each(ids, numbers, seen, excluded, allowed)
        # Rank: known users by the model, new ones by popularity, as vectors of one number.
        items = np.full((len(ids), k), -1, dtype=np.int64)
        scores = np.full((len(ids), k), -np.inf, dtype=np.float32)
        at_dial = self._bias(dial)
        for rows in (known, ~known):
            if not rows.any():
                continue
            if rows is known:
                vectors = self.user_embeddings[numbers[known]], self.item_embeddings
                bias = at_dial
            else:
                counts = item_counts(self.train).float()[:, None]
                vectors, bias = (torch.ones(int(rows.sum()), 1), counts), None
            if excluded is not None or allowed is not None:
                bias = barred(bias, len(self.items), excluded, allowed)
            scorer: Scorer = EmbeddingScorer(*vectors, bias)
            if among is not None:
                scorer = Among(scorer, among[rows])
            every = torch.arange(scorer.n_users)
            best, best_scores = rank(scorer, every, k, exclude=out[rows])
            items[rows], scores[rows] = best.numpy(), best_scores.numpy()
        return self._lists("user", column, "item", items, scores)

    def _of_each(
        self,
        ids: Sequence[Any],
        numbers: NDArray[np.int64],
        seen: SeenItems,
        exclude: ItemChoice | None,
        only: ItemChoice | None,
    ) -> tuple[csr_array, csr_array | None]:
        """``(len(ids), I)`` what each user is not shown; and the only items each may be shown."""
        if seen == "none":
            out = rows_of(self.train, np.full(len(ids), -1))
        else:
            out = rows_of(self.train, numbers)
        if seen == "all" and self.seen is None:
            _tell_only_train(stacklevel=5)
        elif seen == "all" and self.seen is not None:
            out = out + rows_of(self.seen.pairs, numbers)
            new = np.full(len(ids), -1, dtype=np.int64)
            new[numbers < 0] = self._other_index.find(
                [user for user, number in zip(ids, numbers, strict=True) if number < 0]
            )
            out = out + rows_of(self.seen.others_pairs, new)
        among = None
        named = [choice for choice in (exclude, only) if choice and choice.users is not None]
        keys = user_keys(ids, numbers) if named else []
        for choice in named:
            name = "exclude" if choice is exclude else "only"
            choice.tell_strangers(name, keys, self._user_index)
            rows = choice.rows(keys, self._user_index, len(self.items))
            if choice is exclude:
                out = out + rows
            else:
                among = rows
        return out, among

    def left_out(self, seen: SeenItems = "all") -> csr_array:
        """``(U, I)`` the pairs that :meth:`recommend` leaves out for users of train."""
        if seen not in get_args(SeenItems):
            raise _not_one_of("seen", seen, SeenItems)
        if seen == "none":
            return rows_of(self.train, np.full(len(self.users), -1))
        if seen == "all" and self.seen is None:
            _tell_only_train(stacklevel=4)
        elif seen == "all" and self.seen is not None:
            both: csr_array = self.train + self.seen.pairs
            return both
        return self.train

    def score(self, users: Any, items: Any, *, dial: float | None = None) -> NDArray[np.float32]:
        """See :meth:`cnsdiff.Recommender.score`."""
        _require_threads()
        user_numbers = self._known(self._user_index, id_list(column_of(users, "user")), "user")
        item_numbers = self._known(self._item_index, id_list(column_of(items, "item")), "item")
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

    def similar(self, items: Any, k: int = 20, *, exclude: Any = None, only: Any = None) -> Any:
        """See :meth:`cnsdiff.Recommender.similar`."""
        _require_threads()
        k = self._length(k)
        column = column_of(items, "item")
        numbers = self._known(self._item_index, id_list(column), "item")
        excluded = None if exclude is None else ItemChoice.of("exclude", exclude, self._item_index)
        allowed = None if only is None else ItemChoice.of("only", only, self._item_index)
        for name, choice in (("exclude", excluded), ("only", allowed)):
            if choice is not None and choice.users is not None:
                raise InputError(f"{name}: similar items are of no user; give a list of items")
        unit = torch.nn.functional.normalize(self.item_embeddings, dim=1)
        itself = pair_matrix(np.arange(len(numbers)), numbers, (len(numbers), len(self.items)))
        bias = barred(None, len(self.items), excluded, allowed)
        scorer = EmbeddingScorer(unit[torch.from_numpy(numbers)], unit, bias)
        best, scores = rank(scorer, torch.arange(len(numbers)), k, exclude=itself)
        return self._lists("item", column, "similar", best.numpy(), scores.numpy())

    def _length(self, k: int) -> int:
        """The length of lists that ``k`` asks for: no longer than the catalogue."""
        try:
            whole = operator.index(k)
        except TypeError:
            whole = None
        if whole is None or isinstance(k, bool):
            raise InputError(f"k must be a whole number, not {k!r}")
        if whole < 1:
            raise InputError(f"k must be at least 1, not {k}")
        return min(whole, len(self.items))

    def _lists(
        self,
        owner: str,
        column: Any,
        listed: str,
        items: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> Any:
        """Ranked lists ``(n, k)``, padded with -1, as one row per entry."""
        present = items >= 0
        ranks = np.broadcast_to(np.arange(1, items.shape[1] + 1), items.shape)
        rows = np.repeat(np.arange(len(items)), present.sum(axis=1))
        columns = {
            owner: id_array(column).take(pa.array(rows)),
            listed: self._item_index.take(items[present]),
            "score": pa.array(scores[present]),
            "rank": pa.array(ranks[present]),
        }
        return frame_like(columns, column)

    # Apart, since similar items need no index of a million users.
    @cached_property
    def _user_index(self) -> IdIndex:
        return IdIndex(self.users)

    @cached_property
    def _item_index(self) -> IdIndex:
        return IdIndex(self.items)

    @cached_property
    def _other_index(self) -> IdIndex:
        """Users of the log who are not in train."""
        return IdIndex(pl.Series([], dtype=pl.Int64) if self.seen is None else self.seen.others)

    @staticmethod
    def _known(index: IdIndex, ids: list[Any], what: str) -> NDArray[np.int64]:
        numbers = index.find(ids)
        if (numbers < 0).any():
            raise _unknown(numbers, ids, what)
        return numbers


def _require_threads() -> None:
    """Work in one thread in a forked process: OpenMP's did not survive, and would be waited for."""
    if os.getpid() != _IMPORTED_IN and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def _tell_only_train(*, stacklevel: int) -> None:
    warnings.warn(
        "this run is from before cnsdiff kept what a log says of its users beyond train, so only "
        "training pairs are left out of lists; train it again",
        CnsdiffWarning,
        stacklevel=stacklevel,
    )


def _not_one_of(name: str, value: object, kind: Any) -> InputError:
    *most, last = map(repr, get_args(kind))
    return InputError(f"{name} must be {', '.join(most)} or {last}, not {value!r}")


def _unknown(
    numbers: NDArray[np.int64], ids: Sequence[Any], what: str, mend: str = ""
) -> InputError:
    unknown = numbers < 0
    return InputError(
        f"{int(unknown.sum())} of {len(numbers)} {what}s did not occur in training, the first "
        f"is {ids[int(np.argmax(unknown))]!r}{mend}"
    )
