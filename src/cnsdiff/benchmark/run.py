"""Running a benchmark: tasks go to the workers, what they find into the store."""

from __future__ import annotations

import signal
from concurrent.futures import FIRST_COMPLETED, Future, wait

import polars as pl

from cnsdiff.base.errors import CnsdiffError, reason
from cnsdiff.benchmark.plan import Unit
from cnsdiff.benchmark.progress import Cell, Reporter
from cnsdiff.benchmark.store import Store
from cnsdiff.benchmark.task import Outcome, Task
from cnsdiff.benchmark.workers import Workers

#: Seconds after which it is asked again which tasks are under way.
_ASKED = 0.5
#: Exit codes of a process that was politely ended: no failure of its task.
_ENDED = {-getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)}


def run(
    units: tuple[Unit, ...],
    store: Store,
    workers: Workers,
    reporter: Reporter | None = None,
    *,
    retry_failed: bool = False,
) -> None:
    """Run all tasks that the store does not have yet.

    A task that fails is recorded as failed, and the rest goes on.

    Parameters
    ----------
    units
        See :func:`cnsdiff.benchmark.plan.plan`.
    store
        Opened.
    workers
        Entered.
    reporter
        Told of progress; silent by default.
    retry_failed
        Run the tasks again that failed before.
    """
    reporter = reporter or Reporter()
    if retry_failed:
        _forget_failures(units, store)
    total = sum(len(u.trials) * u.searches + u.most_finals for u in units)
    pending: dict[Future[Outcome], tuple[Task, Unit]] = {}
    waiting: set[int] = set()  # units whose trials are under way, by identity
    known = unneeded = 0

    def submit(tasks: list[Task], unit: Unit) -> None:
        for task in tasks:
            pending[workers.submit(task)] = (task, unit)

    first: list[tuple[list[Task], Unit]] = []
    for unit in units:
        trials = [t for t in unit.trials if unit.searches and store.status(t) is None]
        known += len(unit.trials) * unit.searches - len(trials)
        finals = unit.finals(store)
        if finals is None:
            waiting.add(id(unit))
            first.append((trials, unit))
            continue
        left = [task for task in finals if store.status(task) is None]
        known, unneeded = known + len(finals) - len(left), unneeded + unit.most_finals - len(finals)
        first.append((left, unit))
    with reporter:
        reporter.begin(total - unneeded, known)
        for unit in units:
            reporter.cell(_cell(unit, store))
        for tasks, unit in first:
            submit(tasks, unit)
        while pending:
            reporter.running([task for future, (task, _) in pending.items() if future.running()])
            for future in wait(pending, _ASKED, FIRST_COMPLETED).done:
                task, unit = pending.pop(future)
                settle(task, future, store, reporter)
                if id(unit) in waiting and (finals := unit.finals(store)) is not None:
                    waiting.discard(id(unit))
                    reporter.fewer(unit.most_finals - len(finals))
                    left = [task for task in finals if store.status(task) is None]
                    submit(left, unit)
                reporter.cell(_cell(unit, store))


def _cell(unit: Unit, store: Store) -> Cell:
    """How far a unit is, and the best that its search has seen on validation."""
    task, finals = unit.trials[0], unit.finals(store)
    trials = list(unit.trials) if unit.searches else []
    records = store.records(trials + (finals or []))
    status = dict(records.select("key", "status").iter_rows())
    found = records.filter(
        pl.col("metric").str.ends_with("(selected)"),
        pl.col("value").is_finite(),
        split="valid",
        selection=unit.selections[0],
    )["value"]
    return Cell(
        dataset=task.dataset,
        method=task.method.name,
        total=len(trials) + (unit.most_finals if finals is None else len(finals)),
        done=len(status),
        failed=sum(value == "failed" for value in status.values()),
        value=float(found.max()) if len(found) else None,  # type: ignore[arg-type]
        metric=task.metric,
    )


def settle(task: Task, future: Future[Outcome], store: Store, reporter: Reporter) -> None:
    """Keep what a task that has ended found, or why it failed; Ctrl-C is raised again."""
    error = future.exception()
    if error is None:
        outcome = future.result()
        store.add(task, outcome)
        reporter.done(task, float(outcome.rows["seconds"][0]), None)
    elif isinstance(error, KeyboardInterrupt):
        raise error
    elif getattr(error, "exitcode", None) in _ENDED:  # all are, as when a machine shuts down
        raise KeyboardInterrupt from error
    else:
        sentence = _sentence(error)
        store.add_failure(task, sentence)
        reporter.done(task, None, sentence)


def _sentence(error: BaseException) -> str:
    # Ray hands over an error of the task inside one of its own.
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, CnsdiffError):
        return reason(cause)
    if hasattr(error, "exitcode") or type(error).__name__ == "WorkerCrashedError":
        code = getattr(error, "exitcode", "unknown")
        return f"its process died (exit code {code}); it may have run out of memory"
    return reason(cause)


def _forget_failures(units: tuple[Unit, ...], store: Store) -> None:
    for unit in units:
        tasks = [*unit.trials, *(unit.finals(store) or [])]
        for task in tasks:
            if store.status(task) == "failed":
                store.forget(task)
