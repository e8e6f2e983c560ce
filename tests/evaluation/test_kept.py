"""What a shift costs: against counting by hand, enumeration, scipy and simulation."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from scipy import stats

from cnsdiff.base.errors import InputError
from cnsdiff.evaluation.kept import UserAccuracy, kept, kept_matched, kept_share, lost
from cnsdiff.evaluation.significance import Interval


def accuracy(users, values, n_relevant=None) -> UserAccuracy:
    values = np.asarray(values, dtype=np.float64)
    n_relevant = np.ones(len(values), dtype=int) if n_relevant is None else n_relevant
    values = values if values.ndim == 2 else values[:, None]
    return UserAccuracy(np.asarray(users), values, np.asarray(n_relevant))


def present(values) -> UserAccuracy:
    """Of users that are all there, those with a value."""
    users = np.flatnonzero(~np.isnan(values))
    return accuracy(users, np.asarray(values)[users])


def test_kept_and_lost_of_two_numbers():
    assert kept_share(0.4, 0.1) == 0.25
    assert math.isnan(kept_share(0.0, 0.1))
    assert lost(Interval(0.25, 0.125, 0.5, n=7)) == Interval(0.75, 0.5, 0.875, n=7)


@pytest.mark.parametrize("how", [kept, kept_matched])
def test_means_of_both_tests_and_the_share_between_them(how):
    iid = accuracy(np.arange(60), np.tile([0.2, 0.6], 30))
    ood = accuracy(np.arange(30, 90), np.tile([0.1, 0.3], 30))
    result = how(iid, ood, seed=0)
    assert result.iid[0].value == result.iid_matched[0].value == pytest.approx(0.4)
    assert result.ood[0].value == pytest.approx(0.2)
    (share,) = result.kept
    assert share.value == pytest.approx(0.5)
    assert share.low < 0.5 < share.high
    assert (result.iid[0].n, result.ood[0].n, share.n) == (60, 60, 90)
    assert result.overlap == 1.0


# --- whoever is in the tests


def test_all_resamples_of_five_users():
    before = np.array([0.5, 0.2, math.nan, 0.4, 0.9])
    after = np.array([0.1, math.nan, 0.3, 0.2, 0.6])
    ratios = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of resamples without a user of one split
        for drawn in itertools.product(range(5), repeat=5):
            each = list(drawn)
            ratios.append(np.nanmean(after[each]) / np.nanmean(before[each]))
    defined = np.array(ratios)[np.isfinite(ratios)]
    assert len(defined) > 0.99 * len(ratios)
    (share,) = kept(present(before), present(after), seed=0, n_resamples=400).kept
    assert share.value == pytest.approx(np.nanmean(after) / np.nanmean(before))
    assert share.n == 5
    for end, at in ((share.low, 0.025), (share.high, 0.975)):
        around = np.quantile(defined, [at - 0.02, at + 0.02])
        assert around[0] - 1e-9 <= end <= around[1] + 1e-9


def test_the_interval_is_scipys():
    rng = np.random.default_rng(5)
    own = rng.random(200)
    before, after = own + rng.random(200), (own + rng.random(200)) / 2
    (share,) = kept(
        accuracy(np.arange(200), before),
        accuracy(np.arange(200), after),
        seed=1,
        n_resamples=20_000,
    ).kept
    theirs = stats.bootstrap(
        (before, after),
        lambda b, a, axis: a.mean(axis) / b.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        batch=1000,
        rng=np.random.default_rng(6),
    )
    ends = pytest.approx(theirs.confidence_interval, abs=0.1 * theirs.standard_error)
    assert (share.low, share.high) == ends


def test_the_interval_covers_the_true_ratio():
    # Half of the users are in both splits, and good for one is good for the other.
    rng = np.random.default_rng(13)
    covered = 0
    for trial in range(200):
        own = rng.random(300)
        before, after = own + rng.random(300), 0.5 * own + rng.random(300) / 2
        before[:75], after[-75:] = math.nan, math.nan
        (share,) = kept(present(before), present(after), seed=trial, n_resamples=400).kept
        covered += share.low <= 0.5 <= share.high
    assert 0.9 <= covered / 200 <= 0.99


# --- at equal numbers of items to find


def test_iid_is_read_at_the_ood_tests_numbers_of_items_to_find():
    # Users with four items to find are twice as easy to please, under the shift as today.
    n_iid, n_ood = np.repeat([1, 4], [20, 60]), np.repeat([1, 4], [60, 20])
    iid = accuracy(np.arange(80), np.where(n_iid == 1, 0.2, 0.4), n_iid)
    ood = accuracy(np.arange(80), np.where(n_ood == 1, 0.2, 0.4), n_ood)
    matched, plain = kept_matched(iid, ood, seed=0), kept(iid, ood, seed=0)
    for result in (matched, plain):
        assert result.iid[0].value == pytest.approx(0.35)
    assert matched.ood[0].value == pytest.approx(0.25)
    assert matched.iid_matched[0].value == pytest.approx(0.25)
    assert matched.kept[0].value == pytest.approx(1.0)
    assert plain.kept[0].value == pytest.approx(0.25 / 0.35)


def test_against_a_bootstrap_that_spells_everything_out():
    rng = np.random.default_rng(1)
    n_iid, n_ood = rng.integers(1, 3, 50), rng.integers(1, 3, 50)
    iid = accuracy(np.arange(0, 50), rng.random((50, 2)), n_iid)
    ood = accuracy(np.arange(20, 70), rng.random((50, 2)) * 0.6, n_ood)
    result = kept_matched(iid, ood, seed=0)

    def by_hand(people):
        a = people[people < 50]
        b = people[people >= 20] - 20
        matched = sum(iid.values[a][n_iid[a] == n].mean(0) * (n_ood[b] == n).mean() for n in (1, 2))
        return ood.values[b].mean(0) / matched

    drawn = [by_hand(rng.integers(0, 70, 70)) for _ in range(2000)]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    observed = by_hand(np.arange(70))
    for at, share in enumerate(result.kept):
        assert share.value == pytest.approx(observed[at])
        assert share.low == pytest.approx(low[at], abs=0.05)
        assert share.high == pytest.approx(high[at], abs=0.05)


def test_without_users_of_the_like_nothing_is_said_to_be_kept():
    iid = accuracy(np.arange(50), np.full(50, 0.3))
    ood = accuracy(np.arange(50), np.full(50, 0.6), np.full(50, 30))
    result = kept_matched(iid, ood, seed=0)
    assert not result.comparable
    assert np.isnan(result.kept[0].value) and np.isnan(result.iid_matched[0].value)
    assert result.ood[0].value == pytest.approx(0.6)


# --- what both have in common


@pytest.mark.parametrize("how", [kept, kept_matched])
def test_where_there_is_nothing_to_lose(how):
    (share,) = how(accuracy(range(30), np.zeros(30)), present(np.ones(30)), seed=1).kept
    assert math.isnan(share.value) and math.isnan(share.low)


@pytest.mark.parametrize("how", [kept, kept_matched])
def test_the_same_seed_gives_the_same_intervals(how):
    rng = np.random.default_rng(0)
    tests = [accuracy(np.arange(40), rng.random(40), rng.integers(1, 4, 40)) for _ in range(2)]
    assert how(*tests, seed=3) == how(*tests, seed=3)
    assert how(*tests, seed=3) != how(*tests, seed=4)


def test_models_share_their_resamples():
    rng = np.random.default_rng(2)
    values = [rng.random((40, 3)) for _ in range(2)]
    together = kept(*(accuracy(range(40), each) for each in values), seed=0).kept
    for at, share in enumerate(together):
        (alone,) = kept(*(accuracy(range(40), each[:, at]) for each in values), seed=0).kept
        ends = (alone.value, alone.low, alone.high)
        assert (share.value, share.low, share.high) == pytest.approx(ends)


def test_a_ratio_needs_users_and_the_same_models():
    one = present(np.ones(9))
    with pytest.raises(InputError, match="at least one user in each"):
        kept(one, present(np.full(9, math.nan)), seed=1)
    with pytest.raises(InputError, match="same models"):
        kept(one, accuracy(range(9), np.ones((9, 2))), seed=1)
