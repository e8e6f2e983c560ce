"""How the methods of a benchmark look in its figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from cnsdiff.display.palette import Style, method_styles
from cnsdiff.evaluation.significance import Interval
from cnsdiff.report.charts import error_bars

#: Methods that a figure can name one by one; of more it shows the groups.
NAMED = 12


def styles_of(table: pl.DataFrame) -> dict[str, Style]:
    """The look of each method: its own where there are few, else that of its group."""
    methods = dict(table.select("method", "group").unique(maintain_order=True).iter_rows())
    # Our own first: the first looks are the easiest to tell apart.
    ours = [name for name, group in methods.items() if group == "cnsdiff"]
    if len(methods) <= NAMED:
        return method_styles([*ours, *methods])
    groups = list(dict.fromkeys(methods.values()))
    of_groups = method_styles(sorted(groups, key=lambda group: group != "cnsdiff"))
    return {name: of_groups[group] for name, group in methods.items()}


def add_points(
    figure: Any,
    rows: pl.DataFrame,
    styles: dict[str, Style],
    x: Sequence[float],
    y: Sequence[float],
    x_error: Sequence[Interval] | None = None,
    y_error: Sequence[Interval] | None = None,
) -> None:
    """A point per method, named in the legend by method, or by group where there are many."""
    many = len(styles) > NAMED
    named: set[str] = set()
    for at, row in enumerate(rows.iter_rows(named=True)):
        name = row["group"] if many else row["method"]
        figure.add_scatter(
            x=[x[at]],
            y=[y[at]],
            mode="markers",
            name=name,
            legendgroup=name,
            showlegend=name not in named,
            text=[row["method"]],
            marker={**styles[row["method"]].marker, "size": 10},
            error_x=error_bars(x_error[at : at + 1]) if x_error else None,
            error_y=error_bars(y_error[at : at + 1]) if y_error else None,
            hovertemplate="%{text}: %{x:.4g}, %{y:.4f}<extra></extra>",
        )
        named.add(name)
