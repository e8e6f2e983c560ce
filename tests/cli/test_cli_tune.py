"""``cnsdiff tune``, from the command line to the run that ``evaluate`` takes."""

from __future__ import annotations

import json
import signal
import sys
import time

import pytest
from test_cli_killed import process

from cnsdiff.tuning.progress import PlainReporter

FAST = (
    "--backbone", "mf", "--sampler", "random", "--threads", 1,
    "--set", "training.epochs=2", "--set", "training.batch_size=64",
)  # fmt: skip


def test_from_the_search_to_the_tests(cli, world, tmp_path):
    out = tmp_path / "out"
    found = cli("tune", world, "--out", out, "--trials", 3, *FAST, "--json")
    summary = found.json
    assert "trial 2 (3/3)" in found.err
    assert (summary["trials"], summary["asked"], summary["completed"]) == (3, 3, 3)
    assert summary["objective"] == "ndcg@20"
    assert summary["best"]["value"] >= summary["value_as_given"] > 0
    assert summary["config"] == str(out / "best.yaml")
    assert set(summary["best"]["setting"]) == {
        *("objective.l2", "objective.repulsion", "training.lr")
    }
    assert summary["next"][0] == f"cnsdiff evaluate {out / 'best'} --references"
    best = cli("evaluate", out / "best", "--json")
    assert best.code == 0
    again = tmp_path / "again"
    trained = cli("train", world, "--config", out / "best.yaml", "--out", again, "--json").json
    assert trained["value"] == summary["best"]["value"]

    # The same command again has nothing to do, and says the same for people.
    shown = cli("tune", world, "--out", out, "--trials", 3, *FAST)
    assert shown.code == 0
    assert summary["verdict"] in shown.out.replace("\n", " ")
    assert "training.lr" in shown.out
    assert "the tests will tell" in shown.out
    assert "3 trials, 3 of them done before" in shown.err


def test_what_is_searched_is_as_asked(cli, world, tmp_path):
    command = (
        "tune", world, "--out", tmp_path / "out", "--trials", 2, *FAST, "--json",
        "--search", "backbone.dim=4,8", "--only", "training.lr,objective",
        "--set", "objective.l2=0.5", "--select-on", "inverse-popularity", "--no-prune",
    )  # fmt: skip
    summary = cli(*command).json
    assert summary["objective"] == "ndcg@20 (inverse-popularity)"
    assert set(summary["best"]["setting"]) == {
        *("backbone.dim", "objective.repulsion", "training.lr")
    }
    study = json.loads((tmp_path / "out" / "study.json").read_text())
    assert study["pruning"] is False
    assert study["config"]["objective"]["l2"] == 0.5
    assert study["trials"][0]["setting"]["backbone.dim"] == 64


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--search", "training.lrr=1..2"), ("--search training.lrr=1..2", "did you mean")),
        (("--only", "nothing"), ("--only nothing", "no such setting declares a space")),
        (("--set", "training.lrr=1"), ("unknown key 'training.lrr'",)),
        (("--budget", "soon"), ("--budget soon", "is not a duration")),
        (("--select-on", "test_ood", "--set", "training.dial=off"), ("on the test set",)),
        (("--sampler", "dsn"), ("no sampler is called 'dsn'",)),
        (("--config", "absent.yaml"), ("absent.yaml", "no such configuration file")),
    ],
)
def test_refused(cli, world, tmp_path, untouched, options, words):
    untouched()
    cli("tune", world, "--out", tmp_path / "out", *options).refused(*words)
    untouched()


def test_a_directory_of_something_else(cli, world, run):
    cli("tune", world, "--out", run, *FAST).refused("is not empty and holds no study")


def test_without_the_extra(cli, world, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    refused = cli("tune", world, "--out", tmp_path / "out", *FAST)
    refused.refused("tuning needs optuna", "install 'cnsdiff[tune]'")


LONG = (
    "--threads", 1, "--backbone", "mf", "--trials", 3, "--no-prune",
    "--set", "training.epochs=6", "--set", "training.batch_size=32",
)  # fmt: skip


def wait_for_trials(running, n: int) -> None:
    for line in running.stderr:
        n -= ": trial " in line
        if n == 0:
            return
    raise AssertionError("tuning ended before it could be disturbed")


@pytest.mark.slow
def test_killed_and_gone_on_with(cli, world, tmp_path, monkeypatch):
    """Killed in a process of its own; then Ctrl-C in this one, in the midst of the next trial."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    expected = cli("tune", world, "--out", whole, *LONG, "--json").json
    with process("tune", world, "--out", out, *LONG) as running:
        wait_for_trials(running, 1)
        time.sleep(0.1)
        running.send_signal(signal.SIGKILL)
        assert running.wait(60) == -signal.SIGKILL

    def press(self, epoch, epochs, value):
        if epoch == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PlainReporter, "validated", press)
        done = cli("tune", world, "--out", out, *LONG)
    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines()[-1] == (
        f"cnsdiff: interrupted; what is done is kept in {out}, and the same command goes on"
    )
    assert "Traceback" not in done.err
    found = cli("tune", world, "--out", out, *LONG, "--json").json
    timeless = [
        {**trial, "seconds": 0}
        for folder in (whole, out)
        for trial in json.loads((folder / "study.json").read_text())["trials"]
    ]
    assert timeless[:3] == timeless[3:]
    assert found["best"]["setting"] == expected["best"]["setting"]
    weights = [(folder / "best" / "weights.safetensors").read_bytes() for folder in (whole, out)]
    assert weights[0] == weights[1]
    assert (whole / "best.yaml").read_text() == (out / "best.yaml").read_text()
