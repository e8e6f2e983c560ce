"""Neighbourhood model: items that share users with those in the history."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from cnsdiff.errors import ConfigError
from cnsdiff.references.base import Reference

_BLOCK = 4096
"""Items compared with the whole catalogue at a time while fitting."""


class ItemKNN(Reference):
    """Sum of the cosine similarities between an item and those in the user's history.

    The cosine of two items is ``|U_i ∩ U_j| / (sqrt(|U_i| |U_j|) + shrink)`` with ``U_i`` the
    users of item ``i`` (Sarwar et al., WWW 2001; neighbourhoods as in Deshpande & Karypis, 2004).

    Parameters
    ----------
    neighbours : int or None
        Of each history item only this many most similar items score (ties to the lower index).
        None, the default, keeps every item that shares a user.
    shrink : float
        Makes pairs with few users count less; at least 0.

    Attributes
    ----------
    similarity_ : csr_array of float32, shape (n_items, n_items)
        Row ``j``: similarities to history item ``j``; zero diagonal.
    """

    similarity_: csr_array

    def __init__(self, neighbours: int | None = None, *, shrink: float = 0.0) -> None:
        self.neighbours = neighbours
        self.shrink = shrink

    def _fit(self, train: csr_array) -> None:
        if self.neighbours is not None and self.neighbours < 1:
            raise ConfigError(
                f"ItemKNN's neighbours is {self.neighbours}; give 1 or more, or None for all"
            )
        if self.shrink < 0:
            raise ConfigError(f"ItemKNN's shrink is {self.shrink}; it must not be negative")
        by_item = csr_array(train.T)
        norms = np.sqrt(np.diff(by_item.indptr).astype(np.float64))
        blocks = [
            self._similarities(by_item, train, norms, start)
            for start in range(0, train.shape[1], _BLOCK)
        ]
        self.similarity_ = csr_array(vstack(blocks, format="csr"))

    def _similarities(
        self, by_item: csr_array, train: csr_array, norms: np.ndarray, start: int
    ) -> csr_array:
        """Rows ``start .. start + _BLOCK - 1`` of the similarity matrix."""
        # Counts first, one division after: equal cosines then have equal bits and truly tie.
        shared = csr_array(by_item[start : start + _BLOCK] @ train)
        rows = np.repeat(np.arange(shared.shape[0]), np.diff(shared.indptr))
        columns, counts = shared.indices, shared.data
        other = rows + start != columns
        rows, columns, counts = rows[other], columns[other], counts[other]
        values = counts / (norms[rows + start] * norms[columns] + self.shrink)
        if self.neighbours is not None:
            order = np.lexsort((columns, -values, rows))
            first = np.searchsorted(rows, np.arange(shared.shape[0]))
            # lexsort keeps the rows where they were, so a place less the row's first is its rank.
            kept = order[np.arange(len(rows)) - first[rows] < self.neighbours]
            rows, columns, values = rows[kept], columns[kept], values[kept]
        return csr_array((values.astype(np.float32), (rows, columns)), shape=shared.shape)

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        history = self._history(users)
        similarity = self.similarity_
        if stop - start < similarity.shape[1]:
            similarity = similarity[:, start:stop]
        return torch.from_numpy((history @ similarity).toarray()).to(users.device)
