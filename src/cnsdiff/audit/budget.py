"""Time on the clock, and how it is shared among what is still to be trained."""

from __future__ import annotations

import time
from collections.abc import Callable

#: A training gets at least so many seconds, or is not begun.
LEAST_SHARE = 1.0


class Clock:
    """How much of a budget is left.

    Parameters
    ----------
    budget
        In seconds.
    spent
        Seconds used before the clock starts, by a run that this one goes on with.
    reserve
        Seconds kept for what comes after the trainings.
    started
        When the budget began, by ``now``; at once by default.
    now
        The time in seconds; for tests.
    """

    def __init__(
        self,
        budget: float,
        *,
        spent: float = 0.0,
        reserve: float = 0.0,
        started: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget, self.spent, self.reserve = budget, spent, reserve
        self._now = now
        self._started = now() if started is None else started
        self._late = 0.0

    @property
    def passed(self) -> float:
        """Seconds since the budget began."""
        return self._now() - self._started

    @property
    def left(self) -> float:
        """Seconds for training; below 0 when there are none."""
        return self.budget - self.spent - self.reserve - self.passed

    def allot(self, n: int) -> float | None:
        """Seconds for the next of ``n`` trainings of which one runs at a time.

        What is left over ``n``, less what trainings took beyond their share before, to end an
        epoch and to be tested. ``None`` if even a training of no length would end too late.
        """
        if self.left < max(self._late, LEAST_SHARE):
            return None
        return max(self.left / max(n, 1) - self._late, LEAST_SHARE)

    def overran(self, seconds: float) -> None:
        """A training that the clock ended took so long beyond its share."""
        self._late = max(self._late, seconds)
