"""Drift of a stream from training: its gauges, and when they raise an alarm."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from cnsdiff import ConfoundedWorld
from cnsdiff.diagnostics.drift import (
    CALM,
    SIGMAS,
    STRATA,
    Drift,
    Gauge,
    UserActivity,
    measure_drift,
    taste_groups,
)

counts = st.lists(st.integers(0, 30), min_size=2, max_size=12).filter(any)


def by_hand(before, after, order):
    """Live shares in strata of equal training mass; an item at an edge is divided."""
    total, shares, mass = sum(before), [Fraction(0)] * STRATA, Fraction(0)
    for item in order:
        start, mass = mass, mass + Fraction(before[item], total)
        for stratum in range(STRATA):
            low, high = Fraction(stratum, STRATA), Fraction(stratum + 1, STRATA)
            inside = min(mass, high) - max(start, low)
            if start < mass and inside > 0:
                shares[stratum] += inside / (mass - start) * after[item]
    return [float(share / sum(after)) for share in shares]


@given(before=counts, seed=st.integers(0, 10**6))
def test_what_is_measured_by_hand(before, seed):
    rng = np.random.default_rng(seed)
    # Every item is known, and no two are alike in age.
    before = np.array(before) + 1
    after, age = rng.integers(0, 20, len(before)), rng.permutation(len(before)).astype(float)
    after[0] += 1
    drift = measure_drift(before, after, rng, recency=age)
    assert drift.items.value == pytest.approx(jensenshannon(before, after) ** 2, abs=1e-12)
    order = np.argsort(age)
    strata = by_hand(before.tolist(), after.tolist(), order.tolist())
    assert drift.strata["recency"] == pytest.approx(strata)
    even = np.full(STRATA, 1 / STRATA)
    assert drift.recency.value == pytest.approx(jensenshannon(even, strata) ** 2, abs=1e-12)
    both = drift.gauges["popularity"].value + drift.gauges["temporal"].value
    assert both == pytest.approx(drift.items.value)
    assert drift.n_live == after.sum()


def stream(seed: int, n_items: int = 120):
    """A law of items, training drawn of it, and of users who come with ten at a time."""
    rng = np.random.default_rng(seed)
    law = 1 / np.arange(1, n_items + 1) ** rng.uniform(0.4, 1.2)
    law /= law.sum()
    trained = rng.multinomial(int(10 ** rng.uniform(3, 5)), law)
    users = rng.gamma(0.7, size=200)
    return rng, law, trained, users / users.sum(), rng.integers(0, 8, 200)


def look(rng, law, trained, n, *, users=None, users_trained=None, groups=None) -> Drift:
    live = rng.multinomial(n, law)
    known = trained > 0
    activity = None
    if users is not None:
        activity = UserActivity(users_trained, 10 * rng.multinomial(n // 10, users), groups)
    return measure_drift(
        trained,
        np.where(known, live, 0),
        rng,
        recency=np.arange(len(law)) * 7 % 31.0,
        users=activity,
        unknown_items=int(live[~known].sum()),
    )


def test_a_stream_that_stands_still_raises_no_alarm():
    """Of 10,000 looks none did; the gauges of some of them are as a normal one's."""
    sigmas = []
    for seed in range(30):
        rng, law, trained, users, groups = stream(seed)
        of_users = 10 * rng.multinomial(int(trained.sum()) // 10, users)
        for _ in range(10):
            n = int(10 ** rng.uniform(2, 4.5))
            drift = look(rng, law, trained, n, users=users, users_trained=of_users, groups=groups)
            assert not drift.alarms()
            sigmas.append([drift.items.sigmas, *(own.sigmas for own in drift.gauges.values())])
    # Looks at one training are alike, so the bounds are wide.
    beyond = (np.array(sigmas) > 1.645).mean(axis=0)
    assert (beyond < 0.15).all() and beyond[:3].min() > 0.005
    assert np.max(sigmas) < SIGMAS


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_that_moved_raises_one_soon(seed):
    rng, law, trained, *_ = stream(seed)
    for moved, name in (
        (law[::-1], "popularity"),
        (np.where(np.arange(len(law)) % 2, law, 0) / law[1::2].sum(), "temporal"),
        (0.8 * np.append(law, 0.0) + 0.2 * np.append(0 * law, 1.0), "new-items"),
    ):
        known = np.append(trained, 0)[: len(moved)]
        drift = look(rng, moved, known, 500)
        assert drift.alarms()
        assert drift.resembles == name
        assert name in drift.sentence


def test_a_group_that_comes_more_often():
    rng, law, trained, users, groups = stream(1)
    of_users = 10 * rng.multinomial(20_000, users)
    more = users * np.where(groups == 2, 8.0, 1.0)
    options = {"users_trained": of_users, "groups": groups}
    drift = look(rng, law, trained, 5000, users=more / more.sum(), **options)
    assert drift.alarms() and drift.resembles == "user-group"


@pytest.mark.parametrize("shift", ["popularity", "temporal"])
def test_shifts_of_a_known_world_have_their_names(shift):
    dataset = ConfoundedWorld(n_users=300, n_items=250, seed=1).dataset(shift)
    trained = np.bincount(dataset.split("train").items, minlength=dataset.n_items)
    live = {
        name: np.bincount(dataset.split(name).items, minlength=dataset.n_items)
        for name in ("test_iid", "test_ood")
    }
    rng = np.random.default_rng(0)
    still, moved = (measure_drift(trained, own, rng) for own in live.values())
    assert moved.alarms() and moved.resembles == shift
    assert not still.alarms()
    assert moved.items.chance < moved.items.bound < moved.items.value


def test_an_alarm_neither_flickers_nor_is_raised_by_what_matters_to_nobody():
    assert Gauge(0.1, 0.01, 0.02, SIGMAS + 1).alarms()
    between = Gauge(0.1, 0.01, 0.02, (SIGMAS + CALM) / 2)
    assert between.alarms(before=True) and not between.alarms()
    assert not Gauge(0.1, 0.01, 0.02, CALM - 1).alarms(before=True)
    assert not Gauge(0.012, 0.01, 0.011, 30.0).alarms()


def test_few_interactions_tell_nothing():
    rng = np.random.default_rng(0)
    drift = measure_drift(np.array([5, 3, 9]), np.array([0, 0, 1]), rng, unknown_users=1)
    assert not drift.alarms()
    assert drift.unknown_users == 1.0 and drift.unknown_items == 0.0


def test_groups_of_taste_are_the_same_on_each_side():
    rng = np.random.default_rng(0)
    centres = np.array([[a, b, c, 0.0] for a in (-4, 4) for b in (-3, 3) for c in (-2, 2)])
    own = rng.integers(0, 8, 400)
    groups = taste_groups(centres[own] + 0.1 * rng.normal(size=(400, 4)))
    assert len(set(zip(own.tolist(), groups.tolist(), strict=True))) == 8 == groups.max() + 1
