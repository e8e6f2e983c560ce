"""Reading features of users and items."""

from __future__ import annotations

import gzip

import pandas as pd
import polars as pl
import pytest

from cnsdiff.base.errors import DataError
from cnsdiff.data import read_features, read_interactions


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_recbole_atomic_file(tmp_path):
    file = write(
        tmp_path / "m.item",
        "item_id:token\tmovie_title:token_seq\trelease_year:float\tclass:token_seq\n"
        "1\tToy Story\t1995\tAnimation Comedy\n2\tGolden, Eye\t\tAction\n",
    )
    table = read_features(file, "item")
    assert table.columns == ["item", "movie_title", "release_year", "class"]
    assert table.rows() == [
        (1, "Toy Story", 1995, "Animation Comedy"),
        (2, "Golden, Eye", None, "Action"),
    ]


@pytest.mark.parametrize("kind", ["csv", "gz", "parquet", "polars", "pandas"])
def test_every_kind_of_table(tmp_path, kind):
    frame = pl.DataFrame(
        {"uid": ["007", "b"], "age": [1, 2], "mood": [0.5, None], "job": ["x", ""]}
    )
    text = "uid,age,mood,job\n007,1,0.5,x\nb,2,,\n"
    if kind == "csv":
        source = write(tmp_path / "u.csv", text)
    elif kind == "gz":
        source = tmp_path / "u.csv.gz"
        source.write_bytes(gzip.compress(text.encode()))
    elif kind == "parquet":
        source = tmp_path / "u.parquet"
        frame.write_parquet(source)
    elif kind == "polars":
        source = frame
    else:
        source = pd.DataFrame(frame.to_dict(as_series=False))
    table = read_features(source, "user")
    assert table.columns == ["user", "age", "mood", "job"]
    assert table["user"].to_list() == ["007", "b"]
    assert table["age"].to_list() == [1, 2]
    assert table["mood"].is_nan().fill_null(True).to_list() == [False, True]
    assert table["job"][0] == "x"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("uid,age\n1,2\n1,3\n", ["line 3", "'uid'", "user 1", "more than one row"]),
        ("uid,age\n1,2\n,3\n", ["line 3", "the user is empty"]),
        ("age,job\n1,2\n", ["no column known to hold the users", "'age', 'job'"]),
        ("uid,age,age\n1,2,3\n", ["two columns called 'age'"]),
        ("uid,age\n1,2,3\n", ["line 2", "3 fields where 2"]),
        ("uid\n1\n", ["expected a header"]),
        ("", ["is empty"]),
    ],
)
def test_wrong_files(tmp_path, text, words):
    with pytest.raises(DataError) as caught:
        read_features(write(tmp_path / "u.csv", text), "user")
    for word in ("u.csv", *words):
        assert word in str(caught.value)


def test_a_named_id_column(tmp_path):
    file = write(tmp_path / "u.csv", "who,age\n1,2\n")
    assert read_features(file, "user", id="who").rows() == [(1, 2)]
    with pytest.raises(DataError, match=r"'whom'.*did you mean 'who'"):
        read_features(file, "user", id="whom")
    with pytest.raises(DataError, match="no such file"):
        read_features(tmp_path / "none.csv", "user")


def test_period_column(tmp_path):
    file = write(tmp_path / "log.csv", "user,item,campaign\n1,2,spring\n1,3,autumn\n")
    found = read_interactions(file, period="campaign")
    assert found.frame["period"].to_list() == ["spring", "autumn"]
    file = write(tmp_path / "log2.csv", "user,item,env\n1,2,4\n1,3,5\n")
    assert read_interactions(file).frame["period"].to_list() == [4, 5]
    assert "period" not in read_interactions(file, period="none").frame.columns
    file = write(tmp_path / "log3.csv", "user,item,env\n1,2,4\n1,3,\n")
    with pytest.raises(DataError, match="line 3, column 'env': the period is empty"):
        read_interactions(file)


@pytest.mark.parametrize(
    ("times", "line", "says"),
    [
        (
            ["2024-01-01T10:00:00Z", "2024-01-01 11:00:00", "2024-01-02T10:00:00+02:00"],
            3,
            "no time",
        ),
        (["2024-01-01 10:00", "2024-01-01 11:00", "2024-01-02T10:00:00-0500"], 4, "most do not"),
    ],
)
def test_times_of_mixed_zones_are_refused(tmp_path, times, line, says):
    rows = "".join(f"1,{item},{time}\n" for item, time in enumerate(times))
    file = write(tmp_path / "log.csv", f"user,item,timestamp\n{rows}")
    with pytest.raises(DataError) as caught:
        read_interactions(file)
    for word in (f"log.csv, line {line}", "'timestamp'", says, "all without"):
        assert word in str(caught.value)


def test_one_clock_is_fine(tmp_path):
    file = write(
        tmp_path / "log.csv",
        "user,item,timestamp\n1,2,1970-01-01T01:00:00+01:00\n1,3,1970-01-01T00:00:10Z\n",
    )
    assert read_interactions(file).frame["timestamp"].to_list() == [0, 10]
    file = write(
        tmp_path / "b.csv", "user,item,timestamp\n1,2,1970-01-02\n1,3,1970-01-01T00:01:00Z\n"
    )
    assert read_interactions(file).frame["timestamp"].to_list() == [86400, 60]


@pytest.mark.parametrize(
    "values",
    [[b"\xff"], [[b"x"]], [{"deep": [b"x"]}], pl.Series([object()], dtype=pl.Object)],
    ids=["bytes", "a list", "a struct", "objects"],
)
def test_bytes_are_no_feature(values):
    frame = pl.DataFrame({"item": ["a"], "price": [1], "picture": values})
    with pytest.raises(DataError, match="column 'picture' holds bytes or Python objects"):
        read_features(frame, "item")
    assert read_features(frame.drop("picture"), "item").columns == ["item", "price"]


@pytest.mark.parametrize("kept", [["a"], {"deep": [1.5, None]}, None, "text", 2])
def test_any_other_type_is_kept_as_it_is(kept):
    frame = pl.DataFrame({"item": ["a"], "feature": [kept]})
    assert read_features(frame, "item").equals(frame)


def test_an_empty_file_of_features_is_not_told_of_interactions(tmp_path):
    with pytest.raises(DataError, match="is empty; give a file with at least one row"):
        read_features(write(tmp_path / "items.csv", ""), "item")
