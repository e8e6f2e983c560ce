"""The directory of an audit: claimed for one log and its settings, with all splits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from cnsdiff.audit.log import Log, Reading, filters_of, read_log, seconds_a_shift, thinned
from cnsdiff.audit.record import FEW_USERS, LeftOut
from cnsdiff.audit.shifts import SHIFTS, Shift, beyond_budget, plan_shifts, too_few
from cnsdiff.base.errors import ConfigError, InputError, RunError
from cnsdiff.base.settings import Record
from cnsdiff.base.storage import (
    being_written,
    locked,
    read_record,
    remove_whole,
    write_json,
    write_with,
)
from cnsdiff.base.text import parameter
from cnsdiff.data import Dataset, load_dataset
from cnsdiff.data.interactions import Step
from cnsdiff.diagnostics.log import funnel_lines
from cnsdiff.display.wording import count
from cnsdiff.export.dataset_tables import pairs_of
from cnsdiff.shifts import prepare

#: What an audit is of, kept beside its results, so that no other is taken for it.
FILE = "settings.json"
SCHEMA_VERSION = 1
#: Splits that a system of the user's own may be trained on.
FOR_TRAINING = ("train", "valid")

Note = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """The settings of an audit.

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
        Recall or NDCG at a cut-off of :data:`~cnsdiff.audit.training.KS`.
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
    log
        As it was read.
    shifts
        Those that are measured.
    paths
        The dataset of each, by name.
    left_out
        The shifts that are not measured.
    before
        Budget of the run that this one goes on with, or ``None``.
    funnel
        From the rows of the log to the pairs that shifts divide.
    """

    log: Log
    shifts: tuple[Shift, ...]
    paths: Mapping[str, Path]
    left_out: tuple[LeftOut, ...]
    before: float | None
    funnel: tuple[Step, ...] = ()


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
    # Read all, and plan what the budget is enough for, before anything is written.
    log = read_log(options.reading)
    table = log.interactions
    note(
        f"read {count(len(table), 'row')}: {count(table.n_users, 'user')}, "
        f"{count(table.n_items, 'item')}"
    )
    n_shifts = len(options.shifts) or len(plan_shifts(log, len(SHIFTS))[0])
    log = thinned(
        log,
        options.budget,
        n_shifts,
        seed=options.seed,
        most=options.max_pairs,
        max_per_user=options.reading.max_per_user,
    )
    for sentence in log.notes:
        note(sentence)
    pairs, _ = filters_of(log, options.reading).clean(log.interactions, core=True)
    for label, rows in funnel_lines(pairs.funnel):
        note(f"{rows:>11,}  {label}")
    needed = seconds_a_shift(pairs)
    most = max(int(options.budget // needed), 1)
    planned, left_out = plan_shifts(log, len(SHIFTS), options.shifts)
    if options.overwrite:
        clear(options.out)
    fresh = not options.out.exists()
    before = take_up(options.out, _identity(options, log), options.budget)
    with _nothing_left(options.out) if fresh else nullcontext():
        # Make the splits of each shift, or find that they are there.
        paths: dict[str, Path] = {}
        few: dict[str, Path] = {}
        failure: InputError | None = None
        for shift in planned:
            if not options.shifts and len(paths) >= most:
                left_out.append(beyond_budget(shift))
                continue
            path = options.out / shift.name / "dataset"
            try:
                if not path.exists():
                    _make(shift, log, options).save(path)
                dataset = load_dataset(path)
                _require_tests(dataset)
            except InputError as error:
                if options.shifts:
                    raise
                failure = failure or error
                reason = f"cannot be made from this log: {error}"
                left_out.append(LeftOut(name=shift.name, reason=reason))
                continue
            _write_for_training(dataset, path.parent)
            n_users = min(dataset.manifest.splits[test].users for test in ("test_iid", "test_ood"))
            if n_users < FEW_USERS and not options.shifts:
                few[shift.name] = path
            else:
                paths[shift.name] = path
        # What too few people are tested under gives way, unless there is nothing else.
        if paths:
            left_out += [too_few(SHIFTS[name], FEW_USERS) for name in few]
        paths = paths or dict(list(few.items())[:most])
        if not paths:
            raise failure or ConfigError("there is no shift to measure")
    for absent in left_out:
        note(f"{absent.name} left out: {absent.reason}")
    shifts = tuple(shift for shift in planned if shift.name in paths)
    return Prepared(log, shifts, paths, tuple(left_out), before, pairs.funnel)


@contextmanager
def _nothing_left(out: Path) -> Iterator[None]:
    """Remove a new audit's directory if its log is refused, so that the mended log finds room."""
    try:
        yield
    except InputError:
        remove_whole(out)
        raise


def _identity(options: Options, log: Log) -> dict[str, object]:
    """All that results depend on, but for time."""
    reading = options.reading
    usual = Reading(reading.log)
    # Only what differs from the default, so that audits made before an option was there go on.
    how = {
        name: getattr(reading, name)
        for name in (
            *("format", "header", "delimiter", "skip_bad", "time_unit", "literal_ids", "events"),
            "max_per_user",
        )
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
    return prepare(
        source,
        shift.name,
        name=source.name,
        seed=options.seed,
        threshold=log.threshold,
        user_core=options.reading.user_core,
        item_core=options.reading.item_core,
        max_per_user=options.reading.max_per_user,
        **shift.settings,
    )


def _require_tests(dataset: Dataset) -> None:
    for name in ("valid", "test_iid", "test_ood"):
        if name not in dataset.manifest.splits or not dataset.manifest.splits[name].rows:
            raise InputError(f"its {name} split is empty; give a larger log")


def _write_for_training(dataset: Dataset, folder: Path) -> None:
    for split in FOR_TRAINING:
        file = folder / f"{split}.csv"
        if not file.exists():
            write_with(file, pairs_of(dataset, split).write_csv)


# --- The directory

#: What a setting is called, where not by its own name.
_TITLES = {
    "log": "LOG",
    "columns": "the names of the columns",
    "checksum": "the content of LOG, or in the files beside it",
    "users_drawn": "the number of users drawn (by the budget)",
}


class SettingsRecord(Record):
    """``settings.json``."""

    identity: dict[str, object]
    budget: float


def take_up(out: Path, identity: Mapping[str, object], budget: float) -> float | None:
    """Create an audit directory, or reopen it if it holds this audit.

    Returns the budget of the run that this one goes on with; ``None`` if it is the first.

    Raises
    ------
    RunError
        The directory holds something else, or an audit with other settings; the message names the
        first that differs.
    """
    file = out / FILE
    before: float | None = None
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file; choose another directory")
    if file.is_file():
        known = _read_settings(file)
        before = known.budget
        # What was asked differently comes first: it may change the content, too.
        for key in sorted({**known.identity, **identity}, key=lambda key: key == "checksum"):
            there, here = known.identity.get(key), identity.get(key)
            if there != here:
                both = "" if key == "checksum" else f" ({_short(there)} there, {_short(here)} here)"
                name = _TITLES.get(key) or parameter(key)
                raise RunError(
                    f"{out}: holds an audit that differs in {name}{both}; choose another "
                    f"directory, or pass {parameter('overwrite', True)} to start anew"
                )
    elif out.is_dir() and any(out.iterdir()):
        raise RunError(f"{out}: is not empty and holds no audit; choose another directory")
    settings = {"schema_version": SCHEMA_VERSION, "identity": dict(identity), "budget": budget}
    write_json(file, settings)
    return before


def _read_settings(file: Path) -> SettingsRecord:
    mend = f"choose another directory, or pass {parameter('overwrite', True)} to start anew"
    return read_record(file, SettingsRecord, SCHEMA_VERSION, mend)


def _short(value: object) -> str:
    return "none" if value in (None, {}, []) else str(value)


def require_replaceable(out: Path) -> None:
    """:class:`InputError` if a directory holds something that is no audit."""
    is_audit = (out / FILE).is_file()
    if out.exists() and not is_audit and (not out.is_dir() or any(out.iterdir())):
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
