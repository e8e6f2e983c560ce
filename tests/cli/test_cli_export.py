"""``cnsdiff export`` and ``cnsdiff data export``: files for other tools."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from cnsdiff import Recommender, load_dataset


@pytest.mark.parametrize("to", ["parquet", "numpy", "faiss"])
def test_embeddings(cli, run, tmp_path, to):
    if to == "faiss":
        pytest.importorskip("faiss")
    out = tmp_path / "out"
    done = cli("export", run, "--to", to, "--out", out, "--dial", 0.5)
    assert (done.code, done.err) == (0, "")
    assert "read at dial 0.5 (the last number is its share)" in " ".join(done.out.split())
    assert ("index: flat, exact" in done.out) == (to == "faiss")
    report = cli("export", run, "--to", to, "--out", out, "--overwrite", "--json").json
    assert report["path"] == str(out)
    assert report["dial"] == Recommender.load(run).dial_
    assert sorted([*report["files"], "manifest.json"]) == sorted(f.name for f in out.iterdir())


def test_beside_the_run_by_default(cli, run):
    path = cli("export", run, "--to", "numpy", "--json").json["path"]
    assert path == str(run.with_name("run-numpy"))
    model = Recommender.load(run)
    assert np.load(run.with_name("run-numpy") / "item_ids.npy").tolist() == model.items_.to_list()


def test_beside_the_folder_that_one_stands_in(cli, run, monkeypatch):
    monkeypatch.chdir(run)
    assert cli("export", ".", "--to", "numpy", "--json").json["path"] == f"{run}-numpy"
    assert run.with_name("run-numpy").is_dir()


def test_refusals(cli, run, tmp_path, untouched, monkeypatch):
    cli("export", run, "--to", "numpy", "--out", tmp_path / "out")
    untouched()
    cli("export", run, "--to", "numpy", "--out", tmp_path / "out").refused("--overwrite")
    cli("export", run, "--to", "numpy", "--out", run, "--overwrite").refused("is not an export")
    cli("export", run, "--to", "numpy", "--index", "flat").refused("--index", "faiss", "numpy")
    cli("export", tmp_path / "nothing", "--to", "numpy").refused("nothing", "not a run directory")
    cli("export", run, "--to", "numpy", "--dial", "nan").refused("the dial is nan")
    assert cli("export", run, "--to", "pickle").code == 2
    monkeypatch.setitem(sys.modules, "faiss", None)
    cli("export", run, "--to", "faiss").refused("install 'cnsdiff[faiss]'")
    untouched()


@pytest.mark.parametrize("to", ["csv", "parquet", "recbole"])
def test_datasets(cli, world, tmp_path, to):
    out = tmp_path / "shop"
    done = cli("data", "export", world, "--to", to, "--out", out)
    assert (done.code, done.err) == (0, "")
    said = " ".join(done.out.split())
    assert f"Wrote {out}" in said
    assert ("config_file_list" in said) == (to == "recbole")
    report = cli("data", "export", world, "--to", to, "--out", out, "--overwrite", "--json").json
    data = load_dataset(world)
    assert report["rows"] == {name: len(data.split(name)) for name in data.split_names}
    assert sorted([*report["files"], "manifest.json"]) == sorted(f.name for f in out.iterdir())


def test_datasets_that_cannot_be_exported(cli, world, tmp_path, untouched):
    untouched()
    cli("data", "export", tmp_path / "no", "--to", "csv").refused("no such dataset")
    cli("data", "export", world, "--to", "csv", "--out", world, "--overwrite").refused(
        "is not an export"
    )
    untouched()


def test_an_exported_dataset_is_prepared_again(cli, world, tmp_path):
    cli("data", "export", world, "--to", "csv", "--out", tmp_path / "csv")
    options = [
        option
        for split in ("train", "valid", "test-iid", "test-ood")
        for option in (f"--{split}", tmp_path / "csv" / f"{split.replace('-', '_')}.csv")
    ]
    again = cli("prepare", *options, "--out", tmp_path / "again", "--json").json
    data = load_dataset(world)
    assert {name: split["rows"] for name, split in again["splits"].items()} == {
        name: len(data.split(name)) for name in data.split_names
    }
