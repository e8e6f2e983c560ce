"""The report of datasets: what is in them, and how far each split is from train."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cnsdiff.data import load_dataset
from cnsdiff.diagnostics import Description, describe
from cnsdiff.diagnostics.description import CURVE_GRID, DECILES, SplitDescription
from cnsdiff.display.tables import Column, Table
from cnsdiff.display.wording import SPLIT_TITLES, number
from cnsdiff.report.charts import DOTTED, SPLITS, PlotlyPart, chart
from cnsdiff.report.document import Block, Document, Facts, Figure, Prose, Section, verbatim

#: From so many times the distance that chance makes on, a split is called shifted.
BEYOND_CHANCE = 3.0


def dataset_document(path: Path, *, seed: int = 0) -> Document:
    """The report of a dataset directory; every split is read.

    Raises
    ------
    DataError
        It is damaged, or a split has no pairs.
    """
    return descriptions_document([describe(load_dataset(path), seed=seed)])


def descriptions_document(descriptions: Sequence[Description]) -> Document:
    """The report of one description, or of several side by side."""
    title = "Shift: " + ", ".join(dict.fromkeys(each.name for each in descriptions))
    if len(descriptions) == 1:
        (data,) = descriptions
        numbers = [_facts(data), _counts(data), _distances([data]), *_overlaps(data)]
        sections = [Section("Shift", shift_blocks(data)), Section("Numbers", numbers)]
        return Document(title, _verdict(data), sections)
    sections = [Section("Comparison", [_distances(descriptions)])]
    taken = {"Comparison"}
    for data in descriptions:
        name = f"{data.name} ({data.scenario})"
        at = 2
        while name in taken:  # the same name may have been prepared twice
            name, at = f"{data.name} ({data.scenario}) {at}", at + 1
        taken.add(name)
        sections.append(Section(name, [_facts(data), *shift_blocks(data), _counts(data)]))
    verdict = " ".join(_verdict(data) for data in descriptions[:2])
    more = len(descriptions) - 2
    return Document(title, verdict + (f" And {more} more." if more > 0 else ""), sections)


def shift_blocks(data: Description) -> list[Block]:
    """The figures of a description, and what is wrong with the dataset."""
    notes = [Prose(f"Note: {verbatim(problem)}.") for problem in data.problems]
    return [*notes, *shift_figures(data)]


def _verdict(data: Description) -> str:
    """The most shifted split, its axis, and whether chance could have done it."""
    distances = [
        (shift.observed.js, shift.chance.js, axis, name)
        for name, split in data.splits.items()
        for axis, shift in split.shift.items()
        if shift.chance is not None
    ]
    if not distances:
        return f"{data.name} has no held-out split, so there is no shift to measure."
    beyond = [each for each in distances if each[0] > BEYOND_CHANCE * each[1]]
    if not beyond:
        return f"No split of {data.name} is further from train than chance could make it."
    # Relative to chance: the axes have other numbers of categories, and so other distances.
    js, chance, axis, name = max(beyond, key=lambda each: each[0] / max(each[1], 1e-9))
    begin = f"In {data.name} the {SPLIT_TITLES[name]} is shifted most in its {axis}: "
    if chance < 1e-6:
        return f"{begin}far beyond chance (Jensen–Shannon {number(js, 3)}, by chance nearly 0)."
    # Three digits that count, so that the two numbers have the ratio that is told.
    digits = max(3, 2 - math.floor(math.log10(chance)))
    return (
        f"{begin}{js / chance:,.0f} times as far from train as chance makes it "
        f"(Jensen–Shannon {number(js, 3)} to {number(chance, digits)})."
    )


def _facts(data: Description) -> Facts:
    pairs = [f"{SPLIT_TITLES[name]} {split.pairs:,}" for name, split in data.splits.items()]
    return Facts(
        [
            ("dataset", data.name),
            ("scenario", data.scenario),
            ("users", f"{data.n_users:,}"),
            ("items", f"{data.n_items:,}"),
            ("pairs", ", ".join(pairs)),
            ("fingerprint", data.fingerprint),
        ]
    )


def _counts(data: Description) -> Table:
    return Table.of(
        "What is in each split",
        ["split"],
        [
            Column("pairs", "pairs", 0),
            Column("users", "users", 0),
            Column("items", "items", 0),
            Column("per_user", "pairs per user", 1),
            Column("per_item", "pairs per item", 1),
            Column("gini", "Gini of the items", 3),
            Column("effective_items", "effective items", 0),
            Column("head", "on train's top 20%", 1, percent=True, signed=False),
            Column("dropped", "dropped", 0),
        ],
        [
            (
                [SPLIT_TITLES[name]],
                [
                    split.pairs,
                    split.users.present,
                    split.items.present,
                    split.users.mean,
                    split.items.mean,
                    split.items.gini,
                    split.items.effective,
                    split.head,
                    split.dropped_unknown,
                ],
            )
            for name, split in data.splits.items()
        ],
        "effective items: as diverse as so many equally frequent ones",
        "on train's top 20%: share of the pairs on the items most popular in train",
        "dropped: pairs of users or items that train does not have",
    )


def _distances(descriptions: Sequence[Description]) -> Table:
    several = len(descriptions) > 1
    measures = {"js": "JS", "tv": "TV", "wasserstein": "W1"}
    columns, rows = [], []
    for title in measures.values():
        columns += [Column(title.lower(), title), Column(f"{title.lower()}_chance", "by chance")]
    for data in descriptions:
        for name, split in data.splits.items():
            for axis, shift in split.shift.items():
                labels = [*([data.name] if several else []), SPLIT_TITLES[name], axis]
                values = [
                    getattr(distances, measure, None)
                    for measure in measures
                    for distances in (shift.observed, shift.chance)
                ]
                rows.append((labels, values))
    return Table.of(
        "Distance from train",
        [*(["dataset"] if several else []), "split", "of"],
        columns,
        rows,
        "JS: Jensen–Shannon divergence in nats, 0 to 0.693; TV: total variation, 0 to 1",
        "W1: Wasserstein distance, of items and users in quantiles of train's counts, of time in "
        "days",
        "by chance: the mean of random divisions of the same pairs into equally large parts",
    )


def _overlaps(data: Description) -> list[Block]:
    if not data.overlaps:
        return []
    columns = [
        Column("pairs", "pairs", 0),
        Column("users", "users (Jaccard)", 3),
        Column("items", "items (Jaccard)", 3),
    ]
    rows = [
        (
            [SPLIT_TITLES[both.left], SPLIT_TITLES[both.right]],
            [both.pairs, both.users_jaccard, both.items_jaccard],
        )
        for both in data.overlaps
    ]
    return [Table.of("In both of two splits", ["split", "and"], columns, rows)]


# --- Figures, of the numbers of a description alone


def shift_figures(data: Description) -> Iterator[Figure]:
    """All figures of one dataset; that of time only where timestamps are known."""
    yield Figure(
        "Distance from train",
        "Jensen–Shannon divergence of each split from train, in nats (at most 0.69). The "
        "stroke is what a random hold-out of that size would show: only what lies beyond it "
        "is shift.",
        _distance_bars(data),
        pl.DataFrame(
            [
                (axis, name, shift.observed.js, None if shift.chance is None else shift.chance.js)
                for name, split in data.splits.items()
                for axis, shift in split.shift.items()
            ],
            schema={"of": str, "split": str, "js": float, "by_chance": float},
            orient="row",
        ),
        small=True,
    )
    tenths = [decile + 1 for decile in range(DECILES)]
    yield Figure(
        "Popularity of the items",
        "Share of a split's pairs on each tenth of the items, from the most popular in train "
        "(1) to the least (10).",
        _bars(data, "tenth of the items", "share of the pairs", tenths, lambda s: s.deciles),
        _numbers(data, "tenth_of_items", tenths, lambda split: split.deciles),
        small=True,
    )
    yield Figure(
        "Long tail",
        "Share of a split's pairs that its own most frequent items hold. On the dotted line "
        "all items would be equally frequent.",
        _long_tail(data),
        _numbers(data, "share_of_items", CURVE_GRID, lambda split: split.long_tail),
        small=True,
    )
    longest = max(len(split.activity) for split in data.splits.values())
    octaves = [_octave(exponent) for exponent in range(longest)]
    yield Figure(
        "Activity of the users",
        "Share of a split's users by the number of their pairs in it.",
        _bars(data, "pairs of a user", "share of the users", octaves, lambda s: s.activity),
        _numbers(data, "pairs_of_a_user", octaves, lambda split: split.activity),
        small=True,
    )
    if data.time_edges:
        edges = np.array(data.time_edges, dtype="datetime64[s]")
        middles = (edges[:-1] + (edges[1:] - edges[:-1]) // 2).astype(str).tolist()
        yield Figure(
            "Time",
            "Share of a split's pairs in each of the equal cells of the whole time (UTC).",
            _times(data, middles),
            _numbers(data, "time", middles, lambda s: () if s.time is None else s.time.cells),
            small=True,
        )


def _distance_bars(data: Description) -> Any:
    figure = chart(x="nats", height=360)
    chance: dict[str, float] = {}
    order: list[str] = []
    for name, split in data.splits.items():
        bars = {f"{axis}, {SPLIT_TITLES[name]}": shift for axis, shift in split.shift.items()}
        order += bars
        values = [shift.observed.js for shift in bars.values()]
        if bars:
            figure.add_bar(y=list(bars), x=values, orientation="h", **_as_bars(name))
        chance |= {bar: s.chance.js for bar, s in bars.items() if s.chance is not None}
    if chance:
        line = {"width": 3, "color": SPLITS["train"].colour}
        stroke = {"symbol": "line-ns", "size": 16, "line": line}
        figure.add_scatter(
            y=list(chance), x=list(chance.values()), mode="markers", marker=stroke, name="by chance"
        )
    # By axis, then by split; plotly draws the first category at the bottom.
    axes = list(dict.fromkeys(bar.partition(",")[0] for bar in order))
    order.sort(key=lambda bar: axes.index(bar.partition(",")[0]))
    figure.update_yaxes(categoryorder="array", categoryarray=order[::-1])
    return figure


def _bars(
    data: Description,
    x: str,
    y: str,
    labels: Sequence[object],
    shares: Callable[[SplitDescription], Sequence[float]],
) -> Any:
    figure = chart(x=x, y=y, height=360)
    for name, split in data.splits.items():
        figure.add_bar(x=list(map(str, labels)), y=list(shares(split)), **_as_bars(name))
    # Labels such as "2–3" are words, not numbers or dates.
    figure.update_xaxes(type="category")
    return figure


def _as_bars(split: str) -> PlotlyPart:
    """Name and look of a split's bars."""
    return {"name": SPLIT_TITLES[split], "marker": {"color": SPLITS[split].colour}}


def _long_tail(data: Description) -> Any:
    figure = chart(x="share of the items", y="share of the pairs", height=360)
    for name, split in data.splits.items():
        curve = list(split.long_tail)
        figure.add_scatter(
            x=CURVE_GRID.tolist(),
            y=curve,
            mode="lines",
            name=SPLIT_TITLES[name],
            line=SPLITS[name].line,
        )
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=DOTTED, name="all alike")
    return figure


def _times(data: Description, middles: list[str]) -> Any:
    figure = chart(y="share of the pairs", height=360)
    for name, split in data.splits.items():
        if split.time is not None:
            line = {**SPLITS[name].line, "shape": "hvh"}
            cells = list(split.time.cells)
            figure.add_scatter(x=middles, y=cells, mode="lines", name=SPLIT_TITLES[name], line=line)
    return figure


def _octave(exponent: int) -> str:
    """The label of the users with ``2^e`` to ``2^(e+1) - 1`` pairs."""
    low = 2**exponent
    return "1" if low == 1 else f"{low}–{2 * low - 1}"


def _numbers(
    data: Description,
    axis: str,
    places: Iterable[object],
    shares: Callable[[SplitDescription], Sequence[float]],
) -> pl.DataFrame:
    """A row per split and place, of the shares that a figure draws."""
    known = list(places)
    rows = [
        (name, place, share)
        for name, split in data.splits.items()
        # Of activity each split has as many as it needs.
        for place, share in zip(known, shares(split), strict=False)
    ]
    return pl.DataFrame(rows, schema=["split", axis, "share"], orient="row")
