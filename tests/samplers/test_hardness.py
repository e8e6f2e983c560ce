"""The three knobs of hardness against loops, SciPy and their promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import beta, kstest
from torch import Tensor

from cnsdiff.samplers.cnsdiff import cap, curriculum_share, hardest

DIM = 4
START, END = (1.0, 9.0), (9.0, 1.0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scores(users: Tensor, vectors: Tensor) -> Tensor:
    return (users * vectors).sum(dim=-1)


def rows(n: int) -> st.SearchStrategy[Tensor]:
    return hnp.arrays(np.float64, (n, DIM), elements=st.floats(-10, 10)).map(torch.from_numpy)


def quartets() -> st.SearchStrategy[tuple[Tensor, ...]]:
    return st.integers(1, 5).flatmap(lambda n: st.tuples(*(rows(n) for _ in range(4))))


# -- hardest -----------------------------------------------------------------------------------


def test_hardest_is_the_candidate_a_loop_finds() -> None:
    users, candidates = normal(50, DIM), normal(7, 50, DIM, seed=1)
    best = hardest(users, candidates)
    for row, user in enumerate(users):
        by_hand = max(candidates[:, row], key=lambda vector: float(user @ vector))
        assert torch.equal(best[row], by_hand)


def test_hardest_of_one_is_that_one() -> None:
    candidates = normal(1, 5, DIM)
    assert torch.equal(hardest(normal(5, DIM, seed=1), candidates), candidates[0])


# -- curriculum --------------------------------------------------------------------------------


@pytest.mark.parametrize(("progress", "a", "b"), [(0.0, 1, 9), (0.5, 5, 5), (1.0, 9, 1)])
def test_the_generated_share_is_beta_distributed(progress: float, a: int, b: int) -> None:
    share = curriculum_share(20_000, progress, START, END, torch.Generator().manual_seed(1))
    assert share.shape == (20_000, 1)
    # A false alarm once in 1000 seeds.
    assert kstest(share.flatten().double().numpy(), beta(a, b).cdf).pvalue > 1e-3


def test_the_generated_share_follows_the_bounds_it_is_given() -> None:
    stream = torch.Generator().manual_seed(2)
    share = curriculum_share(20_000, 0.25, (2.0, 2.0), (6.0, 4.0), stream)
    assert kstest(share.flatten().double().numpy(), beta(3.0, 2.5).cdf).pvalue > 1e-3


def test_the_share_is_the_generators() -> None:
    one, again, other = (
        curriculum_share(9, 0.5, START, END, torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("bounds", "expected"), [((0.0, 1.0), 0.0), ((1.0, 0.0), 1.0)])
def test_a_zero_parameter_makes_the_share_certain(
    bounds: tuple[float, float], expected: float
) -> None:
    share = curriculum_share(1000, 0.3, bounds, bounds, torch.Generator().manual_seed(3))
    torch.testing.assert_close(share, torch.full_like(share, expected), rtol=0, atol=1e-6)


# -- cap ---------------------------------------------------------------------------------------


@given(vectors=quartets(), margin=st.floats(-2, 2))
@settings(deadline=None, max_examples=200)
def test_no_capped_negative_is_above_its_limit_unless_its_fallback_is(
    vectors: tuple[Tensor, ...], margin: float
) -> None:
    users, positives, negatives, fallback = vectors
    guarded, _ = cap(users, positives, negatives, fallback, margin)
    limit = scores(users, positives) + margin
    ceiling = torch.maximum(limit, scores(users, fallback))
    assert bool((scores(users, guarded) <= ceiling + 1e-9 * (1 + ceiling.abs())).all())


@given(vectors=quartets(), margin=st.floats(-2, 2))
@settings(deadline=None, max_examples=200)
def test_rows_within_the_limit_are_untouched(vectors: tuple[Tensor, ...], margin: float) -> None:
    users, positives, negatives, fallback = vectors
    guarded, pulled = cap(users, positives, negatives, fallback, margin)
    within = scores(users, negatives) <= scores(users, positives) + margin
    assert torch.equal(pulled, ~within)
    assert torch.equal(guarded[within], negatives[within])


@given(vectors=quartets(), margin=st.floats(-2, 2))
@settings(deadline=None, max_examples=200)
def test_guarded_negatives_lie_between_negative_and_fallback(
    vectors: tuple[Tensor, ...], margin: float
) -> None:
    users, positives, negatives, fallback = vectors
    guarded, _ = cap(users, positives, negatives, fallback, margin)
    low, high = torch.minimum(negatives, fallback), torch.maximum(negatives, fallback)
    assert bool(((guarded >= low - 1e-9) & (guarded <= high + 1e-9)).all())


@pytest.mark.parametrize("margin", [0.0, 0.4])
def test_a_pulled_row_ends_exactly_at_the_limit(margin: float) -> None:
    users, positives, negatives, fallback = (normal(500, DIM, seed=seed) for seed in range(4))
    guarded, pulled = cap(users, positives, negatives, fallback, margin)
    limit = scores(users, positives) + margin
    able = pulled & (scores(users, fallback) < limit)
    assert int(able.sum()) > 50
    torch.testing.assert_close(scores(users, guarded)[able], limit[able], rtol=1e-9, atol=1e-12)


def test_a_row_whose_fallback_is_above_the_limit_becomes_the_fallback() -> None:
    users = torch.ones(3, DIM)
    positives, negatives = torch.zeros(3, DIM), torch.full((3, DIM), 2.0)
    fallback = torch.tensor([0.5, 2.0, 3.0]).unsqueeze(1).expand(3, DIM)
    guarded, pulled = cap(users, positives, negatives, fallback, 0.0)
    assert torch.equal(guarded, fallback)
    assert pulled.tolist() == [True] * 3


def test_a_row_below_its_limit_ignores_a_fallback_above_it() -> None:
    users, positives = torch.ones(1, DIM), torch.zeros(1, DIM)
    negatives, fallback = -torch.ones(1, DIM), torch.ones(1, DIM)
    guarded, pulled = cap(users, positives, negatives, fallback, 0.0)
    assert torch.equal(guarded, negatives)
    assert not pulled.item()


def test_the_cap_passes_gradient_to_what_it_mixes_and_none_through_the_scores() -> None:
    users, positives, negatives, fallback = (
        normal(20, DIM, seed=seed).requires_grad_() for seed in range(4)
    )
    guarded, pulled = cap(users, positives, negatives, fallback, 0.0)
    assert bool(pulled.any())
    guarded.sum().backward()
    assert users.grad is None
    assert positives.grad is None
    assert negatives.grad is not None
    assert fallback.grad is not None
    torch.testing.assert_close(negatives.grad + fallback.grad, torch.ones_like(negatives))
