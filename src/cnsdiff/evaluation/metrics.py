"""Metrics of ranked lists, with the semantics of trec_eval, for whole batches at once.

Accuracy metrics take ``hits`` — bool, shape (n, K), whether the item at each rank (best first) is
relevant — and ``n_relevant`` — int64, shape (n,), at least 1 — and return one float64 value per
user, shape (n,). Gains are binary; a list shorter than ``K`` is padded with misses. Sources:
Järvelin & Kekäläinen (2002) for nDCG; Voorhees & Harman, *TREC* (2005) for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


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
