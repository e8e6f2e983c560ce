"""Environment labels and the tables beside the splits."""

from __future__ import annotations

import hashlib

import polars as pl
import pytest

from cnsdiff.base.errors import DataError
from cnsdiff.data import SIDE_TABLES, Dataset, Interactions, load_dataset, side_tables


def interactions(users, items, **columns) -> Interactions:
    return Interactions(pl.DataFrame({"user": users, "item": items, **columns}), "test")


TRAIN = interactions(["b", "a", "c", "a"], [7, 7, 9, 8])
FEATURES = pl.DataFrame({"user": ["a", "z", "b"], "age": [30, 99, 40]})
TRUTH = pl.DataFrame({"item": [9, 8, 7], "factors": [[0.1, 0.2], [1.0, 2.0], [1 / 3, 0.5]]})
JUDGED = pl.DataFrame(
    {"user": ["a", "a", "z", "c"], "item": [9, 9, 7, 1], "relevant": [True, False, True, True]}
)


def make(splits=None, **tables) -> Dataset:
    return Dataset.from_splits(splits or {"train": TRAIN}, name="t", scenario="s", tables=tables)


@pytest.mark.parametrize("saved", [False, True])
def test_tables_are_in_internal_numbers(tmp_path, saved):
    dataset = make(user_features=FEATURES, truth_items=TRUTH, judgements=JUDGED)
    if saved:
        dataset = load_dataset(dataset.save(tmp_path / "d"))
    assert dataset.table_names == ("user_features", "judgements", "truth_items")
    # Users are numbered b, a, c and items 7, 9, 8: in order of appearance.
    assert dataset.table("user_features")["age"].to_list() == [40, 30, None]
    assert dataset.table("truth_items")["factors"].to_list() == [[1 / 3, 0.5], [0.1, 0.2], [1, 2]]
    assert dataset.table("judgements").rows() == [(1, 1, True)]


@pytest.mark.parametrize("saved", [False, True])
def test_items_without_an_exposure_have_none(tmp_path, saved):
    given = pl.DataFrame({"item": [9, 7, 5], "exposures": [4, 2, 3]})
    given = given.cast({"exposures": pl.UInt32})
    dataset = make(exposures=given, truth_items=TRUTH)
    if saved:
        dataset = load_dataset(dataset.save(tmp_path / "d"))
    assert dataset.table_names == ("truth_items", "exposures")
    expected = pl.DataFrame({"exposures": [2, 4, 0]}, {"exposures": pl.Int64})
    assert dataset.table("exposures").equals(expected)
    assert dataset.table("exposures").schema == expected.schema


def test_tables_are_part_of_the_fingerprint(tmp_path):
    plain, one = make(), make(user_features=FEATURES)
    older = make(user_features=FEATURES.with_columns(age=pl.col("age") + 1))
    assert len({plain.fingerprint, one.fingerprint, older.fingerprint}) == 3
    assert make(user_features=FEATURES).fingerprint == one.fingerprint
    assert load_dataset(one.save(tmp_path / "d")).fingerprint == one.fingerprint


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"user_feature": FEATURES}, ["'user_feature'", "did you mean 'user_features'"]),
        ({"item_features": FEATURES}, ["item_features", "no column 'item'", "user, age"]),
        ({"judgements": JUDGED.drop("relevant")}, ["judgements", "'relevant'"]),
        ({"exposures": pl.DataFrame({"item": [7], "n": [1]})}, ["exposures", "no column"]),
        ({"exposures": pl.DataFrame({"item": [7], "exposures": [-1]})}, ["is no count"]),
        ({"exposures": pl.DataFrame({"item": [7], "exposures": [0.5]})}, ["is no count"]),
        ({"user_features": pl.concat([FEATURES, FEATURES])}, ["user 'a'", "more than one row"]),
    ],
)
def test_wrong_tables(tables, words):
    with pytest.raises(DataError) as caught:
        make(**tables)
    for word in words:
        assert word in str(caught.value)


def test_asking_for_what_is_not_there():
    with pytest.raises(DataError, match="has no judgements"):
        make().table("judgements")
    with pytest.raises(DataError, match="did you mean 'judgements'"):
        make().table("judgement")
    assert make().table_names == () and make().periods == []
    assert set(SIDE_TABLES) >= {"judgements", "item_features"}


def test_a_changed_table_is_noticed(tmp_path):
    path = make(user_features=FEATURES).save(tmp_path / "d")
    pl.DataFrame({"age": [1, 2, 3]}).write_parquet(path / "user_features.parquet")
    with pytest.raises(DataError, match=r"user_features\.parquet: is (changed|truncated)"):
        load_dataset(path).table("user_features")
    (path / "user_features.parquet").unlink()
    with pytest.raises(DataError, match=r"user_features.parquet is missing"):
        load_dataset(path)


@pytest.mark.parametrize("saved", [False, True])
def test_periods_are_numbered_from_train_on(tmp_path, saved):
    train = interactions([1, 2, 1], [5, 5, 6], period=["sale", "plain", "sale"])
    valid = interactions([2, 2], [6, 9], period=["night", "plain"])
    train.frame.extend(interactions([1], [7], period=["sale"]).frame)
    test = interactions([2], [7])
    dataset = make({"train": train, "valid": valid, "test_ood": test})
    if saved:
        dataset = load_dataset(dataset.save(tmp_path / "d"))
        # Older datasets and versions know the labels as environments.
        assert pl.read_parquet(tmp_path / "d" / "train.parquet").columns[2:] == ["environment"]
        assert dataset.manifest.environments == ["sale", "plain", "night"]
    assert dataset.periods == ["sale", "plain", "night"]
    assert dataset.split("train").periods.tolist() == [0, 1, 0, 0]
    assert dataset.split("valid").periods.tolist() == [2]
    assert dataset.split("test_ood").periods is None


def test_periods_of_mixed_types_become_text():
    train = interactions([1], [5], period=[3])
    valid = interactions([1], [5], period=["3"])
    other = interactions([1, 2], [5, 6], period=[3, 4])
    dataset = make({"train": other, "valid": interactions([2], [5], period=["4"])})
    assert dataset.periods == ["3", "4"]
    assert dataset.split("valid").periods.tolist() == [1]
    with pytest.raises(DataError, match="in train too"):
        make({"train": train, "valid": valid})


def test_labels_are_part_of_the_fingerprint():
    one, two = (
        make({"train": interactions([1, 2], [5, 6], period=labels)})
        for labels in (["x", "y"], ["x", "x"])
    )
    assert one.fingerprint != two.fingerprint != make({"train": TRAIN}).fingerprint


def test_the_fingerprint_is_that_of_the_whole_text_of_a_table(monkeypatch):
    rows = {
        "a": [0.1, None, 1 / 3] * 4,
        "v": [[1e-9, 2.5], None, []] * 4,
        "s": ["é\n", "", None] * 4,
    }
    table = pl.DataFrame(rows, schema_overrides={"v": pl.List(pl.Float32)})
    whole = hashlib.sha256(b"f" + b"item_features 12 " + table.write_ndjson().encode()).hexdigest()
    for rows_at_a_time in (1, 5, 100):
        monkeypatch.setattr(side_tables, "_ROWS", rows_at_a_time)
        assert side_tables.add_to_hash("f", {"item_features": table}) == whole
