"""A small grid, workers in this process, and methods that misbehave in another."""

from __future__ import annotations

import copy
import os
import signal
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NoReturn

import polars as pl

from cnsdiff.benchmark.findings import Results, collect
from cnsdiff.benchmark.grid import Grid
from cnsdiff.benchmark.store import Store
from cnsdiff.benchmark.task import Method, Outcome, Task, run_task
from cnsdiff.benchmark.workers import Workers

#: One dataset, a reference without a seed, one with, and a model; two objectives, a search.
SMALL: dict[str, Any] = {
    "name": "small",
    "datasets": {"world": {"anticipate": "inverse-popularity"}},
    "methods": {
        "mostpop": {"reference": "mostpop", "group": "reference"},
        "chance": {"reference": "random", "group": "reference"},
        "mf": {"group": "sampler"},
    },
    "seeds": [0, 1],
    "budget": {"epochs": 3},
    "search": {"trials": 3},
    "search_space": {"training.lr": {"low": 0.001, "high": 0.1, "log": True}},
    "set": {
        "backbone": {"name": "mf", "dim": 4},
        "sampler": {"name": "random"},
        "training": {"batch_size": 128, "fhn_every": None},
    },
}


def small_grid(path: Path, **changes: Any) -> Grid:
    """:data:`SMALL` on the dataset at ``path``, with what is put at places written with dots."""
    tree = copy.deepcopy(SMALL)
    for place, value in {"datasets.world.path": str(path), **copy.deepcopy(changes)}.items():
        *sections, leaf = place.split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[leaf] = value
    return Grid.model_validate(tree)


class Inline(Workers):
    """Runs each task at once, here; ``run`` stands for what the process would do."""

    def __init__(self, run: Any = run_task) -> None:
        self.run = run
        self.tasks: list[Task] = []

    def submit(self, task: Task) -> Future[Outcome]:
        self.tasks.append(task)
        future: Future[Outcome] = Future()
        try:
            future.set_result(self.run(task))
        except BaseException as error:
            future.set_exception(error)
        return future

    def __exit__(self, *error: object) -> None:
        return None


#: What differs between two runs of the same task.
TIMES = ("seconds", "machine", "threads")


def values_of(grid: Grid, units: Any, store: Store) -> pl.DataFrame:
    """All that was found and must not depend on where, when and in which order."""
    results: Results = collect(grid, units, store)
    assert results.missing == 0
    return results.table.drop(*TIMES).sort("key", "selection", "split", "metric")


class Deadly(Method):
    """A method whose process is killed while it is fitted."""

    def build_reference(self, seed: int, threads: int | None = None) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Broken(Method):
    """A method that fails with an error that is nobody's in particular."""

    def build_reference(self, seed: int, threads: int | None = None) -> NoReturn:
        raise ZeroDivisionError("nothing\nto divide by")
