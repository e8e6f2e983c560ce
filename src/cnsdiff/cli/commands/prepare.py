"""``cnsdiff prepare``: a log, or ready splits, become a dataset directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    TimestampColumn,
    TimeUnit,
    UserColumn,
    UserCore,
    UserFeatures,
)

if TYPE_CHECKING:
    from cnsdiff.data import Dataset, Source
    from cnsdiff.data.directory import DatasetManifest
    from cnsdiff.shifts import Scenario

EXAMPLE = (
    "Example: cnsdiff prepare ratings.csv --scenario popularity --strength 1 --threshold 4 "
    "--out data/shop\n\nWith ready splits: cnsdiff prepare --train train.txt --valid valid.txt "
    "--test-iid iid.txt --test-ood ood.txt --out data/food"
)


def prepare(
    log: Annotated[
        str | None,
        typer.Argument(
            help="File of interactions, or a data set fetched before (ml-100k).",
            autocompletion=completion.log,
        ),
    ] = None,
    scenario: Annotated[
        str | None,
        typer.Option(
            help=f"How LOG is divided: {', '.join(completion.SCENARIOS)}.",
            autocompletion=completion.scenario,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Dataset directory to write (default: the dataset's name).")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="Strength of the shift, where the scenario has one.")
    ] = None,
    horizon: Annotated[
        str | None,
        typer.Option(
            help="How long after its cut in time the OOD test goes on: 30d, 2w; below 1, a share "
            "of the rows (default: all that comes after)."
        ),
    ] = None,
    cuts: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=1000,
            help="Cut so many times, each a horizon after the one before: datasets cut-1, cut-2 … "
            "in --out.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the scenario: gap=7d.",
            autocompletion=completion.scenario_setting,
        ),
    ] = None,
    seed: Seed = 0,
    randomised: Randomised = None,
    user_features: UserFeatures = None,
    item_features: ItemFeatures = None,
    target_counts: Annotated[
        Path | None,
        typer.Option(help="How often each item is asked for in the environment to come."),
    ] = None,
    target_sample: Annotated[
        Path | None,
        typer.Option(help="Interactions of some users there, whom no test has then."),
    ] = None,
    train: Annotated[Path | None, typer.Option(help="Ready training interactions.")] = None,
    valid: Annotated[Path | None, typer.Option(help="Validation interactions (IID).")] = None,
    test_iid: Annotated[Path | None, typer.Option(help="Test from the same distribution.")] = None,
    test_ood: Annotated[Path | None, typer.Option(help="Test from the shifted one.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the dataset (default: as --out, or after LOG).")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Least rating of a positive.")] = None,
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
    licence: Annotated[str | None, typer.Option(help="Licence note for the manifest.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing dataset.")] = False,
    json: Json = False,
) -> None:
    """Divide a log into train, valid and IID and OOD tests by a shift scenario.

    Or read ready splits (--train and others). Files may be text, CSV, Parquet, .inter and more.
    """
    from cnsdiff.cli.output import (
        after_dataset,
        console,
        funnel_table,
        note,
        print_dataset,
        print_json,
        print_next,
        print_table,
    )
    from cnsdiff.display.wording import count

    ready = {"train": train, "valid": valid, "test_iid": test_iid, "test_ood": test_ood}
    divided: dict[str, object] = {"strength": strength, "horizon": horizon, "cuts": cuts}
    divided |= {"set": set_, "randomised": randomised}
    _check_form(log, scenario, ready, divided)
    if out is None and name is not None:
        out = _place(name)
    from cnsdiff import shifts
    from cnsdiff.cli.parsing import parse_events, parse_features
    from cnsdiff.shifts.sources import find_source

    filters: Mapping[str, Any] = {
        "threshold": threshold,
        "user_core": user_core,
        "item_core": item_core,
        "max_per_user": max_per_user,
    }
    reading: Mapping[str, Any] = {
        "licence": licence,
        "user_features": user_features,
        "item_features": parse_features("--item-features", item_features),
        "format": format,
        "user": user_col,
        "item": item_col,
        "rating": rating_col,
        "timestamp": timestamp_col,
        "period": period_col,
        "event": event_col,
        "events": parse_events(events),
        "header": header,
        "delimiter": delimiter,
        "skip_bad": skip_bad,
        "time_unit": time_unit,
        "literal_ids": literal_ids,
    }
    remarks: list[str] = []
    told_of: dict[str, Any] = {"target_counts": target_counts, "target_sample": None}
    if target_sample is not None:
        from cnsdiff.data import read_interactions

        beside = ("licence", "user_features", "item_features")
        columns = {key: value for key, value in reading.items() if key not in beside}
        told_of["target_sample"] = read_interactions(target_sample, **columns)
    if log is None:
        assert train is not None
        made = shifts.prepare_given(
            train,
            valid=valid,
            test_iid=test_iid,
            test_ood=test_ood,
            name=name,
            **filters,
            **told_of,
            **reading,
        )
        datasets = [made]
    else:
        if name is None and out is not None:
            name = out.name
        assert scenario is not None
        # Built here, so that a setting is never taken for an option of the reader.
        chosen = _scenarios(scenario, strength, horizon, cuts, set_ or [])
        source = find_source(log, randomised=randomised, **reading)
        remarks = _remarks(source, max_per_user)
        names = [name] * len(chosen)
        if cuts:
            whole = name or f"{source.name}-{scenario}"
            out = _place(whole) if out is None else out
            names = [f"{whole}-cut-{number}" for number in range(1, 1 + cuts)]
        datasets = [
            shifts.prepare(source, one, name=own, seed=seed, **filters, **told_of)
            for one, own in zip(chosen, names, strict=True)
        ]
    out = _place(datasets[0].name) if out is None else out
    places = _save(datasets, out, overwrite=overwrite) if cuts else [out]
    if not cuts:
        datasets[0].save(out, overwrite=overwrite)
    if json:
        reports = [
            {"path": str(place), **dataset.manifest.to_dict()}
            for place, dataset in zip(places, datasets, strict=True)
        ]
        print_json({"path": str(out), "cuts": reports} if cuts else reports[0])
        return
    screen = console()
    dataset = datasets[0]
    if funnel := dataset.manifest.funnel:
        print_table(screen, funnel_table(funnel))
    for remark in remarks:
        screen.print(note(remark), soft_wrap=True)
    for each in datasets:
        print_dataset(screen, each)
        if cuts and (line := log_line(each.manifest.log)):
            screen.print(line, soft_wrap=True)
    used = dataset.manifest.settings.get("threshold")
    if threshold is None and used is not None:
        told = f"ratings of {used:g} and more count as positive, as usual for {log}"
        screen.print(note(f"{told}; --threshold changes that"), soft_wrap=True)
    rated = _with_ignored_ratings(dataset.manifest)
    if rated:
        told = f"{rated} ratings, and without --threshold each of them counts as positive"
        screen.print(note(told), soft_wrap=True)
    for text in problem_lines(dataset.manifest):
        screen.print(note(text), soft_wrap=True)
    if not cuts and (line := log_line(dataset.manifest.log)):
        screen.print(line, soft_wrap=True)
    for split, option, use in (
        ("valid", "--valid", "train chooses on a part of its pairs, and then learns from all"),
        ("test_ood", "--test-ood", "without it nothing is known about a shift"),
    ):
        # One of new items alone has been told of.
        new = dataset.n_new_items and split in dataset.table("new_item_pairs")["split"]
        if split not in dataset.split_names and not new:
            screen.print(note(f"there is no {split} split ({option} FILE): {use}"), soft_wrap=True)
    if dataset.n_new_items:
        pairs = dataset.table("new_item_pairs").height
        told = f"{pairs:,} more held-out pairs are on {count(dataset.n_new_items, 'item')} that"
        learn = "train with --content auto learns from their features"
        screen.print(note(f"{told} train has not: {learn}"), soft_wrap=True)
    for place in places:
        screen.print(f"Wrote {place}", soft_wrap=True)
    print_next(screen, *after_dataset(places[-1], dataset.split_names))


def _remarks(source: Source, max_per_user: int | None) -> list[str]:
    """What to think of before a log is divided, a sentence each."""
    from cnsdiff.diagnostics import describe_log

    if "log" not in source.tables:
        return []
    return describe_log(source.tables["log"]).remarks(max_per_user)


def _save(datasets: Sequence[Dataset], out: Path, *, overwrite: bool) -> list[Path]:
    """Write the datasets of several cuts as ``cut-1``, ``cut-2`` … in ``out``: all, or nothing."""
    from cnsdiff.base.errors import InputError
    from cnsdiff.base.storage import atomic_directory, foreign_to

    names = [f"cut-{number}" for number in range(1, 1 + len(datasets))]
    if overwrite and out.is_dir() and (other := foreign_to(out, names)) is not None:
        raise InputError(
            f"{out}: holds {other!r} beside its cuts, which --overwrite would remove; move it, or "
            "choose another directory"
        )
    with atomic_directory(out, overwrite=overwrite) as temporary:
        for dataset, name in zip(datasets, names, strict=True):
            dataset.save(temporary / name)
    return [out / name for name in names]


def _with_ignored_ratings(manifest: DatasetManifest) -> str:
    """The files whose ratings were not used, and a verb; "" where there are none."""
    if manifest.log.get("ratings_ignored"):
        return "the log has"
    splits = [name for name, counts in manifest.splits.items() if counts.ratings_ignored]
    return f"{', '.join(splits)} {'has' if len(splits) == 1 else 'have'}" if splits else ""


def _place(name: str) -> Path:
    """The directory of a dataset that is called after it."""
    from cnsdiff.base.storage import as_file_name

    return as_file_name(name, "say where the dataset shall be with --out DIR")


def _check_form(
    log: str | None,
    scenario: str | None,
    ready: Mapping[str, Path | None],
    divided: Mapping[str, object],
) -> None:
    """Either a log with a scenario, or ready splits."""
    from cnsdiff.base.errors import InputError

    splits = [name for name, file in ready.items() if file is not None]
    if log is None:
        if "train" not in splits:
            raise InputError(
                "prepare needs a LOG with --scenario NAME, or ready splits with --train FILE"
            )
        if scenario not in (None, "given"):
            raise InputError(
                f"--scenario {scenario} divides one log, and ready splits are given with --train; "
                "give LOG in place of --train"
            )
        for option, value in divided.items():
            if value is not None:
                raise InputError(
                    f"--{option} is for a scenario that divides a LOG, and ready splits are given "
                    "with --train; drop one of the two"
                )
        return
    if splits:
        raise InputError(
            f"LOG is divided into splits, and --{splits[0].replace('_', '-')} gives a ready one; "
            "drop one of the two"
        )
    if scenario in (None, "given"):
        from cnsdiff.shifts import SCENARIOS

        raise InputError(
            f"{log}: name a scenario that divides it with --scenario: "
            f"{', '.join(name for name in SCENARIOS.names() if name != 'given')}"
        )


def _scenarios(
    name: str,
    strength: float | None,
    horizon: str | None,
    cuts: int | None,
    assignments: list[str],
) -> list[Scenario]:
    """The scenario as ``--scenario``, ``--strength``, ``--set`` … give it, at each cut."""
    from cnsdiff.base.errors import ConfigError
    from cnsdiff.cli.parsing import parse_assignments
    from cnsdiff.shifts import SCENARIOS
    from cnsdiff.shifts.preparation import cuts_of, in_time, settings_in_time

    settings: Mapping[str, Any] = parse_assignments(assignments)
    if strength is not None:
        if "strength" in settings:
            raise ConfigError("--strength and --set strength= say the same; drop one of the two")
        settings = {**settings, "strength": strength}
    if horizon is not None:
        if "horizon" in settings_in_time(name, settings):
            raise ConfigError("--horizon and --set horizon= say the same; drop one of the two")
        settings = in_time(name, settings, horizon=horizon)
    scenario = SCENARIOS.find(name)
    return [scenario(**one) for one in (cuts_of(name, settings, cuts) if cuts else [settings])]


def problem_lines(manifest: DatasetManifest) -> list[str]:
    """Rows of each file that reading left out, a line for each reason that the funnel lacks."""
    from cnsdiff.data.interactions import Problem

    files, by_file = manifest.source.get("files"), manifest.source.get("problems")
    if not isinstance(files, Mapping) or not isinstance(by_file, Mapping):
        return []
    return [
        f"{files[role]}: left out {Problem(**problem)}"
        for role, problems in by_file.items()
        if role != "log" or not manifest.funnel
        for problem in problems
    ]


_IN_FUNNEL = (
    *("funnel", "read", "skipped", "below_threshold", "duplicates", "of_heavy_users"),
    "outside_k_core",
)


def log_line(counts: Mapping[str, object]) -> str:
    """The scenario's choices, in a line; before them counts of the log that no funnel tells."""
    if "funnel" in counts:
        counts = {key: value for key, value in counts.items() if key not in _IN_FUNNEL}
    for moment in ("cut", "end"):
        if f"{moment}_utc" in counts:  # the same moment, and readable
            counts = {key: value for key, value in counts.items() if key != moment}
            counts[moment] = f"at {counts.pop(f'{moment}_utc')} UTC"
    told = [f"{counts['read']:,} read"] if "read" in counts else []
    told += [
        f"{value:,} {key.replace('_', ' ')}" if isinstance(value, int) else f"{key} {value}"
        for key, value in counts.items()
        if key != "read" and value != 0
    ]
    return f"log: {', '.join(told)}" if told else ""
