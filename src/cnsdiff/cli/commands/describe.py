"""``cnsdiff data describe``: what is in a dataset, and how far each split is from train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnsdiff.base.spelling import Command
from cnsdiff.cli import completion
from cnsdiff.cli.options import Json
from cnsdiff.display.wording import SPLIT_TITLES

if TYPE_CHECKING:
    from rich.table import Table

    from cnsdiff.catalogue import Entry
    from cnsdiff.data import Dataset
    from cnsdiff.diagnostics import Description, Distances, Shift
    from cnsdiff.diagnostics.description import Counts, SplitDescription

EXAMPLE = "Example: cnsdiff data describe data/food --figures food.html"

#: Labels of periods shown; all are in --json.
_SHOWN_LABELS = 12


def describe(
    datasets: Annotated[
        list[str],
        typer.Argument(
            metavar="DATASET...",
            help="Dataset directory, or the name of a data set in the catalogue. Several "
            "directories give one table of their distances.",
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
    json: Json = False,
) -> None:
    """Measure the shift between train and each split: counts, long tail, distances, overlap."""
    from cnsdiff.base.errors import InputError
    from cnsdiff.cli.output import console, note, print_json
    from cnsdiff.data import Dataset
    from cnsdiff.diagnostics import describe as measure

    if figures is not None:
        _refuse_existing(figures, overwrite=overwrite)
    found = [_find(target) for target in datasets]
    prepared = [one for one in found if isinstance(one, Dataset)]
    published = [one for one in found if not isinstance(one, Dataset)]
    if published:
        entry = published[0]
        if len(found) > 1 or figures is not None:
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
    single = len(described) == 1
    for table in _tables(described[0]) if single else [_comparison(described)]:
        screen.print(table)
    screen.print(
        f"By chance: the mean of {described[0].draws} random divisions of the same pairs into "
        "parts of the same sizes."
    )
    for one in described:
        for problem in one.problems:
            screen.print(note(f"{one.name}: {problem}"), soft_wrap=True)
    if figures is not None:
        screen.print(f"Wrote {figures}.", soft_wrap=True)


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


def entry_facts(entry: Entry, root: Path | None = None) -> dict[str, Any]:
    """What the catalogue knows of a data set, and what of it is on this machine, for JSON."""
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
    from rich.text import Text

    table = _table("Distance from train", "dataset", "on")
    columns = ("pairs", "cold", "head %", "items JS", "chance", "items W1", "users JS", "chance")
    for column in (*columns, "time W1"):
        table.add_column(Text(column.replace(" ", "\n")), justify="right", no_wrap=True)
    for one in described:
        labels = iter((one.name, one.scenario))
        for name, split in one.splits.items():
            cells = [f"{split.pairs:,}", _count(split.dropped_unknown), _percent(split.head)]
            items, users, time = (split.shift.get(axis) for axis in ("items", "users", "time"))
            cells += [_js(items), _js_by_chance(items), _w1(items, 4)]
            cells += [_js(users), _js_by_chance(users), _w1(time, 1)]
            table.add_row(next(labels, ""), SPLIT_TITLES[name], *cells)
        table.add_section()
    table.caption = Text(
        "cold: pairs dropped as user or item is not in train · head: share of the pairs on the "
        "20% of items most popular in train\nJS: Jensen–Shannon divergence in nats, 0 to 0.693 · "
        "W1: Wasserstein distance, of items in popularity quantiles, of time in days"
    )
    table.caption_justify = "left"
    return table


def _tables(one: Description) -> list[Table]:
    """Everything about one dataset but the curves, which are for figures and JSON."""
    tables = [_counts(one), _distances(one), _time(one), _periods(one), _overlaps(one)]
    return [table for table in tables if table.row_count]


def _counts(one: Description) -> Table:
    title = f"{one.name} ({one.scenario}): {one.n_users:,} users, {one.n_items:,} items"
    table = _table(title, "")
    for name in one.splits:
        table.add_column(SPLIT_TITLES[name], justify="right", no_wrap=True)

    def add(label: str, cell: Callable[[SplitDescription], str]) -> None:
        table.add_row(label, *map(cell, one.splits.values()))

    add("pairs", lambda split: f"{split.pairs:,}")
    add("dropped: user or item not in train", lambda split: _count(split.dropped_unknown))
    add("users", lambda split: f"{split.users.present:,}")
    add("items", lambda split: f"{split.items.present:,}")
    add("density", lambda split: f"{split.density:.2g}")
    add("pairs per user, mean (median)", lambda split: _mean(split.users))
    add("pairs per item, mean (median)", lambda split: _mean(split.items))
    add("Gini of the items", lambda split: f"{split.items.gini:.3f}")
    add("effective number of items", lambda split: f"{split.items.effective:,.0f}")
    add("effective number of users", lambda split: f"{split.users.effective:,.0f}")
    add("% of pairs on train's top 20% of items", lambda split: _percent(split.head))
    add("% of pairs on train's last 20% of items", lambda split: _percent(split.tail))
    add("% of items in train's top 10%", lambda split: _percent(split.top_decile_items))
    return table


def _distances(one: Description) -> Table:
    table = _table("Distance from train", "on", "of")
    columns = ("JS", "chance", "KL(s‖t)", "KL(t‖s)", "TV", "chance", "W1", "chance")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("W1 in", no_wrap=True)
    units = {"items": "quantiles", "users": "quantiles", "time": "days", "periods": ""}
    for name, split in one.splits.items():
        for axis, shift in split.shift.items():
            seen, chance = shift.observed, shift.chance
            digits = 1 if axis == "time" else 4
            table.add_row(
                SPLIT_TITLES[name],
                axis,
                _of(seen, "js"),
                _of(chance, "js"),
                _of(seen, "kl_split_train"),
                _of(seen, "kl_train_split"),
                _of(seen, "tv"),
                _of(chance, "tv"),
                _of(seen, "wasserstein", digits),
                _of(chance, "wasserstein", digits),
                units[axis],
            )
        table.add_section()
    return table


def _time(one: Description) -> Table:
    table = _table("Time (UTC)", "split", "first", "median", "last")
    for column in ("days", "overlap days", "after train %", "W1 / train's span"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, split in one.splits.items():
        when = split.time
        if when is not None:
            table.add_row(
                SPLIT_TITLES[name],
                *(moment[:10] for moment in (when.first, when.median, when.last)),
                f"{when.span_days:,.1f}",
                _number(when.overlap_days, 1),
                _number(None if when.after_train is None else 100 * when.after_train, 1),
                _number(when.moved_spans, 3),
            )
    return table


def _periods(one: Description) -> Table:
    shares = {name: split.periods for name, split in one.splits.items() if split.periods}
    labels = list(dict.fromkeys(label for found in shares.values() for label in found))
    more = len(labels) - _SHOWN_LABELS
    title = "Periods, % of the pairs" + (f" ({more:,} more in --json)" if more > 0 else "")
    table = _table(title, "label")
    for name in shares:
        table.add_column(SPLIT_TITLES[name], justify="right", no_wrap=True)
    for label in labels[:_SHOWN_LABELS]:
        table.add_row(label, *(_percent(found[label]) for found in shares.values()))
    return table


def _overlaps(one: Description) -> Table:
    table = _table("In both of two splits", "split", "and")
    for column in ("pairs", "users (Jaccard)", "items (Jaccard)"):
        table.add_column(column, justify="right", no_wrap=True)
    for both in one.overlaps:
        table.add_row(
            SPLIT_TITLES[both.left],
            SPLIT_TITLES[both.right],
            f"{both.pairs:,}",
            f"{both.users_jaccard:.3f}",
            f"{both.items_jaccard:.3f}",
        )
    return table


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        # A long name makes room for the numbers, which nothing may push out.
        table.add_column(column, overflow="fold")
    return table


def _of(found: Distances | None, measure: str, digits: int = 4) -> str:
    return _number(None if found is None else getattr(found, measure), digits)


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _js(shift: Shift | None) -> str:
    return _of(shift.observed if shift else None, "js")


def _js_by_chance(shift: Shift | None) -> str:
    return _of(shift.chance if shift else None, "js")


def _w1(shift: Shift | None, digits: int) -> str:
    return _of(shift.observed if shift else None, "wasserstein", digits)


def _mean(counts: Counts) -> str:
    return f"{counts.mean:,.1f} ({counts.median:g})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
