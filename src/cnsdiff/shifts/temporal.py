"""Train on the past, test on what came after."""

from __future__ import annotations

import datetime as dt
import re
import time
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from cnsdiff.base.errors import ConfigError, DataError
from cnsdiff.data.reading.times import date_of, seconds_of
from cnsdiff.shifts.base import register_scenario
from cnsdiff.shifts.log_scenario import Log, LogScenario, Parts

DAY = 86_400


@register_scenario
class Temporal(LogScenario):
    """One cut in time for all users; valid and the IID test come from before it.

    Rows before the cut train, rows at ``cut + gap`` or later are the OOD test, rows between are
    left out. Rows of the very moment of the cut are never split: all are after it. Users and
    items seen only after the cut are dropped from the test, and counted.
    """

    name: ClassVar[str] = "temporal"

    quantile: float = Field(0.8, gt=0, lt=1)
    """Share of the rows that lie before the cut (fewer where several share its moment)."""
    at: float | None = Field(None, allow_inf_nan=False)
    """The cut itself, in place of ``quantile``: an ISO date or date-time (UTC unless it says
    otherwise) or epoch seconds."""
    gap: float = Field(0, ge=0, allow_inf_nan=False)
    """Length of the gap in seconds, or as ``"90s"``, ``"30m"``, ``"12h"``, ``"7d"``, ``"2w"``."""

    @field_validator("at", mode="before")
    @classmethod
    def _moment(cls, value: Any) -> Any:
        # YAML reads a bare 2020-01-31 as a date.
        if isinstance(value, dt.date):
            value = value.isoformat()
        if not isinstance(value, str) or re.fullmatch(r"-?\d+(\.\d*)?", value):
            return value
        try:
            moment = dt.datetime.fromisoformat(value)
        except ValueError as error:
            raise ValueError(
                "write it as 2020-01-31, 2020-01-31T12:00, or epoch seconds"
            ) from error
        return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()

    @field_validator("gap", mode="before")
    @classmethod
    def _length(cls, value: Any) -> Any:
        return seconds_of(value) if isinstance(value, str) else value

    def divide(self, log: Log, rng: np.random.Generator) -> Parts:
        """Rows before the cut, and rows after the gap."""
        times = log.timestamps
        _refuse_future(times, log.source)
        cut = self.at
        if cut is None:
            place = int(self.quantile * len(times))
            cut = float(np.partition(times, place)[place])
        train, ood = np.flatnonzero(times < cut), np.flatnonzero(times >= cut + self.gap)
        if len(train) == 0 or len(ood) == 0:
            side = "before the cut" if len(train) == 0 else "after the cut and its gap"
            raise ConfigError(
                f"{log.source}: no row lies {side} at {date_of(cut)} (the rows go from "
                f"{date_of(times.min())} to {date_of(times.max())}); change at, quantile or gap"
            )
        return Parts(train, ood, {"cut": cut, "cut_utc": date_of(cut)})


def _refuse_future(times: NDArray[Any], source: str) -> None:
    late = int(np.count_nonzero(times > time.time() + DAY))
    if late:
        latest = times.max()
        raise DataError(
            f"{source}: {late} of {len(times)} timestamps lie in the future (the latest, {latest}, "
            f"is {date_of(latest)}), which usually means milliseconds or finer; divide them to "
            "epoch seconds, or correct the dates"
        )
