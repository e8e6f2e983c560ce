"""Temporal shift: one cut for all, a gap, and times that cannot be."""

from __future__ import annotations

import datetime as dt
import time

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnsdiff.base.errors import ConfigError, DataError
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
