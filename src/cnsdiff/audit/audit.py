"""An audit from the log to its result: read, divide, train within the budget, judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cnsdiff.audit.budget import Clock
from cnsdiff.audit.external import External, judge_external, read_externals
from cnsdiff.audit.judging import settings_of
from cnsdiff.audit.log import Log, Reading, read_log
from cnsdiff.audit.methods import METHODS, Ease, audit_grid, ease_fits
from cnsdiff.audit.naming import parse_given
from cnsdiff.audit.record import FILE
from cnsdiff.audit.result import Found, shift_result
from cnsdiff.audit.running import forget, run_in_time, spent, tasks_of
from cnsdiff.audit.settings import SCHEMA_VERSION, is_audit, take_up
from cnsdiff.audit.shifts import SHIFTS, LeftOut, Plan, Shift, plan_shifts
from cnsdiff.audit.size import seconds_a_shift, thinned
from cnsdiff.audit.verdicts import verdicts
from cnsdiff.base.errors import ConfigError, InputError
from cnsdiff.base.spelling import parameter
from cnsdiff.base.storage import being_written, locked, remove_whole, write_json, write_with
from cnsdiff.benchmark.plan import plan
from cnsdiff.benchmark.progress import Reporter
from cnsdiff.benchmark.store import Store
from cnsdiff.benchmark.task import Task
from cnsdiff.benchmark.workers import LocalWorkers, ThisProcess, Workers, cores
from cnsdiff.data import Dataset, load_dataset
from cnsdiff.display.wording import duration
from cnsdiff.export.dataset_tables import pairs_of
from cnsdiff.kernels.memory import free_memory
from cnsdiff.shifts import prepare

#: Seconds kept for the numbers and the report, and as many for each shift (and 100,000 pairs).
_RESERVE, _RESERVE_A_SHIFT = 2.0, 1.0
#: Splits that a system of the user's own may be trained on.
FOR_TRAINING = ("train", "valid")


@dataclass(frozen=True)
class Options:
    """What is asked for.

    Attributes
    ----------
    reading
        The log and how it is read.
    out
        Where all of it is kept.
    budget
        In seconds, from the start to the report.
    shifts
        Their names; by default all that the columns allow.
    recommendations, embeddings
        ``FILE``, ``NAME=FILE``, ``SHIFT=FILE`` or ``NAME:SHIFT=FILE``, each.
    list_columns
        Columns of recommendations by role, see :func:`~cnsdiff.audit.lists.read_lists`.
    max_pairs
        Positive pairs to use at most, of users drawn at random; 0 uses all, ``None`` as many as
        the budget is enough for.
    metric
        Recall or NDCG at a cut-off of :data:`~cnsdiff.audit.methods.KS`.
    seed
        The one seed.
    workers, threads
        Processes at once; CPU threads of all of them.
    overwrite
        Start anew where an audit is.
    """

    reading: Reading
    out: Path
    budget: float
    shifts: Sequence[str] = ()
    recommendations: Sequence[str] = ()
    embeddings: Sequence[str] = ()
    list_columns: Mapping[str, str | None] = field(default_factory=dict)
    max_pairs: int | None = None
    metric: str = "ndcg@20"
    seed: int = 0
    workers: int = 1
    threads: int | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Prepared:
    """The splits of an audit.

    Attributes
    ----------
    paths
        The dataset of each shift.
    log
        As it was read.
    plan
        Which shifts are there, and which are not.
    before
        Budget of the run that this one goes on with, or ``None``.
    """

    paths: Mapping[str, Path]
    log: Log
    plan: Plan
    before: float | None


Note = Callable[[str], None]


def prepare_splits(options: Options, note: Note) -> Prepared:
    """Read the log and divide it by every shift that its columns allow.

    Of each shift there are then ``OUT/SHIFT/dataset``, and ``train.csv`` and ``valid.csv`` beside
    it under the log's own ids, for a system of the user's own to be trained on.

    Raises
    ------
    InputError
        The log cannot be read, or no shift can be made from it.
    RunError
        ``out`` holds something else.
    """
    if options.overwrite:
        require_replaceable(options.out)
    log = read_log(options.reading)
    table = log.interactions
    note(f"read {len(table):,} rows: {table.n_users:,} users, {table.n_items:,} items")
    n_shifts = len(options.shifts) or len(plan_shifts(log, len(SHIFTS)).shifts)
    log = thinned(log, options.budget, n_shifts, seed=options.seed, most=options.max_pairs)
    for sentence in log.notes:
        note(sentence)
    needed = seconds_a_shift(log.interactions.positives(log.threshold))
    planned = plan_shifts(log, int(options.budget // needed), options.shifts)
    if options.overwrite:  # not before all that is given has been read
        clear(options.out)
    before = take_up(options.out, _identity(options, log), options.budget)
    paths: dict[str, Path] = {}
    left_out = list(planned.left_out)
    first: InputError | None = None
    for shift in planned.shifts:
        path = options.out / shift.name / "dataset"
        try:
            if not path.exists():
                _make(shift, log, options).save(path)
            dataset = load_dataset(path)
            _require_tests(dataset)
        except InputError as error:
            if options.shifts:
                raise
            first = first or error
            left_out.append(LeftOut(shift.name, f"cannot be made from this log: {error}"))
            continue
        _write_for_training(dataset, path.parent)
        paths[shift.name] = path
    if not paths:
        raise first or ConfigError("there is no shift to measure")
    for one in left_out:
        note(f"{one.name} left out: {one.reason}")
    made = tuple(shift for shift in planned.shifts if shift.name in paths)
    return Prepared(paths, log, Plan(made, tuple(left_out)), before)


def _identity(options: Options, log: Log) -> dict[str, Any]:
    reading = options.reading
    usual = Reading(reading.log)
    # Only what differs from the default, so that audits made before an option was there go on.
    how = {
        name: getattr(reading, name)
        for name in ("format", "header", "delimiter", "skip_bad", "time_unit", "literal_ids")
        if getattr(reading, name) != getattr(usual, name)
    }
    return {
        **how,
        "log": reading.log,
        "checksum": log.checksum,
        "columns": dict(reading.columns),
        "threshold": log.threshold,
        "user_core": reading.user_core,
        "item_core": reading.item_core,
        "users_drawn": log.n_drawn,
        "metric": options.metric,
        "seed": options.seed,
    }


def _make(shift: Shift, log: Log, options: Options) -> Dataset:
    source = replace(log.source, name=f"{log.source.name}-{shift.name}")
    reading = options.reading
    return prepare(
        source,
        shift.name,
        name=source.name,
        seed=options.seed,
        threshold=log.threshold,
        user_core=reading.user_core,
        item_core=reading.item_core,
        **shift.settings,
    )


def _require_tests(dataset: Dataset) -> None:
    for name in ("valid", "test_iid", "test_ood"):
        if name not in dataset.manifest.splits:
            raise InputError(f"its {name} split is empty; give a larger log")


def _write_for_training(dataset: Dataset, folder: Path) -> None:
    for split in FOR_TRAINING:
        file = folder / f"{split}.csv"
        if not file.exists():
            table = pairs_of(dataset, split)
            write_with(file, lambda place, table=table: table.write_csv(place))  # type: ignore[misc]


def run_audit(
    options: Options,
    *,
    reporter: Reporter | None = None,
    note: Note = lambda message: None,
    started: float | None = None,
) -> dict[str, Any]:
    """Audit a log; the result is in ``OUT/audit.json`` too.

    Parameters
    ----------
    options
        What is asked for.
    reporter
        Told of the trainings.
    note
        Told, in a line each, what was found on the way.
    started
        When the budget began, by :func:`time.monotonic`; now by default.

    Raises
    ------
    InputError
        The log, a file beside it or an option is wrong; nothing is trained then.
    """
    started = time.monotonic() if started is None else started
    externals = read_externals(
        parse_given(options.recommendations, "recommendations"),
        parse_given(options.embeddings, "embeddings"),
        options.list_columns,
    )
    prepared = prepare_splits(options, note)
    shifts = prepared.plan.shifts
    datasets = {name: load_dataset(path) for name, path in prepared.paths.items()}
    ease = _ease(datasets, options.budget)
    if ease.reason:
        note(ease.reason)
    grid = audit_grid(
        shifts, prepared.paths, ease=ease.fits, seed=options.seed, metric=options.metric
    )
    store = Store(options.out / "benchmark")
    store.open(grid)
    threads = max((options.threads or cores()) // options.workers, 1)
    tasks = tasks_of(plan(grid, dict(prepared.paths), threads=threads))
    with store.writing(), _workers(options.workers) as workers:
        if prepared.before is not None:
            longer = options.budget > prepared.before
            again = forget(tasks, store, cut_short=longer)
            if again:
                note(f"{again} trainings that were cut short or failed begin again")
        clock = Clock(
            options.budget,
            spent=spent(tasks, store),
            reserve=_reserve(datasets),
            started=started,
        )
        ran = run_in_time(
            tasks, store, workers, clock, n_workers=options.workers, reporter=reporter
        )
    note("judging")
    results = []
    for shift in shifts:
        own = [task for task in tasks if task.dataset == shift.name]
        left_out = [task.method.name for task in ran.left_out if task.dataset == shift.name]
        results.append(
            _of_shift(
                shift, datasets[shift.name], own, left_out, store, externals, options, prepared
            )
        )
    result = _result(options, prepared, ease, results, tasks, store, time.monotonic() - started)
    write_json(options.out / FILE, result)
    return result


def _of_shift(
    shift: Shift,
    dataset: Dataset,
    tasks: Sequence[Task],
    left_out: Sequence[str],
    store: Store,
    externals: Sequence[External],
    options: Options,
    prepared: Prepared,
) -> dict[str, Any]:
    outside = [
        judge_external(
            external,
            dataset,
            shift.name,
            shift.anticipate,
            shift.training,
            options.metric,
            seed=options.seed,
        )
        for external in externals
    ]
    found = Found(
        shift,
        dataset,
        tuple(settings_of(tasks, store)),
        tuple(one for one in outside if one),
        tuple(left_out),
    )
    stem = f"{prepared.log.source.name}-{shift.name}"
    return shift_result(
        found,
        reading=options.reading,
        log=prepared.log,
        metric=options.metric,
        seed=options.seed,
        names={"data": Path("data") / stem, "run": Path("runs") / stem},
    )


def _result(
    options: Options,
    prepared: Prepared,
    ease: Ease,
    results: Sequence[Mapping[str, Any]],
    tasks: Sequence[Task],
    store: Store,
    seconds: float,
) -> dict[str, Any]:
    log, table = prepared.log, prepared.log.interactions
    failures = [
        {"shift": task.dataset, "method": task.method.name, "error": str(record["error"][0])}
        for task in tasks
        if (record := store.read(task)) is not None and record["status"][0] == "failed"
    ]
    first, *more = verdicts(options.metric, results)
    return {
        "schema_version": SCHEMA_VERSION,
        "created_by": f"cnsdiff {version('cnsdiff')}",
        "name": log.source.name,
        "verdict": first,
        "more_verdicts": more,
        "log": {
            "source": Path(options.reading.log).name,
            "checksum": log.checksum,
            "rows": len(table),
            "users": table.n_users,
            "items": table.n_items,
            "columns": log.columns,
            "threshold": log.threshold,
            "notes": list(log.notes),
            "problems": [problem.to_dict() for problem in log.interactions.problems],
        },
        "metric": options.metric,
        "masked": "train",
        "seed": options.seed,
        "budget": {"seconds": options.budget, "words": duration(options.budget), "used": seconds},
        "methods": {
            name: {"title": kind.title, "about": kind.about} for name, kind in METHODS.items()
        },
        "shifts": list(results),
        "left_out": [{"name": one.name, "reason": one.reason} for one in prepared.plan.left_out],
        "failures": failures,
        "notes": [ease.reason] if ease.reason else [],
    }


def _reserve(datasets: Mapping[str, Dataset]) -> float:
    """Seconds for the numbers and the report."""
    shares = [
        max(1.0, dataset.manifest.splits["train"].rows / 100_000) for dataset in datasets.values()
    ]
    return _RESERVE + _RESERVE_A_SHIFT * sum(shares)


def _ease(datasets: Mapping[str, Dataset], budget: float) -> Ease:
    """Whether EASE fits under every shift, in a sixth of each shift's time."""
    largest = max(dataset.n_items for dataset in datasets.values())
    return ease_fits(largest, budget / len(datasets) / 6, free_memory())


def _workers(n: int) -> Workers:
    return ThisProcess() if n == 1 else LocalWorkers(n)


def require_replaceable(out: Path) -> None:
    """:class:`InputError` if a directory holds something that is no audit."""
    if out.exists() and not is_audit(out) and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: holds no audit, so {parameter('overwrite')} does not remove it")


def clear(out: Path) -> None:
    """Remove an audit, so that another can take its place; anything else is left alone.

    Raises
    ------
    InputError
        The directory holds something that is no audit.
    RunError
        An audit is running there.
    """
    require_replaceable(out)
    store = out / "benchmark"
    with locked(store, being_written(out)) if store.is_dir() else nullcontext():
        remove_whole(out)
