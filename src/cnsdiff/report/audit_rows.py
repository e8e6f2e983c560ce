"""What the sections of an audit's report share: which settings are shown, and their numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cnsdiff.audit.judging import AS_GIVEN, from_list
from cnsdiff.audit.methods import FORMER, METHODS
from cnsdiff.benchmark.grid import PLAIN
from cnsdiff.display.tables import Cell, Column
from cnsdiff.evaluation.significance import Interval
from cnsdiff.report.charts import error_bars

#: The column of losses.
LOSS = Column("loss", "loss", digits=0, percent=True, signed=False)


def plain_rows(shift: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The row of each method as it is read when no shift is expected."""
    first: dict[str, dict[str, Any]] = {}
    for row in shift["table"]:
        kind = METHODS.get(FORMER.get(row["method"], row["method"]))
        if row["selection"] in (PLAIN if kind is None else kind.plain, AS_GIVEN):
            first.setdefault(row["method"], row)
    return list(first.values())


def shown_rows(shift: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is compared at a glance: each method as usually read, and the best that expect it."""
    advice = shift["recommendation"]
    plain = {row["key"] for row in plain_rows(shift)}
    wanted = plain | {advice[key] for key in ("use", "plain", "expected", "trained", "reference")}
    return [row for row in shift["table"] if row["key"] in wanted]


def cell(estimate: Sequence[float | None], place: int | None = None, differs: bool = False) -> Cell:
    """An estimate as audit.json has it: the value with half its interval."""
    found = from_list(estimate)
    return Cell(found.value, (found.high - found.low) / 2, place, differs)


def difference_cell(found: Mapping[str, Any], *, same: bool = False) -> Cell:
    """A difference; none of a setting from itself."""
    if same:
        return Cell(math.nan)
    return cell(found["difference"], differs=found["sign"] != 0)


def best_places(values: Sequence[float | None]) -> list[int | None]:
    """1 for the best of a column."""
    best = sorted({v for v in values if v is not None}, reverse=True)[:1]
    return [1 if value in best else None for value in values]


def number(value: float | None) -> float:
    """For a cell: NaN for nothing."""
    return math.nan if value is None else float(value)


def strokes(estimates: Sequence[Sequence[float]], colour: str) -> dict[str, Any]:
    """The intervals of a trace of points, along x."""
    intervals = [Interval(value, low, high) for value, low, high in estimates]
    return {**error_bars(intervals), "color": colour}
