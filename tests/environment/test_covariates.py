"""Covariates against sums over interactions, one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnsdiff.base.errors import DataError
from cnsdiff.environment import HALF_LIVES, covariates_at


def by_hand(items, times, n_items, moment):
    """Each column, interaction by interaction."""
    span = max(moment - min(times), 1.0)
    columns = {"count": [math.log1p(items.count(item)) for item in range(n_items)]}
    ages = [(item, (moment - time) / span) for item, time in zip(items, times, strict=True)]
    for half_life in HALF_LIVES:
        decayed = [
            sum(0.5 ** (age / half_life) for item, age in ages if item == wanted)
            for wanted in range(n_items)
        ]
        columns[f"half-life {half_life:g}"] = [math.log1p(count) for count in decayed]
        columns[f"log half-life {half_life:g}"] = [math.log(count + 1e-4) for count in decayed]
    of_item = [[age for item, age in ages if item == wanted] for wanted in range(n_items)]
    columns["age"] = [math.log(max(own, default=0.0) + 1e-3) for own in of_item]
    columns["idle"] = [math.log(min(own, default=1.0) + 1e-3) for own in of_item]
    return columns


@given(
    pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 10**6)), min_size=1, max_size=30),
    later=st.integers(0, 10**5),
)
def test_columns_are_those_by_hand(pairs, later):
    items, times = [item for item, _ in pairs], [time for _, time in pairs]
    moment = float(max(times) + later)
    got = covariates_at(np.array(items), np.array(times), 5, moment=moment)
    wanted = by_hand(items, times, 5, moment)
    assert got.names == tuple(wanted)
    for name, column in zip(got.names, got.values.T, strict=True):
        raw = np.array(wanted[name])
        deviation = raw.std()
        if deviation > 1e-6:
            assert column == pytest.approx((raw - raw.mean()) / deviation, abs=1e-6)
        elif deviation < 1e-12:
            assert not column.any()


def test_blocks_add_up(monkeypatch):
    rng = np.random.default_rng(3)
    items, times = rng.integers(0, 30, 1000), rng.integers(0, 10**6, 1000)
    whole = covariates_at(items, times, 40, half_lives=(0.3, 0.1, 0.05))
    monkeypatch.setattr("cnsdiff.environment.activity._AT_ONCE", 7)
    blocks = covariates_at(items, times, 40, half_lives=(0.3, 0.1, 0.05))
    assert blocks.names == whole.names
    assert blocks.values == pytest.approx(whole.values, abs=1e-12)


def test_order_does_not_matter_and_days_are_no_different_from_seconds():
    rng = np.random.default_rng(0)
    items, days = rng.integers(0, 50, 400), rng.integers(0, 1000, 400)
    usual = covariates_at(items, days * 86_400, 50).values
    order = rng.permutation(400)
    assert covariates_at(items[order], days[order] * 86_400, 50).values == pytest.approx(usual)
    assert covariates_at(items, days, 50).values == pytest.approx(usual)


def test_without_times_only_counts_are_known():
    names, values, *_ = covariates_at(np.array([0, 0, 1]), None, 3)
    assert names == ("count",)
    assert values[0, 0] > values[1, 0] > values[2, 0]


def test_what_comes_later_is_refused():
    with pytest.raises(DataError, match="1 of 3 interactions are later than the moment"):
        covariates_at(np.array([0, 1, 2]), np.array([1, 2, 3]), 3, moment=2.5)
