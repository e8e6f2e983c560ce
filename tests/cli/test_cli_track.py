"""``cnsdiff train --track``: curves elsewhere, from one option."""

from __future__ import annotations

import json
import shutil

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cnsdiff import Recommender
from cnsdiff.training.progress import PlainReporter


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def steps(folder) -> list[int]:
    found = EventAccumulator(str(folder)).Reload()
    return [event.step for event in found.Scalars("train/loss")]


def test_both_and_a_resumed_run_goes_on_in_both(cli, world, tmp_path, fast, monkeypatch):
    from mlflow import MlflowClient

    real = PlainReporter.epoch

    def pressing(self, record, *, best):
        real(self, record, best=best)
        monkeypatch.setattr(PlainReporter, "epoch", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(PlainReporter, "epoch", pressing)
    out = tmp_path / "run"
    done = cli(
        "train", world, "--out", out, *fast,
        "--track", f"tensorboard={tmp_path / 'curves'}", "--track", "mlflow=sqlite:///mlflow.db",
    )  # fmt: skip
    assert done.code == 130, done.err
    assert f"TensorBoard: tensorboard --logdir {tmp_path / 'curves' / 'run'}" in done.err
    assert "MLflow: run " in done.err
    known = json.loads((out / "tracking.json").read_text())
    assert known["mlflow"]["tracking_uri"] == f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(known["mlflow"]["tracking_uri"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert client.get_run(known["mlflow"]["run_id"]).info.status == "KILLED"
    done = cli("train", "--resume", out, "--json")
    assert done.code == 0, done.err
    assert json.loads((out / "tracking.json").read_text()) == known
    assert steps(tmp_path / "curves" / "run") == [1, 2]
    run = client.get_run(known["mlflow"]["run_id"])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    history = Recommender.load(out).history_
    found = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in found] == [(r["epoch"], r["train"]["loss"]) for r in history]


def test_by_default_it_is_in_the_run(cli, world, tmp_path, fast):
    done = cli("train", world, "--out", tmp_path / "run", *fast, "--track", "tensorboard")
    assert done.code == 0, done.err
    assert steps(tmp_path / "run" / "tensorboard") == [1, 2]
    # What is untracked stays so.
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["tensorbord"], "there is no tracker 'tensorbord' (did you mean 'tensorboard'?)"),
        (["wandb"], "choose tensorboard or mlflow"),
        (["mlflow="], "say where after the ="),
        (["tensorboard", "tensorboard=x"], "tracker tensorboard is given twice"),
        (["mlflow=nonsense://x"], "MLflow at nonsense://x: cannot be used"),
    ],
)
def test_what_cannot_be_tracked(cli, world, tmp_path, fast, given, words):
    options = [word for text in given for word in ("--track", text)]
    cli("train", world, "--out", tmp_path / "run", *fast, *options).refused(words)


def test_a_missing_package_is_named(cli, world, tmp_path, fast, monkeypatch):
    for name in ("tensorboard", "mlflow"):
        monkeypatch.setattr(f"cnsdiff.tracking.{name}.find_spec", lambda name: None)
        done = cli("train", world, "--out", tmp_path / "run", *fast, "--track", name)
        done.refused(f"install 'cnsdiff[{name}]'")
    assert not (tmp_path / "run").exists()


def test_a_damaged_record_of_where_it_is_tracked(cli, world, run):
    shutil.copy(run / "history.parquet", run / "tracking.json")
    (run / "manifest.json").write_text(
        (run / "manifest.json").read_text().replace('"complete"', '"training"')
    )
    cli("train", "--resume", run).refused("tracking.json: is damaged; delete it")
