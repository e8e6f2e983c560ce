"""A scenario of one's own."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from cnsdiff.shifts import Log, LogScenario, Parts


class TimeOfDay(LogScenario):
    """Train on the rest of the day, test on some hours of it (UTC)."""

    name: ClassVar[str] = "time-of-day"

    start: int = Field(18, ge=0, le=23, description="first hour of the test")
    hours: int = Field(6, ge=1, le=23, description="how many there are")

    def divide(self, log: Log, rng: np.random.Generator) -> Parts:
        hour = log.timestamps // 3600 % 24
        tested = (hour - self.start) % 24 < self.hours
        return Parts(train=np.flatnonzero(~tested), ood=np.flatnonzero(tested))
