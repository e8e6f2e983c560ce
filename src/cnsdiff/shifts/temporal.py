"""Train on the past, test on what came after."""

from __future__ import annotations

import datetime as dt
import re
import time
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from cnsdiff.base.errors import ConfigError, DataError, warn
from cnsdiff.data import Dataset, Interactions, Source
from cnsdiff.data.reading.times import date_of, seconds_of
from cnsdiff.shifts.base import NO_FILTERS, Filters, register_scenario
from cnsdiff.shifts.log_scenario import Log, LogScenario, Parts

DAY = 86_400

#: Standard deviation over users of NDCG@20, in means: the least seen on dated logs (1.7 to 4.5).
SPREAD = 1.7
#: With fewer users a 95% interval is ±20% of the mean or wider, and most differences are smaller.
FEWEST_USERS = 300


@register_scenario
class Temporal(LogScenario):
    """One cut in time for all users; valid and the IID test come from before it.

    Rows before the cut train, rows at ``cut + gap`` or later are the OOD test, rows between are
    left out. With a horizon the test ends that long after it began. Rows of the very moment of the
    cut are never split: all are after it. Users and items seen only after the cut are dropped from
    the test, and counted; few users that are left give a warning.
    """

    name: ClassVar[str] = "temporal"

    quantile: float = Field(0.8, gt=0, lt=1)
    """Share of the rows that lie before the cut (fewer where several share its moment)."""
    at: float | None = Field(None, allow_inf_nan=False)
    """The cut itself, in place of ``quantile``: an ISO date or date-time (UTC unless it says
    otherwise) or epoch seconds."""
    gap: float = Field(0, ge=0, allow_inf_nan=False)
    """Length of the gap in seconds, or as ``"90s"``, ``"30m"``, ``"12h"``, ``"7d"``, ``"2w"``."""
    horizon: float | None = Field(None, gt=0, allow_inf_nan=False)
    """How long after the cut (and the gap) the OOD test goes on: a length of time as ``gap``, or
    below 1 a share of the rows of the log. By default all that comes after."""
    back: int = Field(0, ge=0, le=1000)
    """How many horizons the cut is moved back. The tests of ``back=2, 1, 0`` follow one another
    and share no row; without a horizon, it is the share of the rows after the cut."""

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

    @field_validator("gap", "horizon", mode="before")
    @classmethod
    def _length(cls, value: Any) -> Any:
        return seconds_of(value) if isinstance(value, str) else value

    def __call__(
        self, source: Source | Interactions, *, filters: Filters = NO_FILTERS, seed: int = 0
    ) -> Dataset:
        """Build the dataset (see :class:`Scenario`); a warning says where its users are few."""
        dataset = super().__call__(source, filters=filters, seed=seed)
        warn_of_few_users(dataset)
        return dataset

    def divide(self, log: Log, rng: np.random.Generator) -> Parts:
        """Rows before the cut, and rows after the gap until the horizon."""
        times = log.timestamps
        _refuse_future(times, log.source)
        if times.min() == times.max():
            raise ConfigError(
                f"{log.source}: all rows are of one time, {date_of(times.min())}; give a log that "
                "tells when each was"
            )
        cut, end = self._moments(times, log.source)
        start, end = cut + self.gap, end + self.gap
        train = np.flatnonzero(times < cut)
        ood = np.flatnonzero((times >= start) & (times < end))
        if len(train) == 0 or len(ood) == 0:
            side = "before the cut" if len(train) == 0 else "after the cut and its gap"
            change = "at, quantile or gap"
            if self.horizon is not None or self.back:
                side += " and within the horizon" if len(train) else ""
                change = "at, quantile, gap, horizon or back"
            raise ConfigError(
                f"{log.source}: no row lies {side} at {date_of(cut)} (the rows go from "
                f"{date_of(times.min())} to {date_of(times.max())}); change {change}"
            )
        facts: dict[str, float | str] = {"cut": cut, "cut_utc": date_of(cut)}
        if np.isfinite(end):
            facts |= {"end": end, "end_utc": date_of(end)}
        if self.horizon is not None and self.horizon >= 1 and end > times.max() + DAY:
            warn(
                f"{log.source}: ends on {date_of(times.max())}, before the horizon of the cut at "
                f"{date_of(cut)} does on {date_of(end)}, so the OOD test is shorter than asked for"
            )
        return Parts(train, ood, facts)

    def _moments(self, times: NDArray[Any], source: str) -> tuple[float, float]:
        """The cut and, a horizon later, the end of what is judged by it; both without the gap."""
        length = self.horizon if self.horizon is not None and self.horizon >= 1 else None
        if length is None and self.horizon is None and not self.back:
            return self._cut(times), np.inf
        if length is not None:
            cut = self._cut(times) - self.back * length
            return cut, cut + length
        # Shares count rows, and the moment of a row is where a test ends and the next begins.
        ordered = np.sort(times)
        place = int(np.searchsorted(ordered, self._cut(times)))
        step = len(times) - place if self.horizon is None else int(self.horizon * len(times))
        first, last = place - self.back * step, place - (self.back - 1) * step
        if step == 0 or first <= 0:
            raise ConfigError(
                f"{source}: has {len(times)} rows, so no cut lies {self.back} horizons of {step} "
                f"rows before the one at {date_of(self._cut(times))}; change quantile, horizon or "
                "back"
            )
        return float(ordered[first]), float(ordered[last]) if last < len(times) else np.inf

    def _cut(self, times: NDArray[Any]) -> float:
        """The cut that is not moved back."""
        if self.at is not None:
            return self.at
        place = int(self.quantile * len(times))
        return float(np.partition(times, place)[place])


def warn_of_few_users(dataset: Dataset) -> None:
    """Warn where an OOD test that comes after a cut in time judges few users."""
    if "test_ood" not in dataset.split_names:  # of new items alone, as has been said
        return
    n = dataset.manifest.splits["test_ood"].users
    if n >= FEWEST_USERS:
        return
    width = min(1.96 * SPREAD / n**0.5, 1.0)
    warn(
        f"{dataset.name}: only {n} user{'' if n == 1 else 's'} known before the cut at "
        f"{dataset.manifest.log['cut_utc']} can be judged after it, so expect 95% intervals of "
        f"±{width:.0%} of a metric or wider; choose an earlier or later cut, several cuts, or "
        "another log"
    )


def _refuse_future(times: NDArray[Any], source: str) -> None:
    late = int(np.count_nonzero(times > time.time() + DAY))
    if late:
        latest = times.max()
        raise DataError(
            f"{source}: {late} of {len(times)} timestamps lie in the future (the latest, {latest}, "
            f"is {date_of(latest)}), which usually means milliseconds or finer; divide them to "
            "epoch seconds, or correct the dates"
        )
