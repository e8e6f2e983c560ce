"""Figures of a description: built from its numbers alone, so that a report can use them too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from cnsdiff.data.directory import SPLIT_TITLES
from cnsdiff.diagnostics.concentration import CURVE_GRID, DECILES
from cnsdiff.diagnostics.description import Description

#: The same in every figure.
COLOURS = {"train": "#8d99ae", "valid": "#8ecae6", "test_iid": "#74c69d", "test_ood": "#f4a261"}
_INK, _GRID = "#444b54", "#eceff1"


@dataclass(frozen=True)
class Panel:
    """A figure with the words around it.

    Attributes
    ----------
    title, caption
        Plain text; kept out of the figure, where a narrow screen would cut it.
    figure
        A ``plotly.graph_objects.Figure`` without a fixed width.
    """

    title: str
    caption: str
    figure: Any


def panels(description: Description) -> tuple[Panel, ...]:
    """All figures of one dataset; that of time only where timestamps are known."""
    made = [
        Panel(
            "Distance from train",
            "Jensen–Shannon divergence of each split from train, in nats (at most 0.69). The "
            "stroke is what a random hold-out of that size would show: only what lies beyond it "
            "is shift.",
            _distances(description),
        ),
        Panel(
            "Popularity of the items",
            "Share of a split's pairs on each tenth of the items, from the most popular in train "
            "(1) to the least (10).",
            _deciles(description),
        ),
        Panel(
            "Long tail",
            "Share of a split's pairs that its own most frequent items hold. On the dotted line "
            "all items would be equally frequent.",
            _long_tail(description),
        ),
        Panel(
            "Activity of the users",
            "Share of a split's users by the number of their pairs in it.",
            _activity(description),
        ),
    ]
    if description.time_edges:
        made.append(
            Panel(
                "Time",
                "Share of a split's pairs in each of the equal cells of the whole time (UTC).",
                _time(description),
            )
        )
    return tuple(made)


def _distances(description: Description) -> Any:
    figure = _figure(x="nats")
    chance: dict[str, float] = {}
    order: list[str] = []
    for name, split in description.splits.items():
        bars = {f"{axis}, {SPLIT_TITLES[name]}": found for axis, found in split.shift.items()}
        order += bars
        values = [found.observed.js for found in bars.values()]
        if bars:
            figure.add_bar(y=list(bars), x=values, orientation="h", **_named(name, "marker"))
        chance |= {bar: s.chance.js for bar, s in bars.items() if s.chance is not None}
    if chance:
        stroke = {"symbol": "line-ns", "size": 16, "line": {"width": 3, "color": _INK}}
        figure.add_scatter(
            y=list(chance), x=list(chance.values()), mode="markers", marker=stroke, name="by chance"
        )
    # By axis, then by split; plotly draws the first category at the bottom.
    axes = list(dict.fromkeys(bar.partition(",")[0] for bar in order))
    order.sort(key=lambda bar: axes.index(bar.partition(",")[0]))
    figure.update_yaxes(categoryorder="array", categoryarray=order[::-1])
    return figure


def _deciles(description: Description) -> Any:
    figure = _figure(x="tenth of the items", y="share of the pairs")
    labels = [str(decile + 1) for decile in range(DECILES)]
    _bars(figure, labels, {name: split.deciles for name, split in description.splits.items()})
    return figure


def _long_tail(description: Description) -> Any:
    figure = _figure(x="share of the items", y="share of the pairs")
    for name, split in description.splits.items():
        figure.add_scatter(
            x=CURVE_GRID.tolist(), y=list(split.long_tail), mode="lines", **_named(name, "line")
        )
    dotted = {"dash": "dot", "color": _INK, "width": 1}
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=dotted, name="all alike")
    return figure


def _activity(description: Description) -> Any:
    figure = _figure(x="pairs of a user", y="share of the users")
    longest = max(len(split.activity) for split in description.splits.values())
    labels = [_octave(exponent) for exponent in range(longest)]
    _bars(figure, labels, {name: split.activity for name, split in description.splits.items()})
    return figure


def _time(description: Description) -> Any:
    figure = _figure(y="share of the pairs")
    edges = np.array(description.time_edges, dtype="datetime64[s]")
    middles = (edges[:-1] + (edges[1:] - edges[:-1]) // 2).astype(str).tolist()
    for name, split in description.splits.items():
        if split.time is not None:
            style = _named(name, "line")
            style["line"] |= {"shape": "hvh"}
            figure.add_scatter(x=middles, y=list(split.time.cells), mode="lines", **style)
    return figure


def _octave(exponent: int) -> str:
    """The label of the users with ``2^e`` to ``2^(e+1) - 1`` pairs."""
    low = 2**exponent
    return "1" if low == 1 else f"{low}–{2 * low - 1}"


def _bars(figure: Any, labels: Sequence[str], values: Mapping[str, Iterable[float]]) -> None:
    for name, heights in values.items():
        figure.add_bar(x=list(labels), y=list(heights), **_named(name, "marker"))
    # Labels such as "2–3" are words, not numbers or dates.
    figure.update_xaxes(type="category")


def _named(split: str, part: str) -> dict[str, Any]:
    """Name and colour of a split, for a trace whose colour is that of its ``part``."""
    return {"name": SPLIT_TITLES[split], part: {"color": COLOURS[split]}}


def _figure(*, x: str | None = None, y: str | None = None) -> Any:
    figure = go.Figure()
    axis = {"gridcolor": _GRID, "zerolinecolor": _GRID, "fixedrange": True}
    figure.update_layout(
        template="plotly_white",
        autosize=True,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        font={"color": _INK},
        # Above the figure, where no tick label can run into it.
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        xaxis={"title": x, "automargin": True, **axis},
        yaxis={"title": y, "automargin": True, **axis},
    )
    return figure
