"""Products with a sparse matrix against the dense one, whole and in tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from cnsdiff.kernels import sparse_matrix
from cnsdiff.kernels.sparse_matrix import SparseMatrix

N, M, D = 60, 45, 8


@pytest.fixture
def matrix() -> SparseMatrix:
    """Its first rows are full, its last ones empty."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(N, M)) * (rng.random((N, M)) < np.linspace(1, 0, N)[:, None])
    dense[-5:] = 0
    return SparseMatrix(sparse.csr_array(dense.astype("float32")))


def table(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(M, D, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("factor", [1.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("cached", "entries", "tiles"),
    [(10**9, 1, 1), (4 * D * M, 1, 1), (4 * D * 9, 10**9, 5), (4 * D * 9, 40, None), (1, 1, None)],
)
def test_tiles_change_nothing(matrix, monkeypatch, cached, entries, tiles, dtype, factor):
    monkeypatch.setattr(sparse_matrix, "CACHED", cached * dtype.itemsize // 4)
    monkeypatch.setattr(sparse_matrix, "ENTRIES", entries)
    x = table(dtype)
    expected = factor * (matrix.to_dense().to(dtype) @ x)
    torch.testing.assert_close(matrix.product(x, factor), expected, rtol=1e-5, atol=1e-5)
    made = matrix._tiles_for(D * dtype.itemsize)
    assert len(made) == tiles or (tiles is None and len(made) > 5)


def test_tiles_have_about_as_many_entries_as_each_other(matrix, monkeypatch):
    monkeypatch.setattr(sparse_matrix, "CACHED", 4 * D * 23)
    monkeypatch.setattr(sparse_matrix, "ENTRIES", 200)
    sizes = [len(tile._values) for tile in matrix._tiles_for(4 * D)]
    assert len(sizes) > 4
    assert sum(sizes) == len(matrix.csr.values())
    assert max(sizes) < 2 * 200 + M


def test_half_precision_is_multiplied_in_single(matrix):
    x = table()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = matrix.product(x.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found, matrix.to_dense() @ x.bfloat16().float(), rtol=1e-5, atol=1e-5
    )


def test_a_wider_table_is_cut_anew(matrix, monkeypatch):
    monkeypatch.setattr(sparse_matrix, "CACHED", 4 * D * M)
    x = table()
    one = matrix.product(x)
    both = matrix.product(torch.cat([x, x], dim=1))
    torch.testing.assert_close(both, torch.cat([one, one], dim=1), rtol=1e-5, atol=1e-5)
    assert len(matrix._tiles_for(8 * D)) > 1
