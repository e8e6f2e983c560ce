"""What is an id, and which ids are the same."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest

from cnsdiff.base.errors import CnsdiffWarning, DataError
from cnsdiff.data import read_features, read_interactions
from cnsdiff.data.ids import IdIndex, Vocabulary
from cnsdiff.shifts import prepare_given

WORDS = ["nan", "NaN", "None", "null", "NULL", "NA", "<NA>", r"\N"]


def write(path, user_of_three, *, format="csv"):
    """Five rows, the third and fourth with the same odd user."""
    users = ["1", "2", user_of_three, user_of_three, "4"]
    frame = pl.DataFrame({"user": users, "item": ["5", "6", "7", "8", "9"]})
    path = path / f"log.{format}"
    if format == "csv":
        frame.write_csv(path)
    else:
        frame.write_parquet(path)
    return path, frame


@pytest.mark.parametrize("word", WORDS)
def test_a_word_for_a_missing_id_is_none(tmp_path, word):
    text, frame = write(tmp_path, word)
    parquet, _ = write(tmp_path, word, format="parquet")
    stands = f"column 'user': {word!r} stands for a missing user"
    for source, place in (
        (text, f"log.csv, line 4, {stands} (2 lines: 4, 5)"),
        (parquet, f"log.parquet, row 3, {stands} (2 rows: 3, 4)"),
        (frame, f"DataFrame, row 3, {stands}"),
        (frame.to_pandas(), f"DataFrame, row 3, {stands}"),
    ):
        with pytest.raises(DataError) as caught:
            read_interactions(source)
        assert place in str(caught.value)
        assert "skip_bad=True to leave such" in str(caught.value)
        assert "literal_ids=True if it is an id" in str(caught.value)
        left = read_interactions(source, skip_bad=True)
        assert left.frame["user"].to_list() == [1, 2, 4]
        assert left.problems[0].reason == "a word for a missing user"
        kept = read_interactions(source, literal_ids=True)
        assert kept.frame["user"].to_list() == ["1", "2", word, word, "4"]


def test_words_that_only_look_like_it_are_ids():
    users = ["nana", "none", "Nancy", "na", "0", "-", "unknown", "1e+5x"]
    frame = pl.DataFrame({"user": users, "item": users})
    assert read_interactions(frame).frame["user"].to_list() == users


@pytest.mark.parametrize("cut", ["1.23457E+17", "9.007199254740992e+15", "9007199254740993.0"])
def test_numbers_cut_short_are_no_ids(tmp_path, cut):
    path, _ = write(tmp_path, cut)
    with pytest.raises(DataError, match=r"line 4, .* is a number whose last digits are lost, so"):
        read_interactions(path)
    assert len(read_interactions(path, skip_bad=True)) == 3
    assert read_interactions(path, literal_ids=True).frame["user"][2] == cut


def test_whole_numbers_written_as_floats_are_the_same_ids(tmp_path):
    pd.DataFrame({"user": [1.0, 2.0, None], "item": [10, 20, 30]}).to_csv(
        tmp_path / "log.csv", index=False
    )
    told = r"log.csv: column 'user': ids such as '1.0' are taken for the whole number"
    with pytest.warns(CnsdiffWarning, match=told):
        log = read_interactions(tmp_path / "log.csv", skip_bad=True)
    assert log.frame.rows() == [(1, 10), (2, 20)]
    kept = read_interactions(tmp_path / "log.csv", skip_bad=True, literal_ids=True)
    assert kept.frame["user"].to_list() == ["1.0", "2.0"]
    for users in (["1.0", "x"], ["1.0", "007.0"], ["1.5", "2.0"]):
        frame = pl.DataFrame({"user": users, "item": [1, 2]})
        assert read_interactions(frame).frame["user"].to_list() == users
    found = Vocabulary(pl.Series("id", [7, 8])).encode
    assert found(["7.0", "8", "07", "7.00", "nan"]).tolist() == [0, 1, -1, -1, -1]


def test_floats_and_integers_meet_in_ready_splits_and_features(tmp_path):
    train = pl.DataFrame({"user": [1, 1, 2], "item": [1, 2, 1]})
    test = pd.DataFrame({"user": [2.0, None], "item": [2.0, 1.0]})
    test.to_csv(tmp_path / "test.csv", index=False)
    pd.DataFrame({"user": [2.0, 1.0], "age": [30, 40]}).to_csv(tmp_path / "u.csv", index=False)
    with pytest.warns(CnsdiffWarning, match="ids such as"):
        made = prepare_given(
            train, test_ood=tmp_path / "test.csv", user_features=tmp_path / "u.csv", skip_bad=True
        )
    assert made.users.to_list() == [1, 2]
    assert made.manifest.splits["test_ood"].rows == 1
    assert made.table("user_features")["age"].to_list() == [40, 30]


def test_features_of_nobody_and_of_some(tmp_path):
    log = pl.DataFrame({"user": ["u0", "u1", "u0"], "item": [1, 2, 3]})
    nobody = pl.DataFrame({"user": [1, 2], "age": [30, 40]})
    with pytest.raises(DataError, match=r"none of its 2 users is in DataFrame: it has 1, .*'u0'"):
        prepare_given(log, user_features=nobody)
    some = pl.DataFrame({"item": [1, 2, 77], "price": [30, 40, 50]})
    with pytest.warns(CnsdiffWarning, match="of 2 of the 3 items of DataFrame, and of 1 that are"):
        prepare_given(log, item_features=some)


def test_missing_words_among_features(tmp_path):
    frame = pl.DataFrame({"user": ["a", "NULL"], "age": [30, 40]})
    with pytest.raises(
        DataError, match=r"row 2, .*'NULL' stands for a missing user; .*literal_ids=True"
    ):
        read_features(frame, "user")
    assert read_features(frame, "user", literal_ids=True)["user"].to_list() == ["a", "NULL"]


@pytest.mark.parametrize(
    ("known", "asked", "near"),
    [
        (["Red-Shoe", "red-hat"], "red-shoe", []),  # two letters away
        (["red-shoe", "red-hat"], "RED-SHOE", ["red-shoe"]),
        (["RED"], "red", ["RED"]),
        (["red-shoe", "red-hat"], " red-shoe ", ["red-shoe"]),
        (["red-shoe"], "red-shoes", ["red-shoe"]),
        (["red-shoe"], "redshoe", ["red-shoe"]),
        (["red-shoe"], "rde-shoe", ["red-shoe"]),
        (["red-shoe"], "red-shoo", ["red-shoe"]),
        (["red-shoe"], "blue-hat", []),
        (["a1", "a2", "a3"], "a9", ["a1", "a2", "a3"]),
        (["a1", "a2", "a3", "a4"], "a9", []),  # none is likelier
        (["7", "07"], "007", ["7"]),
        ([7, 8], "007", [7]),
        ([7, 8], "7.0", [7]),
        ([7, 8], "9", []),  # a number has no spelling
        (["x" * 65], "x" * 66, []),
    ],
)
def test_an_id_written_nearly_so(known, asked, near):
    assert sorted(IdIndex(pl.Series(known)).near(asked)) == near


@pytest.mark.parametrize("ids", [[5, 3, 9, 7, 8], ["b", "a", "x", "", "z"]])
def test_an_index_with_more_ids_is_that_of_all(ids):
    whole, grown = IdIndex(pl.Series(ids)), IdIndex(pl.Series(ids[:2]))
    assert grown.names(np.array([1])) == ids[1:2]
    for start in (2, 4):
        before, grown = grown, grown.with_more(pl.Series(ids[start : start + 2]))
        known = [own if own in ids[:start] else -1 for own in ids]
        assert [ids[at] if at >= 0 else -1 for at in before.find(ids)] == known
    assert grown.find([*ids, "y"]).tolist() == whole.find([*ids, "y"]).tolist()
    assert grown.find_text(map(str, ids)).tolist() == [0, 1, 2, 3, 4]
    assert grown.names(np.array([4, 0, 2])) == [ids[4], ids[0], ids[2]]
    assert grown.take(np.arange(5)) == whole.take(np.arange(5))
    # Two that grew out of one know nothing of each other.
    first, second = (IdIndex(pl.Series(ids[:2])).with_more(pl.Series([i])) for i in ids[2:4])
    assert (first.find(ids[2:4]).tolist(), second.find(ids[2:4]).tolist()) == ([2, -1], [-1, 2])
