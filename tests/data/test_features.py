"""Reading features of users and items."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnsdiff.base.errors import CnsdiffWarning, DataError
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


ITEMS = pl.DataFrame({"item": ["a", "b", "c"], "brand": ["x", "y", "x"], "price": [1, 2, 3]})


def test_modalities_are_joined_under_their_names(tmp_path):
    vectors = np.arange(6, dtype=np.float64).reshape(3, 2)
    np.save(tmp_path / "image.npy", vectors)
    sound = pl.DataFrame({"id_item": ["b", "d"], "own": [[0.5, 1.5], [2.5, 3.5]]})
    sound = sound.rename({"id_item": "item"})
    notes = write(tmp_path / "notes.csv", "item,text,stars\nc,fine,4\na,poor,1\n")
    table = read_features(
        {"": ITEMS, "image": tmp_path / "image.npy", "sound": sound, "notes": notes}, "item"
    )
    assert table.columns == [
        *("item", "brand", "price", "image", "sound", "notes.text", "notes.stars")
    ]
    assert table.schema["image"] == table.schema["sound"] == pl.List(pl.Float32)
    assert table.rows() == [
        ("a", "x", 1, [0.0, 1.0], None, "poor", 1),
        ("b", "y", 2, [2.0, 3.0], [0.5, 1.5], None, None),
        ("c", "x", 3, [4.0, 5.0], None, "fine", 4),
        ("d", None, None, None, [2.5, 3.5], None, None),
    ]


_TABLES = st.lists(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9), min_size=1),
    min_size=1,
    max_size=4,
)


@given(_TABLES)
def test_joining_is_looking_up_each_id_in_each_table(tables):
    frames = {
        f"t{n}": pl.DataFrame({"item": list(rows), "x": list(rows.values())})
        for n, rows in enumerate(tables)
    }
    ids = list(dict.fromkeys(id for rows in tables for id in rows))
    told = [(id, *(rows.get(id) for rows in tables)) for id in ids]
    assert read_features(frames, "item").rows() == told


def test_ids_that_are_numbers_in_one_table_alone_are_text():
    other = pl.DataFrame({"item": ["7", "007"], "x": [1, 2]})
    table = read_features({"": pl.DataFrame({"item": [7], "y": [3]}), "other": other}, "item")
    assert table.rows() == [("7", 3, 1), ("007", None, 2)]


def test_rows_of_nan_say_nothing():
    vectors = np.ones((3, 2))
    vectors[1] = np.nan
    with pytest.warns(CnsdiffWarning, match="rows of NaN, which say nothing, are 1 of its 3"):
        table = read_features({"": ITEMS, "image": vectors}, "item")
    assert table["image"].to_list() == [[1.0, 1.0], None, [1.0, 1.0]]


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "bool"])
def test_vectors_of_any_numbers_are_read(dtype, tmp_path):
    vectors = np.eye(3, dtype=dtype)
    np.save(tmp_path / "x.npy", np.asfortranarray(vectors))
    table = read_features({"": ITEMS, "x": tmp_path / "x.npy"}, "item")
    assert table["x"].to_list() == vectors.astype(float).tolist()


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (np.ones((2, 4)), "has 2 rows, and DataFrame 3; give a vector for each"),
        (np.ones(3), r"and it is float64\(3,\); give it two dimensions"),
        (np.array([["a"], ["b"], ["c"]]), "expected an array of numbers"),
        (np.array([[1, 2], [3, np.nan], [5, 6]]), "row 2: the vector of item 'b' has a number"),
        (np.array([[1, 2], [3, 4], [5, np.inf]]), "row 3: the vector of item 'c' has a number"),
        (np.array([[1e300], [1], [1]]), "row 1: the vector of item 'a' has a number"),
    ],
)
def test_wrong_vectors(vectors, words, tmp_path):
    with pytest.raises(DataError, match=f"array.*{words}"):
        read_features({"": ITEMS, "image": vectors}, "item")
    np.save(tmp_path / "v.npy", vectors)
    with pytest.raises(DataError, match=f"v.npy.*{words}"):
        read_features({"": ITEMS, "image": tmp_path / "v.npy"}, "item")


def test_files_that_are_no_arrays(tmp_path):
    write(tmp_path / "text.npy", "hello")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    with (tmp_path / "several.npy").open("wb") as file:
        np.savez(file, a=np.ones(3))
    for name, words in (
        ("text.npy", "is not a readable .npy file of numbers"),
        ("objects.npy", "is not a readable .npy file of numbers"),
        ("several.npy", "and it is several arrays"),
        ("none.npy", "no such file"),
    ):
        with pytest.raises(DataError, match=f"{name}: .*{words}"):
            read_features({"": ITEMS, "image": tmp_path / name}, "item")


def test_vectors_need_a_table_of_ids_before_them(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((3, 2)))
    for source in (tmp_path / "x.npy", {"x": tmp_path / "x.npy", "": ITEMS}):
        with pytest.raises(DataError, match=r"x\.npy: has vectors without ids; give a table"):
            read_features(source, "item")
    with pytest.raises(DataError, match="array: has vectors without ids"):
        read_features(np.ones((3, 2)), "item")
    with pytest.raises(DataError, match="have no name"):
        read_features({"items": ITEMS, "": np.ones((3, 2))}, "item")
    with pytest.raises(DataError, match="there are no tables of item features"):
        read_features({}, "item")


def test_two_features_of_one_name():
    words = "have a column 'brand'; give one of them another name"
    with pytest.raises(DataError, match=words):
        read_features({"": ITEMS, "brand": np.ones((3, 2))}, "item")
    tables = {"": ITEMS.rename({"brand": "a.b"}), "a": ITEMS.select("item", b="price")}
    with pytest.raises(DataError, match=r"have a column 'a\.b'"):
        read_features(tables, "item")
    with pytest.raises(DataError, match="cannot be called 'item', as the ids are"):
        read_features({"": ITEMS, "item": np.ones((3, 2))}, "item")


@pytest.mark.parametrize(
    "values", [[1.0, float("nan")], [float("-inf"), 1.0], [[1.0], [float("nan")]]]
)
def test_numbers_that_are_none_are_refused(values):
    row = 2 if values[0] in (1.0, [1.0]) else 1
    frame = pl.DataFrame({"item": ["a", "b"], "price": values})
    with pytest.raises(
        DataError, match=f"row {row}, column 'price': the feature of item '[ab]' is"
    ):
        read_features(frame, "item")


def test_a_line_of_text_that_holds_nan_is_named(tmp_path):
    file = write(tmp_path / "items.csv", "item,price\n7,1.5\n8,NaN\n")
    with pytest.raises(
        DataError, match=r"items.csv, line 3, column 'price': the feature of item 8"
    ):
        read_features(file, "item")


def test_what_pandas_leaves_for_a_missing_number_says_nothing():
    frame = pd.DataFrame({"item": ["a", "b"], "price": [1.5, float("nan")]})
    assert read_features(frame, "item")["price"].to_list() == [1.5, None]


def test_text_by_a_slip_among_fractions_is_refused_and_among_codes_told(tmp_path):
    file = tmp_path / "items.csv"

    def written(values):
        rows = "".join(f"{n},{value}\n" for n, value in enumerate(values))
        file.write_text(f"item,price\n{rows}")
        return file

    slip = r"line 9, column 'price': the feature of item 7 is 'cheap', and 39 others are numbers"
    fractions = [f"{n}.5" for n in range(40)]
    with pytest.raises(DataError, match=slip):
        read_features(written([*fractions[:7], "cheap", *fractions[8:]]), "item")
    with pytest.warns(CnsdiffWarning, match="'cheap' is no number, as 39 others are, so all of"):
        read_features(written([*range(7), "cheap", *range(8, 40)]), "item")
    # Sizes and the like are of both.
    assert read_features(written([*range(36), *"SMLX"]), "item")["price"].dtype == pl.String


def test_what_a_file_calls_words_or_codes_is_no_slip(tmp_path):
    file = tmp_path / "items.item"
    rows = "".join(f"{n}\t{value}\n" for n, value in enumerate([*range(40), "unknown"]))
    file.write_text(f"item_id:token\tyear:token\n{rows}")
    assert read_features(file, "item")["year"].dtype == pl.String
    postcodes = pl.DataFrame({"item": range(41), "postcode": [*map(str, range(40)), "V3N4P"]})
    assert read_features(postcodes, "item")["postcode"].dtype == pl.String
