"""Neighbourhood model: items that share users with those in the history."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import csr_array

from cnsdiff.base.errors import CnsdiffWarning, ConfigError
from cnsdiff.base.search_space import Searched
from cnsdiff.kernels.memory import require_memory
from cnsdiff.references.base import ReferenceConfig
from cnsdiff.references.item_item import ItemItemReference

_BLOCK = 2**22
"""Pairs of items compared at a time while fitting: about 80 bytes each."""


class ItemKNNConfig(ReferenceConfig):
    """Settings of :class:`ItemKNN`."""

    neighbours: Annotated[int | None, Searched(low=10, high=500, integer=True, log=True)] = Field(
        None, ge=1, description="most similar items that each keeps; None: all that share a user"
    )
    shrink: Annotated[float, Searched(low=0.0, high=100.0)] = Field(
        0.0, ge=0, description="makes pairs with few users count less"
    )
    max_pairs: int = Field(10**8, ge=1, le=10**10, description="most similarities to keep")


class ItemKNN(ItemItemReference):
    """Sum of the cosine similarities between an item and those in the user's history.

    The cosine of two items is ``|U_i ∩ U_j| / (sqrt(|U_i| |U_j|) + shrink)`` with ``U_i`` the
    users of item ``i`` (Sarwar et al., WWW 2001; neighbourhoods as in Deshpande & Karypis, 2004).

    One user with the whole catalogue makes all items share a user. Memory stays bounded: at most
    ``max_pairs`` similarities are kept, of 8 bytes each, and it takes about twice that and half a
    gigabyte to fit and to score.

    Parameters
    ----------
    neighbours : int or None
        Of each history item only this many most similar items score (ties to the lower index).
        None, the default, keeps every item that shares a user. Where that is more than
        ``max_pairs`` in all, only ``max_pairs // n_items`` are kept, with a warning.
    shrink : float
        Makes pairs with few users count less; at least 0.
    max_pairs : int
        Most similarities to keep.

    Attributes
    ----------
    similarity_ : csr_array of float32, shape (n_items, n_items)
        Row ``j``: similarities to history item ``j``; zero diagonal.
    """

    Config: ClassVar[type[ReferenceConfig]] = ItemKNNConfig

    similarity_: csr_array

    def __init__(
        self,
        neighbours: int | None = None,
        *,
        shrink: float = 0.0,
        max_pairs: int = 10**8,
    ) -> None:
        self.neighbours = neighbours
        self.shrink = shrink
        self.max_pairs = max_pairs

    def _fit(self, train: csr_array) -> None:
        if self.neighbours is not None and self.neighbours < 1:
            raise ConfigError(
                f"ItemKNN's neighbours is {self.neighbours}; give 1 or more, or None for all"
            )
        if self.shrink < 0:
            raise ConfigError(f"ItemKNN's shrink is {self.shrink}; it must not be negative")
        n_items = train.shape[1]
        most = self.max_pairs // n_items
        if most < 1:
            raise ConfigError(
                f"ItemKNN's max_pairs is {self.max_pairs:,}; give at least one for each of "
                f"{n_items:,} items"
            )
        by_item = csr_array(train.T)
        # Items that share a user with each, those counted repeatedly that share several.
        sharing = np.minimum(by_item @ np.diff(train.indptr).astype(np.float64), n_items)
        pairs = min(int(sharing.sum()), n_items * (self.neighbours or n_items), self.max_pairs)
        require_memory(
            16 * pairs + 80 * min(_BLOCK, int(sharing.sum())),
            f"ItemKNN on {n_items:,} items with {pairs:,} similarities",
            "lower its neighbours or max_pairs",
        )
        similarity = self._similarity(by_item, train, sharing, self.neighbours)
        if similarity is None:
            warnings.warn(
                f"ItemKNN keeps the {most:,} most similar of the {n_items:,} items for each: all "
                f"that share a user would be more than its {self.max_pairs:,} pairs (does one "
                "user have most of the catalogue?)",
                CnsdiffWarning,
                stacklevel=3,
            )
            similarity = self._similarity(by_item, train, sharing, most)
            assert similarity is not None
        self.similarity_ = similarity

    def _similarity(
        self, by_item: csr_array, train: csr_array, sharing: NDArray[np.float64], k: int | None
    ) -> csr_array | None:
        """Similarities to the ``k`` nearest items, or all; None if these exceed ``max_pairs``."""
        norms = np.sqrt(np.diff(by_item.indptr).astype(np.float64))
        lengths, columns, values = [], [], []
        found = 0
        for start, stop in _blocks(sharing):
            block = self._block(by_item, train, norms, start, stop, k)
            found += block.nnz
            if found > self.max_pairs:
                return None
            lengths.append(np.diff(block.indptr))
            columns.append(block.indices)
            values.append(block.data)
        indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        # One after the other, so that only one of them is there twice.
        data, values = np.concatenate(values), []
        indices, columns = np.concatenate(columns), []
        return csr_array((data, indices, indptr), shape=(train.shape[1],) * 2)

    def _block(
        self,
        by_item: csr_array,
        train: csr_array,
        norms: NDArray[np.float64],
        start: int,
        stop: int,
        k: int | None,
    ) -> csr_array:
        """Rows ``start .. stop - 1`` of the similarity matrix, columns in order."""
        # Counts first, one division after: equal cosines then have equal bits and truly tie.
        shared = csr_array(by_item[start:stop] @ train)
        shared.sort_indices()
        rows = np.repeat(np.arange(stop - start), np.diff(shared.indptr))
        columns, counts = shared.indices, shared.data
        other = rows + start != columns
        rows, columns, counts = rows[other], columns[other], counts[other]
        values = counts / (norms[rows + start] * norms[columns] + self.shrink)
        if k is not None:
            kept = _nearest(rows, columns, values, shared.shape, k)
            rows, columns, values = rows[kept], columns[kept], values[kept]
        indptr = np.searchsorted(rows, np.arange(stop - start + 1))
        return csr_array((values.astype(np.float32), columns, indptr), shape=shared.shape)

    def solution(self) -> csr_array:
        """``(I, I)``: :attr:`similarity_`."""
        self._fitted()
        return self.similarity_


def _blocks(sharing: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    """Ranges of items whose pairs are :data:`_BLOCK` or less, but of one item at least."""
    ends = np.cumsum(sharing)
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0.0
        stop = max(start + 1, int(np.searchsorted(ends, before + _BLOCK, side="right")))
        yield start, stop
        start = stop


def _nearest(
    rows: NDArray[np.int64],
    columns: NDArray[np.int32],
    values: NDArray[np.float64],
    shape: tuple[int, int],
    k: int,
) -> NDArray[np.bool_]:
    """Which pairs are among the ``k`` greatest of their row, ties to the lower column.

    Values are above 0; pairs come in order of row and column.
    """
    if k >= shape[1]:
        return np.ones(len(rows), dtype=np.bool_)
    first = np.searchsorted(rows, np.arange(shape[0]))
    if 4 * len(rows) < shape[0] * shape[1]:
        order = np.lexsort((columns, -values, rows))
        kept = np.zeros(len(rows), dtype=np.bool_)
        # lexsort keeps the rows where they were, so a place less the row's first is its rank.
        kept[order[np.arange(len(rows)) - first[rows] < k]] = True
        return kept
    # Nearly dense, as one user with the whole catalogue makes it: selecting beats sorting.
    dense = np.zeros(shape)
    dense[rows, columns] = values
    last = np.partition(dense, shape[1] - k, axis=1)[:, shape[1] - k][rows]
    kept = values > last
    room = k - np.bincount(rows[kept], minlength=shape[0])
    tied = values == last
    # How many tied ones stand before each, in its own row.
    before = np.cumsum(tied) - tied
    before -= np.append(before, 0)[first][rows]
    result: NDArray[np.bool_] = kept | (tied & (before < room[rows]))
    return result
