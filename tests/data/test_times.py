"""Times of every unit and form are seconds since 1970 once they are read."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from cnsdiff.base.errors import CnsdiffWarning, DataError
from cnsdiff.data import Interactions, Source, read_interactions
from cnsdiff.data.reading.times import looks_unlike_seconds
from cnsdiff.shifts import Given, Popularity, prepare_given

#: Of 2020.
SECONDS = [1_577_836_800, 1_580_000_000, 1_590_000_000]
FINER = {"ms": 10**3, "us": 10**6, "ns": 10**9}


def frame(times) -> pl.DataFrame:
    return pl.DataFrame({"user": range(len(times)), "item": 1, "timestamp": times})


def read(times, **options) -> list[float]:
    return read_interactions(frame(times), **options).frame["timestamp"].to_list()


def text(tmp_path, times, **options) -> list[float]:
    rows = "".join(f"{row};1;{time}\n" for row, time in enumerate(times))
    (tmp_path / "log.csv").write_text("user;item;timestamp\n" + rows)
    return read_interactions(tmp_path / "log.csv", **options).frame["timestamp"].to_list()


@pytest.mark.parametrize("kind", [str, int, float])
@pytest.mark.parametrize("unit", FINER)
def test_finer_units_are_told_by_their_size(unit, kind):
    times = [kind(second * FINER[unit]) for second in SECONDS]
    name = {"ms": "milli", "us": "micro", "ns": "nano"}[unit]
    with pytest.warns(CnsdiffWarning, match=rf"'timestamp' are taken for {name}seconds since 1970"):
        assert read(times) == SECONDS
    assert read(times, time_unit=unit) == SECONDS


def test_seconds_and_what_only_counts_stay_as_they_are():
    for times in (SECONDS, [0.5, 2e6, 3.0], [0, 1, 2], [1, 20_000, 40_000], [-5, -3, 70_000]):
        assert read(times) == times
    assert read([17_361, 17_362], time_unit="s") == [17_361, 17_362]


def test_parts_of_a_second_are_kept():
    with pytest.warns(CnsdiffWarning, match="milliseconds"):
        assert read([1_577_836_800_250, 1_577_836_801_000]) == [1_577_836_800.25, 1_577_836_801]


def test_days_and_dates_without_dashes():
    with pytest.warns(CnsdiffWarning, match="days since 1970, 2017-07-14 to 2017-07-15"):
        assert read([17_361, 17_362]) == [17_361 * 86400, 17_362 * 86400]
    assert read([17_361.5], time_unit="days") == [17_361.5 * 86400]
    with pytest.warns(CnsdiffWarning, match="dates written YYYYMMDD, 2020-01-01 to 2020-01-31"):
        assert read([20_200_101, 20_200_131]) == [1_577_836_800, 1_580_428_800]
    assert read([20_200_101, 20_200_131], time_unit="s") == [20_200_101, 20_200_131]


def test_a_row_in_another_unit_is_malformed(tmp_path):
    times = [*SECONDS, SECONDS[0] * 1000]
    with pytest.raises(DataError, match=r"log.csv, line 5, column 'timestamp': '1577836800000' is"):
        text(tmp_path, times)
    assert text(tmp_path, times, skip_bad=True) == SECONDS
    with (
        pytest.warns(CnsdiffWarning, match="milliseconds"),
        pytest.raises(DataError, match=r"row 3, .*1577836800 .* counts in another unit"),
    ):
        read([SECONDS[1] * 1000, SECONDS[2] * 1000, SECONDS[0]])


@pytest.mark.parametrize("unit", ["auto", "s", "ms", "days"])
def test_beyond_the_calendar(unit):
    with pytest.raises(
        DataError, match=r"row 1, column 'timestamp': 92233\d+ is not a number or date"
    ):
        read([9_223_372_036_854_775_788, 9_223_372_036_854_775_799], time_unit=unit)
    with pytest.raises(DataError, match="every row is malformed"):
        read([-(2**63), -(2**63) + 1], time_unit=unit, skip_bad=True)


def test_made_up_times_among_real_ones_are_told():
    with pytest.warns(CnsdiffWarning, match=r"row 3, .*0 lies before 1973 .*\(2 of 5\)"):
        assert read([*SECONDS[:2], 0, SECONDS[2], -1])[2] == 0
    times = [dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 2), dt.datetime(9999, 12, 31)]
    with pytest.warns(CnsdiffWarning, match=r"row 3, .*9999.* lies after the year 2099"):
        read(times)


@pytest.mark.parametrize(
    ("written", "second"),
    [
        ("2020-01-01", 0),
        ("2020-01-01T12:00Z", 43_200),
        ("2020-01-01T12:00", 43_200),
        ("2020-01-01 12:00:00 UTC", 43_200),
        ("2020-01-01 12:00:00.250 UTC", 43_200.25),
        ("2020-01-01T12:00:00,250Z", 43_200.25),
        ("2020-01-01 12:00:00 GMT", 43_200),
        ("2020-01-01T12:00:00+02:00", 36_000),
        ("2020-01-01T12:00:00+0200", 36_000),
        ("2020-01-01 12:00:00.5+02", 36_000.5),
        ("2020-01-01 12:00:00 -0130", 48_600),
        ("2020-01-01t12:00:00z", 43_200),
        ("20200101T120000Z", 43_200),
        ("20200101T1200", 43_200),
    ],
)
def test_forms(tmp_path, written, second):
    later = written.replace("01-01", "01-02", 1).replace("20200101", "20200102")
    wanted = [SECONDS[0] + second, SECONDS[0] + second + 86_400]
    assert text(tmp_path, [written, later]) == wanted
    # Whatever form comes first, each is read.
    if second == int(second) and not written.startswith("2020-01-01T12:00:00,"):
        naive = "2020-01-03" if second else "2020-01-03T00:00"
        assert text(tmp_path, [naive, written])[1] == wanted[0]


@pytest.mark.parametrize("written", ["01/31/2020", "2020-02-30", "2020-01-01T25:00", "noon"])
def test_malformed_forms_name_the_accepted_ones(tmp_path, written):
    with pytest.raises(DataError) as caught:
        text(tmp_path, ["2020-01-31", "2020-01-31T12:00", written])
    message = str(caught.value)
    assert f"log.csv, line 4, column 'timestamp': '{written}' is not a number or date" in message
    assert "write 2020-01-31, 2020-01-31T12:00:00, 2020-01-31 12:00:00Z" in message


def test_units_of_ready_splits_are_brought_together_or_refused():
    train = pl.DataFrame({"user": [1, 1, 2], "item": [1, 2, 1], "timestamp": SECONDS})
    ood = pl.DataFrame({"user": [2], "item": [2], "timestamp": [SECONDS[0] * 1000]})
    with pytest.warns(CnsdiffWarning, match="milliseconds"):
        made = prepare_given(train, test_ood=ood)
    assert made.split("test_ood").timestamps.tolist() == SECONDS[:1]
    counted = ood.with_columns(timestamp=pl.lit(3))
    with pytest.raises(DataError, match=r"test_ood are about 1970-01-01 .* train about 2020-01"):
        prepare_given(train, test_ood=counted)
    tables = {"train": Interactions(train, "a.csv"), "test_ood": Interactions(counted, "b.csv")}
    for scenario in (Given(), Popularity()):
        with pytest.raises(DataError, match=r"b.csv: as seconds since 1970, .* about 1970-01-01"):
            scenario(Source(tables | {"log": tables["train"]}))


def test_an_unknown_unit():
    with pytest.raises(DataError, match=r"'millis' \(did you mean 'ms'\?\)|unknown time unit"):
        read(SECONDS, time_unit="millis")


def test_times_kept_before_there_were_units():
    assert looks_unlike_seconds(np.array(SECONDS) * 1000) == (
        "look like milliseconds since 1970, and are taken for seconds"
    )
    for fine in (np.array(SECONDS), np.arange(5), np.array([np.nan]), np.zeros(0)):
        assert looks_unlike_seconds(fine) is None
