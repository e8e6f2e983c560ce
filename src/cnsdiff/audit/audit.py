"""An audit from the log to its result: read, divide, train within the budget, judge."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from cnsdiff.audit.advice import reading_options, train_command
from cnsdiff.audit.content import SHARE, win_back
from cnsdiff.audit.external import judge_external, parse_names, read_externals
from cnsdiff.audit.findings import new_items_record, shift_record, with_won_back
from cnsdiff.audit.judging import Setting, choose, settings_of
from cnsdiff.audit.people import kept_people
from cnsdiff.audit.record import (
    FILE,
    AuditRecord,
    BudgetRecord,
    Failure,
    LogRecord,
    MethodRecord,
    NewItemsRecord,
    ShiftRecord,
)
from cnsdiff.audit.splits import Note, Options, Prepared, prepare_splits
from cnsdiff.audit.training import (
    METHODS,
    Clock,
    audit_grid,
    ease_left_out,
    forget,
    run_in_time,
    spent,
    tasks_of,
)
from cnsdiff.audit.wording import verdicts
from cnsdiff.base.storage import write_json
from cnsdiff.benchmark.plan import plan
from cnsdiff.benchmark.progress import Reporter
from cnsdiff.benchmark.store import Store
from cnsdiff.benchmark.task import Task
from cnsdiff.benchmark.workers import LocalWorkers, ThisProcess, cores
from cnsdiff.data import Dataset, load_dataset
from cnsdiff.display.wording import duration
from cnsdiff.kernels.memory import free_memory

#: Seconds kept for the numbers and the report, and as many for each shift (and 100,000 pairs).
_RESERVE, _RESERVE_A_SHIFT = 4.0, 1.5


def run_audit(
    options: Options,
    *,
    reporter: Reporter | None = None,
    note: Note = lambda message: None,
    started: float | None = None,
) -> AuditRecord:
    """Audit a log; the result is in ``OUT/audit.json`` too.

    Parameters
    ----------
    options
        The log, and what is to be done with it.
    reporter
        Told of the trainings.
    note
        Told, in a line each, what was noticed on the way.
    started
        When the budget began, by :func:`time.monotonic`; now by default.

    Raises
    ------
    InputError
        The log, a file beside it or an option is wrong; nothing is trained then.
    """
    started = time.monotonic() if started is None else started
    # Read all files and make all splits before anything is trained.
    externals = read_externals(
        parse_names(options.recommendations, "recommendations"),
        parse_names(options.embeddings, "embeddings"),
        options.list_columns,
    )
    prepared = prepare_splits(options, note)
    datasets = {name: load_dataset(path) for name, path in prepared.paths.items()}
    # A fit of EASE may take a sixth of a shift's time.
    largest = max(dataset.n_items for dataset in datasets.values())
    without_ease = ease_left_out(largest, options.budget / len(datasets) / 6, free_memory())
    if without_ease:
        note(without_ease)
    grid = audit_grid(
        prepared.shifts,
        prepared.paths,
        ease=without_ease is None,
        seed=options.seed,
        metric=options.metric,
        times="timestamp" in prepared.log.interactions.frame.columns,
    )
    store = Store(options.out / "benchmark")
    store.open(grid)
    # Train what the store does not have yet.
    threads = max((options.threads or cores()) // options.workers, 1)
    people = {name: kept_people(dataset, options.seed) for name, dataset in datasets.items()}
    tasks = tasks_of(plan(grid, dict(prepared.paths), threads=threads), people)
    workers = ThisProcess() if options.workers == 1 else LocalWorkers(options.workers)
    with store.writing(), workers:
        if prepared.before is not None:
            again = forget(tasks, store, cut_short=options.budget > prepared.before)
            if again:
                note(f"{again} trainings that were cut short or failed begin again")
        # Content is measured where the split in time has new items that something is known of.
        for_content = 0.0
        if "temporal" in datasets and datasets["temporal"].n_new_items:
            for_content = SHARE * options.budget
        clock = Clock(
            options.budget,
            spent=spent(tasks, store),
            reserve=_reserve(datasets) + for_content,
            started=started,
        )
        left_out = run_in_time(
            tasks, store, workers, clock, n_workers=options.workers, reporter=reporter
        )
    # Judge, one shift after another: no test was read until here.
    note("judging")
    shifts: list[ShiftRecord] = []
    settings: dict[str, list[Setting]] = {}
    for shift in prepared.shifts:
        dataset = datasets[shift.name]
        outside = [
            judge_external(external, dataset, shift, options.metric, seed=options.seed)
            for external in externals
        ]
        stem = f"{prepared.log.source.name}-{shift.name}"
        own = [task for task in tasks if task.dataset == shift.name]
        settings[shift.name] = settings_of(own, store)
        record = shift_record(
            shift,
            dataset,
            settings[shift.name],
            [judged for judged in outside if judged is not None],
            list(
                dict.fromkeys(task.method.name for task in left_out if task.dataset == shift.name)
            ),
            reading=options.reading,
            log=prepared.log,
            metric=options.metric,
            seed=options.seed,
            run=Path("runs") / stem,
            drift=next((made.size for made in shifts if made.name == "temporal"), None),
        )
        shifts.append(record)
    new_items = None
    if "temporal" in datasets:
        cut = float(str(datasets["temporal"].manifest.log["cut"]))
        new_items = new_items_record(prepared.log, options.reading, cut)
        if new_items is not None and for_content:
            new_items = _content_won(
                new_items, options, prepared, datasets["temporal"], tasks, settings["temporal"],
                max(clock.left, 0.0) + for_content, note,
            )  # fmt: skip
    result = _record(
        options,
        prepared,
        shifts,
        new_items,
        _failures(tasks, store),
        [without_ease] if without_ease else [],
        time.monotonic() - started,
    )
    write_json(options.out / FILE, result.model_dump(mode="json"))
    return result


def _content_won(
    record: NewItemsRecord,
    options: Options,
    prepared: Prepared,
    dataset: Dataset,
    tasks: Sequence[Task],
    settings: Sequence[Setting],
    seconds: float,
    note: Note,
) -> NewItemsRecord:
    """What the setting that is chosen for the shift in time wins back with content."""
    shift = next(shift for shift in prepared.shifts if shift.name == dataset.scenario)
    chosen = choose(settings, shift.anticipate).trained if settings else None
    if chosen is None:
        words = "What that wins back was not measured, as nothing was trained that learns from it."
        return record.model_copy(update={"words": f"{record.words} {words}"})
    task = next(
        task for task in tasks if (task.dataset, task.method.name) == (shift.name, chosen.method)
    )
    note("measuring what features of new items win back")
    folder = options.out / "content"
    found = win_back(chosen, task, dataset, options.metric, folder=folder, seconds=seconds)
    command = train_command(
        chosen.method,
        chosen.selection,
        shift,
        options.reading.log,
        Path("runs") / f"{prepared.log.source.name}-content",
        options.metric,
        options.seed,
        reading_options(options.reading, prepared.log),
        content="auto",
    )
    return with_won_back(record, found, chosen, options.metric, command)


def _reserve(datasets: Mapping[str, Dataset]) -> float:
    """Seconds for the numbers and the report."""
    pairs = [dataset.manifest.splits["train"].rows for dataset in datasets.values()]
    return _RESERVE + _RESERVE_A_SHIFT * sum(max(1.0, n / 100_000) for n in pairs)


def _failures(tasks: list[Task], store: Store) -> list[Failure]:
    return [
        Failure(method=task.method.name, shift=task.dataset, error=str(record["error"][0]))
        for task in tasks
        if (record := store.read(task)) is not None and record["status"][0] == "failed"
    ]


def _record(
    options: Options,
    prepared: Prepared,
    shifts: list[ShiftRecord],
    new_items: NewItemsRecord | None,
    failures: list[Failure],
    notes: list[str],
    seconds: float,
) -> AuditRecord:
    log, table = prepared.log, prepared.log.interactions
    verdict, *more = verdicts(options.metric, shifts)
    return AuditRecord(
        created_by=f"cnsdiff {version('cnsdiff')}",
        name=log.source.name,
        verdict=verdict,
        more_verdicts=more,
        log=LogRecord(
            source=Path(options.reading.log).name,
            checksum=log.checksum,
            rows=len(table),
            users=table.n_users,
            items=table.n_items,
            columns=log.columns,
            threshold=log.threshold,
            notes=list(log.notes),
            problems=[asdict(problem) for problem in table.problems],
            funnel=list(prepared.funnel),
        ),
        metric=options.metric,
        seed=options.seed,
        budget=BudgetRecord(seconds=options.budget, words=duration(options.budget), used=seconds),
        methods={
            name: MethodRecord(title=method.title, about=method.about)
            for name, method in METHODS.items()
        },
        shifts=shifts,
        new_items=new_items,
        left_out=list(prepared.left_out),
        failures=failures,
        notes=notes,
    )
