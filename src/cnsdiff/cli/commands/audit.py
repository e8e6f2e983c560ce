"""``cnsdiff audit``: from a log and a doubt to a verdict."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnsdiff.cli import completion
from cnsdiff.cli.options import (
    Delimiter,
    EventColumn,
    Events,
    Format,
    Header,
    ItemColumn,
    ItemCore,
    ItemFeatures,
    Json,
    LiteralIds,
    MaxPerUser,
    PeriodColumn,
    Randomised,
    RatingColumn,
    Seed,
    SkipBad,
    Threshold,
    TimestampColumn,
    TimeUnit,
    UserColumn,
    UserCore,
    UserFeatures,
)

if TYPE_CHECKING:
    import polars as pl

    from cnsdiff.audit.answers import Arm, ArmDifference, OffPolicy, Shown
    from cnsdiff.audit.record import AuditRecord
    from cnsdiff.audit.splits import Note, Options, Prepared
    from cnsdiff.evaluation.significance import Interval
    from cnsdiff.serving.config import ServiceConfig
    from cnsdiff.serving.store import Store

EXAMPLE = (
    "Example: cnsdiff audit ratings.csv --budget 10m --open\n\nYour own recommender: cnsdiff audit "
    "ratings.csv --splits-only, train it on each shift's train.csv, then cnsdiff audit ratings.csv "
    "--recommendations popularity=lists.csv\n\nWhat a service answered: cnsdiff audit --answers "
    "sqlite:///events.db --run runs/shop2"
)
#: Options of an audit of answers; the others are for one of a log.
_OF_ANSWERS = ("answers", "run", "window", "types", "config", "json")
_WIDTH = "± half the 95% interval, clustered by user"
_DIFFERS = f"{_WIDTH}; † differs from 0"


def audit(
    context: typer.Context,
    log: Annotated[
        str | None,
        typer.Argument(
            help="File of interactions, or a data set fetched before (ml-100k).",
            autocompletion=completion.log,
        ),
    ] = None,
    answers: Annotated[
        str | None,
        typer.Option(
            metavar="STORE",
            help="In place of a log: the lists that a service has shown (the file of its store, "
            "or postgresql+psycopg://…), and what came of them, arm by arm.",
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="With --answers: a run that was not served; how many clicks its lists would have "
            "had."
        ),
    ] = None,
    window: Annotated[
        str,
        typer.Option(
            help="With --answers: for how long after a list an event may be due to it (12h, 7d)."
        ),
    ] = "1d",
    types: Annotated[
        str | None,
        typer.Option(
            metavar="EVENT,...",
            help="With --answers: types of events that count as clicks (purchase,cart); default: "
            "those of --config, else all.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="With --answers: the YAML file of the service's settings (docs/serving.md)."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where all is kept (default: audits/NAME OF LOG).")
    ] = None,
    budget: Annotated[str, typer.Option(help="Time until the report: 90s, 10m, 1h30m.")] = "10m",
    shifts: Annotated[
        str | None,
        typer.Option(
            help=f"Only these, with commas: {completion.words('audited')}.",
            autocompletion=completion.audited,
        ),
    ] = None,
    recommendations: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME:][SHIFT=]FILE",
            help="Lists of another recommender: user, item, rank or score; repeatable.",
        ),
    ] = None,
    embeddings: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME:][SHIFT=]FILE",
            help="Vectors of another recommender: .npz, Parquet, or an export; repeatable.",
        ),
    ] = None,
    splits_only: Annotated[
        bool,
        typer.Option(
            "--splits-only", help="Only divide the log, for a recommender of your own to train on."
        ),
    ] = False,
    randomised: Randomised = None,
    user_features: UserFeatures = None,
    item_features: ItemFeatures = None,
    threshold: Threshold = None,
    user_core: UserCore = 0,
    item_core: ItemCore = 0,
    max_per_user: MaxPerUser = None,
    format: Format = "auto",
    user_col: UserColumn = None,
    item_col: ItemColumn = None,
    rating_col: RatingColumn = None,
    timestamp_col: TimestampColumn = None,
    period_col: PeriodColumn = None,
    event_col: EventColumn = None,
    events: Events = None,
    time_unit: TimeUnit = "auto",
    literal_ids: LiteralIds = False,
    rank_col: Annotated[
        str | None, typer.Option(help="Name of the rank column of --recommendations.")
    ] = None,
    score_col: Annotated[
        str | None, typer.Option(help="Name of the score column of --recommendations.")
    ] = None,
    header: Header = None,
    delimiter: Delimiter = None,
    skip_bad: SkipBad = False,
    max_pairs: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Use at most so many positive pairs, of users drawn at random; 0: all (default: "
            "what the budget is enough for).",
        ),
    ] = None,
    metric: Annotated[
        str, typer.Option(help="recall or ndcg, at 1, 5, 10 or 20: what is lost.")
    ] = "ndcg@20",
    seed: Seed = 0,
    workers: Annotated[int, typer.Option(min=1, max=1024, help="Processes at once.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="CPU threads of all of them (default: all cores)."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew where an audit is.")
    ] = False,
    open_: Annotated[bool, typer.Option("--open", help="Show the report in a browser.")] = False,
    json: Json = False,
) -> None:
    """Would your recommender survive a shift, and what should you do about it?

    From one log: its shifts, references, the usual recommender and exposure sampling trained within
    a budget, and a report of what each loses under which shift. After Ctrl-C the same command goes
    on.

    With --answers, from the lists that a service has shown: clicks of each arm and version, and
    those that the lists of another run would have had, as far as the service has explored.
    """
    started = time.monotonic()
    from cnsdiff.audit.log import Reading
    from cnsdiff.audit.splits import Options, prepare_splits
    from cnsdiff.audit.training import require_metric
    from cnsdiff.base.errors import ConfigError
    from cnsdiff.cli.output import print_json
    from cnsdiff.cli.parsing import parse_budget, parse_events, parse_features
    from cnsdiff.display.progress import PlainLines

    if answers is not None:
        _require_of_answers(context)
        _audit_answers(answers, run, window, types, config, json)
        return
    if log is None or run is not None or types is not None or config is not None:
        raise ConfigError("audit needs a log, or --answers STORE and maybe --run RUN beside it")
    named = {
        "user": user_col,
        "item": item_col,
        "rating": rating_col,
        "timestamp": timestamp_col,
        "period": period_col,
        "event": event_col,
    }
    options = Options(
        reading=Reading(
            log=log,
            columns={role: name for role, name in named.items() if name is not None},
            format=format,
            header=header,
            delimiter=delimiter,
            skip_bad=skip_bad,
            time_unit=time_unit,
            literal_ids=literal_ids,
            randomised=randomised,
            user_features=user_features,
            item_features=parse_features("--item-features", item_features),
            threshold=threshold,
            user_core=user_core,
            item_core=item_core,
            max_per_user=max_per_user,
            events=parse_events(events),
        ),
        out=out or Path("audits") / (Path(log).name.split(".")[0] or "log"),
        budget=parse_budget(budget),
        shifts=[name.strip() for name in shifts.split(",") if name.strip()] if shifts else (),
        recommendations=recommendations or (),
        embeddings=embeddings or (),
        list_columns={"user": user_col, "item": item_col, "rank": rank_col, "score": score_col},
        max_pairs=max_pairs,
        metric=require_metric(metric),
        seed=seed,
        workers=workers,
        threads=threads,
        overwrite=overwrite,
    )
    note = PlainLines("audit").note
    if splits_only:
        _tell_splits(prepare_splits(options, note), options, json)
        return
    result = _run(options, note, started)
    report = _report(options.out)
    if json:
        content = result.model_dump(mode="json")
        print_json({"path": str(options.out), "report": str(report), **content})
    else:
        _print(result, options.out, report)
    if open_:
        import webbrowser

        webbrowser.open(report.resolve().as_uri())
    if result.failures:
        raise typer.Exit(1)


def _run(options: Options, note: Note, started: float) -> AuditRecord:
    from cnsdiff.audit.audit import run_audit
    from cnsdiff.benchmark.progress import reporter_for_terminal
    from cnsdiff.cli.failure import interruptible

    with interruptible(f"what is done is kept in {options.out}, and the same command goes on"):
        return run_audit(
            options, reporter=reporter_for_terminal("audit"), note=note, started=started
        )


def _report(out: Path) -> Path:
    from cnsdiff.report.audit import audit_document
    from cnsdiff.report.html import write_html

    report = out / "report.html"
    write_html(audit_document(out), report)
    return report


def _print(result: AuditRecord, out: Path, report: Path) -> None:
    from cnsdiff.base.text import say
    from cnsdiff.cli.output import console
    from cnsdiff.display.render import render
    from cnsdiff.report.audit import limits_of_shifts, short_table

    screen = console()

    def tell(text: str, style: str | None = None) -> None:
        screen.print(text, style=style, soft_wrap=True)

    for sentence in result.missing:
        tell(f"{sentence[0].upper()}{sentence[1:]}", "yellow")
    print(render([short_table(result)], "text", styled=sys.stdout.isatty()))
    tell("")
    for sentence in (result.verdict, *result.more_verdicts):
        tell(sentence, "bold")
    for shift in result.shifts:
        advice = shift.recommendation
        tell("")
        tell(shift.title, "bold")
        for text in (advice.words, advice.break_even_words, advice.reference_words):
            if text:
                tell(f"  {text}")
        for outside in shift.outside:
            tell(f"  {outside.words}")
            if outside.dialled:
                tell(f"  {outside.dialled.words}")
            for warning in outside.warnings:
                tell(f"  warning: {warning}", "yellow")
        for command in advice.commands:
            tell(f"  {command}", "cyan")
    if result.new_items is not None:
        tell("")
        tell("New items", "bold")
        tell(f"  {result.new_items.words}")
        if result.new_items.command is not None:
            tell(f"  {result.new_items.command}", "cyan")
    tell("")
    for text, titles in limits_of_shifts(result).items():
        tell(f"{', '.join(titles)}: {text}", "yellow")
    for failure in result.failures:
        say(f"failed: {failure.shift} {failure.method}: {failure.error}", sys.stderr)
    tell(f"Wrote {out}. Report: {report}")


def _tell_splits(prepared: Prepared, options: Options, json: bool) -> None:
    from cnsdiff.audit.splits import FOR_TRAINING
    from cnsdiff.cli.output import console, print_json

    folders = {name: path.parent for name, path in prepared.paths.items()}
    files = {
        name: {split: str(folder / f"{split}.csv") for split in FOR_TRAINING}
        for name, folder in folders.items()
    }
    if json:
        left_out = [absent.model_dump() for absent in prepared.left_out]
        print_json({"path": str(options.out), "splits": files, "left_out": left_out})
        return
    screen = console()
    for name, own in files.items():
        screen.print(f"{name}: train your recommender on {own['train']} alone", soft_wrap=True)
    screen.print(
        "(valid.csv beside it is for choosing settings; the rest judges.) Recommend 20 items and "
        "more to every user, and come back with the same command, without --splits-only:",
        soft_wrap=True,
    )
    given = " ".join(f"--recommendations {name}=FILE" for name in files)
    screen.print(f"  {given}", soft_wrap=True)


def _require_of_answers(context: typer.Context) -> None:
    """Refuse what is for an audit of a log."""
    from cnsdiff.base.errors import ConfigError

    for option in context.command.params:
        source = context.get_parameter_source(str(option.name))
        if option.name not in _OF_ANSWERS and source is not None and source.name == "COMMANDLINE":
            name = option.opts[0] if option.opts[0].startswith("-") else option.name
            raise ConfigError(f"--answers audits what a service has shown, without {name}; drop it")


def _audit_answers(
    url: str, run: Path | None, window: str, types: str | None, config: Path | None, json: bool
) -> None:
    """Figures of the lists that a service has shown."""
    import polars as pl

    from cnsdiff.audit.answers import Shown, arms_of, to_dict
    from cnsdiff.base.errors import ConfigError
    from cnsdiff.cli.output import print_json
    from cnsdiff.data.reading.times import seconds_of
    from cnsdiff.serving.config import read_config
    from cnsdiff.serving.store import Store

    try:
        seconds = seconds_of(window)
    except ValueError as error:
        raise ConfigError(f"--window {window}: is no length of time; {error}") from error
    settings = read_config(config)
    clicks = settings.types
    if types is not None:
        clicks = tuple(name.strip() for name in types.split(","))
        if not all(clicks):
            raise ConfigError(
                f"--types {types!r}: names no event in one place; write it as purchase,cart"
            )
    with Store.open(url, create=False) as store:
        events, pages = store.events(), [store.answers_after(0, rules=False)]
        while len(pages[-1]):
            pages.append(store.answers_after(pages[-1]["seq"][-1], rules=False))
        answers = pl.concat(pages)
        shown = Shown.of(answers, events, seconds, clicks)
        arms, differences = arms_of(shown)
        estimate, left_out = None, Counter[str]()
        if run is not None:
            estimate, left_out = _of_run(run, store, settings, answers, events, seconds, clicks)
    if json:
        figures = {"arms": arms, "differences": differences, "run": estimate}
        content = {name: to_dict(own) for name, own in figures.items()}
        warnings = [] if estimate is None else estimate.warnings
        reasons = [{"answers": n, "reason": reason} for reason, n in left_out.most_common()]
        asked = {"store": url, "window": seconds, "types": clicks, "open": shown.n_open}
        print_json({**asked, **content, "left_out": reasons, "warnings": warnings})
        return
    _tell_answers(shown, arms, differences, estimate, left_out, run, seconds)


def _of_run(
    run: Path,
    store: Store,
    settings: ServiceConfig,
    answers: pl.DataFrame,
    events: pl.DataFrame,
    window: float,
    clicks: tuple[str, ...] | None,
) -> tuple[OffPolicy, Counter[str]]:
    """What the lists of a run would have had; why answers are left out, and how many."""
    import numpy as np
    import polars as pl

    from cnsdiff.audit.answers import Shown, lists_at, off_policy
    from cnsdiff.base.errors import DataError
    from cnsdiff.recommender.run_directory import Fitted, read_run
    from cnsdiff.recommender.update import end_of
    from cnsdiff.serving.records import Version
    from cnsdiff.serving.version import LoadedVersion, content_of

    # What the run has learnt from cannot judge it.
    later = answers.filter(pl.col("at") > end_of(Fitted.of_run(read_run(run))))
    if not len(later):
        raise DataError(
            f"{run}: has learnt from what came of all {len(answers):,} answers, which cannot "
            "judge it then; give a run that was trained before them, or wait for more"
        )
    judged = Shown.of(later, events, window, clicks)
    content = content_of(run)
    figures: dict[str, object] = {}
    for version in store.versions():
        if version.figures.get("content") == content:
            figures = version.figures
    loaded = LoadedVersion(Version(run.name, str(run), 0.0, figures), settings)
    digests = {
        digest
        for seq, digest, _ in store.forgotten_after(0).iter_rows()
        if seq > loaded.snapshot.without
    }
    nobody = {user for user in later["user"].unique() if digests and store.digest(user) in digests}
    if settings.types is not None:
        events = events.filter(pl.col("type").is_in(settings.types))
    answered = lists_at(
        loaded, judged.answers, events, store.item_history(), store.rules_of, nobody
    )
    told = np.array([own is not None for own in answered.lists])
    if not told.any():
        reasons = "; ".join(answered.left_out)
        raise DataError(f"{run}: none of {len(told):,} answers can judge it: {reasons}")
    lists = [own for own in answered.lists if own is not None]
    return off_policy(judged.only(told), lists), answered.left_out


def _tell_answers(
    shown: Shown,
    arms: list[Arm],
    differences: list[ArmDifference],
    estimate: OffPolicy | None,
    left_out: Counter[str],
    run: Path | None,
    window: float,
) -> None:
    from cnsdiff.cli.output import console, print_table
    from cnsdiff.display.tables import Cell, Column, Table
    from cnsdiff.display.wording import count, duration

    screen = console()

    def cell(interval: Interval, *, marked: bool = False) -> Cell:
        differs = marked and interval.sign != 0
        return Cell(interval.value, half_width=interval.half_width, differs=differs)

    columns = (
        Column("answers", "lists", 0),
        Column("hit_rate", "with a click"),
        Column("clicks", "clicks a list"),
    )
    labels = ("arm", "version")
    print_table(
        screen,
        Table.of(
            "What was shown",
            labels,
            (columns[0], Column("users", "users", 0), *columns[1:]),
            [
                ((a.arm, a.version), (a.answers, a.users, cell(a.hit_rate), cell(a.clicks)))
                for a in arms
            ],
            _WIDTH,
        ),
    )
    if shown.n_open:
        screen.print(
            f"{shown.n_open:,} later lists are left out, as their window of "
            f"{duration(window)} is not over.",
            soft_wrap=True,
        )
    if differences:
        against = " ".join(differences[0].against)
        print_table(
            screen,
            Table.of(
                f"Less {against}, over the time that both answered",
                labels,
                columns,
                [
                    (
                        (d.arm, d.version),
                        (d.answers, cell(d.hit_rate, marked=True), cell(d.clicks, marked=True)),
                    )
                    for d in differences
                ],
                _DIFFERS,
            ),
        )
    if estimate is None:
        return
    named = {
        "as served": cell(estimate.served),
        "inverse propensity (IPS)": cell(estimate.ips),
        "self-normalised (SNIPS)": cell(estimate.snips),
        "doubly robust (DR)": cell(estimate.dr),
        "DR less as served": cell(estimate.gain, marked=True),
    }
    print_table(
        screen,
        Table.of(
            "With the lists of the run",
            ("estimate",),
            columns[2:],
            [((name,), (own,)) for name, own in named.items()],
            _DIFFERS,
        ),
    )
    screen.print(
        f"{run}: from {estimate.answers:,} lists of {estimate.users:,} users; "
        f"{estimate.support:.0%} of the run's items could have been shown; those that were are "
        f"worth {estimate.effective_size:,.0f} of equal weight.",
        soft_wrap=True,
    )
    for reason, n in left_out.most_common():
        screen.print(f"{count(n, 'answer')} left out: {reason}.", soft_wrap=True)
    for warning in estimate.warnings:
        screen.print(f"warning: {warning}", style="yellow", soft_wrap=True)
