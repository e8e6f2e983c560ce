"""Models that score an item by its weights to the items of a user's history."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import embedding_bag

from cnsdiff.references.base import Reference

#: ``(I, I)`` float32, dense or sparse: row ``j`` is what item ``j`` in a history gives to others.
ItemWeights = Tensor | csr_array


class ItemItemReference(Reference):
    """Base of the references whose scores are ``X W``: training positives times item weights."""

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        scorer = ItemItemScorer(self._history(users), self.solution())
        return scorer.score_block(torch.arange(len(users)), start, stop).to(users.device)

    def solution(self) -> ItemWeights:
        raise NotImplementedError


class ItemItemScorer:
    """Histories times item weights; a :class:`~cnsdiff.evaluation.Scorer`.

    Parameters
    ----------
    histories
        ``(U, I)`` the items of each user as ones.
    weights
        ``(I, I)``; sparse ones are scored on the CPU.
    item_bias
        ``(I,)`` added to every user's scores, on the device of the weights.
    only_nonzero
        Whether a score of exactly zero means "never recommend".
    unit_items
        Each user's scores are divided by their standard deviation over so many items, the first
        ones, before the bias is added; not where it is ``None``.
    """

    def __init__(
        self,
        histories: csr_array,
        weights: ItemWeights,
        item_bias: Tensor | None = None,
        *,
        only_nonzero: bool = False,
        unit_items: int | None = None,
    ) -> None:
        self.histories, self.weights, self.item_bias = histories, weights, item_bias
        self.only_nonzero, self.unit_items = only_nonzero, unit_items
        self._last: tuple[Tensor, Tensor] | None = None
        self.n_users, self.n_items = histories.shape

    @property
    def device(self) -> torch.device:
        return self.weights.device if isinstance(self.weights, Tensor) else torch.device("cpu")

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        histories = self.histories[users.cpu().numpy()]
        if isinstance(self.weights, Tensor):
            every = _dense_scores(histories, self.weights)
            scores = every[:, start:stop]
        else:
            scores = every = _sparse_scores(histories, self.weights, start, stop)
        if self.unit_items is not None:
            first = 0 if isinstance(self.weights, Tensor) else start
            if first == 0 and every.shape[1] >= self.unit_items:
                units = _units(every[:, : self.unit_items])
            else:
                units = self._units_of(users, histories)
            scores = scores / units[:, None].to(scores)
        if self.only_nonzero:
            scores = scores.masked_fill(scores == 0, -torch.inf)
        return scores if self.item_bias is None else scores + self.item_bias[start:stop]

    def _units_of(self, users: Tensor, histories: csr_array) -> Tensor:
        """Those of a batch; a ranking asks for the same one block of items after the other."""
        assert self.unit_items is not None
        if self._last is None or not torch.equal(self._last[0], users):
            units = item_item_units(histories, self.weights, self.unit_items)
            self._last = users.clone(), units
        return self._last[1]


def item_item_units(histories: csr_array, weights: ItemWeights, n: int) -> Tensor:
    """``(B,)`` float64: the standard deviation of users' scores over the first ``n`` items.

    A user whose scores are all alike has 1.
    """
    if isinstance(weights, Tensor):
        return _units(_dense_scores(histories, weights)[:, :n])
    sums = csr_array(histories.astype(np.float64) @ weights)[:, :n]
    means = np.asarray(sums.sum(axis=1)) / n
    squares = np.asarray(sums.multiply(sums).sum(axis=1)) / n
    return _or_1(torch.from_numpy(np.sqrt(np.maximum(squares - means**2, 0))))


def _units(scores: Tensor) -> Tensor:
    return _or_1(scores.double().std(dim=1, correction=0))


def _or_1(deviations: Tensor) -> Tensor:
    return torch.where(deviations > 1e-12, deviations, 1.0)


def _dense_scores(histories: csr_array, weights: Tensor) -> Tensor:
    """``(B, I)``. One bag per user: the sum of the weight rows of the items in the history.

    Of all items, since a bag would copy a part of the columns first: gigabytes for each user.
    """
    return embedding_bag(
        torch.from_numpy(histories.indices).to(weights.device, torch.int64),
        weights,
        torch.from_numpy(histories.indptr).to(weights.device, torch.int64),
        mode="sum",
        include_last_offset=True,
    )


def _sparse_scores(histories: csr_array, weights: csr_array, start: int, stop: int) -> Tensor:
    """``(B, stop - start)``; whichever has fewer entries, product or weights, is cut to columns."""
    if stop - start == weights.shape[1]:
        product = histories @ weights
    elif np.diff(weights.indptr)[histories.indices].sum() <= weights.nnz:
        product = csr_array(histories @ weights)[:, start:stop]
    else:
        product = histories @ weights[:, start:stop]
    return torch.from_numpy(product.toarray())
