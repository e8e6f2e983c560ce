"""The tables of ``cnsdiff data describe``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from cnsdiff.cli.output import SPLIT_TITLES

if TYPE_CHECKING:
    from cnsdiff.diagnostics import Description, Distances

#: Labels of environments shown; all are in --json.
_SHOWN_LABELS = 12


def comparison_table(described: list[Description]) -> Table:
    """A row per dataset and split, with the headline distances."""
    table = _table("Distance from train", "dataset", "scenario", "on")
    for column in (
        *("pairs", "cold", "head %", "items JS", "chance", "W1", "users JS", "chance", "W1"),
        "time W1 d",
    ):
        table.add_column(column, justify="right")
    for one in described:
        label, scenario = one.name, one.scenario
        for name, split in one.splits.items():
            items, users, time = (split.shift.get(axis) for axis in ("items", "users", "time"))
            cells = [f"{split.pairs:,}", _count(split.dropped_unknown), f"{100 * split.head:.1f}"]
            for shift in (items, users):
                observed, chance = (shift.observed, shift.chance) if shift else (None, None)
                cells += [_of(observed, "js"), _of(chance, "js"), _of(observed, "wasserstein")]
            cells.append(_of(time.observed if time else None, "wasserstein", 1))
            table.add_row(plain(label), plain(scenario), _title(name), *cells)
            label = scenario = ""
        table.add_section()
    return table


def dataset_tables(one: Description) -> list[Table]:
    """Everything about one dataset but the curves, which are for figures and JSON."""
    tables = [_counts(one), _distances(one), _time(one), _environments(one), _overlaps(one)]
    return [table for table in tables if table.row_count]


def _counts(one: Description) -> Table:
    title = f"{one.name} ({one.scenario}): {one.n_users:,} users, {one.n_items:,} items"
    table = _table(title, "split")
    columns = ("pairs", "cold", "users", "items", "density", "per user", "per item", "Gini")
    for column in (*columns, "effective", "head %", "tail %", "top 10 %"):
        table.add_column(column, justify="right")
    for name, split in one.splits.items():
        table.add_row(
            _title(name),
            f"{split.pairs:,}",
            _count(split.dropped_unknown),
            f"{split.users.present:,}",
            f"{split.items.present:,}",
            f"{split.density:.2g}",
            f"{split.users.mean:.1f} ({split.users.median:g})",
            f"{split.items.mean:.1f} ({split.items.median:g})",
            f"{split.items.gini:.3f}",
            f"{split.items.effective:,.0f}",
            *(f"{100 * share:.1f}" for share in (split.head, split.tail, split.top_decile_items)),
        )
    table.caption = (
        "cold: pairs dropped as user or item is not in train · per user, per item: mean (median) "
        "of those present\nGini, effective number: of the items · head, tail: share of the pairs "
        "on the 20 % of items most, least popular in train\ntop 10 %: share of the split's items "
        "that are among the 10 % most popular in train"
    )
    table.caption_justify = "left"
    return table


def _distances(one: Description) -> Table:
    table = _table("Distance from train", "on", "of")
    columns = ("JS", "by chance", "KL(s‖t)", "KL(t‖s)", "TV", "by chance", "W1", "by chance")
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("W1 in")
    units = {"items": "quantile", "users": "quantile", "time": "days", "environments": ""}
    for name, split in one.splits.items():
        for axis, shift in split.shift.items():
            seen, chance = shift.observed, shift.chance
            table.add_row(
                _title(name),
                axis,
                _of(seen, "js"),
                _of(chance, "js"),
                _of(seen, "kl_split_train"),
                _of(seen, "kl_train_split"),
                _of(seen, "tv"),
                _of(chance, "tv"),
                _of(seen, "wasserstein"),
                _of(chance, "wasserstein"),
                units[axis],
            )
        table.add_section()
    return table


def _time(one: Description) -> Table:
    table = _table("Time (UTC)", "split", "first", "median", "last")
    for column in ("days", "overlap days", "after train %", "W1 / train's span"):
        table.add_column(column, justify="right")
    for name, split in one.splits.items():
        when = split.time
        if when is not None:
            table.add_row(
                _title(name),
                *(moment[:10] for moment in (when.first, when.median, when.last)),
                f"{when.span_days:,.1f}",
                _number(when.overlap_days, 1),
                _number(None if when.after_train is None else 100 * when.after_train, 1),
                _number(when.moved_spans, 3),
            )
    return table


def _environments(one: Description) -> Table:
    shares = {name: split.environments for name, split in one.splits.items() if split.environments}
    labels = list(dict.fromkeys(label for found in shares.values() for label in found))
    more = len(labels) - _SHOWN_LABELS
    title = "Environments, % of the pairs" + (f" ({more:,} more in --json)" if more > 0 else "")
    table = _table(title, "label")
    for name in shares:
        table.add_column(_title(name), justify="right")
    for label in labels[:_SHOWN_LABELS]:
        table.add_row(plain(label), *(f"{100 * found[label]:.1f}" for found in shares.values()))
    return table


def _overlaps(one: Description) -> Table:
    table = _table("In both of two splits", "split", "and")
    for column in ("pairs", "users (Jaccard)", "items (Jaccard)"):
        table.add_column(column, justify="right")
    for both in one.overlaps:
        table.add_row(
            _title(both.left),
            _title(both.right),
            f"{both.pairs:,}",
            f"{both.users_jaccard:.3f}",
            f"{both.items_jaccard:.3f}",
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=plain(title), title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column)
    return table


def plain(text: str) -> str:
    """``text`` as it is, whatever brackets stand in a name."""
    return escape(text)


def _title(split: str) -> str:
    return SPLIT_TITLES.get(split, split)


def _of(found: Distances | None, measure: str, digits: int = 4) -> str:
    return _number(None if found is None else getattr(found, measure), digits)


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
