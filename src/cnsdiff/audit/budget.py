"""Time on the clock, and how it is shared among what is still to be trained."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from cnsdiff.errors import ConfigError

_BUDGET = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
#: Below this nothing can be trained.
LEAST = 5.0
#: A training gets at least so many seconds, or is not begun.
LEAST_SHARE = 1.0


def parse_budget(text: str) -> float:
    """``"90s"``, ``"10m"``, ``"1h30m"`` in seconds.

    Raises
    ------
    ConfigError
        It is something else, or too short.
    """
    plain = re.sub(r"\s", "", text).lower()
    found = _BUDGET.fullmatch(plain)
    if not plain or found is None:
        number = plain.isdigit()
        mend = f"write {plain}s for seconds or {plain}m for minutes" if number else (
            "write it as 90s, 10m or 1h30m"
        )  # fmt: skip
        raise ConfigError(f"--budget {text}: is no length of time; {mend}")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    total = 3600 * hours + 60 * minutes + seconds
    if total < LEAST:
        raise ConfigError(f"--budget {text}: is too short to train anything; give 30s or more")
    return total


def in_words(seconds: float) -> str:
    """``5400`` -> ``"1 h 30 min"``."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    parts = [(hours, "h"), (minutes, "min"), (left if not hours else 0, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


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
