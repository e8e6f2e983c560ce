"""Lengths of time as people write them."""

from __future__ import annotations

import re

from cnsdiff.base.errors import ConfigError

_BUDGET = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
#: Below this nothing can be trained.
LEAST = 5.0
MOST = 365 * 24 * 3600.0


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
    if total > MOST:
        raise ConfigError(f"--budget {text[:40]}: is over a year; give less")
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
