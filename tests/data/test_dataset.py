"""Datasets in memory and on disk."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from cnsdiff.base.errors import CnsdiffWarning, DataError, InputError, StorageError
from cnsdiff.base.storage import sha256
from cnsdiff.data import Dataset, Interactions, load_dataset
from cnsdiff.data import dataset as module


def log(rows, columns=("user", "item"), source="log.csv") -> Interactions:
    return Interactions(pl.DataFrame(rows, schema=list(columns), orient="row"), source)


def make(**splits) -> Dataset:
    tables = {name: log(rows, source=f"{name}.txt") for name, rows in splits.items()}
    return Dataset.from_splits(tables, name="tiny", scenario="given")


TRAIN = [("b", 30), ("a", 10), ("b", 10), ("c", 20), ("b", 30)]
VALID = [("a", 30), ("a", 10), ("z", 10), ("a", 99), ("a", 30)]


@pytest.fixture
def tiny() -> Dataset:
    return make(train=TRAIN, valid=VALID, test_iid=[("c", 30)])


@pytest.fixture
def saved(tiny, tmp_path):
    return tiny.save(tmp_path / "tiny")


def test_numbers_follow_first_appearance_and_everything_is_counted(tiny):
    assert tiny.users.to_list() == ["b", "a", "c"]
    assert tiny.items.to_list() == [30, 10, 20]
    assert tiny.split_names == ("train", "valid", "test_iid")
    train, valid = tiny.split("train"), tiny.split("valid")
    assert (train.users.tolist(), train.items.tolist()) == ([0, 1, 0, 2], [0, 1, 1, 2])
    assert (valid.users.tolist(), valid.items.tolist()) == ([1], [0])
    assert train.users.dtype == np.int64
    assert train.timestamps is None
    counts = tiny.manifest.splits
    assert counts["train"].duplicates == 1
    expected = {"rows": 1, "duplicates": 1, "dropped_unknown": 2, "overlap_train": 1}
    assert {key: getattr(counts["valid"], key) for key in expected} == expected
    assert "3 users, 3 items; train 4, valid 1" in repr(tiny)


def test_what_valid_shares_with_a_test_is_left_out_of_it_and_told():
    valid = [("a", 30), ("c", 30), ("a", 20), ("b", 20)]
    with pytest.warns(CnsdiffWarning) as told:
        made = make(
            train=TRAIN,
            valid=valid,
            test_iid=[("c", 30), ("a", 20)],
            test_ood=[("b", 20), ("c", 30)],
        )
    left, both = (str(warning.message) for warning in told)
    assert "valid.txt: 3 of 4 pairs of the valid split are in a test too" in left
    assert "test_ood.txt: 1 of 2 pairs of the test_ood split are in test_iid too" in both
    counts = made.manifest.splits
    assert (counts["valid"].rows, counts["valid"].overlap_test) == (1, 3)
    assert (counts["test_ood"].rows, counts["test_ood"].overlap_test_iid) == (2, 1)
    assert made.decode_items(made.split("valid").items).to_list() == [30]
    with pytest.raises(DataError, match="all 1 pairs of the valid split are in a test too"):
        make(train=TRAIN, valid=[("c", 30)], test_iid=[("c", 30)])


def test_csr(tiny):
    matrix = tiny.split("train").csr(tiny.n_users, tiny.n_items)
    assert matrix.dtype == np.float32
    assert matrix.has_sorted_indices
    assert matrix.toarray().tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_disk_gives_what_memory_has(tiny, saved):
    loaded = load_dataset(saved)
    assert loaded.path == saved == tiny.path
    assert loaded.manifest == tiny.manifest
    assert loaded.fingerprint == tiny.fingerprint != make(train=TRAIN[:3]).fingerprint
    assert loaded.users.equals(tiny.users)
    assert loaded.items.equals(tiny.items)
    for name in tiny.split_names:
        ours, theirs = tiny.split(name), loaded.split(name)
        assert np.array_equal(ours.users, theirs.users)
        assert np.array_equal(ours.items, theirs.items)
    torch.from_numpy(loaded.split("train").users)  # writable, so torch does not warn


def test_timestamps_survive(tmp_path):
    for times in ([5, 7], [5.5, 7.0]):
        rows = [(1, 1, times[0]), (2, 1, times[1])]
        table = log(rows, ("user", "item", "timestamp"))
        made = Dataset.from_splits({"train": table}, name="t", scenario="given")
        found = load_dataset(made.save(tmp_path / "t", overwrite=True)).split("train").timestamps
        assert found is not None
        assert found.tolist() == times
        assert found.dtype == np.asarray(times).dtype


def test_a_split_is_read_only_when_asked_for(saved, monkeypatch):
    opened = []
    real = module.read_table

    def spy(path, table, manifest):
        opened.append(table)
        return real(path, table, manifest)

    monkeypatch.setattr(module, "read_table", spy)
    dataset = load_dataset(saved)
    assert opened == ["users", "items"]
    dataset.split("valid")
    assert opened == ["users", "items", "valid"]


def test_absent_splits_and_unknown_names(tiny, saved):
    with pytest.raises(DataError, match=r"has no test_ood split; .*test_ood='FILE'.*split"):
        load_dataset(saved).split("test_ood")
    with pytest.raises(DataError, match="did you mean 'valid'"):
        tiny.split("validd")


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        (["a", "zz", "b"], [1, -1, 0]),
        ([], []),
        ([None, "c"], [-1, 2]),
        (np.array(["a", "a"]), [1, 1]),
        (pd.Series(["c"]), [2]),
        (pl.Series(["b"]), [0]),
        ([7], [-1]),
    ],
)
def test_encode_text_ids(tiny, asked, numbers):
    found = tiny.encode_users(asked)
    assert found.tolist() == numbers
    assert found.dtype == np.int64


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ([10, 99, 30], [1, -1, 0]),
        (["10", "010", " 10", "x"], [1, -1, -1, -1]),
        (np.array([20, 10], dtype=np.int32), [2, 1]),
        ([10, "30"], [1, 0]),
        ([10.0], [1]),
        ([2**70], [-1]),
    ],
)
def test_encode_integer_ids(tiny, asked, numbers):
    assert tiny.encode_items(asked).tolist() == numbers


def test_encode_and_decode_refuse_nonsense(tiny):
    for asked in ("abc", [1.5], [[1]], [True], 5):
        with pytest.raises(DataError, match=r"ids"):
            tiny.encode_items(asked)
    assert tiny.decode_items([2, 0]).to_list() == [20, 30]
    assert tiny.decode_users(np.array([], dtype=np.int64)).to_list() == []
    for numbers in ([-1], [3]):
        with pytest.raises(ValueError, match="0 to 2"):
            tiny.decode_users(numbers)


def test_ids_of_different_types_meet_as_text():
    tables = {"train": log([(1, 1), (2, 5)]), "test_ood": log([("2", 1), ("02", 1), ("x", 5)])}
    dataset = Dataset.from_splits(tables, name="n", scenario="given")
    assert dataset.users.to_list() == ["1", "2"]
    assert dataset.items.to_list() == [1, 5]
    assert dataset.split("test_ood").users.tolist() == [1]
    assert dataset.manifest.splits["test_ood"].dropped_unknown == 2
    dates = pl.DataFrame({"user": [1]}).with_columns(item=pl.date(2020, 1, 1))
    with pytest.raises(DataError, match="item ids differ in type"):
        Dataset.from_splits(
            {"train": log([(1, 1)]), "valid": Interactions(dates, "d")}, name="n", scenario="given"
        )


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"valid": TRAIN}, "no train split.*train='FILE'"),
        ({"train": TRAIN, "test": TRAIN}, "no split 'test'"),
        ({"train": TRAIN, "valid": [("x", 1)]}, r"valid.txt: none of its 1 pairs.*same ids"),
        ({"train": TRAIN, "valid": TRAIN}, r"valid.txt: all 4 known pairs are in train too"),
    ],
)
def test_splits_that_make_no_dataset(splits, words):
    with pytest.raises(DataError, match=words):
        make(**splits)


def test_empty_tables():
    empty = log([("a", 1)])
    empty = Interactions(empty.frame.clear(), "none.txt")
    with pytest.raises(DataError, match=r"none.txt: no interaction is left to train on"):
        Dataset.from_splits({"train": empty}, name="n", scenario="given")
    with pytest.raises(DataError, match=r"none.txt: the valid split has no pairs"):
        Dataset.from_splits({"train": log(TRAIN), "valid": empty}, name="n", scenario="given")


def test_provenance(tmp_path):
    dataset = Dataset.from_splits(
        {"train": log(TRAIN)}, name="n", scenario="given", source="made up", settings={"k": 1}
    )
    manifest = json.loads((dataset.save(tmp_path / "d") / "manifest.json").read_text())
    assert manifest["source"]["description"] == "made up"
    assert "licence" in manifest["source"]
    assert manifest["settings"] == {"k": 1}
    assert manifest["created_by"].startswith("cnsdiff ")
    assert manifest["schema_version"] == 1
    assert {len(entry["sha256"]) for entry in manifest["files"].values()} == {64}


def edit(path, change):
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_wrong_schema_version(saved):
    edit(saved, lambda manifest: manifest.update(schema_version=99))
    with pytest.raises(DataError, match=r"manifest.json: has schema version 99.* or prepare"):
        load_dataset(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("schema_version"),
        lambda m: m.pop("splits"),
        lambda m: m.update(n_users="3"),
        lambda m: m["files"].pop("train.parquet"),
        lambda m: m["splits"].update({"../../etc": {"rows": 1}}),
        lambda m: m["splits"].update(train=None),
        lambda m: m["splits"]["train"].update(rows="3"),
        lambda m: m["splits"]["train"].update(duplicates=None),
        lambda m: m.update(n_users=-1),
        lambda m: m.update(n_items=True),
        lambda m: m.update(tables=[["item_features"]]),
        lambda m: m.update(tables=["../secrets"]),
        lambda m: m.update(environments=[[1]]),
        lambda m: m.update(settings=None),
        lambda m: m.update(source=[]),
        lambda m: m["files"].update({"train.parquet": {"sha256": 1}}),
        lambda m: m.update(log={"funnel": [{"name": "read", "rows": "many"}]}),
        lambda m: m.update(log={"funnel": 3}),
    ],
)
def test_damaged_manifest(saved, change):
    edit(saved, change)
    with pytest.raises(DataError, match=r"manifest.json: is damaged.*prepare the dataset again"):
        load_dataset(saved)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", b"\xff\xfe", "[" * 99_999])
def test_manifest_that_is_no_manifest(saved, content):
    data = content if isinstance(content, bytes) else content.encode()
    (saved / "manifest.json").write_bytes(data)
    with pytest.raises(DataError, match="is damaged"):
        load_dataset(saved)


def test_no_dataset(tmp_path):
    with pytest.raises(DataError, match=r"no such dataset; make it with cnsdiff prepare"):
        load_dataset(tmp_path / "none")
    with pytest.raises(DataError, match=r"has no manifest.json"):
        load_dataset(tmp_path)
    (tmp_path / "f").write_text("x")
    with pytest.raises(DataError, match="is a file, not a dataset"):
        load_dataset(tmp_path / "f")


def test_truncated_changed_and_missing_files(saved):
    train = saved / "train.parquet"
    data = train.read_bytes()
    dataset = load_dataset(saved)
    train.write_bytes(data[:-5])
    with pytest.raises(DataError, match=r"train.parquet: is truncated .*prepare the dataset again"):
        dataset.split("train")
    train.write_bytes(data[:-5] + b"12345")
    with pytest.raises(DataError, match=r"train.parquet: is changed"):
        dataset.split("train")
    train.write_bytes(pickle.dumps(print))
    with pytest.raises(DataError, match=r"train.parquet: is truncated|changed"):
        dataset.split("train")
    train.unlink()
    with pytest.raises(DataError, match=r"train.parquet: cannot be read"):
        dataset.split("train")
    with pytest.raises(DataError, match=r"train.parquet is missing"):
        load_dataset(saved)
    train.write_bytes(data)
    (saved / "users.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match=r"users.parquet: is truncated"):
        load_dataset(saved)


def test_files_that_fit_their_checksum_but_not_each_other(saved, tiny):
    saved_train = pl.read_parquet(saved / "train.parquet")
    for frame in (
        pl.DataFrame({"user": [99], "item": [0]}),
        pl.DataFrame({"user": [-1], "item": [0]}),
        pl.DataFrame({"user": ["a"], "item": [0]}),
        pl.DataFrame({"user": [0]}),
        pl.DataFrame({"user": [0, None], "item": [0, 0]}),
        pl.DataFrame({"user": [0.5], "item": [0]}),
        pl.DataFrame({"user": [0], "item": [0]}),  # fewer rows than the manifest has
        saved_train.with_columns(timestamp=pl.lit("x")),
        saved_train.with_columns(timestamp=pl.lit(float("nan"))),
        saved_train.with_columns(timestamp=pl.lit(None, dtype=pl.Int64)),
        saved_train.with_columns(timestamp=pl.lit(2**63 - 1)),
        saved_train.with_columns(timestamp=pl.lit(1e300)),
        saved_train.with_columns(environment=pl.lit(9)),
    ):
        frame.write_parquet(saved / "train.parquet")
        value = sha256(saved / "train.parquet")
        edit(saved, lambda m, v=value: m["files"]["train.parquet"].update(sha256=v))
        with pytest.raises(DataError, match=r"does not fit users\.parquet"):
            load_dataset(saved).split("train")
    edit(saved, lambda m: m.update(n_users=7))
    with pytest.raises(DataError, match=r"users.parquet does not fit the manifest"):
        load_dataset(saved)


def test_save_never_replaces_unasked_nor_what_is_no_dataset(tiny, saved, tmp_path):
    with pytest.raises(
        InputError, match=r"already exists; choose another directory or pass overwrite=True"
    ):
        tiny.save(saved)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match="holds files but no dataset"):
        tiny.save(tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "precious"
    # Nor a file, a run, or what another program calls a manifest.
    others = {"file": (), "run": ("users.parquet", "config.yaml"), "extension": ("a.js",)}
    for name, files in others.items():
        place = tmp_path / name
        for file in ("manifest.json", *files) if files else ():
            place.mkdir(exist_ok=True)
            (place / file).write_text("{}")
        if not files:
            place.write_text("precious")
        before = snapshot(tmp_path)
        with pytest.raises(DataError, match="holds files but no dataset"):
            tiny.save(place, overwrite=True)
        assert snapshot(tmp_path) == before


def test_a_dataset_that_is_replaced_while_it_is_read(tiny, saved, monkeypatch):
    """Old or new, never a message that it is damaged; an old one says so, once it is gone."""
    other = make(train=[("q", 1), ("r", 2)])
    old = load_dataset(saved)
    real = module.read_table

    def replaced_first(path, table, manifest):
        monkeypatch.setattr(module, "read_table", real)
        other.save(saved, overwrite=True)
        return real(path, table, manifest)

    monkeypatch.setattr(module, "read_table", replaced_first)
    assert load_dataset(saved).users.to_list() == ["q", "r"]
    with pytest.raises(DataError, match="has been replaced since it was opened"):
        old.split("train")


def test_a_dataset_that_a_kill_left_aside_is_found_again(tiny, saved):
    """Where two directories cannot be exchanged, there is a moment between two renames."""
    aside = saved.rename(saved.with_name(f".{saved.name}.{'0' * 16}.old"))
    assert len(load_dataset(saved).split("train")) == 4
    saved.rename(aside)
    tiny.save(saved, overwrite=True)
    assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]


def test_a_loaded_dataset_may_be_saved_over_itself(saved):
    load_dataset(saved).save(saved, overwrite=True)
    assert len(load_dataset(saved).split("train")) == 4


def snapshot(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_save_that_fails_midway_leaves_the_old_dataset(tiny, saved, tmp_path, monkeypatch):
    before = snapshot(tmp_path)

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("cnsdiff.data.directory.write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        make(train=[("q", 1)]).save(saved, overwrite=True)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("room", [100, 20_000])
def test_disk_full_leaves_the_old_dataset(saved, tmp_path, full_disk, room):
    before = snapshot(tmp_path)
    users = np.random.default_rng(0).integers(0, 10**9, 9999)
    frame = pl.DataFrame({"user": users, "item": range(9999)})
    big = Dataset.from_splits({"train": Interactions(frame, "x")}, name="big", scenario="given")
    with full_disk(room), pytest.raises(StorageError, match="tiny: the disk is full"):
        big.save(saved, overwrite=True)
    assert snapshot(tmp_path) == before
    assert big.path is None


def test_overwriting_removes_nothing_of_others(tiny, tmp_path):
    made = tiny
    made.save(tmp_path / "d")
    (tmp_path / "d" / "report.html").write_text("ours")
    (tmp_path / "d" / f".train.parquet.{'0' * 16}").write_text("left by a kill")
    made.save(tmp_path / "d", overwrite=True)
    (tmp_path / "d" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"'notes\.txt' beside the dataset"):
        made.save(tmp_path / "d", overwrite=True)
    assert (tmp_path / "d" / "notes.txt").read_text() == "mine"
