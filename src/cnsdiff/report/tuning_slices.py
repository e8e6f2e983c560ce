"""What trials of a study reached, over the value that each gave to one setting."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import polars as pl

from cnsdiff.base.search_space import Space
from cnsdiff.display.palette import SPLITS
from cnsdiff.display.wording import metric_title
from cnsdiff.report.charts import chart
from cnsdiff.report.document import Block, Figure, Prose
from cnsdiff.report.tuning_trials import add_points
from cnsdiff.tuning.study import Study, Trial, value_text


def slices(study: Study) -> Iterator[Block]:
    measured = [trial for trial in study.trials if trial.value is not None]
    if not measured:
        yield Prose("No trial has a value yet.")
        return
    yield Prose(
        "Each trial once in every figure, over the value that it gave to one setting. The others "
        "change from point to point, too, so a slope here can be another setting's."
    )
    keys = study.spaces if study.importances is None else study.importances.shares
    for key in keys:
        yield _slice(study, key, measured)


def _slice(study: Study, key: str, measured: list[Trial]) -> Figure:
    space = study.spaces[key]
    figure = chart(x=key, y=metric_title(study.objective), height=300)
    words = space.choices is not None
    values = [trial.setting[key] for trial in measured]
    add_points(figure, measured, [value_text(value) for value in values] if words else values)
    best = study.best
    if best is not None:
        at = best.setting[key]
        figure.add_scatter(
            x=[value_text(at) if words else at],
            y=[best.value],
            mode="markers",
            name="best",
            marker={
                "symbol": "circle-open",
                "size": 17,
                "color": SPLITS["valid"].colour,
                "line": {"width": 2},
            },
            hoverinfo="skip",
        )
    if words:
        order = [value_text(choice) for choice in space.choices or ()]
        figure.update_xaxes(type="category", categoryorder="array", categoryarray=order)
    else:
        figure.update_xaxes(**_axis(space, values))
    figure.update_layout(showlegend=False)
    numbers = study.table().filter(pl.col("value").is_not_null())
    return Figure(
        key,
        f"Searched over {space}; the ring is the best.",
        figure,
        numbers.select("trial", "state", key, "value"),
        small=True,
    )


def _axis(space: Space, values: list[Any]) -> dict[str, Any]:
    """The axis of a setting: all of its space, and what lies outside."""
    ends = [*space.ends(), *(value for value in values if isinstance(value, int | float))]
    low, high = min(ends), max(ends)
    if not space.log or low <= 0:
        room = 0.04 * (high - low)
        axis: dict[str, Any] = {"range": [low - room, high + room], "zeroline": False}
        return axis | ({"dtick": max(1, round((high - low) / 8))} if space.integer else {})
    low, high = math.log10(low), math.log10(high)
    room = 0.04 * (high - low)
    decades = 1 if high - low > 2 else "D2"
    return {
        "type": "log",
        "range": [low - room, high + room],
        "dtick": decades,
        "exponentformat": "power",
    }
