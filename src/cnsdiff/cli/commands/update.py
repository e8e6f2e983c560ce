"""``cnsdiff update``: train a run further on what has come since."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnsdiff.base.text import Command
from cnsdiff.cli.options import (
    Delimiter,
    EventColumn,
    Format,
    Header,
    ItemColumn,
    Json,
    LiteralIds,
    RatingColumn,
    SkipBad,
    TimestampColumn,
    TimeUnit,
    UserColumn,
)

if TYPE_CHECKING:
    from cnsdiff.data import Interactions
    from cnsdiff.recommender.run_directory import Fitted
    from cnsdiff.recommender.update import Comparison, Updating
    from cnsdiff.training.progress import Reporter

EXAMPLE = (
    "Example: cnsdiff update runs/shop --events sqlite:///events.db --out runs/shop2 --activate"
    "\n\nFrom a file: cnsdiff update runs/shop --events june.csv --out runs/shop2"
)


def update(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    events: Annotated[
        str,
        typer.Option(
            metavar="STORE|FILE",
            help="What has come since: the store of a service (its file, or "
            "postgresql+psycopg://…), a log, or a directory of logs.",
        ),
    ],
    activate: Annotated[
        bool,
        typer.Option(
            "--activate",
            help="Have the service of the store answer by the new run, if it is no worse than the "
            "old one on the latest events and no other version is on trial.",
        ),
    ] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Begin training from the start, not at the run.")
    ] = False,
    types: Annotated[
        str | None,
        typer.Option(
            metavar="EVENT[=WEIGHT],...",
            help="Types of events to learn from (purchase,cart), or their weights "
            "(purchase=1,cart=0.5); default: all alike.",
        ),
    ] = None,
    format: Format = "auto",
    user_col: UserColumn = None,
    item_col: ItemColumn = None,
    rating_col: RatingColumn = None,
    timestamp_col: TimestampColumn = None,
    event_col: EventColumn = None,
    time_unit: TimeUnit = "auto",
    literal_ids: LiteralIds = False,
    header: Header = None,
    delimiter: Delimiter = None,
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Train a run further on its own log and on what has come since, and judge it beside the old.

    Training begins at the vectors of the run, and the latest events choose epoch and environment.
    Before that, an update without the last third of the new events is compared with the run on
    these; figures and interval are kept in update.json.

    The same command again goes on with an update that was interrupted.
    """
    from cnsdiff.base.errors import DataError, InputError
    from cnsdiff.base.storage import write_json
    from cnsdiff.cli.failure import interruptible
    from cnsdiff.data import load_dataset
    from cnsdiff.recommender.run_directory import (
        DATASET,
        Fitted,
        dataset_kept_in,
        is_run,
        read_run,
        require_unfinished,
    )
    from cnsdiff.recommender.update import UPDATE, Updating
    from cnsdiff.training.progress import reporter_for_terminal

    if activate and not _is_store(events):
        raise InputError(
            f"--activate needs the store of a service, and --events {events} is none; give "
            "its file, or postgresql+psycopg://…"
        )
    require_unfinished(out)  # before anything is read
    fitted = Fitted.of_run(read_run(run))
    reporter = reporter_for_terminal(fitted.config.title)
    forgotten = 0  # of an update that goes on, it is not known any more
    begun = load_dataset(out / DATASET) if is_run(out) and (out / DATASET).is_dir() else None
    if begun is not None:
        reporter.note(f"going on with the events that were there when {out} was begun")
        updating = Updating.again(fitted, begun)
    else:
        reading = {
            "format": format,
            "user": user_col,
            "item": item_col,
            "rating": rating_col,
            "timestamp": timestamp_col,
            "event": event_col,
            "time_unit": time_unit,
            "literal_ids": literal_ids,
            "header": header,
            "delimiter": delimiter,
            "skip_bad": skip_bad,
        }
        log = _of_its_type(_events(events, types, **reading), fitted, reporter)
        for problem in log.problems:
            reporter.note(f"{log.source}: left out {problem}")
        without, forgotten = _forgotten(events)
        updating = Updating.of_run(fitted, log, without=without, features=_features(events))
    results: list[Fitted] = []

    def again() -> str:
        if not is_run(out):
            return "nothing is kept yet, give the same command again"
        return "the epochs completed are saved, give the same command again to go on"

    with interruptible(again), dataset_kept_in(out, updating.dataset):
        comparison: Comparison | None = None
        try:
            comparison = updating.compare(warm=not anew, reporter=reporter)
        except DataError as error:
            if activate:
                raise
            reporter.note(f"old and new are not compared: {error}")
        updating.fit(keep=results.append, warm=not anew, run=out, reporter=reporter)
    figures = {
        "run": str(run),
        "new_pairs": updating.n_new,
        **({} if comparison is None else {**comparison.model_dump(), "better": comparison.better}),
    }
    write_json(out / UPDATE, figures)
    if activate:
        assert comparison is not None
        _activate(events, out, comparison, figures, forgotten)
    _tell(updating, results[0], comparison, figures, run, out, json)


def _is_store(events: str) -> bool:
    """Whether this is a URL, or a file that SQLite has written."""
    if "://" in events:
        return True
    try:
        with Path(events).open("rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError:  # which whoever reads it as a log says
        return False


def _events(events: str, types: str | None, **reading: Any) -> Interactions:
    """New interactions from a store, a file or the files of a directory."""
    import polars as pl

    from cnsdiff.base.errors import DataError
    from cnsdiff.cli.parsing import parse_events
    from cnsdiff.data import Interactions, read_interactions

    weights = parse_events(types)
    if _is_store(events):
        from cnsdiff.serving.store import Store

        with Store.open(events, create=False) as store:
            frame = store.events().drop("seq").rename({"type": "event"})
        if not len(frame):
            raise DataError(f"{events}: the store has no events yet; send some to the service")
        log = Interactions(frame.with_columns(pl.col("event").fill_null("")), events)
        return log if weights is None else log.of_events(weights)
    path = Path(events)
    if not path.is_dir():
        return read_interactions(path, events=weights, **reading)
    files = sorted(file for file in path.iterdir() if file.is_file())
    if not files:
        raise DataError(f"{path}: has no files; give a log, or a directory of logs")
    logs = [read_interactions(file, events=weights, **reading) for file in files]
    frame = pl.concat([log.frame for log in logs], how="diagonal_relaxed")
    problems = tuple(problem for log in logs for problem in log.problems)
    return Interactions(frame, events, sum(log.skipped for log in logs), problems=problems)


def _of_its_type(log: Interactions, fitted: Fitted, reporter: Reporter) -> Interactions:
    """The interactions whose ids are of the run's type: one other would turn all into text."""
    from dataclasses import replace

    import polars as pl

    from cnsdiff.data.ids import as_type

    model, kept = fitted.model, pl.repeat(True, len(log.frame), dtype=pl.Boolean, eager=True)
    for side, known in (("user", model.users), ("item", model.items)):
        kept &= as_type(log.frame[side], known.dtype).is_not_null()
    if not kept.all():
        reporter.note(
            f"{log.source}: left out {int((~kept).sum()):,} of {len(kept):,} interactions, whose "
            f"ids are of another type than those of the run ({model.users.dtype} of users, "
            f"{model.items.dtype} of items)"
        )
    return replace(log, frame=log.frame.filter(kept))


def _forgotten(events: str) -> tuple[Callable[[str], bool] | None, int]:
    """Whether a user was forgotten by the service whose store this is; the last one's number."""
    if not _is_store(events):
        return None, 0
    from cnsdiff.serving.store import Store, digest

    with Store.open(events, create=False) as store:
        table, key = store.forgotten_after(0), store.key
    if not len(table):
        return None, 0
    digests = set(table["digest"])
    return lambda user: digest(user, key) in digests, int(table["seq"][-1])


def _features(events: str) -> dict[str, dict[str, object]]:
    """What was sent of items to the service whose store this is."""
    if not _is_store(events):
        return {}
    from json import loads

    from cnsdiff.serving.store import Store

    with Store.open(events, create=False) as store:
        table = store.items_after(0).drop_nulls("features")
    return dict(zip(table["item"], map(loads, table["features"]), strict=True))


def _activate(
    events: str, out: Path, comparison: Comparison, figures: dict[str, object], forgotten: int
) -> None:
    """Have the service answer by the new run.

    Raises
    ------
    CnsdiffError
        It is worse than the old one, or another version is on trial.
    """
    import time

    from cnsdiff.base.errors import CnsdiffError, ConflictError
    from cnsdiff.serving.records import Version
    from cnsdiff.serving.store import Store
    from cnsdiff.serving.version import figures_of

    with Store.open(events, create=False) as store:
        own = figures_of(out)
        name = f"{out.resolve().name}-{str(own['content'])[:8]}"  # as a service names it
        figures = {**own, "rehearsed": comparison.new, "forgotten": forgotten, **figures}
        store.add_version(Version(name, str(out.resolve()), time.time(), figures))
        if not comparison.better:
            raise CnsdiffError(
                f"{out}: is not activated, as {comparison.metric} is {comparison.new:.4f} on the "
                f"latest events and that of the old run {comparison.old:.4f}; the run is kept"
            )
        try:
            store.activate(name)
        except ConflictError as error:
            raise CnsdiffError(f"{out}: is kept, but {error}") from error


def _tell(
    updating: Updating,
    fitted: Fitted,
    comparison: Comparison | None,
    figures: dict[str, object],
    run: Path,
    out: Path,
    json: bool,
) -> None:
    """The result of an update."""
    from cnsdiff.cli.output import console, print_facts, print_json, print_next
    from cnsdiff.display.wording import clock

    history = fitted.history
    seconds = sum(record["seconds"] + record["validation_seconds"] for record in history)
    recommend = Command(
        "recommend", out, all_users=True, out="lists.csv", purpose="the lists themselves"
    )
    if json:
        print_json(
            {
                "out": str(out),
                **figures,
                "best_epoch": fitted.best_epoch,
                "epochs": len(history),
                "next": [str(recommend)],
            }
        )
        return
    screen, model = console(), fitted.model
    old = updating.fitted.model
    facts = {
        "new": f"{updating.n_new:,} pairs, {len(model.users) - len(old.users):,} users and "
        f"{len(model.items) - len(old.items):,} items more",
        "best epoch": f"{fitted.best_epoch} of {len(history)}",
        "time": clock(seconds),
        "run": str(out),
    }
    if fitted.config.closed_form:
        del facts["best epoch"]
    if comparison is not None:
        low, high = comparison.interval
        facts["rehearsed"] = (
            f"{comparison.metric} {comparison.new:.4f}, and {comparison.old:.4f} of {run} on the "
            f"same {comparison.pairs:,} later pairs of {comparison.users:,} users "
            f"(difference 95% {low:+.4f} to {high:+.4f})"
        )
    print_facts(screen, f"{run} updated", facts)
    print_next(screen, recommend)
