"""Exact counts in proportion, against a twin in exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnsdiff.shifts.popularity import apportion


def twin(total: int, weights: list[int], caps: list[int]) -> list[int]:
    """Pour in what is left until no cap runs over, then round the largest remainders up."""
    quotas = [Fraction(0)] * len(weights)
    full: set[int] = {i for i, w in enumerate(weights) if w == 0 or caps[i] == 0}
    while True:
        left = total - sum(caps[i] for i in full if weights[i])
        open_ = [i for i in range(len(weights)) if i not in full]
        share = sum(weights[i] for i in open_)
        for i in open_:
            quotas[i] = Fraction(left * weights[i], share)
        over = [i for i in open_ if quotas[i] > caps[i]]
        if not over:
            break
        for i in over:
            quotas[i] = Fraction(caps[i])
        full |= set(over)
    counts = [int(q) for q in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda i: (counts[i] - quotas[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


@st.composite
def problems(draw):
    n = draw(st.integers(1, 12))
    weights = draw(st.lists(st.integers(0, 50), min_size=n, max_size=n))
    caps = draw(st.lists(st.integers(0, 30), min_size=n, max_size=n))
    room = sum(cap for cap, weight in zip(caps, weights, strict=True) if weight)
    return draw(st.integers(0, room)), weights, caps


@given(problems())
def test_equals_the_twin(problem):
    total, weights, caps = problem
    counts = apportion(total, np.array(weights, dtype=float), np.array(caps))
    assert counts.tolist() == twin(total, weights, caps)


@given(problems())
def test_sums_exactly_and_keeps_below_the_caps(problem):
    total, weights, caps = problem
    counts = apportion(total, np.array(weights, dtype=float), np.array(caps))
    assert counts.sum() == total
    assert (counts >= 0).all()
    assert (counts <= caps).all()
    assert not counts[np.array(weights) == 0].any()


@given(st.integers(0, 10_000), st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30))
def test_within_one_of_proportional_where_nothing_is_capped(total, weights):
    weights = np.array(weights)
    counts = apportion(total, weights, np.full(len(weights), total))
    assert (np.abs(counts - total * weights / weights.sum()) < 1).all()


def test_ties_go_to_the_first():
    assert apportion(2, np.ones(4), np.full(4, 9)).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("exponent", [1.0, 0.0, -1.0, -4.0])
def test_a_million_items_of_very_different_weights(exponent):
    popularity = np.random.default_rng(0).zipf(1.3, 1_000_000).clip(max=10**6)
    caps = popularity // 2
    total = int(caps.sum() // 3)
    counts = apportion(total, popularity**exponent, caps)
    assert counts.sum() == total
    assert (counts <= caps).all()


@pytest.mark.parametrize(
    ("total", "weights", "caps"),
    [(3, [1, 1], [1, 1]), (1, [0], [5]), (1, [-1, 1], [1, 1]), (1, [np.nan], [1]), (-1, [1], [1])],
)
def test_what_cannot_be_is_refused(total, weights, caps):
    with pytest.raises(ValueError):
        apportion(total, np.array(weights, dtype=float), np.array(caps))


def test_nothing_to_divide():
    assert apportion(0, np.array([]), np.array([], dtype=int)).tolist() == []
    assert apportion(0, np.ones(2), np.zeros(2, dtype=int)).tolist() == [0, 0]
