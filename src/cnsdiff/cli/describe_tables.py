"""The tables of ``cnsdiff data describe``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from cnsdiff.display.wording import SPLIT_TITLES

if TYPE_CHECKING:
    from cnsdiff.diagnostics import Description, Distances, Shift
    from cnsdiff.diagnostics.description import Counts, SplitDescription

#: Labels of periods shown; all are in --json.
_SHOWN_LABELS = 12


def comparison_table(described: list[Description]) -> Table:
    """A row per dataset and split, with the headline distances."""
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


def dataset_tables(one: Description) -> list[Table]:
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
