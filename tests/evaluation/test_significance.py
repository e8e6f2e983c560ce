"""Intervals, tests and ranks against scipy, enumeration, closed forms and simulation."""

from __future__ import annotations

import itertools
import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cnsdiff.base.errors import InputError
from cnsdiff.evaluation import significance
from cnsdiff.evaluation.significance import (
    average_ranks,
    bootstrap_means,
    half_width,
    holm,
    improvement_interval,
    paired_bootstrap,
    relative_improvement,
    seed_interval,
)

# --- over seeds


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_seed_interval_is_scipys(level):
    values = np.random.default_rng(0).normal(3, 2, 6)
    found = seed_interval(values, level)
    low, high = stats.t.interval(level, 5, values.mean(), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high))
    assert found.n == 6


def test_one_seed_has_no_interval():
    found = seed_interval([0.25])
    assert (found.value, found.n) == (0.25, 1)
    assert math.isnan(found.low) and math.isnan(found.high)
    assert math.isnan(seed_interval([]).value) and seed_interval([]).n == 0
    assert seed_interval([2.0, 2.0]).low == seed_interval([2.0, 2.0]).high == 2


def test_a_failed_seed_shows():
    found = seed_interval([1.0, math.nan, 2.0])
    assert math.isnan(found.value) and math.isnan(found.low) and found.n == 3


def test_half_widths_of_many():
    values = np.random.default_rng(1).normal(size=(4, 5))
    found = half_width(values.std(0, ddof=1), np.full(5, 4))
    wanted = [seed_interval(column) for column in values.T]
    assert found == pytest.approx([(one.high - one.low) / 2 for one in wanted])
    with pytest.raises(InputError, match="level"):
        seed_interval([1.0, 2.0], level=95)


# --- over users


def sparse(rng: np.random.Generator, n_users: int, share: float, columns: int = 1) -> np.ndarray:
    """Differences that are 0 for most users, as those of hits are."""
    size = (n_users, columns)
    return np.where(rng.random(size) < share, rng.choice([-0.5, 0.25, 1.0], size), 0.0)


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_interval_is_scipys(share):
    rng = np.random.default_rng(2)
    second = rng.random(300)
    first = second + sparse(rng, 300, share)[:, 0]
    found = paired_bootstrap(first, second, seed=0, n_resamples=20_000)
    theirs = stats.bootstrap(
        (first, second),
        lambda a, b, axis: (a - b).mean(axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        batch=1000,
        rng=np.random.default_rng(3),
    )
    interval = theirs.confidence_interval
    assert found.value == pytest.approx((first - second).mean())
    # The quantiles of 20,000 draws err by about .02 standard errors, those of theirs as well.
    assert (found.low, found.high) == pytest.approx(interval, abs=0.1 * theirs.standard_error)


@pytest.mark.parametrize(
    "differences", [[0.3, 0.1, 0.4, -0.2, 0.2], [0.5, 0.0, 0.0, 0.1, 0.0], [1.0, -0.5, 0.0, 0, 0]]
)
def test_every_resample_of_five_users(differences):
    values = np.array(differences)
    means = np.array([np.mean(each) for each in itertools.product(values, repeat=5)])
    extreme = np.abs(means - values.mean()) > abs(values.mean()) - 1e-9
    n = 40_000
    found = paired_bootstrap(values, np.zeros(5), seed=1, n_resamples=n)
    exact = extreme.mean()
    assert found.p_value == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / n))
    # The ends lie between neighbouring quantiles of the exact distribution.
    for end, at in ((found.low, 0.025), (found.high, 0.975)):
        around = np.quantile(means, [at - 0.004, at + 0.004])
        assert around[0] - 1e-9 <= end <= around[1] + 1e-9


def test_ties_with_the_observed_difference():
    # One user of many differs: it is drawn Poisson(1) times, and only "once" is not as extreme.
    values = np.zeros(5000)
    values[7] = 0.1 + 0.2
    found = paired_bootstrap(values, np.zeros(5000), seed=2, n_resamples=40_000)
    assert found.p_value == pytest.approx(1 - math.exp(-1), abs=0.01)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_size_under_the_null(share):
    # Columns are as good as separate experiments: their users' values are independent.
    rng = np.random.default_rng(4)
    values = sparse(rng, 300, share, 2000) * rng.choice([-1.0, 1.0], (300, 2000))
    found = bootstrap_means(values, seed=5, n_resamples=1000)
    p_values = np.array([one.p_value for one in found])
    covered = [one.low <= 0 <= one.high for one in found]
    assert 0.035 < (p_values < 0.05).mean() < 0.065
    assert 0.46 < (p_values < 0.5).mean() < 0.54
    assert 0.935 < np.mean(covered) < 0.965


def test_power():
    # A true difference of 4 standard errors is found in 98% of the experiments.
    values = np.random.default_rng(6).normal(4 / math.sqrt(200), 1, (200, 500))
    found = bootstrap_means(values, seed=7, n_resamples=1000)
    assert np.mean([one.p_value < 0.05 for one in found]) == pytest.approx(0.979, abs=0.02)


def test_pairing_matters():
    # Users differ far more from one another than the methods do on any of them.
    rng = np.random.default_rng(8)
    second = rng.random(200)
    first = second + rng.normal(0.01, 0.02, 200)
    assert paired_bootstrap(first, second, seed=0).p_value < 0.001
    assert paired_bootstrap(first, rng.permutation(second), seed=0).p_value > 0.05


def test_never_zero_and_never_sure_of_nothing():
    certain = paired_bootstrap(np.ones(50), np.zeros(50), seed=0, n_resamples=99)
    assert certain.p_value == 0.01
    assert (certain.low, certain.high) == (1, 1)
    same = paired_bootstrap(np.ones(50), np.ones(50), seed=0, n_resamples=99)
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_the_seed_decides_and_exchange_mirrors(monkeypatch):
    rng = np.random.default_rng(9)
    first, second = rng.random(80), rng.random(80)
    there = paired_bootstrap(first, second, seed=3, n_resamples=500)
    assert there == paired_bootstrap(first, second, seed=3, n_resamples=500)
    assert there != paired_bootstrap(first, second, seed=4, n_resamples=500)
    back = paired_bootstrap(second, first, seed=3, n_resamples=500)
    assert (-back.value, -back.high, -back.low, back.p_value) == pytest.approx(
        (there.value, there.low, there.high, there.p_value)
    )
    # In blocks of 2 resamples instead of one block: the same distribution, from other draws.
    monkeypatch.setattr(significance, "BLOCK", 161)
    blocks = paired_bootstrap(first, second, seed=3, n_resamples=5000)
    width = there.high - there.low
    assert (blocks.low, blocks.high) == pytest.approx((there.low, there.high), abs=0.1 * width)


def test_columns_are_compared_one_by_one():
    values = np.random.default_rng(10).normal(0.1, 1, (60, 3))
    together = bootstrap_means(values, seed=1, n_resamples=300)
    for column, found in zip(values.T, together, strict=True):
        alone = paired_bootstrap(column, np.zeros(60), seed=1, n_resamples=300)
        assert astuple(found) == pytest.approx(astuple(alone))


@pytest.mark.parametrize(
    ("first", "second"), [([1.0], [1.0, 2.0]), ([], []), ([math.nan], [0.0]), ([[1.0]], [[1.0]])]
)
def test_what_cannot_be_paired(first, second):
    with pytest.raises(InputError, match=r"bootstrap needs|same users"):
        paired_bootstrap(first, second, seed=0)


def test_interval_of_a_mean_is_scipys():
    values = sparse(np.random.default_rng(11), 150, 0.4, 2)
    found, other = bootstrap_means(values, seed=0, n_resamples=20_000)
    assert other.value == pytest.approx(values[:, 1].mean())
    values = values[:, 0]
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(12)
    )
    assert (found.value, found.n) == (pytest.approx(values.mean()), 150)
    interval = theirs.confidence_interval
    assert (found.low, found.high) == pytest.approx(interval, abs=0.1 * theirs.standard_error)
    with pytest.raises(InputError, match="at least one user"):
        bootstrap_means(np.zeros((0, 1)), seed=0)


# --- many tests


def holm_by_definition(p_values: list[float]) -> list[float]:
    """The smallest family-wise level at which the step-down procedure rejects each hypothesis."""
    adjusted = []
    for own in p_values:
        needed = 0.0
        for rank, other in enumerate(sorted(p_values)):
            if other <= own:
                needed = max(needed, other * (len(p_values) - rank))
        adjusted.append(min(needed, 1.0))
    return adjusted


P_VALUES = st.lists(st.floats(0, 1) | st.sampled_from([0.01, 0.02]), min_size=1, max_size=8)


@given(P_VALUES)
def test_holm_by_definition(p_values):
    adjusted = holm(p_values)
    assert adjusted == pytest.approx(holm_by_definition(p_values))
    # The procedure itself: reject in order until one is above level / (hypotheses left).
    level, rejected = 0.05, 0
    for rank, p_value in enumerate(sorted(p_values)):
        if p_value * (len(p_values) - rank) > level:
            break
        rejected += 1
    assert (adjusted <= level).sum() == rejected


def test_holm_by_hand():
    # statsmodels' multipletests(method="holm") gives the same.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert holm([]).shape == (0,)


def test_tests_not_made_do_not_count():
    found = holm([0.01, math.nan, 0.02])
    assert found[[0, 2]] == pytest.approx([0.02, 0.02])
    assert math.isnan(found[1])
    with pytest.raises(InputError, match="between 0 and 1"):
        holm([1.2])


def test_holm_keeps_the_family_wise_error():
    uniform = np.random.default_rng(11).random((4000, 6))
    wrong = np.mean([(holm(row) < 0.05).any() for row in uniform])
    assert wrong == pytest.approx(0.05, abs=0.012)


# --- ranks


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 1.0]))
def test_ranks_by_counting(seed, missing):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (6, 5)).astype(float)
    scores[rng.random(scores.shape) < missing] = math.nan
    found = average_ranks(scores)
    somewhere = [m for m in range(5) if not all(math.isnan(row[m]) for row in scores)]
    common = [row for row in scores if not any(math.isnan(row[m]) for m in somewhere)]
    assert found.n_cells == (len(common) if somewhere else 0)
    for method in range(5):
        ranks = [
            sum(x > row[method] for x in row) + (sum(x == row[method] for x in row) + 1) / 2
            for row in common
            if method in somewhere
        ]
        wanted = np.mean(ranks) if ranks else math.nan
        assert found.ranks[method] == pytest.approx(wanted, nan_ok=True)


def test_ranks_by_hand():
    found = average_ranks([[0.3, 0.1, 0.2], [0.5, 0.5, 0.1]])
    assert found.ranks.tolist() == [1.25, 2.25, 2.5]
    assert found.n_cells == 2
    # A method that is missing in one cell is no reason to rank it by the other cell alone.
    found = average_ranks([[0.3, 0.1, math.nan], [0.5, 0.6, math.nan], [0.5, math.nan, math.nan]])
    assert (found.ranks[:2].tolist(), found.n_cells) == ([1.5, 1.5], 2)
    assert math.isnan(found.ranks[2])
    assert average_ranks([[0.3, math.nan], [math.nan, 0.1]]).n_cells == 0


# --- relative improvement


def test_improvement_by_hand():
    nan = math.nan
    found = relative_improvement(
        [0.12, 0.30, 0.2, 0.1, nan],
        [[0.10, 0.05], [0.20, 0.40], [0.0, 0.0], [nan, nan], [0.1, 0.1]],
    )
    assert found.gains == pytest.approx([0.2, -0.25, nan, nan, nan], nan_ok=True)
    assert found.best.tolist() == [0, 1, -1, -1, -1]
    assert found.mean == pytest.approx(-0.025)
    assert (found.n_cells, found.n_left_out, found.interval.n) == (2, 3, 1)
    assert math.isnan(found.interval.low)
    assert relative_improvement([0.3], [[nan, 0.2]]).mean == pytest.approx(0.5)


def test_nothing_to_improve_on():
    found = relative_improvement([0.1, 0.2], [[0.0], [math.nan]])
    assert math.isnan(found.mean)
    assert (found.n_cells, found.n_left_out) == (0, 2)
    for rivals in (np.ones((2, 0)), np.ones((3, 1))):
        with pytest.raises(InputError, match="at least one rival"):
            relative_improvement([0.1, 0.2], rivals)


def test_interval_by_loops():
    rng = np.random.default_rng(12)
    ours, rivals = rng.random((4, 3)) + 1, rng.random((4, 3, 2)) + 1
    parts = []
    for s in range(4):
        gains = []
        for c in range(3):
            best = max(range(2), key=lambda m: sum(rivals[k, c, m] for k in range(4)))
            o, r = sum(ours[:, c]) / 4, sum(rivals[:, c, best]) / 4
            gains.append(ours[s, c] / r - o / r**2 * (rivals[s, c, best] - r) - 1)
        parts.append(sum(gains) / 3)
    found = improvement_interval(ours, rivals)
    wanted = seed_interval(parts)
    assert (found.interval.low, found.interval.high) == pytest.approx((wanted.low, wanted.high))
    means = relative_improvement(ours.mean(0), rivals.mean(0))
    assert found.mean == pytest.approx(means.mean) == pytest.approx(wanted.value)
    assert found.gains == pytest.approx(means.gains)
    assert found.best.tolist() == means.best.tolist()


def test_a_rival_that_failed_once_is_not_measured():
    rivals = np.array([[[0.5, 0.1]], [[math.nan, 0.1]]])
    found = improvement_interval(np.array([[0.2], [0.2]]), rivals)
    assert found.best.tolist() == [1]
    assert found.mean == pytest.approx(1.0)


def test_interval_covers_the_true_gain():
    rng = np.random.default_rng(13)
    covered = []
    for _ in range(1000):
        shared = rng.normal(0, 0.05, (5, 2))  # what a seed does to both
        ours = np.array([0.22, 0.33]) * (1 + shared + rng.normal(0, 0.05, (5, 2)))
        rival = np.array([0.2, 0.3]) * (1 + shared + rng.normal(0, 0.1, (5, 2)))
        interval = improvement_interval(ours, rival[:, :, None]).interval
        covered.append(interval.low < 0.1 < interval.high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.025)
