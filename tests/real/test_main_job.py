"""From published files to top-K lists through the command line."""

from __future__ import annotations

import json
import signal
import sys

import polars as pl
import pytest
import torch

from cnsdiff.cli import main
from cnsdiff.data import read_interactions

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("real")


@pytest.fixture
def cli(monkeypatch, capsys):
    handler, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()

    def run(*arguments):
        """Exit code, standard output and standard error."""
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["cnsdiff", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return (end.code or 0, *capsys.readouterr())
        return (0, *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, handler)
    torch.set_num_threads(threads)


def prepare(data, out, *more):
    return (
        "prepare",
        "--train", data / "train.txt",
        "--valid", data / "valid_iid.txt",
        "--test-iid", data / "test_iid.txt",
        "--test-ood", data / "test_ood.txt",
        "--out", out,
        "--json",
        *more,
    )  # fmt: skip


def test_food_from_files_to_lists(cli, shared_data, folder):
    food, run = folder / "food", folder / "run"
    code, out, _ = cli(*prepare(shared_data / "food", food))
    report = json.loads(out)
    assert code == 0
    assert (report["n_users"], report["n_items"]) == (7_732, 6_293)
    rows = [counts["rows"] for counts in report["splits"].values()]
    assert rows == [106_253, 20_468, 43_183, 46_149]

    settings = ("--set", "training.epochs=2", "--set", "training.patience=1")
    code, out, err = cli("train", food, "--sampler", "random", "--out", run, "--json", *settings)
    assert code == 0, err
    assert json.loads(out)["epochs"] == 2
    assert "lightgcn + random: epoch 2/2" in err

    code, out, _ = cli("evaluate", run, "--json")
    splits = json.loads(out)["models"]["random"]["splits"]
    assert code == 0
    assert {name: split["n_users"] for name, split in splits.items()}.keys() == {
        "valid",
        "test_iid",
        "test_ood",
    }
    for split in splits.values():
        # Two epochs are far from the end, and far above chance (20 of 6,293 items).
        assert 0.01 < split["metrics"]["recall@20"] < 0.2

    lists = folder / "lists.parquet"
    code, *_ = cli("recommend", run, "--all-users", "--k", 5, "--out", lists)
    table = pl.read_parquet(lists)
    assert code == 0
    assert table.height == 5 * 7_732
    seen = read_interactions(shared_data / "food" / "train.txt").frame
    assert table.join(seen, on=["user", "item"]).height == 0, "nothing already seen"


def test_references_on_food(cli, shared_data, folder):
    """Their published points (shared/data/README.md), within rounding and the order of ties."""
    if not (folder / "food").exists():
        cli(*prepare(shared_data / "food", folder / "food"))
    code, out, _ = cli("evaluate", folder / "food", "--split", "test_ood", "--json")
    models = json.loads(out)["models"]
    assert code == 0
    points = {"mostpop": (0.0454, 0.0268), "itemknn": (0.0162, 0.0100), "ease": (0.0336, 0.0213)}
    assert models.keys() == points.keys()
    for name, (recall, ndcg) in points.items():
        metrics = models[name]["splits"]["test_ood"]["metrics"]
        assert metrics["recall@20"] == pytest.approx(recall, abs=1e-4)
        assert metrics["ndcg@20"] == pytest.approx(ndcg, abs=1e-4)


def test_yelp2018_has_two_malformed_lines(cli, shared_data, folder):
    code, out, err = cli(*prepare(shared_data / "yelp2018", folder / "yelp2018"))
    assert code == 2
    (sentence,) = err.splitlines()
    assert sentence == f"cnsdiff: {json.loads(out)['error']['message']}"
    assert "train.txt, line 1:" in sentence
    assert "--skip-bad" in sentence
    assert not (folder / "yelp2018").exists()
    code, out, _ = cli(*prepare(shared_data / "yelp2018", folder / "yelp2018", "--skip-bad"))
    assert code == 0
    assert json.loads(out)["splits"]["train"]["skipped"] == 2
