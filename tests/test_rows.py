"""Rows of tables against autograd's own selection."""

from __future__ import annotations

import pytest
import torch

from cnsdiff.kernels.gathered_rows import half_mean_squares, rows_of


@pytest.fixture
def table() -> torch.Tensor:
    stream = torch.Generator().manual_seed(0)
    return torch.randn(9, 3, generator=stream, dtype=torch.float64).requires_grad_()


IDS = (torch.tensor([4, 4, 0]), torch.tensor([8]), torch.tensor([1, 4, 7, 8]))


def test_rows_and_their_gradient_are_those_of_indexing(table):
    weights = [torch.rand(len(ids), 3, dtype=torch.float64) for ids in IDS]
    ours = sum((w * rows).sum() for w, rows in zip(weights, rows_of(table, *IDS), strict=True))
    theirs = sum((w * table[ids]).sum() for w, ids in zip(weights, IDS, strict=True))
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(
        torch.autograd.grad(ours, table), torch.autograd.grad(theirs, table), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_rows_that_nobody_uses_have_no_part_in_the_gradient(table):
    first, _, _ = rows_of(table, *IDS)
    first.sum().backward()
    expected = torch.zeros_like(table)
    expected[4], expected[0] = 2, 1
    assert torch.equal(table.grad, expected)


def test_half_mean_squares_is_its_formula(table):
    ours = half_mean_squares(table, *IDS)
    theirs = sum((table[ids] ** 2).sum() / (2 * len(ids)) for ids in IDS)
    torch.testing.assert_close(ours, theirs)
    (one,), (other,) = (torch.autograd.grad(3 * x, table) for x in (ours, theirs))
    torch.testing.assert_close(one, other)


def test_gradients_by_finite_differences(table):
    assert torch.autograd.gradcheck(lambda t: rows_of(t, *IDS), table)
    assert torch.autograd.gradcheck(lambda t: half_mean_squares(t, *IDS), table)
