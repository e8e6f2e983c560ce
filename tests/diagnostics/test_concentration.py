"""Concentration against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy

from cnsdiff.diagnostics.description import (
    CURVE_GRID,
    decile_shares,
    effective_number,
    gini,
    long_tail_curve,
    popularity_deciles,
)

COUNTS = arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 500)).filter(
    lambda counts: counts.sum()
)


@given(COUNTS)
def test_gini_is_half_the_mean_difference(counts):
    differences = [abs(int(a) - int(b)) for a in counts for b in counts]
    wanted = sum(differences) / (2 * len(counts) * counts.sum())
    assert gini(counts) == pytest.approx(wanted, abs=1e-12)


@given(COUNTS)
def test_effective_number_is_the_exponential_of_scipys_entropy(counts):
    found = effective_number(counts)
    assert found == pytest.approx(np.exp(entropy(counts)))
    assert 1 - 1e-9 <= found <= (counts > 0).sum() + 1e-9


@pytest.mark.parametrize("n", [1, 2, 10, 57])
def test_extremes(n):
    alike, single = np.full(n, 3), np.eye(n, dtype=int)[n // 2]
    assert gini(alike) == pytest.approx(0, abs=1e-12)
    assert gini(single) == pytest.approx(1 - 1 / n)
    assert effective_number(alike) == pytest.approx(n)
    assert effective_number(single) == pytest.approx(1)
    assert long_tail_curve(alike) == pytest.approx(CURVE_GRID)


@given(COUNTS)
def test_long_tail_curve(counts):
    curve = long_tail_curve(counts)
    assert curve[0] == 0
    assert curve[-1] == 1
    assert (np.diff(curve) >= -1e-12).all()
    assert (curve >= CURVE_GRID - 1e-12).all()
    ordered = sorted(map(int, counts), reverse=True)
    for share, found in zip(CURVE_GRID, curve, strict=True):
        whole, part = divmod(share * len(counts), 1)
        part = part * ordered[int(whole)] if int(whole) < len(ordered) else 0
        wanted = (sum(ordered[: int(whole)]) + part) / counts.sum()
        assert found == pytest.approx(wanted, abs=1e-9)


@given(COUNTS)
def test_deciles_by_sorting(counts):
    found = popularity_deciles(counts)
    ranked = sorted(range(len(counts)), key=lambda item: (-counts[item], item))
    assert [found[item] for item in ranked] == [10 * r // len(ranked) for r in range(len(ranked))]
    sizes = np.bincount(found, minlength=10)
    assert sizes.max() - sizes.min() <= 1


def test_decile_shares():
    train = np.arange(20, 0, -1)
    deciles = popularity_deciles(train)
    assert deciles.tolist() == [n // 2 for n in range(20)]
    split = np.zeros(20, dtype=int)
    split[[0, 1, 19]] = 1, 2, 5
    assert decile_shares(deciles, split) == pytest.approx([3 / 8, *[0] * 8, 5 / 8])
