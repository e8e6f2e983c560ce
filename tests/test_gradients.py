"""Rows of tables and the softmax over shared negatives, against autograd's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cnsdiff.kernels import gradients
from cnsdiff.kernels.gradients import half_mean_squares, rows_of, shared_softmax

# -- rows --


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


def test_unit_rows_and_their_gradient_are_those_of_normalize(table):
    with torch.no_grad():
        table[8] = 0  # which has no direction
    weights = [torch.rand(len(ids), 3, dtype=torch.float64) for ids in IDS]
    ours = rows_of(table, *IDS, unit=True)
    theirs = [torch.nn.functional.normalize(table[ids], dim=-1) for ids in IDS]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
    grads = (
        torch.autograd.grad(sum((w * r).sum() for w, r in zip(weights, rows, strict=True)), table)
        for rows in (ours, theirs)
    )
    torch.testing.assert_close(*(by_table for (by_table,) in grads))


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
    torch.testing.assert_close(one.to_dense(), other)


def test_the_squares_gradient_joins_the_one_that_propagation_makes(table):
    (half_mean_squares(table, *IDS) + (table**3).sum()).backward()
    expected = 3 * table.detach() ** 2
    for ids in IDS:
        expected.index_add_(0, ids, table.detach()[ids] / len(ids))
    assert table.grad.layout == torch.strided  # as optimisers want it
    torch.testing.assert_close(table.grad, expected)


def test_gradients_by_finite_differences(table):
    assert torch.autograd.gradcheck(lambda t: rows_of(t, *IDS), table)
    # Its gradient is sparse: it can be compared beside a dense one, where there is an outer one.
    assert torch.autograd.gradcheck(
        lambda t: half_mean_squares(t, *IDS) + t.sum(), table, check_undefined_grad=False
    )


# -- the softmax, sliced and whole --

Given = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]


def problem(seed: int, n_rows: int, n_columns: int, n_ids: int = 3, scale: float = 1.0) -> Given:
    stream = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return scale * torch.randn(*shape, generator=stream, dtype=torch.float64)

    ids = tuple(torch.randint(n_ids, (n,), generator=stream) for n in (n_rows, n_columns))
    return (
        normal(n_rows, 4).requires_grad_(),
        normal(n_columns, 4).requires_grad_(),
        normal(n_rows).requires_grad_(),
        normal(n_rows).abs(),
        normal(n_columns),
        (ids[0], ids[1]),
    )


def by_autograd(
    rows: Tensor,
    columns: Tensor,
    weights: Tensor,
    own: Tensor | None,
    bias: Tensor | None,
    barred: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """The formula, with all logits kept."""
    logits = rows @ columns.T
    if bias is not None:
        logits = logits + bias
    if barred is not None:
        logits = logits.masked_fill(barred[0].unsqueeze(1) == barred[1], -torch.inf)
    if own is None:
        return (weights * logits.logsumexp(dim=1)).sum()
    everything = torch.cat([own.unsqueeze(1), logits], dim=1).logsumexp(dim=1)
    return (weights * (everything - own)).sum()


def assert_alike(given_: Given, *, own: bool, bias: bool, barred: bool) -> None:
    rows, columns, ones_own, weights, bias_, barred_ = given_
    parts = (
        ones_own if own else None,
        bias_ if bias else None,
        barred_ if barred else None,
    )
    wrt = [rows, columns, *([ones_own] if own else [])]
    expected = by_autograd(rows, columns, weights, *parts)
    ours = shared_softmax(rows, columns, weights, own=parts[0], bias=parts[1], barred=parts[2])
    torch.testing.assert_close(ours, expected)
    for one, other in zip(
        torch.autograd.grad(3 * ours, wrt), torch.autograd.grad(3 * expected, wrt), strict=True
    ):
        torch.testing.assert_close(one, other)


@given(
    seed=st.integers(0, 1000),
    n_rows=st.integers(1, 40),
    n_columns=st.integers(1, 30),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
    bias=st.booleans(),
    barred=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_loss_and_gradient_are_autograds(seed, n_rows, n_columns, scale, bias, barred):
    made = problem(seed, n_rows, n_columns, scale=scale)
    assert_alike(made, own=True, bias=bias, barred=barred)
    assert_alike(made, own=False, bias=bias, barred=False)


@pytest.mark.parametrize("budget", [1, 36, 10**6])
def test_vectors_in_the_place_of_own_logits(monkeypatch, budget):
    monkeypatch.setattr(gradients, "_SLICE", budget)
    rows, columns, _, weights, bias, barred = problem(4, 37, 12)
    vectors = torch.randn(37, 4, dtype=torch.float64).requires_grad_()
    expected = by_autograd(
        rows / 0.3, columns, weights, (rows * vectors).sum(dim=1) / 0.3, bias, barred
    )
    ours = shared_softmax(
        rows, columns, weights, temperature=0.3, own=vectors, bias=bias, barred=barred
    )
    torch.testing.assert_close(ours, expected)
    for factor in (1, 3):
        for one, other in zip(
            *(
                torch.autograd.grad(factor * x, [rows, columns, vectors], retain_graph=True)
                for x in (ours, expected)
            ),
            strict=True,
        ):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("budget", [1, 35, 36, 10**6])
def test_slices_change_nothing(monkeypatch, budget):
    monkeypatch.setattr(gradients, "_SLICE", budget)
    assert_alike(problem(0, 37, 12), own=True, bias=True, barred=True)


def test_a_gpu_compares_all_ids_to_the_same_result(monkeypatch):
    made = problem(1, 37, 12)
    bar = gradients._Bar(*made[-1])
    logits = torch.randn(37, 12, dtype=torch.float64)
    sparse, dense = logits.clone(), logits.clone()
    bar(sparse[5:30], 5)
    bar._sparse = False
    bar(dense[5:30], 5)
    assert torch.equal(sparse, dense)
    assert (sparse[5:30] < -1e29).any()
    assert torch.equal(sparse[:5], logits[:5])


def test_a_row_without_any_column_costs_nothing():
    rows, columns, own, weights, _, _ = problem(2, 6, 5)
    barred = torch.zeros(6, dtype=torch.long), torch.zeros(5, dtype=torch.long)
    loss = shared_softmax(rows, columns, weights, own=own, barred=barred)
    loss.backward()
    assert loss.item() == 0.0
    for leaf in (rows, columns, own):
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_logits_far_apart_stay_finite():
    rows = torch.tensor([[3e4], [-3e4]], requires_grad=True)
    columns = torch.tensor([[1.0], [-1.0]])
    loss = shared_softmax(rows, columns, torch.ones(2), own=torch.zeros(2))
    loss.backward()
    assert loss.item() == pytest.approx(6e4)
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


def test_autocast_does_not_reach_the_logits():
    rows, columns, own, weights, _, _ = (
        part.detach().float() if isinstance(part, Tensor) else part for part in problem(3, 9, 7)
    )
    plain = shared_softmax(rows, columns, weights, own=own)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = shared_softmax(rows.bfloat16().float(), columns, weights, own=own)
        half = shared_softmax(rows.bfloat16(), columns.bfloat16(), weights, own=own.bfloat16())
    assert within.dtype == half.dtype == torch.float32
    assert half.item() == pytest.approx(plain.item(), rel=0.05)
    assert within.item() == pytest.approx(half.item(), rel=0.02)
