"""Figures of a description: built from its numbers alone, so that a report can use them too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl

from cnsdiff.diagnostics.description import Description, SplitDescription
from cnsdiff.diagnostics.measures import CURVE_GRID, DECILES
from cnsdiff.display.palette import SPLITS
from cnsdiff.display.wording import SPLIT_TITLES


@dataclass(frozen=True)
class Panel:
    """A figure, the words around it, and the numbers that it draws."""

    title: str
    caption: str
    """Plain text; kept out of the figure, where a narrow screen would cut it."""
    figure: Any
    """A ``plotly.graph_objects.Figure`` without a fixed width."""
    data: pl.DataFrame
    """A row per point drawn."""


def panels(description: Description) -> tuple[Panel, ...]:
    """All figures of one dataset; that of time only where timestamps are known."""
    longest = max(len(split.activity) for split in description.splits.values())
    tenths = [decile + 1 for decile in range(DECILES)]
    octaves = [_octave(exponent) for exponent in range(longest)]
    made = [
        Panel(
            "Distance from train",
            "Jensen–Shannon divergence of each split from train, in nats (at most 0.69). The "
            "stroke is what a random hold-out of that size would show: only what lies beyond it "
            "is shift.",
            _distances(description),
            _distance_numbers(description),
        ),
        Panel(
            "Popularity of the items",
            "Share of a split's pairs on each tenth of the items, from the most popular in train "
            "(1) to the least (10).",
            _bars(
                description,
                ("tenth of the items", "share of the pairs"),
                tenths,
                lambda split: split.deciles,
            ),
            _long(description, "tenth_of_items", tenths, lambda split: split.deciles),
        ),
        Panel(
            "Long tail",
            "Share of a split's pairs that its own most frequent items hold. On the dotted line "
            "all items would be equally frequent.",
            _long_tail(description),
            _long(description, "share_of_items", CURVE_GRID, lambda split: split.long_tail),
        ),
        Panel(
            "Activity of the users",
            "Share of a split's users by the number of their pairs in it.",
            _bars(
                description,
                ("pairs of a user", "share of the users"),
                octaves,
                lambda split: split.activity,
            ),
            _long(description, "pairs_of_a_user", octaves, lambda split: split.activity),
        ),
    ]
    if description.time_edges:
        made.append(
            Panel(
                "Time",
                "Share of a split's pairs in each of the equal cells of the whole time (UTC).",
                _time(description),
                _long(description, "time", _middles(description), _cells),
            )
        )
    return tuple(made)


def _distances(description: Description) -> Any:
    figure = _figure(x="nats")
    chance: dict[str, float] = {}
    order: list[str] = []
    for name, split in description.splits.items():
        bars = {f"{axis}, {SPLIT_TITLES[name]}": shift for axis, shift in split.shift.items()}
        order += bars
        values = [shift.observed.js for shift in bars.values()]
        if bars:
            figure.add_bar(y=list(bars), x=values, orientation="h", **_named(name, "marker"))
        chance |= {bar: s.chance.js for bar, s in bars.items() if s.chance is not None}
    if chance:
        stroke = {
            "symbol": "line-ns",
            "size": 16,
            "line": {"width": 3, "color": SPLITS["train"].colour},
        }
        figure.add_scatter(
            y=list(chance), x=list(chance.values()), mode="markers", marker=stroke, name="by chance"
        )
    # By axis, then by split; plotly draws the first category at the bottom.
    axes = list(dict.fromkeys(bar.partition(",")[0] for bar in order))
    order.sort(key=lambda bar: axes.index(bar.partition(",")[0]))
    figure.update_yaxes(categoryorder="array", categoryarray=order[::-1])
    return figure


def _long_tail(description: Description) -> Any:
    figure = _figure(x="share of the items", y="share of the pairs")
    for name, split in description.splits.items():
        figure.add_scatter(
            x=CURVE_GRID.tolist(), y=list(split.long_tail), mode="lines", **_named(name, "line")
        )
    dotted = {"dash": "dot", "color": SPLITS["train"].colour, "width": 1}
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=dotted, name="all alike")
    return figure


def _time(description: Description) -> Any:
    figure = _figure(y="share of the pairs")
    middles = _middles(description)
    for name, split in description.splits.items():
        if split.time is not None:
            style = _named(name, "line")
            style["line"] |= {"shape": "hvh"}
            figure.add_scatter(x=middles, y=list(split.time.cells), mode="lines", **style)
    return figure


def _middles(description: Description) -> list[str]:
    edges = np.array(description.time_edges, dtype="datetime64[s]")
    middles: list[str] = (edges[:-1] + (edges[1:] - edges[:-1]) // 2).astype(str).tolist()
    return middles


def _distance_numbers(description: Description) -> pl.DataFrame:
    rows = [
        (axis, name, shift.observed.js, None if shift.chance is None else shift.chance.js)
        for name, split in description.splits.items()
        for axis, shift in split.shift.items()
    ]
    schema = {"of": pl.String, "split": pl.String, "js": pl.Float64, "by_chance": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _long(
    description: Description,
    axis: str,
    places: Iterable[object],
    shares: Callable[[SplitDescription], Sequence[float]],
) -> pl.DataFrame:
    """A row per split and place, of the shares that a figure draws."""
    known = list(places)
    rows = [
        (name, place, share)
        for name, split in description.splits.items()
        # Of activity each split has as many as it needs.
        for place, share in zip(known, shares(split), strict=False)
    ]
    return pl.DataFrame(rows, schema=["split", axis, "share"], orient="row")


def _cells(split: SplitDescription) -> Sequence[float]:
    return () if split.time is None else split.time.cells


def _octave(exponent: int) -> str:
    """The label of the users with ``2^e`` to ``2^(e+1) - 1`` pairs."""
    low = 2**exponent
    return "1" if low == 1 else f"{low}–{2 * low - 1}"


def _bars(
    description: Description,
    axes: tuple[str, str],
    labels: Sequence[object],
    shares: Callable[[SplitDescription], Sequence[float]],
) -> Any:
    figure = _figure(x=axes[0], y=axes[1])
    for name, split in description.splits.items():
        heights = list(shares(split))
        figure.add_bar(x=list(map(str, labels)), y=heights, **_named(name, "marker"))
    # Labels such as "2–3" are words, not numbers or dates.
    figure.update_xaxes(type="category")
    return figure


def _named(split: str, part: str) -> dict[str, Any]:
    """Name and look of a split, for a trace of bars (its ``marker``) or lines (its ``line``)."""
    style = SPLITS[split]
    look = {"color": style.colour} if part == "marker" else style.line
    return {"name": SPLIT_TITLES[split], part: dict(look)}


def _figure(*, x: str | None = None, y: str | None = None) -> Any:
    figure = go.Figure()
    figure.update_layout(
        template="plotly_white",
        autosize=True,
        height=360,
        # Above the figure, where no tick label can run into it.
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        xaxis={"title": {"text": x}, "automargin": True},
        yaxis={"title": {"text": y}, "automargin": True},
    )
    return figure
