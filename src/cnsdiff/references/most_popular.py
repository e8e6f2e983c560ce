"""Popularity: every user gets the most clicked items."""

from __future__ import annotations

from typing import ClassVar

from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.evaluation.relevance import item_counts
from cnsdiff.references.base import Reference


class MostPop(Reference):
    """Score an item by its number of users in training.

    Attributes
    ----------
    counts_ : Tensor of float32, shape (n_items,)
    """

    dialled: ClassVar[bool] = False

    counts_: Tensor

    def _fit(self, train: csr_array) -> None:
        self.counts_ = item_counts(train).float()

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        self._fitted()
        return self.counts_[start:stop].to(users.device).repeat(len(users), 1)
