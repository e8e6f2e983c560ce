"""Running a benchmark: tasks go to the workers, what they find into the store."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace

import polars as pl

from cnsdiff.base.errors import CnsdiffError, ConfigError, reason
from cnsdiff.benchmark.plan import Unit
from cnsdiff.benchmark.progress import Cell, Forecast, Kind, Reporter, describe, kind_of
from cnsdiff.benchmark.store import Store
from cnsdiff.benchmark.task import Outcome, Task
from cnsdiff.benchmark.workers import Workers
from cnsdiff.display.wording import count

#: Seconds after which the tasks under way are looked at again.
_PAUSE = 0.5
#: Exit codes of a process that was politely ended: no failure of its task.
_ENDED = {-getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)}


def run(
    units: tuple[Unit, ...],
    store: Store,
    workers: Workers,
    reporter: Reporter | None = None,
    *,
    retry_failed: bool = False,
    keep_weights: bool = False,
) -> None:
    """Run all tasks that the store does not have yet.

    A task that fails is recorded as failed, and the rest goes on; if it had a result, that stays.

    Parameters
    ----------
    units
        See :func:`cnsdiff.benchmark.plan.plan`.
    store
        An open store.
    workers
        Workers, inside their ``with`` block.
    reporter
        Told of progress; silent by default.
    retry_failed
        Run the tasks again that failed before.
    keep_weights
        Keep the models of the finals. Finals that are done without theirs run again.
    """
    reporter = reporter or Reporter()
    if retry_failed:
        for task in (t for unit in units for t in [*unit.trials, *(unit.finals(store) or [])]):
            if store.status(task) == "failed":
                store.forget(task)
    if keep_weights:
        store.weights.mkdir(exist_ok=True)
    bare = bare_finals(units, store) if keep_weights else []
    again = {task.key for task in bare}

    def lacks(task: Task) -> bool:
        return store.status(task) is None or task.key in again

    def submitted(task: Task, unit: Unit) -> Future[Outcome]:
        keeps = keep_weights and task.kind == "final" and unkept(unit) is None
        weights = str(store.weights.resolve()) if keeps else None
        return workers.submit(replace(task, weights=weights))

    # What the store lacks: the finals of a unit, or its trials while these are not all there.
    waiting: set[int] = set()  # units whose trials are under way, by identity
    lacking: list[tuple[list[Task], Unit]] = []
    total = known = 0
    for unit in units:
        trials, finals = list(unit.trials) if unit.searches else [], unit.finals(store)
        if finals is None:
            waiting.add(id(unit))
        tasks = trials + (finals or [])
        lacking.append(([task for task in tasks if lacks(task)], unit))
        known += len(tasks) - len(lacking[-1][0])
        total += len(trials) + (unit.most_finals if finals is None else len(finals))
    pending: dict[Future[Outcome], tuple[Task, Unit]] = {}
    # How many tasks of each kind are still to be done, finals that may be needed included.
    forecast, to_do = Forecast(), Counter(kind_of(task) for tasks, _ in lacking for task in tasks)
    for unit in units:
        if id(unit) in waiting:
            to_do[_final_kind(unit)] += unit.most_finals
        for task in [*unit.trials, *(unit.finals(store) or [])]:
            record = store.read(task)
            if record is not None and record["status"][0] == "ok":
                forecast.ended(task, float(record["seconds"][0]))
    with reporter:
        reporter.begin(total, known)
        for note in _notes_on_weights(units, store, bare) if keep_weights else ():
            reporter.note(note)
        for unit in units:
            reporter.cell(_cell(unit, store))
        for tasks, unit in lacking:
            pending |= {submitted(task, unit): (task, unit) for task in tasks}
        n_at_once = 1
        while pending:
            in_hand = [task for future, (task, _) in pending.items() if future.running()]
            n_at_once = max(n_at_once, len(in_hand))
            reporter.running(in_hand)
            ended = wait(pending, _PAUSE, FIRST_COMPLETED).done
            for future in [future for future in pending if future in ended]:  # a set has no order
                task, unit = pending.pop(future)
                to_do[kind_of(task)] -= 1
                if future.exception() is None:
                    forecast.ended(task, float(future.result().rows["seconds"][0]))
                reporter.left(forecast.left(to_do, min(n_at_once, len(pending)) or 1))
                settle(task, future, store, reporter)
                # The last trial of a unit decides which finals it has.
                if id(unit) in waiting and (finals := unit.finals(store)) is not None:
                    waiting.discard(id(unit))
                    reporter.fewer(unit.most_finals - len(finals))
                    to_do[_final_kind(unit)] -= unit.most_finals - len(finals)
                    left = [task for task in finals if lacks(task)]
                    pending |= {submitted(task, unit): (task, unit) for task in left}
                reporter.cell(_cell(unit, store))


def unkept(unit: Unit) -> str | None:
    """Why the models of a unit cannot be kept; ``None`` if they can."""
    task = unit.trials[0]
    try:
        task.method.config_of_run(task.settings, task.seed)
    except ConfigError as error:
        return str(error)
    return None


def bare_finals(units: Sequence[Unit], store: Store) -> list[Task]:
    """The finals that are done, but whose models could be kept and are not."""
    return [
        task
        for unit in units
        if unkept(unit) is None
        for task in unit.finals(store) or ()
        if store.status(task) == "ok" and not store.has_models(task)
    ]


def _notes_on_weights(units: Sequence[Unit], store: Store, bare: Sequence[Task]) -> list[str]:
    """Whose models are not kept, and what runs again for the sake of its own."""
    notes = list(dict.fromkeys(why for unit in units if (why := unkept(unit)) is not None))
    if bare:
        notes.append(f"{count(len(bare), 'final')} done without weights, run again to keep them")
    ended = sum((store.records([task])["stopped_by"] == "time").any() for task in bare)
    if ended:
        notes.append(
            f"{ended} of these were ended by the clock: where another epoch is reached now, the "
            "result is replaced"
        )
    return notes


def _final_kind(unit: Unit) -> Kind:
    return kind_of(replace(unit.trials[0], kind="final"))


def _cell(unit: Unit, store: Store) -> Cell:
    """The progress of a unit, and the best validation of its search."""
    task, finals = unit.trials[0], unit.finals(store)
    trials = list(unit.trials) if unit.searches else []
    records = store.records(trials + (finals or []))
    status = dict(records.select("key", "status").iter_rows())
    values = records.filter(
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
        value=float(values.max()) if len(values) else None,  # type: ignore[arg-type]
        metric=task.metric,
    )


def settle(task: Task, future: Future[Outcome], store: Store, reporter: Reporter) -> None:
    """Store the outcome of a task that has ended, or why it failed; Ctrl-C is raised again."""
    error = future.exception()
    if error is None:
        outcome = future.result()
        if store.add(task, outcome):
            reporter.note(f"{describe(task)}: came to another result than before, now replaced")
        reporter.done(task, float(outcome.rows["seconds"][0]), None)
    elif isinstance(error, KeyboardInterrupt):
        raise error
    elif getattr(error, "exitcode", None) in _ENDED:  # all are, as when a machine shuts down
        raise KeyboardInterrupt from error
    else:
        # Ray hands over an error of the task inside one of its own.
        sentence = reason(getattr(error, "cause", None) or error)
        died = hasattr(error, "exitcode") or type(error).__name__ == "WorkerCrashedError"
        if died and not isinstance(getattr(error, "cause", None), CnsdiffError):
            code = getattr(error, "exitcode", "unknown")
            sentence = f"its process died (exit code {code}); it may have run out of memory"
        if store.status(task) != "ok":  # else it ran again for its models alone
            store.add_failure(task, sentence)
        reporter.done(task, None, sentence)
