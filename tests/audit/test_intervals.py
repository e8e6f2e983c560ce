"""What is lost, at equal numbers of items to find."""

from __future__ import annotations

import numpy as np
import pytest

from cnsdiff.audit.intervals import Measured, losses


def measured(users, n_relevant, values) -> Measured:
    values = np.asarray(values, dtype=np.float64)
    return Measured(np.asarray(users), np.asarray(n_relevant), values.reshape(len(values), -1))


def test_means_of_both_tests_and_the_share_between_them():
    users = np.arange(60)
    one = np.ones(60, dtype=np.int64)
    iid = measured(users, one, np.tile([0.2, 0.6], 30))
    ood = measured(users + 30, one, np.tile([0.1, 0.3], 30))
    found = losses(iid, ood, seed=0)
    assert found.iid[0].value == pytest.approx(0.4)
    assert found.ood[0].value == pytest.approx(0.2)
    assert found.iid_matched[0].value == pytest.approx(0.4)
    assert found.loss[0].value == pytest.approx(0.5)
    assert found.loss[0].low < 0.5 < found.loss[0].high
    assert found.iid[0].low < 0.4 < found.iid[0].high
    assert found.matched == 1.0


def test_iid_is_read_at_the_ood_tests_numbers_of_items_to_find():
    # Users with four items to find are twice as easy to please, under the shift as today.
    n_iid = np.repeat([1, 4], [20, 60])
    n_ood = np.repeat([1, 4], [60, 20])
    iid = measured(np.arange(80), n_iid, np.where(n_iid == 1, 0.2, 0.4))
    ood = measured(np.arange(80), n_ood, np.where(n_ood == 1, 0.2, 0.4))
    found = losses(iid, ood, seed=0)
    assert found.iid[0].value == pytest.approx(0.35)
    assert found.ood[0].value == pytest.approx(0.25)
    assert found.iid_matched[0].value == pytest.approx(0.25)
    assert found.loss[0].value == pytest.approx(0.0, abs=1e-6)


def test_against_a_bootstrap_that_spells_everything_out():
    rng = np.random.default_rng(1)
    users_iid, users_ood = np.arange(0, 50), np.arange(20, 70)
    n_iid, n_ood = rng.integers(1, 3, 50), rng.integers(1, 3, 50)
    iid = measured(users_iid, n_iid, rng.random((50, 2)))
    ood = measured(users_ood, n_ood, rng.random((50, 2)) * 0.6)
    found = losses(iid, ood, seed=0)
    drawn = []
    for _ in range(2000):
        people = rng.integers(0, 70, 70)
        a = people[people < 50]
        b = people[people >= 20] - 20
        matched = sum(iid.values[a][n_iid[a] == n].mean(0) * (n_ood[b] == n).mean() for n in (1, 2))
        drawn.append(1 - ood.values[b].mean(0) / matched)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    for at in range(2):
        assert found.loss[at].low == pytest.approx(low[at], abs=0.05)
        assert found.loss[at].high == pytest.approx(high[at], abs=0.05)


def test_without_users_of_the_like_nothing_is_said_to_be_lost():
    iid = measured(np.arange(50), np.ones(50, dtype=int), np.full(50, 0.3))
    ood = measured(np.arange(50), np.full(50, 30), np.full(50, 0.6))
    found = losses(iid, ood, seed=0)
    assert not found.comparable
    assert np.isnan(found.loss[0].value)
    assert found.ood[0].value == pytest.approx(0.6)


def test_nothing_to_lose_is_no_number():
    users, one = np.arange(30), np.ones(30, dtype=int)
    found = losses(measured(users, one, np.zeros(30)), measured(users, one, np.ones(30)), seed=0)
    assert not np.isfinite(found.loss[0].low)
    assert found.loss[0].to_list()[1:] == [None, None]


def test_the_same_seed_gives_the_same_intervals():
    rng = np.random.default_rng(0)
    args = [measured(np.arange(40), rng.integers(1, 4, 40), rng.random(40)) for _ in range(2)]
    assert losses(*args, seed=3) == losses(*args, seed=3)
    assert losses(*args, seed=3) != losses(*args, seed=4)
