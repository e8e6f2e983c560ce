"""Validation objectives that anticipate a shift, from IID validation data alone (equation 23).

A test set under a shift is not at hand when the best epoch is chosen, and must not be. But IID
validation pairs can be *weighted* so that they count as they would under the shift: by the inverse
popularity or exposure of their items, by how recent they are, or slice by slice with the worst one
counting.

The plain metric is a mean over users of a mean over their relevant items, that is, an expectation
over pairs ``(u, i)`` drawn with probability ``1 / (n_users · n_u)``. Weights ``w_ui`` reweight that
expectation (importance weighting, self-normalised)::

    Recall@K = Σ_u (1/n_u) Σ_{i hit} w_ui  /  Σ_u (1/n_u) Σ_i w_ui
    NDCG@K   = Σ_u w̄_u DCG_u / IDCG_u     /  Σ_u w̄_u           gains w_ui, w̄_u = mean of w_ui

so that equal weights give the plain metric exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnsdiff.data import Split
from cnsdiff.evaluation.relevance import Relevance

Anticipated = Literal[
    "inverse-popularity",
    "inverse-exposure",
    "inverse-propensity",
    "tempered",
    "recency",
    "worst-slice",
    "drift",
]
Slicing = Literal["popularity", "activity", "time"]

#: Metrics that have a weighted form.
WEIGHTED = ("recall", "ndcg")


def anticipated_name(metric: str, anticipated: str) -> str:
    """What the value of ``metric`` under an anticipated shift is called."""
    return f"{metric} ({anticipated})"


class Anticipation:
    """Weighted metrics of ranked lists; of several weightings, the worst.

    Parameters
    ----------
    name
        What the shift is called in the names of the metrics: ``"ndcg@20 (name)"``.
    split
        The validation pairs.
    n_users, n_items
        Size of the catalogue.
    weights
        ``(S, m)`` weights of the ``m`` pairs under each of ``S`` weightings, none negative, none
        all zero.
    ks
        Cut-offs.
    """

    def __init__(
        self,
        name: str,
        split: Split,
        n_users: int,
        n_items: int,
        weights: NDArray[np.float64],
        ks: Sequence[int],
    ) -> None:
        self.name = name
        self._relevance = Relevance(split.users, split.items, n_users, n_items)
        self.ks = tuple(sorted(set(ks)))
        order = np.argsort(split.users * n_items + split.items, kind="stable")
        users = torch.from_numpy(split.users[order])
        self._weights = torch.from_numpy(np.ascontiguousarray(weights[:, order]))
        n_pairs = self._relevance.counts.to(torch.float64)
        mean = [_sums(users, w, n_users) / n_pairs.clamp(min=1) for w in self._weights]
        self._mean_weight = torch.stack(mean)
        ideal = [_ideal_gains(users, w, n_users, self.ks) for w in self._weights]
        self._ideal = torch.stack(ideal)

    @property
    def effective_pairs(self) -> float:
        """Kish's effective number of pairs, ``(Σ w)² / Σ w²``; of several weightings, the least."""
        total, squares = self._weights.sum(1), self._weights.square().sum(1)
        return float((total.square() / squares).min())

    def __call__(self, users: Tensor, items: Tensor) -> dict[str, float]:
        """``{"recall@10 (name)": …, …}`` of the lists ``items (n, K)`` of ``users (n,)``.

        ``users`` must be all that have a pair, each once (others change nothing); ``items`` hold
        -1 for none, and reach to the largest cut-off or the end of the catalogue.
        """
        place, hit = self._relevance.positions(users, items)
        discount = 1.0 / torch.arange(2.0, items.shape[1] + 2.0, dtype=torch.float64).log2()
        n_pairs = self._relevance.counts[users].clamp(min=1).to(torch.float64)
        found: dict[str, list[float]] = {}
        for weights, mean, ideal in zip(self._weights, self._mean_weight, self._ideal, strict=True):
            gains = weights[place] * hit
            user_weight = mean[users]
            total = user_weight.sum()
            for at, k in enumerate(self.ks):
                cut = min(k, items.shape[1])
                recall = (gains[:, :cut].sum(1) / n_pairs).sum() / total
                dcg = (gains[:, :cut] * discount[:cut]).sum(1)
                best = ideal[at][users]
                ndcg = torch.where(best > 0, dcg / best.clamp(min=1e-300), 0.0)
                found.setdefault(f"recall@{k}", []).append(float(recall))
                found.setdefault(f"ndcg@{k}", []).append(float((user_weight * ndcg).sum() / total))
        return {anticipated_name(key, self.name): min(values) for key, values in found.items()}


def _sums(users: Tensor, values: Tensor, n_users: int) -> Tensor:
    return torch.bincount(users, values, minlength=n_users)


def _ideal_gains(users: Tensor, weights: Tensor, n_users: int, ks: Sequence[int]) -> Tensor:
    """``(len(ks), n_users)`` DCG of each user's pairs in the best order; ``users`` ascending."""
    best_first = torch.from_numpy(np.lexsort((-weights.numpy(), users.numpy())))
    # Users are ascending already, so only the order within each changes.
    starts = torch.searchsorted(users, users)
    rank = torch.arange(len(users)) - starts
    gains = weights[best_first] / (rank + 2.0).to(torch.float64).log2()
    return torch.stack([_sums(users, gains * (rank < min(k, len(rank))), n_users) for k in ks])
