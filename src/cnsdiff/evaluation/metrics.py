"""Held-out positives, and metrics of ranked lists against them: whole batches at once.

The semantics are those of trec_eval. Accuracy metrics take ``hits`` — bool, shape (n, K), whether
the item at each rank (best first) is relevant — and ``n_relevant`` — int64, shape (n,), at least 1
— and return one float64 value per user, shape (n,). Gains are binary; a list shorter than ``K`` is
padded with misses. Sources: Järvelin & Kekäläinen (2002) for nDCG; Voorhees & Harman, *TREC* (2005)
for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.base.errors import DataError
from cnsdiff.data import Split


class Relevance:
    """Which items are relevant to which user, as sorted pair keys ``user * n_items + item``.

    Parameters
    ----------
    users, items : int64 arrays, shape (m,)
        Relevant pairs in any order; a pair given twice counts once.
    n_users, n_items : int
    device : torch.device or str

    Attributes
    ----------
    counts : Tensor of int64, shape (n_users,)
        Number of relevant items of each user.

    Raises
    ------
    DataError
        If a pair lies outside ``n_users`` × ``n_items``.
    """

    def __init__(
        self,
        users: NDArray[np.int64],
        items: NDArray[np.int64],
        n_users: int,
        n_items: int,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, index, size in (("user", users, n_users), ("item", items, n_items)):
            if len(index) and (index.min() < 0 or index.max() >= size):
                raise DataError(
                    f"held-out pairs hold {name} indices from {index.min()} to {index.max()}, but "
                    f"the model knows 0 to {size - 1}; drop pairs unknown to training"
                )
        keys = np.unique(users.astype(np.int64) * n_items + items)
        self._n_items = n_items
        self._keys = torch.from_numpy(keys).to(device)
        counts = np.bincount(keys // max(n_items, 1), minlength=n_users)
        self.counts = torch.from_numpy(counts.astype(np.int64)).to(device)

    @property
    def users(self) -> Tensor:
        """Users with at least one relevant item, ascending: int64, shape (n,)."""
        return self.counts.nonzero()[:, 0]

    def hits(self, users: Tensor, items: Tensor) -> Tensor:
        """Whether each listed item is relevant to its user.

        Parameters
        ----------
        users : Tensor of int64, shape (n,)
        items : Tensor of int64, shape (n, K)
            -1 where there is none.

        Returns
        -------
        Tensor of bool, shape (n, K)
        """
        return self.positions(users, items)[1]

    def positions(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Where each listed item stands among the sorted pairs, and whether it is one of them.

        Parameters
        ----------
        users, items
            As in :meth:`hits`.

        Returns
        -------
        Tensor of int64, Tensor of bool, both of shape (n, K)
            The place means nothing where the second is false.
        """
        if not len(self._keys):
            return torch.zeros_like(items), torch.zeros_like(items, dtype=torch.bool)
        wanted = users[:, None] * self._n_items + items
        at = torch.searchsorted(self._keys, wanted).clamp_(max=len(self._keys) - 1)
        # The padding's key, one below the user's first, is the previous user's last item.
        return at, (self._keys[at] == wanted) & (items >= 0)


def relevance_of(split: Split, name: str, shape: tuple[int, int]) -> Relevance:
    """The held-out pairs of a split of ``(users, items)``.

    Raises
    ------
    DataError
        There are none; ``name`` is what the message calls the split.
    """
    relevance = Relevance(split.users, split.items, *shape)
    if not len(relevance.users):
        raise DataError(f"{name} holds no interactions, so there is nothing to measure on it")
    return relevance


def item_counts(train: csr_array) -> Tensor:
    """``(I,)`` training pairs of each item."""
    return torch.from_numpy(np.bincount(train.indices, minlength=train.shape[1]))


def recall(hits: Tensor, n_relevant: Tensor) -> Tensor:
    """Share of a user's relevant items that are in the list."""
    return hits.sum(1, dtype=torch.float64) / n_relevant


def precision(hits: Tensor, n_relevant: Tensor) -> Tensor:
    """Share of the K places that hold a relevant item (K even where the list is shorter)."""
    return hits.sum(1, dtype=torch.float64) / hits.shape[1]


def hitrate(hits: Tensor, n_relevant: Tensor) -> Tensor:
    """1 for a user with at least one hit, else 0; its mean is the share of such users."""
    return hits.any(1).to(torch.float64)


def mrr(hits: Tensor, n_relevant: Tensor) -> Tensor:
    """Reciprocal rank of the first hit, 0 without one."""
    return (hits / _ranks(hits)).amax(1)


def average_precision(hits: Tensor, n_relevant: Tensor) -> Tensor:
    """Precision at each hit, summed and divided by the number of relevant items."""
    precision_at = hits.cumsum(1) / _ranks(hits)
    return (precision_at * hits).sum(1) / n_relevant


def ndcg(hits: Tensor, n_relevant: Tensor) -> Tensor:
    """Discounted gain, ``1 / log2(rank + 1)`` per hit, over that of a perfect list.

    A perfect list begins with ``min(n_relevant, K)`` hits.
    """
    discount = 1.0 / (_ranks(hits) + 1.0).log2()
    ideal = discount.cumsum(0)[n_relevant.clamp(1, hits.shape[1]) - 1]
    return (hits * discount).sum(1) / ideal


ACCURACY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "recall": recall,
    "ndcg": ndcg,
    "precision": precision,
    "hitrate": hitrate,
    "mrr": mrr,
    "map": average_precision,
}
"""Per-user metrics by name: higher is better, all between 0 and 1."""


def accuracy(hits: Tensor, n_relevant: Tensor, ks: Sequence[int]) -> dict[str, Tensor]:
    """Every accuracy metric at every cut-off: ``{"recall@10": (n,) float64, ...}``.

    Parameters
    ----------
    hits : Tensor of bool, shape (n, K)
        With ``K`` at least the largest cut-off, or the whole catalogue where that is less.
    n_relevant : Tensor of int64, shape (n,)
        At least 1 each.
    ks : sequence of int
    """
    values: dict[str, Tensor] = {}
    width = hits.shape[1]
    for k in ks:
        places = hits[:, : min(k, width)]
        values |= {f"{name}@{k}": metric(places, n_relevant) for name, metric in ACCURACY.items()}
        if k > width:
            # The only one to which places that the catalogue cannot fill make a difference.
            values[f"precision@{k}"] = places.sum(1, dtype=torch.float64) / k
    return values


def recommendation_counts(items: Tensor, n_items: int) -> Tensor:
    """How often each item is recommended: int64, shape (n_items,); padding (-1) not counted."""
    return torch.bincount(items[items >= 0], minlength=n_items)


def coverage(counts: Tensor) -> float:
    """Share of the catalogue that is recommended to anyone."""
    return float((counts > 0).sum()) / len(counts)


def popularity(counts: Tensor, train_counts: Tensor) -> float:
    """Mean number of training interactions of a recommended item; NaN without any."""
    total = float(counts.sum())
    weighted = float((counts.to(torch.float64) * train_counts.to(torch.float64)).sum())
    return weighted / total if total else float("nan")


def gini(counts: Tensor) -> float:
    """Gini index of the recommendation counts over the catalogue; NaN without any.

    0 if all items are recommended equally often, ``1 - 1 / n_items`` if only one ever is.
    """
    ascending = counts.sort().values.to(torch.float64)
    n, total = len(counts), float(ascending.sum())
    weights = 2.0 * torch.arange(1, n + 1, device=counts.device, dtype=torch.float64) - n - 1.0
    return float((weights * ascending).sum()) / (n * total) if total else float("nan")


def list_level(items: Tensor, train_counts: Tensor, ks: Sequence[int]) -> dict[str, float]:
    """Every list-level metric at every cut-off.

    Parameters
    ----------
    items : Tensor of int64, shape (n, K)
        Ranked items, -1 for none.
    train_counts : Tensor, shape (n_items,)
        Training interactions of each item.
    ks : sequence of int
    """
    values: dict[str, float] = {}
    for k in ks:
        places = items[:, : min(k, items.shape[1])]
        counts = recommendation_counts(places, len(train_counts))
        values[f"coverage@{k}"] = coverage(counts)
        values[f"popularity@{k}"] = popularity(counts, train_counts)
        values[f"gini@{k}"] = gini(counts)
    return values


def _ranks(hits: Tensor) -> Tensor:
    return torch.arange(1, hits.shape[1] + 1, device=hits.device, dtype=torch.float64)
