"""``cnsdiff data describe``: what is in a log or a dataset, how far each split is from train."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnsdiff.base.text import Command
from cnsdiff.cli import completion
from cnsdiff.cli.options import (
    Delimiter,
    EventColumn,
    Events,
    Format,
    Header,
    ItemColumn,
    ItemCore,
    Json,
    LiteralIds,
    MaxPerUser,
    PeriodColumn,
    RatingColumn,
    TimestampColumn,
    TimeUnit,
    UserColumn,
    UserCore,
)
from cnsdiff.display.tables import Cell, Column, Table
from cnsdiff.display.wording import NOTHING, SPLIT_TITLES, number, percent

if TYPE_CHECKING:
    from cnsdiff.catalogue import Entry
    from cnsdiff.data import Dataset
    from cnsdiff.diagnostics import Description, Distances, LogDescription
    from cnsdiff.diagnostics.description import Counts

EXAMPLE = (
    "Example: cnsdiff data describe data/food --figures food.html\n\n"
    "Before that, the log: cnsdiff data describe clicks.csv --events purchase=1,view=0.1"
)

#: Labels of periods shown; all are in --json.
_SHOWN_LABELS = 12


def describe(
    datasets: Annotated[
        list[str],
        typer.Argument(
            metavar="LOG|DATASET...",
            help="File of interactions, dataset directory, or the name of a data set in the "
            "catalogue. Several directories give one table of their distances.",
            autocompletion=completion.log,
        ),
    ],
    figures: Annotated[
        Path | None, typer.Option(help="HTML file to write; it opens offline.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing --figures file.")] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Of the random divisions behind 'by chance'.")
    ] = 0,
    threshold: Annotated[
        float | None, typer.Option(help="Of a log: least rating of a positive.")
    ] = None,
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
    json: Json = False,
) -> None:
    """Look at a log, or measure the shift between train and each split of a dataset.

    Of a log: what is left after each filter and why, events, heavy users, repeats, new users and
    items. Of a dataset: counts, long tail, distances, overlap.
    """
    from cnsdiff.base.errors import InputError
    from cnsdiff.base.text import parameter
    from cnsdiff.cli.output import console, note, print_json, print_table
    from cnsdiff.cli.parsing import parse_events
    from cnsdiff.data import Dataset
    from cnsdiff.diagnostics import describe as measure

    if figures is not None:
        _refuse_existing(figures, overwrite=overwrite)
    logs = [target for target in datasets if Path(target).is_file()]
    reading = {
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
        "time_unit": time_unit,
        "literal_ids": literal_ids,
    }
    filters = {"threshold": threshold, "user_core": user_core, "item_core": item_core}
    filters["max_per_user"] = max_per_user
    if logs:
        if len(datasets) > 1 or figures is not None:
            raise InputError(
                f"{logs[0]}: is a log, which is described alone and without --figures; give it by "
                "itself, or dataset directories"
            )
        given = {**reading, **filters, "events": events}
        _show_log(logs[0], reading, filters, given, json=json)
        return
    for name, value in {**reading, **filters}.items():
        if value not in (None, 0, False, "auto"):
            raise InputError(
                f"{parameter(name)} is for a log, and {datasets[0]} is none; drop it, or give a "
                "file of interactions"
            )
    sources = [_find(target) for target in datasets]
    prepared = [one for one in sources if isinstance(one, Dataset)]
    published = [one for one in sources if not isinstance(one, Dataset)]
    if published:
        entry = published[0]
        if len(sources) > 1 or figures is not None:
            raise InputError(
                f"{entry.name}: is a name of the catalogue, not a dataset directory, so there is "
                f"nothing to measure; make one with {Command('prepare', entry.name, out='DIR')}"
            )
        _show_entry(entry, json=json)
        return
    described = [measure(dataset, seed=seed) for dataset in prepared]
    if figures is not None:
        from cnsdiff.report.dataset import descriptions_document
        from cnsdiff.report.html import write_html

        write_html(descriptions_document(described), figures)
    if json:
        documents = [
            {"path": str(dataset.path), **one.to_dict()}
            for dataset, one in zip(prepared, described, strict=True)
        ]
        print_json(documents[0] if len(documents) == 1 else documents)
        return
    screen = console()
    if len(described) == 1:
        for table in _tables(described[0]):
            print_table(screen, table)
    else:
        print_table(screen, _comparison(described), narrow=True)
    screen.print(
        f"By chance: the mean of {described[0].draws} random divisions of the same pairs into "
        "parts of the same sizes."
    )
    for one in described:
        for problem in one.problems:
            screen.print(note(f"{one.name}: {problem}"), soft_wrap=True)
    if figures is not None:
        screen.print(f"Wrote {figures}.", soft_wrap=True)


def _show_log(
    file: str,
    reading: Mapping[str, Any],
    filters: Mapping[str, Any],
    given: Mapping[str, Any],
    *,
    json: bool,
) -> None:
    """What is in a log; malformed lines are counted, not refused, and a threshold is chosen.

    What is ``given`` goes into the commands to go on with.
    """
    from cnsdiff.audit.log import choose_threshold
    from cnsdiff.cli.output import console, funnel_table, note, print_json, print_next, print_table
    from cnsdiff.data import read_interactions
    from cnsdiff.diagnostics import describe_log
    from cnsdiff.shifts import Filters

    log = read_interactions(file, skip_bad=True, **reading)
    chosen, why = choose_threshold(log, filters["threshold"])
    pairs, _ = Filters(**{**filters, "threshold": chosen}).clean(log, core=True)
    about = describe_log(log)
    if json:
        funnel = [step.to_dict() for step in pairs.funnel]
        print_json({"path": file, "threshold": chosen, "funnel": funnel, **about.to_dict()})
        return
    screen = console()
    roles = ", ".join(f"{column!r} is the {role}" for role, column in about.columns.items())
    screen.print(
        f"{Path(file).name}: {about.users:,} users, {about.items:,} items; {roles}", soft_wrap=True
    )
    print_table(screen, funnel_table(pairs.funnel))
    for table in (_events(about), _repeats(about), _weeks(about)):
        if table.rows:
            print_table(screen, table)
    for remark in [*([why] if why else []), *about.remarks(filters["max_per_user"])]:
        screen.print(note(remark), soft_wrap=True)
    columns = ("user", "item", "rating", "timestamp", "period", "event")
    same = {
        f"{name}_col" if name in columns else name: value
        for name, value in given.items()
        if value not in (None, 0, "auto") or name == "header"
    }
    same["skip_bad"] = True if log.skipped else None
    same["threshold"] = None if chosen is None else f"{chosen:g}"
    print_next(
        screen,
        Command("audit", file, purpose="which shifts cost how much, and what helps", **same),
        Command(
            "prepare",
            file,
            scenario="temporal" if about.weeks else "popularity",
            out=f"data/{Path(file).name.partition('.')[0]}",
            purpose="one dataset of it",
            **same,
        ),
    )


def _events(about: LogDescription) -> Table:
    return Table.of(
        "Events",
        ["event"],
        [Column("rows", "rows", 0), Column("share", "share", 1, percent=True, signed=False)],
        [([event or "(empty)"], [n, n / about.rows]) for event, n in about.events.items()],
    )


def _repeats(about: LogDescription) -> Table:
    facts = {
        "rows that repeat a pair": number(about.repeats, 0),
        "of them alike in every column": number(about.exact_repeats, 0),
        "rows of the most frequent pair": number(about.most_repeated, 0),
        "users with all rows within a day": percent(about.single_sitting),
        "heavy users": NOTHING if about.heavy is None else number(about.heavy.users, 0),
        "their rows": percent(None if about.heavy is None else about.heavy.share),
    }
    return Table.of(
        "Repeats and users",
        [""],
        [Column("value", "", 0)],
        [([label], [Cell(float("nan"), text=fact)]) for label, fact in facts.items()],
    )


def _weeks(about: LogDescription) -> Table:
    """Means a week, over as many weeks as make no more than ``_SHOWN_LABELS`` rows."""
    together = -(-len(about.weeks) // _SHOWN_LABELS) or 1
    parts = [about.weeks[at : at + together] for at in range(0, len(about.weeks), together)]
    rows = []
    for part in parts:
        sums = (sum(getattr(w, key) for w in part) for key in ("rows", "new_users", "new_items"))
        rows.append(([part[0].start[:10]], [total / len(part) for total in sums]))
    return Table.of(
        "Rows a week" if together == 1 else f"Rows a week, averaged over {together} weeks",
        ["from"],
        _columns(["rows", "new users", "new items"], 0),
        rows,
        "new: with their first row; all are new in the first week, and the last may be shorter",
    )


def _refuse_existing(file: Path, *, overwrite: bool) -> None:
    from cnsdiff.base.errors import InputError

    if file.is_dir():
        raise InputError(f"--figures {file}: is a directory; name a file in it")
    if file.exists() and not overwrite:
        raise InputError(
            f"--figures {file}: already exists; choose another name or pass --overwrite"
        )


def _find(target: str) -> Dataset | Entry:
    """The dataset in that directory, else the catalogue's entry of that name."""
    from cnsdiff.base.errors import InputError, did_you_mean
    from cnsdiff.catalogue import ENTRIES
    from cnsdiff.data import load_dataset

    path = Path(target)
    # A folder that only happens to have the name is no dataset.
    if target in ENTRIES and not (path / "manifest.json").exists():
        return ENTRIES[target]
    if path.exists():
        return load_dataset(path)
    raise InputError(
        f"{target}: is neither a dataset directory nor a name of the catalogue"
        f"{did_you_mean(target, ENTRIES)}; make a dataset with cnsdiff prepare, or see cnsdiff "
        "data list"
    )


def entry_facts(entry: Entry, root: Path | None = None) -> dict[str, object]:
    """The catalogue's entry of a data set, and its files on this machine, for JSON."""
    from cnsdiff.catalogue import home, status

    return {
        "name": entry.name,
        "what": entry.what,
        "shift": entry.shift,
        "columns": list(entry.columns),
        "threshold": entry.threshold,
        "bytes": entry.size or None,
        "licence": entry.licence,
        "terms": entry.terms,
        "must_accept_terms": entry.ask,
        "home_page": entry.home_page,
        "citation": entry.citation,
        "addresses": list(entry.addresses),
        "checksum": None if entry.checksum is None else str(entry.checksum),
        "status": status(entry, root),
        "folder": str(home(root) / entry.name),
    }


def _show_entry(entry: Entry, *, json: bool) -> None:
    from cnsdiff.cli.output import console, print_json, print_next

    facts = entry_facts(entry)
    if json:
        print_json(facts)
        return
    screen = console()
    shown = facts | {
        "columns": ", ".join(entry.columns),
        "addresses": ", ".join(entry.addresses) or "none: by hand, from the home page",
        "bytes": f"{entry.size:,}" if entry.size else "not known",
        "must_accept_terms": "yes" if entry.ask else "no",
    }
    for key, value in shown.items():
        if value is not None:
            title = key.replace("_", " ")
            screen.print(f"{title:<18} {value}", soft_wrap=True)
    if facts["status"] == "fetched":
        out = f"data/{entry.name.rpartition('/')[2]}"
        print_next(
            screen,
            Command("prepare", entry.name, scenario="popularity", out=out, purpose="divide it"),
            Command("data describe", out, purpose="measure the shift"),
        )
    else:
        print_next(screen, Command("data fetch", entry.name, purpose="get it"))


def _comparison(described: list[Description]) -> Table:
    """A row per dataset and split, with the headline distances."""
    rows = []
    for data in described:
        for name, split in data.splits.items():
            observed = {axis: shift.observed for axis, shift in split.shift.items()}
            chance = {axis: shift.chance for axis, shift in split.shift.items()}
            distances = [
                _of(observed.get("items"), "js"),
                _of(chance.get("items"), "js"),
                _of(observed.get("items"), "wasserstein"),
                _of(observed.get("users"), "js"),
                _of(chance.get("users"), "js"),
                _of(observed.get("time"), "wasserstein"),
            ]
            labels = [f"{data.name} ({data.scenario})", SPLIT_TITLES[name]]
            rows.append((labels, [split.pairs, split.dropped_unknown, split.head, *distances]))
    columns = [
        Column("pairs", "pairs", 0),
        Column("cold", "cold", 0),
        Column("head", "head", 1, percent=True, signed=False),
        *_columns(["items JS", "chance", "items W1", "users JS", "chance"], 4),
        Column("time W1", "time W1", 1),
    ]
    return Table.of(
        "Distance from train",
        ["dataset", "on"],
        columns,
        rows,
        "cold: pairs dropped as user or item is not in train; head: share of the pairs on the 20% "
        "of items most popular in train",
        "JS: Jensen–Shannon divergence in nats, 0 to 0.693; W1: Wasserstein distance, of items in "
        "popularity quantiles, of time in days",
    )


def _tables(data: Description) -> list[Table]:
    """Everything about one dataset but the curves, which are for figures and JSON."""
    tables = [_counts(data), _distances(data), _time(data), _periods(data), _overlaps(data)]
    return [table for table in tables if table.rows]


def _columns(titles: list[str], digits: int) -> list[Column]:
    return [Column(title, title, digits) for title in titles]


def _of(distances: Distances | None, measure: str) -> float | None:
    return None if distances is None else getattr(distances, measure)


def _counts(data: Description) -> Table:
    def mean(counts: Counts) -> str:
        return f"{number(counts.mean, 1)} ({counts.median:g})"

    columns = [
        {
            "pairs": number(split.pairs, 0),
            "dropped: user or item not in train": number(split.dropped_unknown, 0),
            "users": number(split.users.present, 0),
            "items": number(split.items.present, 0),
            "density": f"{split.density:.2g}",
            "pairs per user, mean (median)": mean(split.users),
            "pairs per item, mean (median)": mean(split.items),
            "Gini of the items": number(split.items.gini, 3),
            "effective number of items": number(split.items.effective, 0),
            "effective number of users": number(split.users.effective, 0),
            "pairs on train's top 20% of items": percent(split.head, 1),
            "pairs on train's last 20% of items": percent(split.tail, 1),
            "items in train's top 10%": percent(split.top_decile_items, 1),
        }
        for split in data.splits.values()
    ]
    return Table.of(
        f"{data.name} ({data.scenario}): {data.n_users:,} users, {data.n_items:,} items",
        [""],
        _columns([SPLIT_TITLES[name] for name in data.splits], 0),
        [
            ([label], [Cell(float("nan"), text=column[label]) for column in columns])
            for label in columns[0]
        ],
    )


def _distances(data: Description) -> Table:
    units = {"items": "quantiles", "users": "quantiles", "time": "days", "periods": ""}
    rows = []
    for name, split in data.splits.items():
        for axis, shift in split.shift.items():
            seen, chance = shift.observed, shift.chance
            divergences = [seen.js, _of(chance, "js"), seen.kl_split_train, seen.kl_train_split]
            variations = [seen.tv, _of(chance, "tv")]
            moved = [
                # Days have other digits than quantiles.
                Cell(float("nan"), text=number(w1, 1 if axis == "time" else 4))
                for w1 in (seen.wasserstein, _of(chance, "wasserstein"))
            ]
            labels = [SPLIT_TITLES[name], axis, units[axis]]
            rows.append((labels, [*divergences, *variations, *moved]))
    columns = ["JS", "chance", "KL(s‖t)", "KL(t‖s)", "TV", "chance", "W1", "chance"]
    return Table.of("Distance from train", ["on", "of", "W1 in"], _columns(columns, 4), rows)


def _time(data: Description) -> Table:
    rows = []
    for name, split in data.splits.items():
        if (when := split.time) is not None:
            dates = [moment[:10] for moment in (when.first, when.median, when.last)]
            spans = [when.span_days, when.overlap_days, when.after_train, when.moved_spans]
            rows.append(([SPLIT_TITLES[name], *dates], spans))
    columns = [
        *_columns(["days", "overlap days"], 1),
        Column("after train", "after train", 1, percent=True, signed=False),
        Column("W1 / train's span", "W1 / train's span", 3),
    ]
    return Table.of("Time (UTC)", ["split", "first", "median", "last"], columns, rows)


def _periods(data: Description) -> Table:
    shares = {name: split.periods for name, split in data.splits.items() if split.periods}
    labels = list(dict.fromkeys(label for own in shares.values() for label in own))
    more = len(labels) - _SHOWN_LABELS
    return Table.of(
        "Share of the pairs by period" + (f" ({more:,} more in --json)" if more > 0 else ""),
        ["label"],
        [Column(name, SPLIT_TITLES[name], 1, percent=True, signed=False) for name in shares],
        [([label], [own[label] for own in shares.values()]) for label in labels[:_SHOWN_LABELS]],
    )


def _overlaps(data: Description) -> Table:
    return Table.of(
        "In both of two splits",
        ["split", "and"],
        [Column("pairs", "pairs", 0), *_columns(["users (Jaccard)", "items (Jaccard)"], 3)],
        [
            (
                [SPLIT_TITLES[both.left], SPLIT_TITLES[both.right]],
                [both.pairs, both.users_jaccard, both.items_jaccard],
            )
            for both in data.overlaps
        ],
    )
