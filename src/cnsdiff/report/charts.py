"""Parts of the figures of all reports: colours, axes, points with intervals, lines.

A split or a method has one colour in all figures. Any two differ for readers with and without
colour blindness, and each stands out from the paper; a dark page shows the twin of :data:`DARK`.
Colour is never alone: with each goes a symbol and a dash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from cnsdiff.base.errors import InputError
from cnsdiff.display.wording import SPLIT_TITLES
from cnsdiff.evaluation.significance import Interval

#: A part of a figure, as Plotly takes it.
PlotlyPart = dict[str, object]


@dataclass(frozen=True)
class Style:
    """The look of a split or a method, alike in all figures.

    Attributes
    ----------
    colour
        ``#rrggbb``, as on white paper.
    symbol, dash
        Of Plotly's markers and lines.
    """

    colour: str
    symbol: str
    dash: str

    @property
    def marker(self) -> PlotlyPart:
        """For a trace of points or bars of one colour."""
        return {"color": self.colour, "symbol": self.symbol, "size": 9}

    @property
    def line(self) -> PlotlyPart:
        """For a trace of lines."""
        return {"color": self.colour, "dash": self.dash, "width": 2}

    def faint(self, alpha: float = 0.16) -> str:
        """The colour, transparent: for the area of an interval.

        Raises
        ------
        InputError
            ``alpha`` is not from 0 to 1.
        """
        if not 0 <= alpha <= 1:
            raise InputError(f"a transparency lies between 0 and 1, not at {alpha:g}")
        return f"{self.colour}{round(255 * alpha):02x}"


#: The splits, the same in every figure.
SPLITS = {
    "train": Style("#57616b", "diamond", "dot"),
    "valid": Style("#704f00", "square", "dash"),
    "test_iid": Style("#1980e3", "circle", "solid"),
    "test_ood": Style("#d47419", "triangle-up", "solid"),
}

_METHODS = (
    ("#413ff3", "circle"),
    ("#4e9d69", "square"),
    ("#641729", "triangle-up"),
    ("#009ab9", "diamond"),
    ("#4c2e00", "cross"),
    ("#392c60", "x"),
)
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")

#: What a colour is on dark paper.
DARK = {
    "#57616b": "#a2a3a7",
    "#704f00": "#e6d62e",
    "#1980e3": "#76b8fd",
    "#d47419": "#fc9e51",
    "#413ff3": "#a07dff",
    "#4e9d69": "#95f0b1",
    "#641729": "#ff4a8d",
    "#009ab9": "#9aeef8",
    "#4c2e00": "#c8763f",
    "#392c60": "#8a85bd",
}


def method_styles(methods: Iterable[str]) -> dict[str, Style]:
    """A style for each method, in their order; the first are the easiest to tell apart.

    Past the sixth the colours return with another symbol and dash.
    """
    styles = {}
    for at, name in enumerate(dict.fromkeys(methods)):
        lap, place = divmod(at, len(_METHODS))
        colour, _ = _METHODS[place]
        symbol = _METHODS[(place + lap) % len(_METHODS)][1] + ("-open" if lap % 2 else "")
        styles[name] = Style(colour, symbol, _DASHES[(place + lap) % len(_DASHES)])
    return styles


#: A line that only marks a place.
DOTTED = {"dash": "dot", "width": 1, "color": SPLITS["train"].colour}


def ring(colour: str) -> PlotlyPart:
    """The marker around a point that was chosen."""
    return {"symbol": "circle-open", "size": 17, "line": {"width": 3}, "color": colour}


def chart(*, x: str | None = None, y: str | None = None, height: int | None = None) -> Any:
    """An empty figure with the titles of its axes; the page gives it colours and width."""
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        xaxis={"title": {"text": x}} if x else {},
        yaxis={"title": {"text": y}} if y else {},
    )
    return figure


def error_bars(intervals: Sequence[Interval], **more: Any) -> PlotlyPart:
    """The ends of intervals for a trace of points."""
    return strokes([(each.value, each.low, each.high) for each in intervals], **more)


def strokes(estimates: Iterable[tuple[float, float, float]], **more: Any) -> PlotlyPart:
    """The ends of intervals, each a value with its lower and upper end."""
    estimates = list(estimates)
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(high - value, 0) for value, _, high in estimates],
        "arrayminus": [max(value - low, 0) for value, low, _ in estimates],
        "thickness": 1.5,
        "width": 4,
        **more,
    }


def rows_of(figure: Any, names: Sequence[str], **more: Any) -> None:
    """The names up the side of a figure, the first on top."""
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=list(names)[::-1], **more
    )


def split_dots(values: Mapping[str, Mapping[str, Interval]], x: str) -> tuple[Any, pl.DataFrame]:
    """A row per name, a point with its interval per split, and a line between them.

    Parameters
    ----------
    values
        By name (the first on top), then by split.
    x
        Title of the axis.

    Returns
    -------
    figure, numbers
        The numbers are ``name``, ``split``, ``mean``, ``low``, ``high`` and ``n``.
    """
    figure = chart(x=x, height=110 + 46 * len(values))
    for name, found in values.items():
        if len(found) > 1:
            ends = [one.value for one in found.values()]
            figure.add_scatter(
                x=ends,
                y=[name] * len(ends),
                mode="lines",
                line={"color": SPLITS["train"].faint(0.5), "width": 3},
                showlegend=False,
                hoverinfo="skip",
            )
    for split in dict.fromkeys(split for found in values.values() for split in found):
        own = {name: found[split] for name, found in values.items() if split in found}
        figure.add_scatter(
            x=[one.value for one in own.values()],
            y=list(own),
            mode="markers",
            name=SPLIT_TITLES.get(split, split),
            marker={**SPLITS[split].marker, "size": 11},
            error_x=error_bars(list(own.values())),
            cliponaxis=False,  # a mean of 0 is whole
            hovertemplate="%{y}: %{x:.4f}",
        )
    rows_of(figure, list(values), showgrid=False)
    figure.update_xaxes(rangemode="tozero")
    rows = [
        (name, split, one.value, one.low, one.high, one.n)
        for name, found in values.items()
        for split, one in found.items()
    ]
    return figure, pl.DataFrame(
        rows, schema=["name", "split", "mean", "low", "high", "n"], orient="row"
    )


def split_lines(
    values: Mapping[str, Sequence[Interval | None]], names: Sequence[str], *, x: str, y: str
) -> tuple[Any, pl.DataFrame]:
    """A line per split over ordered categories, with intervals; ``None`` where there is nothing.

    Returns
    -------
    figure, numbers
        The numbers are ``part``, ``split``, ``mean``, ``low``, ``high`` and ``n``.
    """
    figure = chart(x=x, y=y, height=320)
    rows: list[tuple[Any, ...]] = []
    for split, found in values.items():
        there = [(name, one) for name, one in zip(names, found, strict=True) if one is not None]
        figure.add_scatter(
            x=[name for name, _ in there],
            y=[one.value for _, one in there],
            mode="lines+markers",
            name=SPLIT_TITLES.get(split, split),
            marker=SPLITS[split].marker,
            line={**SPLITS[split].line, "width": 1.5},
            error_y=error_bars([one for _, one in there]),
        )
        rows += [(name, split, one.value, one.low, one.high, one.n) for name, one in there]
    # Ranges such as "2–3" are words, not numbers or dates.
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=list(names))
    figure.update_yaxes(rangemode="tozero")
    schema = {
        "part": pl.String, "split": pl.String, "mean": pl.Float64, "low": pl.Float64,
        "high": pl.Float64, "n": pl.Int64,
    }  # fmt: skip
    return figure, pl.DataFrame(rows, schema=schema, orient="row")


def curves(
    x: Sequence[float],
    lines: Mapping[str, tuple[Style, Sequence[float | None]]],
    *,
    x_title: str,
    y_title: str | None = None,
    height: int = 260,
) -> tuple[Any, pl.DataFrame]:
    """A line per name over a common ``x``; the numbers are ``x`` and a column per name."""
    figure = chart(x=x_title, y=y_title, height=height)
    for name, (style, values) in lines.items():
        # A line alone need not be told from another.
        line = style.line if len(lines) > 1 else {**style.line, "dash": "solid"}
        figure.add_scatter(
            x=list(x), y=list(values), mode="lines", name=name, line=line, connectgaps=True
        )
    figure.update_layout(showlegend=len(lines) > 1, hovermode="x")
    named = {name: list(values) for name, (_, values) in lines.items()}
    return figure, pl.DataFrame({x_title: list(x), **named})


def mark_x(figure: Any, at: float, text: str) -> None:
    """A dotted line up the figure, named at its top."""
    figure.add_vline(x=at, line=DOTTED)
    named = sum(trace.showlegend is not False for trace in figure.data)
    legend = figure.layout.showlegend or (figure.layout.showlegend is None and named > 1)
    # Above the figure, where it crosses no line, unless the legend is there.
    place = {"xanchor": "left", "xshift": 4} if legend else {"xanchor": "center"}
    figure.add_annotation(
        x=at,
        y=1,
        yref="paper",
        text=text,
        showarrow=False,
        yanchor="top" if legend else "bottom",
        **place,
    )
