"""Running the trainings of an audit one after another, each with its share of the time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace

from cnsdiff.audit.budget import Clock
from cnsdiff.benchmark.plan import Unit
from cnsdiff.benchmark.progress import Reporter
from cnsdiff.benchmark.run import settle
from cnsdiff.benchmark.store import Store
from cnsdiff.benchmark.task import Outcome, Task
from cnsdiff.benchmark.workers import Workers


def tasks_of(units: Sequence[Unit]) -> list[Task]:
    """What is to be run: references of all shifts first, then the trainings, shift by shift."""
    tasks = [
        replace(unit.trials[0], kind="final", seed=seed, selections=unit.selections)
        for unit in units
        for seed in unit.seeds
    ]
    return sorted(tasks, key=lambda task: task.method.reference is None)


def spent(tasks: Sequence[Task], store: Store) -> float:
    """Seconds of what the store has of these tasks already."""
    records = store.records(tasks)
    return float(records.unique("key")["seconds"].sum())


def forget(tasks: Sequence[Task], store: Store, *, cut_short: bool) -> int:
    """Remove what failed, and with ``cut_short`` what the clock ended, and say how many."""
    again = 0
    for task in tasks:
        record = store.read(task)
        if record is not None and (
            record["status"][0] == "failed" or (cut_short and record["stopped_by"][0] == "time")
        ):
            store.forget(task)
            again += 1
    return again


@dataclass(frozen=True)
class Ran:
    """What became of the tasks.

    Attributes
    ----------
    left_out
        Those that the clock left no time for.
    """

    left_out: tuple[Task, ...]


def run_in_time(
    tasks: Sequence[Task],
    store: Store,
    workers: Workers,
    clock: Clock,
    *,
    n_workers: int = 1,
    reporter: Reporter | None = None,
) -> Ran:
    """Run what the store does not have, references first, and share the time left among the rest.

    References are never left out: they are quick, and without them no number means anything. Each
    training gets what is left over the trainings left; what one does not use goes to the next.

    Parameters
    ----------
    tasks
        In the order in which they run.
    store
        Opened; every result is in it as soon as it is there.
    workers
        Entered.
    clock
        Running.
    n_workers
        How many tasks run at once.
    reporter
        Told of progress.
    """
    reporter = reporter or Reporter()
    queue = [task for task in tasks if store.status(task) is None]
    left_out: list[Task] = []
    pending: dict[Future[Outcome], tuple[Task, float, float]] = {}
    with ExitStack() as stack:
        stack.enter_context(reporter)
        reporter.begin(len(tasks), len(tasks) - len(queue))
        while queue or pending:
            while queue and len(pending) < n_workers:
                task = queue.pop(0)
                trains = task.method.reference is None
                seconds = clock.allot(-(-(len(queue) + 1) // n_workers)) if trains else None
                if trains and seconds is None:
                    left_out.append(task)
                    reporter.fewer(1)
                    continue
                started = time.monotonic()
                # The clock is no part of what a task is: its result is found again without it.
                future = workers.submit(replace(task, seconds=seconds))
                pending[future] = (task, seconds or 0.0, started)
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                task, seconds, started = pending.pop(future)
                settle(task, future, store, reporter)
                record = store.read(task)
                if record is not None and record["stopped_by"][0] == "time":
                    clock.overran(time.monotonic() - started - seconds)
    return Ran(tuple(left_out))
