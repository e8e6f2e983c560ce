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
    """

    def __init__(
        self,
        histories: csr_array,
        weights: ItemWeights,
        item_bias: Tensor | None = None,
        *,
        only_nonzero: bool = False,
    ) -> None:
        self.histories, self.weights, self.item_bias = histories, weights, item_bias
        self.only_nonzero = only_nonzero
        self.n_users, self.n_items = histories.shape

    @property
    def device(self) -> torch.device:
        return self.weights.device if isinstance(self.weights, Tensor) else torch.device("cpu")

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        histories = self.histories[users.cpu().numpy()]
        if isinstance(self.weights, Tensor):
            scores = _dense_scores(histories, self.weights)[:, start:stop]
        else:
            scores = _sparse_scores(histories, self.weights, start, stop)
        if self.only_nonzero:
            scores = scores.masked_fill(scores == 0, -torch.inf)
        return scores if self.item_bias is None else scores + self.item_bias[start:stop]


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
