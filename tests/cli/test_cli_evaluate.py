"""``cnsdiff evaluate``: a run or a dataset, measured."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from cnsdiff import Recommender, evaluate, load_dataset
from cnsdiff.base.errors import CnsdiffWarning
from cnsdiff.cli.output import comparison_table, console, print_table
from cnsdiff.references import EASE, REFERENCES, STANDARD, ItemKNN, MostPop

SPLITS = ["valid", "test_iid", "test_ood"]


def test_a_table_and_the_metrics_file(cli, run, world):
    done = cli("evaluate", run)
    assert (done.code, done.err) == (0, "")
    for words in ("full ranking, train positives masked", "valid", "IID test", "OOD test", "users"):
        assert words in " ".join(done.out.split())
    table = pl.read_parquet(run / "metrics.parquet")
    assert table.columns == ["model", "split", "metric", "k", "value", "n_users"]
    assert set(table["model"]) == {"random"}
    expected = Recommender.load(run).evaluate(load_dataset(world))
    for split in SPLITS:
        row = table.filter(split=split, metric="ndcg", k=20)
        assert row["value"].item() == expected[split]["ndcg@20"]
        assert f"{expected[split]['ndcg@20']:.4f}" in done.out
    Recommender.load(run)  # the file beside it does no harm


def test_a_mask_of_the_whole_past(cli, run, world):
    (run / "metrics.parquet").unlink(missing_ok=True)
    report = cli("evaluate", run, "--mask", "past", "--references", "--json").json
    expected = Recommender.load(run).evaluate(load_dataset(world), mask="past").to_dict()
    assert report["masked"] == "past"
    assert report["models"]["random"] == json.loads(json.dumps(expected))
    assert {model["mask"] for model in report["models"].values()} == {"past"}
    assert not (run / "metrics.parquet").exists()  # reports are of the usual protocol
    assert "whole past masked" in " ".join(cli("evaluate", run, "--mask", "past").out.split())


def test_json(cli, run, world):
    report = cli("evaluate", run, "--json").json
    expected = Recommender.load(run).evaluate(load_dataset(world)).to_dict()
    models = report["models"]
    assert models == {"random": json.loads(json.dumps(expected))}
    assert set(models["random"]["splits"]) == set(SPLITS)
    assert "kept" in models["random"]
    assert report["masked"] == models["random"]["mask"] == "train"
    assert (report["dataset"], report["scenario"]) == ("confounded-world", "exposure")
    assert report["next"][0] == f"cnsdiff evaluate {run} --references"


@pytest.mark.parametrize("dial", [-0.5, 0, 1.5])
def test_read_at_another_dial(cli, run, world, dial):
    report = cli("evaluate", run, "--dial", dial, "--json").json
    expected = Recommender.load(run).evaluate(load_dataset(world), dial=dial).to_dict()
    models = report["models"]
    assert models == {f"random (dial {dial:g})": json.loads(json.dumps(expected))}
    assert set(pl.read_parquet(run / "metrics.parquet")["model"]) == set(models)
    plain = cli("evaluate", run, "--json").json["models"]["random"]
    assert models[f"random (dial {dial:g})"] != plain


def test_no_dial_to_read_at(cli, run, world, untouched):
    untouched()
    cli("evaluate", run, "--dial", "nan").refused("the dial is nan; give a finite number")
    cli("evaluate", world, "--dial", "1").refused("is a dataset, and --dial needs a run")
    untouched()


def test_references_beside_the_run(cli, run):
    report = cli("evaluate", run, "--references", "--json").json
    models = report["models"]
    assert list(models) == ["random", "mostpop", "itemknn", "ease"]
    assert set(pl.read_parquet(run / "metrics.parquet")["model"]) == set(models)
    done = cli("evaluate", run, "--references")
    for name in models:
        assert name in done.out
    assert report["verdict"] in done.out
    ood = {name: one["splits"]["test_ood"]["metrics"]["ndcg@20"] for name, one in models.items()}
    better = [name for name in sorted(ood, key=lambda n: -ood[n]) if ood[name] > ood["random"]]
    assert f"NDCG@20 {ood['random']:.4f} under the shift" in report["verdict"]
    for name in better:
        assert f"{name} ({ood[name]:.4f})" in report["verdict"]


def test_chosen_splits(cli, run):
    report = cli("evaluate", run, "--split", "test_ood", "--split", "valid", "--json").json
    assert list(report["models"]["random"]["splits"]) == ["test_ood", "valid"]
    assert "kept" not in report["models"]["random"]
    assert "IID test" not in cli("evaluate", run, "--split", "valid").out


def test_a_dataset_gets_the_references_and_is_not_written_to(cli, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(entry.name for entry in world.iterdir())
    report = cli("evaluate", world, "--json").json
    assert list(report["models"]) == ["mostpop", "itemknn", "ease"]
    assert report["verdict"].startswith("The best reference under the shift is ")
    assert report["next"] == [f"cnsdiff train {world} --out runs/world"]
    Path("runs/world").mkdir(parents=True)  # what is there is not to be in the way
    again = cli("evaluate", world, "--json").json
    assert again["next"] == [f"cnsdiff train {world} --out runs/world-2"]
    assert cli("evaluate", world).code == 0
    assert sorted(entry.name for entry in world.iterdir()) == before


def test_unknown_splits(cli, run, untouched):
    untouched()
    cli("evaluate", run, "--split", "train").refused("--split train", "choose from valid")
    cli("evaluate", run, "--split", "test_odd").refused("did you mean 'test_ood'")
    untouched()


def test_no_ood_split(cli, tmp_path, fast):
    (tmp_path / "t.txt").write_text("1 1\n1 2\n2 1\n3 3\n2 4\n")
    (tmp_path / "v.txt").write_text("1 3\n2 2\n3 1\n")
    files = ("--train", tmp_path / "t.txt", "--valid", tmp_path / "v.txt")
    cli("prepare", *files, "--out", tmp_path / "d")
    kept = ("--set", "training.refit=false")
    assert cli("train", tmp_path / "d", "--out", tmp_path / "run", *fast, *kept).code == 0
    for target in (tmp_path / "d", tmp_path / "run"):
        cli("evaluate", target, "--split", "test_ood").refused("has no test_ood split")
        for asked in ((), ("--split", "valid")):
            report = cli("evaluate", target, *asked, "--json").json
            assert all(list(result["splits"]) == ["valid"] for result in report["models"].values())
        assert "IID test" not in cli("evaluate", target).out
    # Without a test split a model is for use, and learns from validation, too.
    assert cli("train", tmp_path / "d", "--out", tmp_path / "use", *fast).code == 0
    cli("evaluate", tmp_path / "use").refused("has no held-out pairs", "training.refit")


def test_a_dataset_that_moved(cli, world, tmp_path, fast):
    here = shutil.copytree(world, tmp_path / "here")
    cli("train", here, "--out", tmp_path / "run", *fast)
    here.rename(tmp_path / "there")
    cli("evaluate", tmp_path / "run").refused(str(here), "--dataset")
    assert cli("evaluate", tmp_path / "run", "--dataset", tmp_path / "there").code == 0
    nowhere = cli("evaluate", tmp_path / "run", "--dataset", tmp_path / "nowhere")
    nowhere.refused("nowhere: no such dataset")


def test_another_dataset_is_refused(cli, run, tmp_path, untouched):
    (tmp_path / "t.txt").write_text("1 1\n1 2\n2 1\n")
    cli("prepare", "--train", tmp_path / "t.txt", "--out", tmp_path / "d")
    untouched()
    done = cli("evaluate", run, "--dataset", tmp_path / "d")
    done.refused("is not the dataset this model was trained on ('confounded-world'")
    untouched()


def test_a_model_trained_in_memory(cli, world, tmp_path):
    dataset = load_dataset(world)
    dataset.path = None
    dataset._splits = {n: load_dataset(world).split(n) for n in dataset.split_names}
    model = Recommender("mf", "random", training={"epochs": 1}).fit(dataset)
    model.save(tmp_path / "run")
    cli("evaluate", tmp_path / "run").refused("trained in memory", "--dataset")
    assert cli("evaluate", tmp_path / "run", "--dataset", world).code == 0


def test_a_run_that_an_earlier_version_left_without_configuration(cli, run):
    manifest = json.loads((run / "manifest.json").read_text())
    for file in run.iterdir():
        file.unlink()
    (run / "manifest.json").write_text(json.dumps({**manifest, "status": "training"}))
    for command in (("evaluate",), ("train", "--resume"), ("recommend", "--all-users")):
        cli(*command, run).refused("give the command again", f"`cnsdiff train DATASET --out {run}`")


@pytest.mark.parametrize("name", ["config.yaml", "weights.safetensors", "users.parquet"])
@pytest.mark.parametrize("command", [("evaluate",), ("recommend", "--all-users")], ids="-".join)
def test_damaged_runs(cli, run, untouched, name, command):
    content = (run / name).read_bytes()
    (run / name).write_bytes(content[:-5])
    untouched()
    cli(*command, run).refused(f"{name}: its content does not match", "restore it or train again")
    untouched()
    (run / name).unlink()
    cli(*command, run).refused(f"{name}: is missing from the run")


def test_another_schema_version(cli, run, world, tmp_path):
    copy = shutil.copytree(world, tmp_path / "d")
    for folder, command in ((run, "recommend"), (run, "evaluate"), (copy, "evaluate")):
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 9}))
        more = ("--all-users",) if command == "recommend" else ()
        cli(command, folder, *more).refused("schema version 9")


def test_nothing_there(cli, tmp_path):
    cli("evaluate", tmp_path / "none").refused("is not a run directory", "cnsdiff train")
    cli("evaluate", tmp_path).refused("is not a run directory")


def test_a_full_disk_keeps_the_last_evaluation(cli, run, untouched, full_disk):
    cli("evaluate", run)
    untouched()
    with full_disk(500):
        done = cli("evaluate", run)
    assert done.code == 1
    assert "NDCG@20" in done.out
    assert "metrics.parquet: the disk is full" in done.err
    untouched()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_run_that_may_only_be_read(cli, run, tmp_path, monkeypatch, untouched, code):
    touch = Path.touch

    def refuse(path, *args, **options):
        if path.parent == run:
            raise OSError(code, os.strerror(code), str(path))
        touch(path, *args, **options)

    monkeypatch.setattr(Path, "touch", refuse)
    untouched()
    done = cli("evaluate", run, "--references")
    assert done.code == 0
    assert "ease" in done.out
    assert "the lists themselves" in done.out
    told = done.err.splitlines()[-1]
    assert told.startswith("cnsdiff: the metrics were not kept: ")
    assert told.endswith("or say where with --out")
    report = cli("evaluate", run, "--json").json
    assert f"{run / 'metrics.parquet'}: cannot be written" in report["not_written"]
    untouched()
    for file, read in (("m.parquet", pl.read_parquet), ("m.csv", pl.read_csv)):
        done = cli("evaluate", run, "--out", tmp_path / file)
        assert (done.code, done.err) == (0, "")
        assert set(read(tmp_path / file)["model"]) == {"random"}
    cli("evaluate", run, "--out", "m.txt").refused("must end in .parquet or .csv")
    done = cli("evaluate", run, "--out", run / "m.csv", "--json")
    assert done.code == 2
    assert "m.csv: cannot be written" in json.loads(done.out)["not_written"]


def test_references_that_fail_are_named_and_left_out(cli, run, world, monkeypatch):
    def out_of_memory(self, train):
        raise np._core._exceptions._ArrayMemoryError((2**20, 2**20), np.dtype("float64"))

    def broken(self, users, start, stop):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(ItemKNN, "_fit", out_of_memory)
    monkeypatch.setattr(EASE, "score_block", broken)
    reasons = {"itemknn": "there is not enough memory for it", "ease": "RuntimeError: two"}
    for target, models in ((run, ["random", "mostpop"]), (world, ["mostpop"])):
        report = cli("evaluate", target, "--references", "--json").json
        assert list(report["models"]) == models
        assert report["left_out"] == reasons
    done = cli("evaluate", run, "--references")
    assert done.code == 0
    assert done.err.splitlines()[-2:] == [
        f"cnsdiff: {name} is left out: {reason}" for name, reason in reasons.items()
    ]
    assert "mostpop" in done.out
    assert set(pl.read_parquet(run / "metrics.parquet")["model"]) == {"random", "mostpop"}
    monkeypatch.setattr(MostPop, "score_block", broken)
    cli("evaluate", world).refused("no reference could be measured (mostpop: RuntimeError: two; ")


def test_an_absent_split_that_is_asked_for_is_told_once(cli, world, tmp_path):
    copy = shutil.copytree(world, tmp_path / "d")
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["splits"]["test_ood"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    message = cli("evaluate", copy, "--split", "test_ood").refused("has no test_ood split")
    assert message.count("test_ood split") == 1


def test_a_table_that_cannot_be_printed_is_no_fault_of_a_reference(cli, run, monkeypatch):
    def closed(self, label, evaluation):
        raise BrokenPipeError

    monkeypatch.setattr("cnsdiff.cli.output.GrowingComparison.add", closed)
    done = cli("evaluate", run, "--references")
    assert done.code == 1
    assert "left out" not in done.err


def test_lists_that_end_in_ties_are_told(cli, run, monkeypatch):
    def alike(self, users, start, stop):
        return torch.ones(len(users), stop - start)

    monkeypatch.setattr(ItemKNN, "score_block", alike)
    done = cli("evaluate", run, "--references")
    (line,) = [line for line in done.err.splitlines() if "tie" in line]
    assert "100% of the lists of itemknn" in line
    assert "ease" not in line and "random" not in line
    assert "at place 20 in a tie, which goes to the item that occurs first in train" in line
    assert cli("evaluate", run).err == ""


def test_the_runs_own_numbers_are_safe_before_references_are_fitted(cli, run, monkeypatch, capsys):
    def killed(self, train):
        printed = capsys.readouterr().out
        assert set(pl.read_parquet(run / "metrics.parquet")["model"]) == {"random"}
        assert re.search(r"random.*valid.*IID test.*OOD test", printed, re.DOTALL)
        raise KeyboardInterrupt

    monkeypatch.setattr(MostPop, "_fit", killed)
    assert cli("evaluate", run, "--references").code == 130


def test_rows_that_come_one_by_one_are_the_table_printed_whole(cli, run, world):
    done = cli("evaluate", run, "--references")
    lines = done.out.splitlines()
    table = lines[: next(at for at, line in enumerate(lines) if line.startswith("└")) + 1]
    data = load_dataset(world)
    results = {"random": Recommender.load(run).evaluate(data)}
    results |= {n: evaluate(REFERENCES[n]().fit(data), data) for n in STANDARD}
    screen = console()
    with screen.capture() as captured:
        print_table(screen, comparison_table(table[0].rstrip(), results, (10, 20)))
    assert [line.rstrip() for line in table] == [
        line.rstrip() for line in captured.get().splitlines()
    ]


def test_false_negatives(cli, run, world):
    report = cli("evaluate", run, "--false-negatives", "valid", "--json").json
    assert report["false_negatives"]["judge"] == "valid"
    assert report["false_negatives"]["fhn_judged"] == 10_000
    assert 0 < report["false_negatives"]["fhn"] < 0.5
    done = cli("evaluate", run, "--false-negatives", "held-out")
    assert "False negatives (held-out): " in done.out
    cli("evaluate", run, "--false-negatives", "held").refused("'held'", "did you mean 'held-out'")
    cli("evaluate", world, "--false-negatives", "valid").refused("is a dataset", "needs a run")


def test_a_test_of_new_items_alone(cli, tmp_path):
    early = [
        (user, item) for user in range(40) for item in range(30) if (user * item) % 5 != user % 3
    ]
    splits = {
        "train": [pair for pair in early if sum(pair) % 4],
        "valid": [pair for pair in early if sum(pair) % 8 == 0],
        "test-iid": [pair for pair in early if sum(pair) % 8 == 4],
        "test-ood": [(user, 30 + user % 6) for user in range(40)],
    }
    files = []
    for name, rows in splits.items():
        frame = pl.DataFrame(rows, schema=["user", "item"], orient="row")
        frame.write_csv(tmp_path / f"{name}.csv")
        files += [f"--{name}", tmp_path / f"{name}.csv"]
    kinds = pl.DataFrame({"item": range(36), "kind": [f"k{item % 6}" for item in range(36)]})
    kinds.write_csv(tmp_path / "items.csv")
    data, run = tmp_path / "data", tmp_path / "run"
    with pytest.warns(CnsdiffWarning, match="pairs left of the test_ood split are of new items"):
        made = cli("prepare", *files, "--item-features", tmp_path / "items.csv", "--out", data)
    assert "there is no test_ood split" not in made.out + made.err
    assert "37 more held-out pairs are on 6 items that train has not" in made.out
    cli("train", data, "--content", "mean", "--set", "training.epochs=1", "--out", run)
    told = cli("evaluate", run).out
    assert "With the 6 new items that 100% of the OOD test's pairs are on:" in told
    assert "of old items" not in told
    assert cli("evaluate", run, "--json").json["new_items"]["n_users"]["warm"] == 0
