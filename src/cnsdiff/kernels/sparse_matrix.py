"""A sparse matrix to multiply tables of embeddings with, at the speed of memory."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

#: Bytes of a table that stay in a cache while the rows of a product take from it at random; of a
#: larger table one part after another is multiplied.
CACHED = 2**25
#: Entries of a tile at least; below, calls cost more than the balance among threads saves.
ENTRIES = 2**19


class SparseMatrix(nn.Module):
    """A matrix ``(n, m)`` in CSR form, as a module that moves to a device with its owner.

    On the CPU a row of the product is a weighted bag of embeddings, and PyTorch's kernel for those
    is about three times as fast as its sparse product. It takes rows of the table at random: where
    the table is larger than a cache, the product is tiled. A tile has the columns of one part of
    the table, and consecutive rows with about as many entries as other tiles have: the kernel gives
    each thread the same number of rows, whatever is in them.

    Parameters
    ----------
    matrix
        Any SciPy sparse matrix or array, float32; or a tensor in CSR form, used once: not tiled.
    """

    csr: Tensor

    def __init__(self, matrix: Any) -> None:
        super().__init__()
        self._once = isinstance(matrix, Tensor)
        csr = matrix if isinstance(matrix, Tensor) else csr_tensor(matrix.tocsr())
        self.register_buffer("csr", csr, persistent=False)
        self._tiles: tuple[int, list[_Tile]] | None = None

    @property
    def shape(self) -> torch.Size:
        return self.csr.shape

    def reweighted(self, values: Tensor) -> SparseMatrix:
        """The same places with other values ``(nnz,)``, row by row, columns rising."""
        places = self.csr.crow_indices(), self.csr.col_indices()
        return SparseMatrix(
            torch.sparse_csr_tensor(*places, values, size=self.shape, check_invariants=False)
        )

    def to_dense(self) -> Tensor:
        """``(n, m)`` with its zeros."""
        return self.csr.to_dense()

    def product(self, dense: Tensor, factor: float = 1.0) -> Tensor:
        """``factor · M @ x`` ``(n, d)`` of a table ``(m, d)``, without gradient."""
        with torch.no_grad():
            # Sparse products know no half precision.
            dense = dense.float() if dense.dtype.itemsize < 4 else dense
            if dense.device.type != "cpu":
                with torch.autocast(dense.device.type, enabled=False):
                    found = self.csr.to(dense.dtype) @ dense
                return found if factor == 1 else found.mul_(factor)
            dense = dense.detach().contiguous()
            tiles = self._tiles_for(dense.shape[1] * dense.itemsize)
            if len(tiles) == 1:
                return tiles[0].product(dense, factor)
            found = dense.new_zeros(self.shape[0], dense.shape[1])
            for tile in tiles:
                found[tile.rows].add_(tile.product(dense[tile.columns], factor))
            return found

    def _tiles_for(self, bytes_of_row: int) -> list[_Tile]:
        """The tiles for tables whose rows have so many bytes; the last ones are kept."""
        if self._tiles is None or self._tiles[0] != bytes_of_row:
            n_parts = 1 if self._once else -(-self.shape[1] * bytes_of_row // CACHED)
            self._tiles = bytes_of_row, _tiled(self.csr, max(1, n_parts))
        return self._tiles[1]


class _Tile:
    """Some consecutive rows of some consecutive columns."""

    def __init__(self, csr: Tensor, rows: slice, columns: slice) -> None:
        self.rows, self.columns = rows, columns
        self._indices, self._ends, self._values = (
            csr.col_indices(), csr.crow_indices(), csr.values(),
        )  # fmt: skip
        #: The values times the last factor that was not 1: every step asks for the same.
        self._scaled: tuple[float, Tensor] | None = None

    def product(self, dense: Tensor, factor: float) -> Tensor:
        return F.embedding_bag(
            self._indices,
            dense,
            self._ends,
            mode="sum",
            per_sample_weights=self._weights(factor, dense.dtype),
            include_last_offset=True,
        )

    def _weights(self, factor: float, dtype: torch.dtype) -> Tensor:
        if factor == 1:
            return self._values.to(dtype)
        if self._scaled is None or self._scaled[0] != factor or self._scaled[1].dtype != dtype:
            self._scaled = factor, self._values.to(dtype) * factor
        return self._scaled[1]


def _tiled(csr: Tensor, n_parts: int) -> list[_Tile]:
    n_rows, n_columns = csr.shape
    if n_parts == 1:
        return [_Tile(csr, slice(0, n_rows), slice(0, n_columns))]
    matrix = sparse.csr_array(
        (csr.values().numpy(), csr.col_indices().numpy(), csr.crow_indices().numpy()),
        shape=(n_rows, n_columns),
    ).tocsc()
    tiles = []
    for part in range(n_parts):
        columns = slice(part * n_columns // n_parts, (part + 1) * n_columns // n_parts)
        block = matrix[:, columns].tocsr()
        n_cuts = max(1, min(n_rows, block.nnz // ENTRIES))
        # The first row at which so many entries have been passed.
        wanted = np.arange(1, n_cuts) * block.nnz // n_cuts
        cuts = np.unique(np.concatenate([[0], np.searchsorted(block.indptr, wanted), [n_rows]]))
        tiles += [
            _Tile(csr_tensor(block[first:last]), slice(first, last), columns)
            for first, last in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)
        ]
    return tiles


def csr_tensor(matrix: Any) -> Tensor:
    """A SciPy CSR matrix as a sparse tensor, its columns in order."""
    matrix.sort_indices()
    width = "int32" if matrix.nnz < 2**31 else "int64"
    with warnings.catch_warnings():
        # PyTorch announces once per process that its CSR tensors are in beta.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(width)),
            torch.from_numpy(matrix.indices.astype(width)),
            torch.from_numpy(matrix.data),
            size=matrix.shape,
            check_invariants=True,
        )
