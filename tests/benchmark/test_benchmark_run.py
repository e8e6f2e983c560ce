"""Running a grid: nothing twice, failures alone, and the same table whatever happens on the way."""

from __future__ import annotations

import io
import multiprocessing
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from benchmark_parts import TIMES, Broken, Deadly, Inline, small_grid, values_of
from polars.testing import assert_frame_equal
from scipy.stats import t

from cnsdiff.base.errors import TrainingError
from cnsdiff.benchmark.findings import collect, find
from cnsdiff.benchmark.grid import Grid
from cnsdiff.benchmark.plan import materialise, plan
from cnsdiff.benchmark.progress import PlainReporter, Reporter
from cnsdiff.benchmark.run import run
from cnsdiff.benchmark.statistics import compare
from cnsdiff.benchmark.store import Store
from cnsdiff.benchmark.task import Outcome, Task, run_task
from cnsdiff.benchmark.workers import LocalWorkers
from cnsdiff.data import load_dataset
from cnsdiff.evaluation import evaluate
from cnsdiff.references import REFERENCES


@pytest.fixture(scope="module")
def undisturbed(world_path, tmp_path_factory) -> tuple[Path, pl.DataFrame]:
    """The store of an undisturbed run, and what it finds."""
    grid, store = small_grid(world_path), Store(tmp_path_factory.mktemp("undisturbed") / "whole")
    store.open(grid)
    units = plan(grid, {"world": world_path}, threads=1)
    run(units, store, Inline())
    return store.path, values_of(grid, units, store)


@pytest.fixture
def whole(undisturbed, tmp_path) -> pl.DataFrame:
    """What an undisturbed run finds; a copy of its store is there as ``planned("whole")``."""
    path, values = undisturbed
    shutil.copytree(path, tmp_path / "whole")
    return values


class Noting(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.total = self.known = 0
        self.failed: list[str] = []
        self.n_done = 0

    def begin(self, total: int, known: int) -> None:
        self.total, self.known = total, known

    def done(self, task: Task, seconds: float | None, error: str | None) -> None:
        self.n_done += 1
        if error is None:
            assert seconds is not None and seconds > 0
        else:
            assert seconds is None
            self.failed.append(error)

    def fewer(self, n: int) -> None:
        self.total -= n


# --- what runs


def test_every_task_once(planned):
    grid, units, store = planned()
    workers, noting = Inline(), Noting()
    run(units, store, workers, noting)
    counts = Counter((t.kind, t.method.name) for t in workers.tasks)
    agreed = len({t.trial for t in units[2].picked(store).values()}) == 1
    assert counts == {
        ("final", "mostpop"): 1,
        ("final", "chance"): 2,
        ("trial", "mf"): 3,
        ("final", "mf"): 2 if agreed else 4,
    }
    keys = [t.key for t in workers.tasks]
    assert len(set(keys)) == len(keys)
    assert (noting.total, noting.known, noting.n_done) == (len(keys), 0, len(keys))
    results = collect(grid, units, store)
    assert results.missing == 0 and results.failures.is_empty()


def test_nothing_runs_again(planned, whole):
    grid, units, store = planned("whole")
    workers, noting = Inline(), Noting()
    run(units, store, workers, noting)
    assert workers.tasks == []
    assert noting.total == noting.known > 0
    assert_frame_equal(values_of(grid, units, store), whole)


def test_a_larger_grid_runs_only_what_is_new(planned, whole):
    changes = {"seeds": [0, 1, 2], "methods.ease": {"reference": "ease"}, "search.trials": 4}
    _, units, store = planned("whole", **changes)
    workers = Inline()
    run(units, store, workers)
    counts = Counter((t.kind, t.method.name) for t in workers.tasks)
    assert counts["final", "ease"] == counts["final", "chance"] == counts["trial", "mf"] == 1
    assert counts["final", "mostpop"] == 0


def test_the_order_of_results_changes_nothing(planned, whole):
    """Units in another order, so that tasks end in another."""
    grid, units, store = planned()
    run(tuple(reversed(units)), store, Inline())
    assert_frame_equal(values_of(grid, units, store), whole)


# --- failures


def fails_on(*methods: str):
    def some(task: Task) -> Outcome:
        if task.method.name in methods:
            raise TrainingError(f"{task.method.name} cannot")
        return run_task(task)

    return some


def test_a_failure_is_recorded_and_the_rest_goes_on(planned, whole):
    grid, units, store = planned()
    noting = Noting()
    run(units, store, Inline(fails_on("chance")), noting)
    results = collect(grid, units, store)
    assert results.missing == 0
    assert noting.failed == ["chance cannot"] * 2
    failures = results.failures.sort("seed")
    assert failures.columns == ["dataset", "method", "kind", "seed", "setting", "error"]
    assert failures.rows() == [
        ("world", "chance", "final", seed, "{}", "chance cannot") for seed in (0, 1)
    ]
    rest = whole.filter(pl.col("method") != "chance")
    assert_frame_equal(values_of(grid, units, store), rest)


def test_a_search_with_failures(planned):
    """Goes by the trials that are there; without any, nothing is picked."""
    grid, units, store = planned()
    bad = units[2].trials[1].key

    def one(task: Task) -> Outcome:
        return fails_on("mf")(task) if task.key == bad else run_task(task)

    run(units, store, Inline(one))
    results = collect(grid, units, store)
    assert results.failures.select("kind", "error").rows() == [("trial", "mf cannot")]
    assert 1 not in results.table.filter(method="mf")["trial"]
    assert "mf" in set(results.table["method"])

    grid, units, store = planned("none")
    noting = Noting()
    run(units, store, Inline(fails_on("mf")), noting)
    results = collect(grid, units, store)
    assert results.missing == 0 and results.failures.height == 3
    assert "mf" not in set(results.table["method"])
    assert noting.total == noting.n_done == 6


def test_failures_are_kept_until_asked_to_retry(planned, whole):
    grid, units, store = planned()
    run(units, store, Inline(fails_on("chance", "mf")))
    untouched = Inline()
    run(units, store, untouched)
    assert untouched.tasks == []
    again = Inline()
    run(units, store, again, retry_failed=True)
    counts = Counter((t.kind, t.method.name) for t in again.tasks)
    assert (counts["final", "chance"], counts["trial", "mf"]) == (2, 3)
    assert ("final", "mostpop") not in counts
    assert_frame_equal(values_of(grid, units, store), whole)
    assert collect(grid, units, store).failures.is_empty()


def test_a_trial_tried_again_repeats_no_final(planned):
    grid, units, store = planned()
    bad = units[2].trials[1].key

    def one(task: Task) -> Outcome:
        return fails_on("mf")(task) if task.key == bad else run_task(task)

    run(units, store, Inline(one))
    before = values_of(grid, units, store)
    again = Inline(one)
    run(units, store, again, retry_failed=True)
    assert [t.key for t in again.tasks] == [bad]
    assert_frame_equal(values_of(grid, units, store), before)


def test_a_retry_of_finals(planned, whole):
    grid, units, store = planned()

    def only_trials(task: Task) -> Outcome:
        return run_task(task) if task.kind == "trial" else fails_on(task.method.name)(task)

    run(units, store, Inline(only_trials))
    again = Inline()
    run(units, store, again, retry_failed=True)
    assert {t.kind for t in again.tasks} == {"final"}
    assert_frame_equal(values_of(grid, units, store), whole)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (TrainingError("a sentence"), "a sentence"),
        (ZeroDivisionError("one\ntwo"), "ZeroDivisionError: one"),
        (MemoryError(), "there is not enough memory for it"),
        (RuntimeError("[enforce] can't allocate memory: you"), "there is not enough memory for it"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_what_is_said_of_an_error(planned, error, sentence):
    grid, units, store = planned(methods={"pop": {"reference": "mostpop"}})

    def fails(task: Task) -> Outcome:
        raise error

    run(units, store, Inline(fails))
    assert collect(grid, units, store).failures["error"].to_list() == [sentence]


# --- interrupts


class Impatient(Reporter):
    """Presses Ctrl-C when the first result is kept."""

    def done(self, task: Task, seconds: float | None, error: str | None) -> None:
        raise KeyboardInterrupt


def test_an_interrupt_after_every_task(planned, whole):
    """What is resumed ends as what was left alone, and nothing that was kept runs again."""
    n_tasks = len(set(whole["key"])) + 3
    for kept in range(n_tasks):
        grid, units, store = planned()
        files = {file.stem for file in (store.path / "records").iterdir()}
        assert len(files) == kept
        workers = Inline()
        with pytest.raises(KeyboardInterrupt):
            run(units, store, workers, Impatient())
        assert not files & {task.key for task in workers.tasks}
    workers = Inline()
    run(units, store, workers, Impatient())
    assert workers.tasks == []
    assert_frame_equal(values_of(grid, units, store), whole)


def test_what_is_missing_is_counted(planned):
    grid, units, store = planned()
    before = collect(grid, units, store)
    assert before.missing == 1 + 2 + 1, "an unfinished search counts as one"
    assert before.table.is_empty() and before.failures.is_empty()
    assert {"anticipated", "group", "scenario"} <= set(before.table.columns)


# --- what is collected


def test_the_table(planned):
    changes = {"datasets.world.scenario": "popularity"}
    grid, units, store = planned(**changes)
    run(units, store, Inline())
    results = collect(grid, units, store)
    table = results.table
    assert set(table["scenario"]) == {"popularity"}
    groups = dict(table.select("method", "group").unique().iter_rows())
    assert groups == {"mostpop": "reference", "chance": "reference", "mf": "sampler"}
    flags = dict(table.select("selection", "anticipated").unique().iter_rows())
    assert flags == {"valid": False, "inverse-popularity": True}
    assert set(table["kind"]) == {"final"}
    once = table.group_by("dataset", "method", "selection", "seed", "split", "metric").len()
    assert once["len"].unique().to_list() == [1]
    assert set(table.filter(method="mf")["seed"]) == {0, 1}
    for selection in ("valid", "inverse-popularity"):
        for seed in (0, 1):
            for split in ("test_iid", "test_ood"):
                users = results.per_user("world", "mf", selection, seed, split)
                assert users.columns[0] == "user"
                mean = table.filter(
                    method="mf", selection=selection, seed=seed, split=split, metric="ndcg@20"
                )
                assert users["ndcg@20"].mean() == pytest.approx(mean["value"][0], rel=1e-6)


@pytest.fixture(scope="module")
def rolling(tmp_path_factory):
    """A log of 90 days cut three times: the grid, its datasets and what was found."""
    folder = tmp_path_factory.mktemp("rolling")
    rng = np.random.default_rng(0)
    users, days = rng.integers(0, 80, 4000), np.sort(rng.integers(0, 90, 4000))
    items = (users % 4 * 10 + rng.integers(0, 15, 4000) + days // 30) % 50
    frame = pl.DataFrame({"user": users, "item": items, "timestamp": days * 86_400 + 10**9})
    frame.unique(["user", "item"], keep="first", maintain_order=True).write_csv(folder / "log.csv")
    recipe = {"log": str(folder / "log.csv"), "scenario": "temporal", "horizon": 0.15}
    references = ("mostpop", "ease")
    grid = Grid.model_validate(
        {
            "name": "rolling",
            "datasets": {"shop": {"prepare": recipe, "cuts": 3}},
            "methods": {name: {"reference": name, "group": "reference"} for name in references},
        }
    )
    store = Store(folder / "out")
    store.open(grid)
    datasets = {name: materialise(name, e, store.data) for name, e in grid.datasets.items()}
    units = plan(grid, datasets, threads=1)
    run(units, store, Inline())
    return grid, units, store, {name: load_dataset(path) for name, path in datasets.items()}


def test_several_cuts_are_pooled_over_their_users(rolling):
    grid, units, store, datasets = rolling
    results = collect(grid, units, store)
    assert set(results.table["dataset"]) == {"shop-cut-1", "shop-cut-2", "shop-cut-3"}
    pooled = results.with_pools()
    assert set(pooled["dataset"]) == {"shop"}
    values = {}
    for method in ("mostpop", "ease"):
        # Cut by cut and user by user, from a fit of its own.
        of_user = defaultdict(list)
        for dataset in datasets.values():
            reference = REFERENCES[method]().fit(dataset)
            result = evaluate(reference, dataset, ["test_ood"], (20,), per_user=True)["test_ood"]
            for number, value in result.per_user.select("user", "ndcg@20").iter_rows():
                of_user[dataset.users[number]].append(value)
        assert max(map(len, of_user.values())) == 3, "some users are judged at every cut"
        assert min(map(len, of_user.values())) < 3, "and some are not"
        values[method] = {user: sum(own) / len(own) for user, own in of_user.items()}
        (found,) = pooled.filter(method=method, metric="ndcg@20", split="test_ood").rows(named=True)
        assert found["value"] == pytest.approx(np.mean(list(values[method].values())), rel=1e-5)
        assert found["n_users"] == len(of_user)
    # The interval of the difference: users are drawn again, with all their cuts.
    comparison = compare(pooled, results.per_user, baseline="mostpop", metrics=["ndcg@20"])
    (row,) = comparison.rows(named=True)
    differences = np.array([values["ease"][u] - values["mostpop"][u] for u in values["ease"]])
    drawn = np.random.default_rng(7).integers(0, len(differences), (4000, len(differences)))
    low, high = np.quantile(differences[drawn].mean(axis=1), [0.025, 0.975])
    assert (row["dataset"], row["n_users"]) == ("shop", len(differences))
    assert row["difference"] == pytest.approx(differences.mean(), rel=1e-5)
    width = high - low
    assert row["low"] == pytest.approx(low, abs=0.1 * width)
    assert row["high"] == pytest.approx(high, abs=0.1 * width)


def test_a_pool_counts_once_and_its_datasets_stand_beside_it(rolling):
    grid, units, store, _ = rolling
    findings = find(grid, collect(grid, units, store), baseline="mostpop", ours="ease")
    assert set(findings.summary["dataset"]) == {"shop"}
    # One seed each: a pool's interval, too, is over its users, each counted once.
    row = findings.summary.row(
        named=True,
        by_predicate=(pl.col("method") == "ease")
        & (pl.col("split") == "test_ood")
        & (pl.col("metric") == "ndcg@20"),
    )
    users = collect(grid, units, store).per_user("shop", "ease", "valid", 0, "test_ood")["ndcg@20"]
    half = t.ppf(0.975, len(users) - 1) * users.std() / len(users) ** 0.5
    assert (row["low"], row["high"]) == pytest.approx((row["mean"] - half, row["mean"] + half))
    assert findings.members["low"].is_finite().any()
    tables = findings.tables()
    cuts = [f"shop-cut-{number}, selected on validation" for number in (1, 2, 3)]
    titles = [table.title for table in tables["leaderboards"]]
    assert titles == ["shop, selected on validation", *cuts]
    assert [table.title.partition(",")[0] for table in tables["trainings"]] == [
        "shop-cut-1", "shop-cut-2", "shop-cut-3"
    ]  # fmt: skip
    assert [column.title for column in tables["overview"][0].columns] == ["shop"]
    # What is not there at every cut is not pooled.
    task = next(t for unit in units for t in unit.finals(store) if t.method.name == "ease")
    record = store.read(task)
    store.forget(task)
    try:
        partial = collect(grid, units, store)
        assert partial.missing == 1
        assert set(partial.with_pools()["method"]) == {"mostpop"}
    finally:
        record.write_parquet(store.path / "records" / f"{task.key}.parquet")


def test_the_table_with_dials(planned):
    """Beside selections without, whose results stay what they were."""
    names = ["valid", "anticipated", "valid+dial", "anticipated+dial"]
    changes = {"search.trials": 1, "methods.ease": {"reference": "ease", "group": "reference"}}
    tables = []
    for folder, select_on in (("both", names), ("plain", names[:2])):
        grid, units, store = planned(folder, select_on=select_on, **changes)
        run(units, store, Inline())
        results = collect(grid, units, store)
        assert results.missing == 0 and results.failures.is_empty()
        tables.append(results.table)
    both, plain = (table.drop(*TIMES, "key", "epochs", "stopped_by") for table in tables)
    own = ["valid", "inverse-popularity"]
    order = ["method", "selection", "seed", "split", "metric"]
    left = both.filter(pl.col("selection").is_in(own))
    assert_frame_equal(left.sort(order), plain.sort(order))
    flags = dict(both.select("selection", "anticipated").unique().iter_rows())
    assert flags == {
        "valid": False, "valid+dial": False,
        "inverse-popularity": True, "inverse-popularity+dial": True,
    }  # fmt: skip
    dials = both.filter(metric="dial")
    assert set(dials["selection"]) == {"valid+dial", "inverse-popularity+dial"}
    assert dials.filter(method="mostpop")["value"].to_list() == [0, 0]
    assert (dials.filter(pl.col("method").is_in(["ease", "mf"]))["value"] != 0).any()


def test_lines_of_progress(planned):
    _, units, store = planned(**{"search.trials": 1})
    stream = io.StringIO()
    run(units, store, Inline(fails_on("mostpop")), PlainReporter("bench", stream))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "bench: 5 tasks, 0 of them done before"
    assert len(lines) == 6
    assert [line.partition("  ")[0] for line in lines[1:]] == [f"bench: {n}/5" for n in range(1, 6)]
    (failed,) = [line for line in lines if "world mostpop final seed 0  " in line]
    assert failed.endswith("  FAILED: mostpop cannot  time left unknown")
    (done,) = [line for line in lines if "  world mf final seed 1  " in line]
    assert done.endswith(" s  about 0:00 left")
    stream = io.StringIO()
    run(units, store, Inline(), PlainReporter("bench", stream))
    assert stream.getvalue() == "bench: 5 tasks, 5 of them done before\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_asked_to_end_is_no_failure(planned, number):
    """As when a machine shuts down, and asks all processes at once."""

    def ended(task):
        error = OSError()
        error.exitcode = -number
        raise error

    _, units, store = planned()
    with pytest.raises(KeyboardInterrupt):
        run(units, store, Inline(ended))
    assert not list((store.path / "records").iterdir())


# --- processes


ORPHANS = """
import os, signal, sys, time
from cnsdiff.benchmark.workers import LocalWorkers
from cnsdiff.data import load_dataset
from cnsdiff.evaluation import evaluate
from cnsdiff.references import REFERENCES
if __name__ == "__main__":
    with LocalWorkers(1) as workers:
        workers._pool.schedule(sleep, args=[60])
        while not os.path.exists("at work"):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
"""
SLEEP = """
def sleep(seconds):
    import os, time
    open("at work", "w").write(str(os.getpid()))
    time.sleep(seconds)
"""


@pytest.mark.slow
def test_the_processes_end_with_one_that_is_killed(tmp_path):
    (tmp_path / "orphans.py").write_text(SLEEP + ORPHANS)
    done = subprocess.run([sys.executable, "orphans.py"], cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    worker = Path("/proc", (tmp_path / "at work").read_text())
    end = time.monotonic() + 10
    while worker.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not worker.exists()


def test_no_task_no_process(planned, whole):
    grid, units, store = planned("whole")
    with LocalWorkers(2) as workers:
        run(units, store, workers)
    assert_frame_equal(values_of(grid, units, store), whole)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_processes_find_the_same_and_one_that_dies_dies_alone(planned, whole):
    """As do errors of all kinds; the same processes find what they would without."""
    grid, units, store = planned()
    methods = {name: {"reference": "mostpop"} for name in "abcde"}
    other, plain, misfits = planned("misfits", methods=methods)
    misfit = {"b": Deadly, "c": Broken}
    changed = []
    for unit in plain:
        task = unit.trials[0]
        kind = misfit.get(task.method.name, type(task.method))
        method = kind(task.method.name, "mostpop", {})
        changed.append(replace(unit, trials=(replace(task, method=method),)))
    with LocalWorkers(2) as workers:
        run(units, store, workers)
        run(tuple(changed), misfits, workers)
    assert not multiprocessing.active_children()
    assert_frame_equal(values_of(grid, units, store), whole)
    results = collect(other, tuple(changed), misfits)
    assert results.missing == 0
    assert dict(results.failures.select("method", "error").iter_rows()) == {
        "b": "its process died (exit code -9); it may have run out of memory",
        "c": "ZeroDivisionError: nothing",
    }
    values = results.table.pivot(
        "method", index=["selection", "split", "metric"], values="value", aggregate_function=None
    )
    assert values["a"].equals(values["d"]) and values["a"].equals(values["e"])


@pytest.mark.slow
def test_an_interrupt_ends_the_processes(planned, whole):
    grid, units, store = planned()
    with pytest.raises(KeyboardInterrupt), LocalWorkers(1) as workers:
        run(units, store, workers, Impatient())
    assert not multiprocessing.active_children()
    assert len(list((store.path / "records").iterdir())) == 1
    again = Inline()
    run(units, store, again)
    assert_frame_equal(values_of(grid, units, store), whole)
