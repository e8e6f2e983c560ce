"""Data frames and Parquet."""

from __future__ import annotations

import datetime as dt

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from cnsdiff.data import read_interactions
from cnsdiff.errors import DataError

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
        ({"user": [1.5], "item": [1]}, ["'user'", "Float64", "--user-col"]),
        ({"user": [True], "item": [1]}, ["'user'", "Boolean"]),
        ({"user": [[1]], "item": [1]}, ["'user'", "List"]),
        ({"user": [1], "item": [1], "rating": [[1]]}, ["'rating'", "--rating-col", "none"]),
        ({"user": [1], "item": [None]}, ["row 1", "'item'", "empty"]),
        ({"user": [""], "item": [1]}, ["row 1", "'user'", "empty"]),
        ({"user": [1], "item": [1], "rating": [None]}, ["row 1", "rating is empty", "--skip-bad"]),
        ({"user": [1], "item": [1], "rating": ["x"]}, ["row 1", "'x' is not a number"]),
        ({"user": [1], "item": [1], "rating": [float("inf")]}, ["row 1", "inf is not a number"]),
        ({"user": [1], "thing": [1]}, ["items", "'thing'", "--item-col"]),
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
