"""Ready splits."""

from __future__ import annotations

import json

import polars as pl
import pytest

from cnsdiff.base.errors import CnsdiffWarning, DataError
from cnsdiff.data import Interactions, Source, load_dataset
from cnsdiff.shifts import Given, prepare_given

TRAIN = "user,item,rating\nann,1,5\nann,2,4\nbob,1,2\nbob,2,5\nann,1,4\ncid,3,1\ndan,9,5\nann,7,5\n"
OOD = "user,item,rating\nann,2,5\nbob,1,5\ncid,1,5\nbob,3,1\nzed,1,1\nbob,7,5\n"


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    for name, content in {"train.csv": TRAIN, "ood.csv": OOD}.items():
        (folder / name).write_text(content)
    return folder


def test_threshold_core_and_counts(files):
    dataset = prepare_given(
        str(files / "train.csv"),
        threshold=4,
        user_core=1,
        item_core=2,
        licence="ours",
    )
    assert dataset.name == "shop"
    assert dataset.scenario == "given"
    assert dataset.users.to_list() == ["ann", "bob"]
    assert dataset.items.to_list() == [2]
    train = dataset.manifest.splits["train"]
    assert train.model_dump(exclude_unset=True) == {
        "rows": 2,
        "users": 2,
        "items": 1,
        "read": 8,
        "skipped": 0,
        "below_threshold": 2,
        "users_without_positives": 1,
        "duplicates": 1,
        "outside_k_core": 3,
        "dropped_unknown": 0,
        "overlap_train": 0,
    }


def test_held_out_splits_keep_what_the_core_would_drop(files):
    dataset = prepare_given(files / "train.csv", test_ood=files / "ood.csv", threshold=4)
    ood = dataset.split("test_ood")
    assert dataset.decode_users(ood.users).to_list() == ["bob", "bob"]
    counts = dataset.manifest.splits["test_ood"]
    assert counts.below_threshold == 2
    assert counts.users_without_positives == 1
    assert counts.dropped_unknown == 1
    assert counts.overlap_train == 1
    assert counts.read == counts.rows + 4


def test_every_row_read_is_accounted_for(files):
    dataset = prepare_given(
        files / "train.csv", test_ood=files / "ood.csv", threshold=2, user_core=2
    )
    lost = ("below_threshold", "duplicates", "outside_k_core", "dropped_unknown", "overlap_train")
    for counts in dataset.manifest.splits.values():
        assert counts.read == counts.rows + sum(getattr(counts, reason) for reason in lost)


def test_the_manifest_names_files_without_folders(files, tmp_path):
    dataset = prepare_given(
        files / "train.csv", name="n", test_ood=pl.DataFrame({"u": ["bob"], "i": [9]})
    )
    path = dataset.save(tmp_path / "out")
    text = (path / "manifest.json").read_text()
    assert json.loads(text)["source"]["files"] == {"train": "train.csv", "test_ood": "DataFrame"}
    assert str(tmp_path) not in text
    assert load_dataset(path).name == "n"


def test_frames_need_no_name():
    frame = pl.DataFrame({"user": [1, 2], "item": [3, 4]})
    assert prepare_given(frame).name == "unnamed"


def test_skip_bad_and_column_names_reach_the_reader(tmp_path):
    (tmp_path / "a.csv").write_text("who,what\n1,2\n3\n")
    dataset = prepare_given(tmp_path / "a.csv", user="who", item="what", skip_bad=True)
    assert dataset.manifest.splits["train"].skipped == 1


def test_nothing_left(files):
    with pytest.raises(DataError, match=r"train.csv: no rating reaches the threshold 6"):
        prepare_given(files / "train.csv", threshold=6)
    with pytest.raises(DataError, match=r"train.csv: no interaction is left.*k-core"):
        prepare_given(files / "train.csv", user_core=50)


def test_features_become_side_tables(files):
    ages = pl.DataFrame({"user": ["cid", "ann"], "age": [30, 40]})
    with pytest.warns(CnsdiffWarning, match="features of 2 of the 4 users of .*train.csv$"):
        dataset = prepare_given(files / "train.csv", user_features=ages)
    assert dataset.users.to_list() == ["ann", "bob", "cid", "dan"]
    assert dataset.table("user_features")["age"].to_list() == [40, None, 30, None]


def test_the_tables_must_be_splits():
    log = Interactions(pl.DataFrame({"user": [1, 2], "item": [3, 4]}), "shop.csv")
    assert Given()(log).split_names == ("train",)
    with pytest.raises(DataError, match="needs a table 'train', and its tables are 'log'"):
        Given()(Source({"log": log}))
