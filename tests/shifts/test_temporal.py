"""Temporal shift: one cut for all, a gap, and times that cannot be."""

from __future__ import annotations

import datetime as dt
import time
import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnsdiff.base.errors import CnsdiffWarning, ConfigError, DataError
from cnsdiff.data import Interactions
from cnsdiff.shifts import Temporal

DAY = 86_400


def test_the_quantile_of_the_rows_lies_before_the_cut(long_tail, named):
    dataset = Temporal(quantile=0.7)(long_tail)
    n = len(long_tail)
    side = named(dataset, "train", "valid", "test_iid")["timestamp"]
    ood = named(dataset, "test_ood")["timestamp"]
    cut = dataset.manifest.log["cut"]
    assert len(side) == int(0.7 * n)
    assert side.max() < cut <= ood.min()
    counts = dataset.manifest.splits["test_ood"]
    assert counts.rows + counts.dropped_unknown == n - int(0.7 * n)
    assert named(dataset, "valid")["timestamp"].max() < cut


def test_a_gap_is_left_out_and_counted(long_tail, named):
    cut = 10**9 + 5000
    dataset = Temporal(at=cut, gap=300)(long_tail)
    assert named(dataset, "train", "valid", "test_iid")["timestamp"].max() == cut - 1
    assert named(dataset, "test_ood")["timestamp"].min() >= cut + 300
    # The fixture has one row a second.
    assert dataset.manifest.log["left_out"] == 300


@pytest.mark.parametrize(
    ("horizon", "seconds"), [(300, 300), ("5m", 300), (0.1, None), (7e9, float("inf"))]
)
def test_the_test_ends_at_the_horizon(long_tail, named, horizon, seconds):
    n, cut = len(long_tail), 10**9 + 5000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the longest is longer than the log
        dataset = Temporal(at=cut, gap=20, horizon=horizon)(long_tail)
    # The fixture has one row a second, so that a share of the rows is a time, too.
    end = min(cut + 20 + (int(0.1 * n) if seconds is None else seconds), 10**9 + n)
    ood = named(dataset, "test_ood")["timestamp"]
    counts = dataset.manifest.splits["test_ood"]
    assert cut + 20 <= ood.min() <= ood.max() < end
    assert counts.rows + counts.dropped_unknown == end - cut - 20
    assert named(dataset, "train", "valid", "test_iid")["timestamp"].max() == cut - 1


@given(
    times=st.lists(st.integers(0, 60), min_size=20, max_size=200),
    horizon=st.none() | st.floats(0.01, 0.3) | st.floats(1, 10),
    gap=st.integers(0, 5),
    last=st.floats(0.6, 0.95),
)
def test_the_tests_of_several_cuts_follow_one_another(times, horizon, gap, last):
    """Each row after the first cut is judged at one cut, the last before it, and trains later."""
    times = np.array(times)
    parts = []
    for back in (2, 1, 0):
        scenario = Temporal(quantile=last, horizon=horizon, gap=gap, back=back)
        try:
            cut, end = scenario._moments(times, "log")
        except ConfigError:
            return  # no room for so many
        parts.append((cut, end))
    for (cut, end), (later, _) in pairwise(parts):
        assert cut <= end == pytest.approx(later)
        if horizon is not None and horizon >= 1:
            assert end - cut == pytest.approx(horizon)
    alone = Temporal(quantile=last, horizon=horizon, gap=gap)._moments(times, "log")
    assert parts[-1] == alone
    if horizon is None:
        assert parts[-1][1] == np.inf


def test_several_cuts_train_on_all_that_was_before(long_tail, named):
    n = len(long_tail)
    size = int(0.1 * n)
    place = int(0.7 * n)
    for back in (3, 1):
        dataset = Temporal(quantile=0.7, horizon=0.1, back=back)(long_tail)
        known = named(dataset, "train", "valid", "test_iid")["timestamp"]
        assert known.sort().to_list() == list(range(10**9, 10**9 + place - back * size))
        first = 10**9 + place - back * size
        ood = named(dataset, "test_ood")["timestamp"]
        counts = dataset.manifest.splits["test_ood"]
        assert first <= ood.min() <= ood.max() < first + size
        assert counts.rows + counts.dropped_unknown == size
    with pytest.raises(ConfigError, match="no cut lies 8 horizons of 743 rows before"):
        Temporal(quantile=0.7, horizon=0.1, back=8)(long_tail)


def test_a_log_shorter_than_the_horizon_is_told(long_tail):
    with pytest.warns(CnsdiffWarning, match=r"ends on 2001-09-09.*shorter than asked for"):
        Temporal(horizon="90d")(long_tail)


def test_few_users_after_the_cut_are_warned_of(long_tail, named):
    with pytest.warns(CnsdiffWarning, match="only") as told:
        dataset = Temporal(quantile=0.98)(long_tail)
    users = set(named(dataset, "test_ood")["user"])
    assert users <= set(named(dataset, "train")["user"])
    # 1.96 standard deviations of 1.7 means over the root of the users.
    width = 100 * 1.96 * 1.7 / len(users) ** 0.5
    assert f"only {len(users)} users known before the cut at 2001-09-09" in str(told[0].message)
    assert f"±{width:.0f}% of a metric" in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Temporal()(long_tail).manifest.splits["test_ood"].users >= 300


@pytest.mark.parametrize("quantile", [0.45, 0.5, 0.55])
def test_ties_are_never_split(named, quantile):
    pairs = [(u, i) for u in range(10) for i in range(10)]
    early = [pair for pair in pairs if (pair[0] + pair[1]) % 2 == 0]
    late = [pair for pair in pairs if (pair[0] + pair[1]) % 2 == 1]
    times = [5] * 20 + [6] * 30 + [7] * 50
    users, items = zip(*early, *late, strict=True)
    frame = pl.DataFrame({"user": users, "item": items, "timestamp": times})
    dataset = Temporal(quantile=quantile)(Interactions(frame, "x"))
    cut = dataset.manifest.log["cut"]
    assert cut == (6 if quantile < 0.5 else 7)
    assert named(dataset, "train", "valid", "test_iid")["timestamp"].max() == cut - 1
    counts = dataset.manifest.splits["test_ood"]
    assert counts.rows + counts.dropped_unknown == sum(t >= cut for t in times)


@pytest.mark.parametrize(
    ("given_", "seconds"),
    [
        ("2020-01-31", 1_580_428_800),
        ("2020-01-31T12:00", 1_580_472_000),
        ("2020-01-31T12:00:00+02:00", 1_580_464_800),
        ("1580428800", 1_580_428_800),
        (1_580_428_800.5, 1_580_428_800.5),
        (dt.date(2020, 1, 31), 1_580_428_800),
        (dt.datetime(2020, 1, 31, 12), 1_580_472_000),
    ],
)
def test_moments(given_, seconds):
    assert Temporal(at=given_).at == seconds


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1w", 7 * DAY)]
)
def test_lengths(text, seconds):
    assert Temporal(gap=text).gap == seconds


@given(st.integers(0, 10_000))
def test_a_gap_in_days_is_one_in_seconds(days):
    assert Temporal(gap=f"{days}d") == Temporal(gap=days * DAY)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"at": "soon"}, "at: write it as 2020-01-31"),
        ({"at": "nan"}, "at: "),
        ({"gap": "7 moons"}, "gap: write it in seconds"),
        ({"gap": -1}, "gap: input should be greater than or equal to 0"),
        ({"horizon": 0}, "horizon: input should be greater than 0"),
        ({"horizon": "soon"}, "horizon: write it in seconds"),
        ({"back": -1}, "back: input should be greater than or equal to 0"),
        ({"quantile": 1}, "quantile: input should be less than 1"),
        ({"strength": 1}, "unknown setting 'strength'; its settings are"),
    ],
)
def test_wrong_settings(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Temporal(**settings)


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        ({"at": "1990-01-01"}, "before the cut at 1990-01-01 00:00:00"),
        ({"at": "2050-01-01"}, "after the cut and its gap at 2050"),
        ({"gap": "100d"}, "after the cut and its gap"),
        ({"quantile": 1e-9}, "before the cut at 2001-09-09 01:46:40"),
        ({"horizon": "100d", "back": 1}, "before the cut at 2001"),
    ],
)
def test_a_cut_with_nothing_on_one_side(long_tail, settings, side):
    with pytest.raises(ConfigError, match=f"shop.csv: no row lies {side}"):
        Temporal(**settings)(long_tail)


def test_the_future_is_refused_but_today_is_not(long_tail):
    now = int(time.time())
    frame = long_tail.frame.with_columns(timestamp=pl.col("timestamp") - 10**9 + now - 10_000)
    Temporal()(Interactions(frame, "x.csv"))
    milli = frame.with_columns(pl.col("timestamp") * 1000)
    with pytest.raises(DataError, match=r"x.csv: \d+ of \d+ timestamps lie in the future.*millis"):
        Temporal()(Interactions(milli, "x.csv"))
    micro = frame.with_columns(pl.col("timestamp") * 1e6)
    with pytest.raises(DataError, match=r"beyond the year 9999.*milliseconds or finer"):
        Temporal()(Interactions(micro, "x.csv"))


def test_without_times(long_tail):
    timeless = Interactions(long_tail.frame.drop("timestamp"), "shop.csv")
    with pytest.raises(DataError, match=r"shop.csv: has no timestamps.*timestamp='NAME'"):
        Temporal()(timeless)


def test_a_log_of_one_moment_has_no_past(long_tail):
    moment = replace(long_tail, frame=long_tail.frame.with_columns(timestamp=pl.lit(1_600_000_000)))
    with pytest.raises(ConfigError, match="all rows are of one time, 2020-09-13 12:26:40; give a"):
        Temporal()(moment)
