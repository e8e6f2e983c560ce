"""Data frames and Parquet."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from cnsdiff.base.errors import CnsdiffWarning, DataError
from cnsdiff.data import read_interactions

COLUMNS = {"userId": ["a", "b"], "item": [3, 4], "rating": [1, 5], "extra": [None, "x"]}


@pytest.mark.parametrize("make", [pl.DataFrame, pd.DataFrame, pa.table, pl.LazyFrame])
def test_any_frame(make):
    found = read_interactions(make(COLUMNS))
    assert found.source == "DataFrame"
    assert found.frame.rows() == [("a", 3, 1.0), ("b", 4, 5.0)]
    assert found.frame.schema == {"user": pl.String, "item": pl.Int64, "rating": pl.Float64}


def test_parquet(tmp_path):
    for name in ("log.parquet", "log"):
        pl.DataFrame(COLUMNS).write_parquet(tmp_path / name)
        found = read_interactions(tmp_path / name)
        assert found.frame.rows() == [("a", 3, 1.0), ("b", 4, 5.0)]


def test_text_ids_of_a_frame_are_never_split_or_stripped():
    ids = [" a ", "b\nc", '"q"', "x,y", "  "]
    assert (
        read_interactions(pl.DataFrame({"user": ids, "item": ids})).frame["user"].to_list() == ids
    )


def test_id_types():
    frame = pl.DataFrame(
        {
            "user": pl.Series(["x", "y"], dtype=pl.Categorical),
            "item": pl.Series([2**64 - 1, 1], dtype=pl.UInt64),
        }
    )
    assert read_interactions(frame).frame.rows() == [("x", 2**64 - 1), ("y", 1)]
    small = frame.with_columns(pl.Series("item", [1, 2], dtype=pl.Int8))
    assert read_interactions(small).frame.schema["item"] == pl.Int64


def test_whole_floats_are_integers_as_pandas_makes_them():
    frame = pd.DataFrame({"user": [1.0, 2.0, None], "item": [1, 2, 3]})
    with pytest.raises(DataError, match=r"DataFrame, row 3, column 'user': the user is empty"):
        read_interactions(frame)
    found = read_interactions(frame, skip_bad=True)
    assert found.frame.rows() == [(1, 1), (2, 2)]
    assert found.skipped == 1


def test_floats_too_large_for_ids_have_lost_digits(tmp_path):
    wide = pd.DataFrame({"user": 2.0**53 + np.arange(20), "item": 1})
    with pytest.raises(DataError, match=r"'user' holds Float64, which has lost .*9007199254"):
        read_interactions(wide)
    narrow = pl.DataFrame({"user": [2.0**24, 3.0], "item": [1, 2]}).cast({"user": pl.Float32})
    narrow.write_parquet(tmp_path / "x.parquet")
    for source in (narrow, tmp_path / "x.parquet"):
        with pytest.raises(DataError, match=r"holds Float32, which has lost .* 16777216 \(2"):
            read_interactions(source)
    below = pd.DataFrame({"user": [2.0**53 - 1, 3.0], "item": 1})
    assert read_interactions(below).frame["user"].to_list() == [2**53 - 1, 3]


def test_whole_decimals_are_integers():
    frame = pl.DataFrame({"user": [Decimal("12"), Decimal("3")], "item": [1, 2]})
    assert read_interactions(frame).frame["user"].to_list() == [12, 3]
    frame = pl.DataFrame({"user": [Decimal("1.5")], "item": [1]})
    with pytest.raises(DataError, match="Decimal"):
        read_interactions(frame)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", object])
def test_ratings_are_what_they_print(kind):
    values = [0.7, 3.3, 0.1] if kind is not object else list(map(Decimal, ("0.7", "3.3", "0.1")))
    frame = pd.DataFrame({"user": 1, "item": [1, 2, 3], "rating": np.array(values, dtype=kind)})
    found = read_interactions(frame)
    assert found.frame["rating"].to_list() == [0.7, 3.3, 0.1]
    assert len(found.positives(0.7)) == 2
    assert len(found.positives(np.float32(0.7))) == 2


@pytest.mark.parametrize("threshold", ["4", True, float("nan"), float("inf"), [4], np.bool_(True)])
def test_a_threshold_is_a_number(threshold):
    found = read_interactions(pl.DataFrame({"user": [1], "item": [1], "rating": [5]}))
    with pytest.raises(DataError, match=r"the threshold is a number such as 4 or 3\.5, not "):
        found.positives(threshold)


def test_times_of_32_bits_are_told():
    frame = pl.DataFrame({"user": [1], "item": [1], "timestamp": [1.5e9]})
    with pytest.warns(CnsdiffWarning, match="holds Float32, which keeps times only to some min"):
        read_interactions(frame.cast({"timestamp": pl.Float32}))


def test_columns_of_one_name():
    frame = pd.DataFrame({"user": [1], "item": [2]})
    arrow = pa.table({"user": [1], "item": [2]})
    for source in (pd.concat([frame, frame[["user"]]], axis=1), arrow.append_column("user", [[3]])):
        with pytest.raises(
            DataError, match=r"^DataFrame: has two columns called 'user'; rename or"
        ):
            read_interactions(source)
    with pytest.raises(DataError, match=r"^DataFrame: has no columns"):
        read_interactions(pd.DataFrame())
    with pytest.raises(DataError, match=r"cannot be converted \(unable to find column .nope"):
        read_interactions(pl.LazyFrame(frame).select("nope"))


def test_times_of_every_type():
    moment = dt.datetime(1970, 1, 1, 1, tzinfo=dt.UTC)
    for times, seconds in [
        ([dt.date(1970, 1, 2)], 86400),
        ([dt.datetime(1970, 1, 1, 0, 1)], 60),
        ([moment], 3600),
        ([dt.datetime(1970, 1, 1, 0, 0, 0, 250000)], 0.25),
        (["1970-01-02"], 86400),
        ([5], 5),
        ([5.5], 5.5),
    ]:
        frame = pl.DataFrame({"user": [1], "item": [2], "timestamp": times})
        assert read_interactions(frame).frame["timestamp"].to_list() == [seconds]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"user": [1.5], "item": [1]}, ["'user'", "Float64", "user='NAME'"]),
        ({"user": [True], "item": [1]}, ["'user'", "Boolean"]),
        ({"user": [[1]], "item": [1]}, ["'user'", "List"]),
        ({"user": [1], "item": [1], "rating": [[1]]}, ["'rating'", "rating='NAME'", "none"]),
        ({"user": [1], "item": [None]}, ["row 1", "'item'", "empty"]),
        ({"user": [""], "item": [1]}, ["row 1", "'user'", "empty"]),
        (
            {"user": [1], "item": [1], "rating": [None]},
            ["row 1", "rating is empty", "skip_bad=True"],
        ),
        ({"user": [1], "item": [1], "rating": ["x"]}, ["row 1", "'x' is not a number"]),
        ({"user": [1], "item": [1], "rating": [float("inf")]}, ["row 1", "inf is not a number"]),
        ({"user": [1], "thing": [1]}, ["items", "'thing'", "item='NAME'"]),
        ({"user": [], "item": []}, ["no interactions"]),
    ],
)
def test_bad_frames(columns, words):
    with pytest.raises(DataError) as caught:
        read_interactions(pl.DataFrame(columns))
    for word in words:
        assert word in str(caught.value)


def test_mixed_types_and_what_is_no_frame():
    with pytest.raises(DataError, match="one type"):
        read_interactions(pd.DataFrame({"user": [1, "a"], "item": [1, 2]}, dtype=object))
    for source in (None, 3, [1, 2], {"user": [1]}):
        with pytest.raises(DataError, match="give a path or a data frame"):
            read_interactions(source)
