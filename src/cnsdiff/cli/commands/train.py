"""``cnsdiff train``: fit a recommender on a dataset directory."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnsdiff.base.text import Command
from cnsdiff.cli import completion
from cnsdiff.cli.options import (
    Delimiter,
    Device,
    EventColumn,
    Events,
    Format,
    Header,
    Horizon,
    ItemColumn,
    ItemCore,
    ItemFeatures,
    Json,
    LiteralIds,
    MaxPerUser,
    OwnSeed,
    PeriodColumn,
    RatingColumn,
    SkipBad,
    Threads,
    Threshold,
    TimestampColumn,
    TimeUnit,
    UserColumn,
    UserCore,
    UserFeatures,
)

if TYPE_CHECKING:
    from cnsdiff.audit.log import Reading
    from cnsdiff.content.model import ContentChoice
    from cnsdiff.data import Dataset
    from cnsdiff.recommender.recommender import Recommender

EXAMPLE = (
    "Example: cnsdiff train ratings.csv --for temporal --out runs/shop\n\nOn a dataset that was "
    "prepared: cnsdiff train data/food --seed 1 --out runs/food"
)


@contextmanager
def _one_voice() -> Iterator[None]:
    """Of several processes that fail alike, or with one of them, one says so."""
    from cnsdiff.base.errors import CnsdiffError
    from cnsdiff.cli.failure import tell
    from cnsdiff.training.processes import place, tells_of_failure, told

    if place().rank:
        # The first has files to leave in order, and says goodbye for all.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if place().count == 1:
        yield
        return
    try:
        yield
    except CnsdiffError as error:
        if tells_of_failure():
            tell(str(error), error.exit_code)
            told()
        # Not Typer's exit: nothing more is to be said of it.
        sys.exit(error.exit_code)


@_one_voice()
def train(
    dataset: Annotated[
        str | None,
        typer.Argument(
            help="A log (a file, or a data set fetched before) to train on all of it; or a dataset "
            "directory (with --resume: the run's own).",
            autocompletion=completion.log,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory to write.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this unfinished run, to the same result.")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help=f"Negative sampler (default: exposure): {completion.words('samplers')}. "
            "Any but exposure has plain settings (BPR, inner product) unless you set others.",
            autocompletion=completion.sampler,
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help=f"Backbone: {completion.words('backbones')}.",
            autocompletion=completion.backbone,
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            help=f"Settings to start from: {completion.words('presets')}.",
            autocompletion=completion.preset,
        ),
    ] = "default",
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="One setting, e.g. training.epochs=20.",
            autocompletion=completion.setting,
        ),
    ] = None,
    select_on: Annotated[
        str | None,
        typer.Option(
            help=f"What picks the epoch and the dial: {completion.words('select_on')}.",
            autocompletion=completion.select_on,
        ),
    ] = None,
    for_: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="SHIFT",
            help="The shift to come, which picks the epoch and the environment: "
            f"{completion.words('audited')}.",
            autocompletion=completion.audited,
        ),
    ] = None,
    horizon: Horizon = None,
    content: Annotated[
        str | None,
        typer.Option(
            metavar="PRIOR",
            help="Learn from the features of items, so that new ones can be added: auto, ridge, "
            "mlp, mean, diffusion or none (default).",
        ),
    ] = None,
    seed: OwnSeed = None,
    device: Device = None,
    threads: Threads = None,
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
    header: Header = None,
    delimiter: Delimiter = None,
    skip_bad: SkipBad = False,
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TRACKER[=PLACE]",
            help="Also write the training to tensorboard[=FOLDER] or mlflow[=ADDRESS]; by default "
            "into the run directory and to where MLflow writes. May be given for both; a resumed "
            "run goes on where it was.",
        ),
    ] = None,
    ray: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Train by N processes under Ray: on the cluster that RAY_ADDRESS names or that "
            "runs on this machine, else on one of this command's own.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Train a recommender: on all of a log, or on a dataset that was prepared for its tests.

    Of a log no pair is lost: a part of it chooses epoch and environment, then everything trains.
    Early stopping never looks at a test.

    A checkpoint is written after each epoch; Ctrl-C (or a crash) loses the epoch under way, and
    --resume goes on to the very result an undisturbed run would have had.

    Several processes train together under torchrun (torchrun --nproc-per-node 2 -m cnsdiff train …)
    or, with --ray, on a cluster.
    """
    from cnsdiff.audit.log import Reading
    from cnsdiff.base.errors import ConfigError
    from cnsdiff.cli.parsing import parse_events, parse_features, recommender_of

    named = {
        "user": user_col,
        "item": item_col,
        "rating": rating_col,
        "timestamp": timestamp_col,
        "period": period_col,
        "event": event_col,
    }
    reading = Reading(
        log=dataset or "",
        columns={role: name for role, name in named.items() if name is not None},
        format=format,
        header=header,
        delimiter=delimiter,
        skip_bad=skip_bad,
        time_unit=time_unit,
        literal_ids=literal_ids,
        user_features=user_features,
        item_features=parse_features("--item-features", item_features),
        threshold=threshold,
        user_core=user_core,
        item_core=item_core,
        max_per_user=max_per_user,
        events=parse_events(events),
    )
    if resume is not None:
        options = [out, sampler, backbone, config, set_, select_on, horizon, seed, device, threads]
        options += [for_, content, *_read_with(reading)]
        if any(value is not None for value in options) or preset != "default":
            raise ConfigError(
                "--resume continues a run with its own settings; give no others beside it"
            )
        model, path = _unfinished(resume)
        source = path if dataset is None else Path(dataset)
        _start(partial(_fit, model, source, resume, json, track), model, resume, ray)
        return
    if dataset is None or out is None:
        raise ConfigError(
            "train needs a log or a dataset directory, and --out RUN (or --resume RUN)"
        )
    settings: dict[str, object] = {}
    if for_ is not None:
        select_on, settings = _expecting(for_, select_on)
    if content is not None:
        settings["content.prior"] = content
    model = recommender_of(
        backbone,
        sampler,
        preset,
        config,
        [*(f"{key}={value}" for key, value in settings.items()), *(set_ or ())],
        select_on,
        seed,
        device,
        threads,
        horizon,
    )
    model.resolve()  # what is wrong with the settings comes before any reading
    if not _is_log(dataset):
        if given := _read_with(reading):
            raise ConfigError(
                f"--{given[0].replace('_', '-')} is for reading a log, and {dataset} is none; "
                "drop it"
            )
        _start(partial(_fit, model, Path(dataset), out, json, track), model, out, ray)
        return
    _start(partial(_fit_log, model, reading, out, json, track), model, out, ray)


def _start(work: Callable[[], None], model: Recommender, run: Path, ray: int | None) -> None:
    """Do the work in this process, or in several of a Ray cluster."""
    if ray is None:
        work()
        return
    import logging

    from cnsdiff.base.errors import ConfigError
    from cnsdiff.cli.failure import interruptible
    from cnsdiff.training.cluster import connected, train_on_cluster
    from cnsdiff.training.processes import place

    if place().count > 1:
        raise ConfigError("--ray starts processes, and torchrun has; use one of the two")
    config = model.resolve()
    with (
        connected(log_to_driver=True, include_dashboard=True, logging_level=logging.WARNING),
        interruptible(partial(_how_to_go_on, run)),
    ):
        said = train_on_cluster(partial(_captured, work), ray, config.device, config.threads or 1)
    sys.stdout.write(said)


def _captured(work: Callable[[], None]) -> str:
    """What work prints, in a process that did not come by the command line."""
    from contextlib import redirect_stdout
    from io import StringIO

    from typer.main import get_command

    from cnsdiff.base.text import spelled
    from cnsdiff.cli.app import app, speller_of

    with redirect_stdout(StringIO()) as said, spelled(speller_of(get_command(app))):
        work()
    return said.getvalue()


def _how_to_go_on(run: Path) -> str:
    if not (run / "manifest.json").exists():
        return "nothing was trained yet, give the same command again"
    return f"the epochs completed are saved, go on with `{Command('train', resume=run)}`"


def _read_with(reading: Reading) -> list[str]:
    """The options of reading a log that were given."""
    from cnsdiff.audit.log import Reading

    usual = Reading(reading.log)
    columns = [f"{role}_col" for role in reading.columns]
    names = [field.name for field in fields(reading) if field.name not in ("log", "columns")]
    return columns + [name for name in names if getattr(reading, name) != getattr(usual, name)]


def _expecting(shift: str, select_on: str | None) -> tuple[str, dict[str, object]]:
    """What picks the epoch when this shift is to come, and settings that belong to it."""
    from cnsdiff.audit.shifts import SHIFTS
    from cnsdiff.base.errors import ConfigError, did_you_mean

    if shift not in SHIFTS:
        raise ConfigError(
            f"--for {shift}: is no known shift{did_you_mean(shift, SHIFTS)}; there are "
            f"{', '.join(SHIFTS)}"
        )
    if select_on is not None:
        raise ConfigError(
            f"--for {shift} says what picks the epoch ({SHIFTS[shift].anticipate}), and "
            f"--select-on {select_on}, too; drop one of the two"
        )
    return SHIFTS[shift].anticipate, dict(SHIFTS[shift].training)


def _is_log(place: str) -> bool:
    """Whether it is a file or a data set of the catalogue, and no directory."""
    from cnsdiff.base.errors import InputError, did_you_mean
    from cnsdiff.catalogue import ENTRIES

    path = Path(place)
    if not path.exists() and place not in ENTRIES:
        near = did_you_mean(place, [*ENTRIES, *sorted(entry.name for entry in Path().iterdir())])
        raise InputError(
            f"{place}: no such log or dataset directory, and no data set of the catalogue{near}; "
            "check the path"
        )
    return path.is_file() or (place in ENTRIES and not (path / "manifest.json").exists())


@contextmanager
def _whole(reading: Reading, run: Path) -> Iterator[Dataset]:
    """A log as training data, kept in the run directory."""
    from cnsdiff.audit.log import read_log, undivided
    from cnsdiff.display.progress import PlainLines
    from cnsdiff.recommender.run_directory import dataset_kept_in, require_unfinished
    from cnsdiff.training.processes import place

    require_unfinished(run)  # before anything is read
    log = read_log(reading)
    dataset = undivided(log, reading)
    if place().rank:
        yield dataset
        return
    note = PlainLines("train").note
    note(
        f"{dataset.name}: {len(dataset.split('train')):,} pairs of {dataset.n_users:,} users and "
        f"{dataset.n_items:,} items, from {len(log.interactions):,} rows"
    )
    for sentence in log.notes:
        note(sentence)
    with dataset_kept_in(run, dataset):
        yield dataset


def _unfinished(run: Path) -> tuple[Recommender, Path]:
    """The recommender of an unfinished run, and where its dataset was."""
    from cnsdiff.base.errors import RunError
    from cnsdiff.recommender.recommender import Recommender
    from cnsdiff.recommender.run_directory import (
        DATASET,
        read_config,
        read_manifest,
        remove_checkpoints,
        without_configuration,
    )

    manifest = read_manifest(run)
    if manifest.status == "complete":
        remove_checkpoints(run)  # killed before that
        step, verb = Command("evaluate", run), "evaluate it"
        if (run / DATASET).is_dir():  # of a whole log, nothing is left to evaluate on
            step, verb = Command("recommend", run, all_users=True, out="lists.csv"), "write lists"
        raise RunError(f"{run}: this run is finished; {verb} with `{step}`")
    if not (run / "config.yaml").exists():
        raise without_configuration(run)
    tree = read_config(run)
    path = manifest.dataset.path
    if path is None:
        raise RunError(f"{run}: was trained on a dataset in memory; resume it from Python")
    return Recommender.from_config(tree, source=f"{run}/config.yaml"), Path(path)


def _fit_log(
    model: Recommender, reading: Reading, run: Path, json: bool, track: list[str] | None
) -> None:
    with _whole(reading, run) as data:
        _fit(model, data, run, json, track)


def _fit(
    model: Recommender, data: Dataset | Path, run: Path, json: bool, track: list[str] | None
) -> None:
    from cnsdiff.cli.failure import interruptible
    from cnsdiff.data import load_dataset
    from cnsdiff.tracking import resumed_trackers, trackers
    from cnsdiff.training.processes import place
    from cnsdiff.training.progress import Reporter, reporter_for_terminal

    config = model.resolve()
    callbacks = trackers(track, run) if track else resumed_trackers(run)
    dataset = load_dataset(data) if isinstance(data, Path) else data
    first = place().rank == 0
    reporter = reporter_for_terminal(config.title) if first else Reporter()
    with interruptible(partial(_how_to_go_on, run)) if first else nullcontext():
        model.fit(dataset, run=run, reporter=reporter, callbacks=callbacks)
    if first:
        _tell(model, dataset, run, json)


def _tell(model: Recommender, dataset: Dataset, run: Path, json: bool) -> None:
    """The result of training, and the next commands."""
    from cnsdiff.cli.output import console, print_facts, print_json, print_next
    from cnsdiff.display.wording import clock, spark_line
    from cnsdiff.evaluation.dial import in_words
    from cnsdiff.kernels.memory import peak_memory
    from cnsdiff.training.processes import make_fabric

    config, history = model.config_, model.history_
    best = next(r for r in history if r["epoch"] == model.best_epoch_)["validation"]
    # What picked the epoch comes first.
    metric = next(iter(best))
    epochs = sorted(record["seconds"] for record in history)
    median = epochs[len(epochs) // 2]
    # Of all epochs: those before a resumption, too.
    seconds = sum(record["seconds"] + record["validation_seconds"] for record in history)
    memory = peak_memory(make_fabric(config.device, config.precision).device)
    recommend = Command(
        "recommend", run, all_users=True, out="lists.csv", purpose="the lists themselves"
    )
    judged = "how it does under the shift, what beats it"
    steps = [
        Command("evaluate", run, references=True, purpose=judged),
        Command("report", run, purpose="all about it in one HTML file"),
        recommend,
    ]
    if set(model.learnt_from(dataset).split_names) == {"train"}:  # nothing is left to judge by
        steps = [recommend]
    content = model.content_
    if json:
        summary = {
            "run": str(run),
            "dataset": dataset.name,
            "best_epoch": model.best_epoch_,
            "epochs": len(history),
            "dial": model.dial_,
            "selected_on": model.selected_on_,
            **({} if content is None else {"content": content.model_dump()}),
            "metric": metric,
            "value": best[metric],
            "seconds": seconds,
            "median_epoch_seconds": median,
            "peak_memory_bytes": memory,
            "next": [str(command) for command in steps],
        }
        print_json(summary)
        return
    screen = console()
    rehearsed = model.environment_ is not None
    weights = None
    if model.stack_ is not None:
        first, second = model.stack_.weights
        weights = f"{first:g} of this model, {second:g} of {config.stack.preset}"
    chosen_on = "a rehearsal"
    if model.selected_on_ != "rehearsal":
        chosen_on = config.training.selection_split
    value = f"{metric} {best[metric]:.4f} on {chosen_on}"
    values = [r["validation"][metric] for r in history if r["validation"]]
    course = spark_line(values, 24, ascii_only=screen.options.ascii_only)
    facts = {
        "best epoch": f"{model.best_epoch_} of {len(history)}",
        "selected by": f"{value}  {course}",
        **(
            {"scores": "taste, and the environment as the rehearsal chose it"}
            if rehearsed
            else {"scores": "taste, and the item counts of the target"}
            if model.model_.bias is not None
            else {"dial": in_words(model.dial_)}
        ),
        **({} if weights is None else {"stack": weights}),
        **({} if content is None else {"content": _of_content(content)}),
        "time": f"{clock(seconds)}, {median:.2f} s an epoch",
        "memory": f"{memory / 2**30:.1f} GiB at most",
        "run": str(run),
    }
    if config.closed_form:
        del facts["best epoch"]
        facts["time"] = clock(seconds)
        facts["selected by"] = value
        for name, chosen in history[0]["train"].items():
            facts[name.replace("_", " ")] = f"{chosen:g}"
    if not config.dialled:
        facts.pop("dial", None)
    print_facts(screen, f"{config.title} on {dataset.name}", facts)
    print_next(screen, *steps)


def _of_content(content: ContentChoice) -> str:
    """What was chosen of content, and what it was worth on held-out pairs."""
    told = content.metrics
    worth = (
        f"{told['with']:.4f} of held-out pairs of old items and new, {told['without']:.4f} without"
    )
    return f"by {content.prior}: {worth}" if content.used else f"none, as with it {worth}"
