"""``cnsdiff prepare``: files in, a dataset directory out, or one sentence why not."""

from __future__ import annotations

import json

import pytest

from cnsdiff import load_dataset

TRAIN = "u1 a 5 100\nu1 b 3 101\nu2 a 1 102\nu2 c 4 103\nu3 b 5 104\nu3 b 5 105\n"
VALID = "u1 c 5 200\nu9 a 5 201\n"
OOD = "u2 b 5 300\nu1 a 5 301\n"


@pytest.fixture
def files(tmp_path):
    for name, text in (("train", TRAIN), ("valid", VALID), ("ood", OOD)):
        (tmp_path / f"{name}.txt").write_text(text)
    return tmp_path


def arguments(folder, *more):
    return (
        "prepare",
        "--train", folder / "train.txt",
        "--valid", folder / "valid.txt",
        "--test-ood", folder / "ood.txt",
        "--out", folder / "data",
        *more,
    )  # fmt: skip


def test_files_become_a_dataset(cli, files):
    done = cli(*arguments(files, "--name", "tiny", "--licence", "mine"))
    assert (done.code, done.err) == (0, "")
    assert "tiny: 3 users, 3 items" in done.out
    assert "there is no test_iid split" not in done.out
    assert f"Next: cnsdiff train {files / 'data'} --out RUN" in done.out
    for column in ("duplicates", "also in train", "unknown to train"):
        assert column in " ".join(done.out.split())
    dataset = load_dataset(files / "data")
    assert dataset.name == "tiny"
    assert [len(dataset.split(name)) for name in dataset.split_names] == [5, 1, 1]
    assert dataset.manifest["source"]["licence"] == "mine"
    counts = dataset.manifest["splits"]
    assert counts["valid"]["dropped_unknown"] == 1
    assert counts["test_ood"]["overlap_train"] == 1


def test_json(cli, files):
    report = cli(*arguments(files, "--json")).json
    assert report["path"] == str(files / "data")
    manifest = json.loads((files / "data" / "manifest.json").read_text())
    assert {key: value for key, value in report.items() if key != "path"} == manifest


def test_a_threshold_drops_users_without_positives_and_counts_them(cli, files):
    options = ("--threshold", 5, "--json")
    report = cli("prepare", "--train", files / "train.txt", "--out", files / "d", *options).json
    train = report["splits"]["train"]
    assert (train["rows"], train["below_threshold"]) == (2, 3)
    assert train["users_without_positives"] == 1


def test_missing_splits_are_noted(cli, files):
    done = cli("prepare", "--train", files / "train.txt", "--out", files / "data")
    assert done.code == 0
    assert "no valid split (--valid FILE)" in " ".join(done.out.split())
    assert "no test_ood split (--test-ood FILE)" in " ".join(done.out.split())


def test_malformed_lines_can_be_skipped_and_are_counted(cli, files):
    (files / "train.txt").write_text("0\nu9\n" + TRAIN)
    cli(*arguments(files)).refused("train.txt, line 1:", "--skip-bad")
    assert not (files / "data").exists()
    done = cli(*arguments(files, "--skip-bad"))
    assert "malformed" in done.out
    assert load_dataset(files / "data").manifest["splits"]["train"]["skipped"] == 2


BAD = {
    "empty file": ({"train.txt": ""}, (), ["train.txt", "empty"]),
    "only blank lines": ({"train.txt": "\n\n"}, (), ["train.txt"]),
    "malformed line": ({"train.txt": TRAIN + "lonely\n"}, (), ["train.txt, line 7:"]),
    "rating": ({"train.txt": TRAIN + "u1 d bad 5\n"}, (), ["train.txt, line 7", "bad"]),
    "timestamp": ({"train.txt": TRAIN + "u1 d 5 soon\n"}, (), ["train.txt, line 7", "soon"]),
    "missing file": ({"train.txt": None}, (), ["train.txt"]),
    "unknown pairs": ({"ood.txt": "x y 5 1\n"}, (), ["ood.txt", "none of its 1 pairs"]),
    "no positives": ({}, ("--threshold", 9), ["train.txt", "9"]),
    "no positives in valid": ({"valid.txt": "u1 c 1 1\n"}, ("--threshold", 5), ["valid.txt"]),
    "k-core": ({}, ("--user-core", 50), ["--threshold or the k-core"]),
    "format": ({}, ("--format", "exel"), ["exel"]),
    "missing column": (
        {"train.txt": "user,thing\n1,2\n"},
        ("--user-col", "user", "--item-col", "item"),
        ["train.txt", "'item'", "thing"],
    ),
    "web page": ({"train.txt": "<!DOCTYPE html>\n<html></html>\n"}, (), ["train.txt"]),
}


@pytest.mark.parametrize(("contents", "options", "words"), BAD.values(), ids=BAD)
def test_bad_input_writes_nothing(cli, files, untouched, contents, options, words):
    for name, text in contents.items():
        if text is None:
            (files / name).unlink()
        else:
            (files / name).write_text(text)
    untouched()
    cli(*arguments(files, *options)).refused(*words)
    untouched()


def test_what_exists_is_replaced_only_when_told(cli, files, untouched):
    cli(*arguments(files))
    (files / "train.txt").write_text("u1 a\nu2 c\n")
    (files / "valid.txt").write_text("u1 c\n")
    (files / "ood.txt").write_text("u2 a\n")
    untouched()
    cli(*arguments(files)).refused("already exists", "--overwrite")
    untouched()
    assert cli(*arguments(files, "--overwrite")).code == 0
    assert load_dataset(files / "data").n_users == 2


def test_overwrite_spares_what_is_no_dataset(cli, files, untouched):
    (files / "data").mkdir()
    (files / "data" / "thesis.tex").write_text("years of work")
    untouched()
    cli(*arguments(files, "--overwrite")).refused("no dataset")
    untouched()


def test_a_full_disk(cli, files, untouched, full_disk):
    cli(*arguments(files))
    untouched()
    with full_disk(200):
        done = cli(*arguments(files, "--overwrite"))
    done.refused("the disk is full", "untouched", "free some space")
    untouched()
    load_dataset(files / "data").split("train")
