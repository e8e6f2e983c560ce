"""``cnsdiff benchmark`` as a process: killed, interrupted, refused, shown."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from cnsdiff.benchmark.workers import ThisProcess

GRID: dict[str, Any] = {
    "name": "tiny",
    "datasets": {
        "world": {
            "simulate": {"n_users": 60, "n_items": 50, "exposures": 20, "shift": "popularity"},
            "anticipate": "inverse-popularity",
        }
    },
    "methods": {
        "mostpop": {"reference": "mostpop", "group": "reference"},
        "random": {"set": {"sampler.name": "random"}},
        "dns": {"set": {"sampler.name": "dns"}},
    },
    "seeds": [0, 1],
    "budget": {"epochs": 8},
    "search": {"trials": 2},
    "search_space": {"training.lr": {"low": 0.001, "high": 0.1, "log": True}},
    "set": {
        "backbone": {"name": "mf", "dim": 4},
        "training": {"batch_size": 32, "patience": None},
    },
}


def write(folder: Path, name: str = "grid", **changes: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**GRID, **changes}, sort_keys=False), encoding="utf-8")
    return path


def session(leader: int) -> list[int]:
    """The processes of a session that are still alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """``cnsdiff benchmark`` and its workers in a session of their own, gone at the end."""
    command = [sys.executable, "-c", "from cnsdiff.cli import main; main()", "benchmark"]
    running = subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test run in the background would hand on that it ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield running
    finally:
        for number in session(running.pid):
            os.kill(number, signal.SIGKILL)
        running.communicate()


def wait_for_tasks(running: subprocess.Popen[str], n: int) -> None:
    """Read until ``n`` tasks are reported."""
    assert running.stderr is not None
    for line in running.stderr:
        assert line.startswith("benchmark: "), line
        n -= "  world " in line
        if n == 0:
            return
    raise AssertionError("it ended before it could be disturbed")


def assert_all_end(leader: int) -> None:
    end = time.monotonic() + 30
    while session(leader) and time.monotonic() < end:
        time.sleep(0.1)
    assert not session(leader)


@pytest.fixture
def in_this_process(monkeypatch) -> Callable[[], None]:
    """Call it to have tasks run here from now on: a worker takes seconds to import PyTorch."""

    def patch() -> None:
        monkeypatch.setattr("cnsdiff.cli.commands.benchmark._workers", lambda *_: ThisProcess())

    return patch


def timeless(printed: str) -> dict[str, Any]:
    """What was printed, but how long it took and where it is."""
    document: dict[str, Any] = json.loads(printed)
    assert document.pop("next")[0].startswith("cnsdiff report ")
    for table in document["trainings"]:
        for row in table["rows"]:
            assert row["values"].pop("seconds")["value"] > 0
    return document


@pytest.mark.slow
def test_ended_at_random_moments_and_gone_on_with(cli, in_this_process, tmp_path):
    """Ends as what was left alone, killed or interrupted, and by whatever number of processes.

    SIGTERM is turned into Ctrl-C where the commands that keep what is done have that in common:
    ``test_cli_killed.py`` sends it to one of them.
    """
    grid, out = write(tmp_path), tmp_path / "out"
    random = np.random.default_rng(1)
    with process(grid, "--out", out, "--threads", 1) as running:
        wait_for_tasks(running, int(random.integers(2, 4)))
        time.sleep(random.uniform(0, 0.1))
        running.send_signal(signal.SIGKILL)
        assert running.wait(60) == -signal.SIGKILL
        assert_all_end(running.pid)  # its worker ends with it
    with process(grid, "--out", out, "--workers", 2, "--threads", 2) as running:
        wait_for_tasks(running, 1)
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does
        printed, err = running.communicate(timeout=60)
        assert_all_end(running.pid)
    assert (running.returncode, printed) == (130, "")
    assert "Traceback" not in err
    assert err.splitlines()[-1] == (
        f"cnsdiff: interrupted; what is done is kept in {out}, and the same command goes on"
    )
    kept = len(list((out / "records").glob("[!.]*.parquet")))
    assert kept >= 3
    in_this_process()
    done = cli("benchmark", grid, "--out", out, "--json", "--threads", 1)
    assert done.code == 0, done.err
    assert f" tasks, {kept} of them done before" in done.err
    assert not list(out.rglob(".*"))
    alone = cli("benchmark", grid, "--out", tmp_path / "whole", "--json", "--threads", 1)
    document = timeless(alone.out)
    assert (document["missing"], document["failures"]) == (0, [])
    assert document["leaderboards"]
    assert document["verdict"].startswith("Best ")
    assert timeless(done.out) == document


@pytest.mark.slow
def test_failures(cli, in_this_process, tmp_path):
    """Are told, and exit 1 where something ran; what is there is shown all the same."""
    in_this_process()
    methods = {
        "mostpop": {"reference": "mostpop"},
        "bad": {"set": {"training.lr": 1e30}},
    }
    grid = write(tmp_path, methods=methods, search_space={}, seeds=[0])
    command = ("benchmark", grid, "--out", tmp_path / "out", "--threads", 1)
    before = cli(*command, "--show", "--json").json
    assert (before["missing"], before["leaderboards"]) == (2, [])
    run = cli(*command, "--json")
    assert run.code == 1
    document = json.loads(run.out)
    assert document["missing"] == 0
    (failure,) = document["failures"]
    assert failure["method"] == "bad"
    assert "became NaN or infinite" in failure["error"]
    assert "FAILED: training stopped in epoch" in run.err
    assert "Traceback" not in run.err
    shown = cli(*command, "--show", "--json")
    assert shown.code == 0 and json.loads(shown.out) == document
    text = cli(*command, "--show")
    assert text.code == 0
    assert "failed: world bad final seed 0 {}: training stopped" in text.err
    assert "mostpop" in text.out


def test_weights_are_kept_and_used(cli, in_this_process, tmp_path, monkeypatch):
    """By the commands for a run; finals done without theirs run again, which is said."""
    in_this_process()
    methods = {
        "chance": {"reference": "random"},
        "ease": {"reference": "ease", "search": {"l2": {"low": 20.0, "high": 2000.0}}},
        "dns": {"set": {"sampler.name": "dns"}},
    }
    grid = write(tmp_path, methods=methods, seeds=[0], select_on=["valid+dial"])
    command = ("benchmark", grid, "--out", tmp_path / "out", "--threads", 1, "--json")
    assert cli(*command).json["models"] == []
    shown = cli(*command, "--show", "--keep-weights")
    assert (shown.code, json.loads(shown.out)["models"]) == (0, [])
    assert "the weights of 2 finals are not there" in shown.err and "without --show" in shown.err
    kept = cli(*command, "--keep-weights")
    assert kept.code == 0, kept.err
    assert "chance: 'random' draws its scores and has no weights to keep" in kept.err
    assert "2 finals done without weights, run again to keep them" in kept.err
    document = json.loads(kept.out)
    assert [(m["method"], m["selection"], m["seed"]) for m in document["models"]] == [
        ("ease", "valid+dial", 0),
        ("dns", "valid+dial", 0),
    ]
    assert document["next"][-1].startswith(f"cnsdiff evaluate {document['models'][0]['path']}")
    records = pl.read_parquet(tmp_path / "out" / "records" / "*.final.*.parquet")
    for model in document["models"]:
        (values,) = cli("evaluate", model["path"], "--json").json["models"].values()
        (stored,) = records.filter(method=model["method"], split="test_ood", metric="ndcg@20")[
            "value"
        ]
        assert values["splits"]["test_ood"]["metrics"]["ndcg@20"] == stored
        lists = tmp_path / "lists.csv"
        cli("recommend", model["path"], "--all-users", "--k", 3, "--out", lists)
        assert pl.read_csv(lists).height > 0
    assert cli("report", document["models"][-1]["path"]).code == 0
    monkeypatch.setattr(
        "cnsdiff.benchmark.task._models", lambda *_: (_ for _ in ()).throw(OSError("no room"))
    )
    shutil.rmtree(document["models"][0]["path"])
    failed = cli(*command, "--keep-weights")
    assert failed.code == 1
    assert json.loads(failed.out)["failures"] == []
    assert "no room" in failed.err
    assert "the weights of 1 final are not there" in failed.err
    assert "give the command again" in failed.err


def test_the_headline_is_over_samplers_and_over_all(cli, in_this_process, tmp_path):
    in_this_process()
    methods = {
        "chance": {"reference": "random"},
        "knn": {"reference": "itemknn", "group": "reference"},
        "part": {"reference": "ease", "group": "ablation"},
        "exposure": {"reference": "mostpop", "group": "ours"},
    }
    grid = write(tmp_path, methods=methods, seeds=[0], select_on=["valid", "valid+dial"])
    command = ("benchmark", grid, "--out", tmp_path / "out", "--threads", 1)
    document = cli(*command, "--json").json
    average, duels, cells, ranks = document["headline"]
    assert [(row["selection"], row["over_the_best"]) for row in average["rows"]] == [
        ("valid", "sampler"),
        ("valid", "all others"),
        ("valid+dial", "sampler"),
        ("valid+dial", "all others"),
    ]
    assert {row["best_rival"] for row in cells["rows"]} <= {"chance", "knn"}
    assert {row["rival"] for row in duels["rows"]} == {"chance", "knn"}
    assert {row["method"] for row in ranks["rows"]} == {"chance", "knn", "exposure"}
    (trained,) = document["trainings"]
    dials = {
        row["method"]: row["values"]["dial"]["value"]
        for row in trained["rows"]
        if row["selection"] == "valid+dial"
    }
    assert dials["exposure"] == dials["chance"] == 0
    for form in ("text", "markdown", "latex"):
        printed = cli(*command, "--show", "--format", form).out
        assert "all others" in printed and "selected on validation, with the dial" in printed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": [1]}, ["grid.yaml: unknown key 'seed' (did you mean 'seeds'?)"]),
        ({"seeds": [1, 1]}, ["grid.yaml: seeds names one seed twice"]),
        ({"methods": {"m": {"set": {"training.lrr": 1}}}}, ["methods.m: unknown key", "lrr"]),
        ({"methods": {"m": {"reference": "eese"}}}, ["methods.m: no reference is called 'eese'"]),
        ({"datasets": {"d": {"path": "nowhere"}}}, ["nowhere"]),
        ({"datasets": {"d": {"path": "$NO_SUCH_VARIABLE/d"}}}, ["NO_SUCH_VARIABLE is not set"]),
        ({"datasets": {"d": {"prepare": {"log": "a/b.csv"}}}}, ["datasets.d: ", "scenario"]),
        (
            {"datasets": {"d": {"prepare": {"log": "a/b.csv", "scenario": "popularity"}}}},
            ["b.csv"],
        ),
        ({"datasets": {"d": {"given": {"train": "x", "tset": "y"}}}}, ["datasets.d: ", "'tset'"]),
        ({"datasets": {"d": {"simulate": {"n_usres": 5}}}}, ["datasets.d: ", "n_usres", "n_users"]),
        ({"datasets": {"d": {"simulate": {"shift": "sudden"}}}}, ["'sudden'"]),
    ],
)
def test_bad_grids(cli, tmp_path, changes, words):
    cli("benchmark", write(tmp_path, **changes), "--out", tmp_path / "out").refused(*words)


def test_bad_options(cli, tmp_path):
    grid, out = write(tmp_path), tmp_path / "out"
    cli("benchmark", tmp_path / "no.yaml", "--out", out).refused("no.yaml: no such config")
    cli("benchmark", grid, "--out", out, "--format", "html").refused("--format html", "latex")
    cli("benchmark", grid, "--out", out, "--baseline", "x").refused("--baseline x")
    cli("benchmark", grid, "--out", out, "--ours", "x").refused("--ours x")
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").touch()
    cli("benchmark", grid, "--out", out).refused("is not empty and holds no benchmark")
    assert [entry.name for entry in out.iterdir()] == ["mine.txt"]


def test_one_at_a_time(cli, tmp_path):
    from cnsdiff.benchmark.store import Store

    grid = write(tmp_path, methods={"m": {"reference": "mostpop"}})
    command = ("benchmark", grid, "--out", tmp_path / "out", "--threads", 1)
    assert cli(*command, "--show", "--json").json["missing"] == 1
    with Store(tmp_path / "out").writing():
        before = (tmp_path / "out" / "grid.yaml").read_bytes()
        cli(*command).refused("out: another benchmark is running here", "--show")
        other = write(tmp_path, "other", methods={"n": {"reference": "mostpop"}})
        cli(command[0], other, *command[2:]).refused("another benchmark is running here")
        assert cli(command[0], other, *command[2:], "--show", "--json").json["missing"] == 1
        assert (tmp_path / "out" / "grid.yaml").read_bytes() == before
        assert cli(*command, "--show", "--json").json["missing"] == 1


def test_a_damaged_record(cli, tmp_path):
    grid = write(tmp_path, methods={"m": {"reference": "mostpop"}})
    command = ("benchmark", grid, "--out", tmp_path / "out", "--show", "--threads", 1)
    assert cli(*command).code == 0
    from cnsdiff.benchmark.grid import read_grid
    from cnsdiff.benchmark.plan import materialise, plan
    from cnsdiff.benchmark.store import Store

    asked, store = read_grid(grid), Store(tmp_path / "out")
    place = materialise("world", asked.datasets["world"], store.data)
    (unit,) = plan(asked, {"world": place})
    record = store.path / "records" / f"{unit.finals(store)[0].key}.parquet"
    record.write_bytes(b"PAR1 but no more")
    cli(*command).refused(f"{record}: is missing or damaged; delete {record}")
