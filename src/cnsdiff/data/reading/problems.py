"""Why rows were left out while reading, with an example of each reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import polars as pl

_LONGEST = 60  # characters of an example


@dataclass(frozen=True)
class Problem:
    """Rows left out for one reason.

    Attributes
    ----------
    reason
        ``"too few fields"``.
    rows
        How many were left out for it.
    place
        Of the first: ``"line 5"``, or ``"row 5"`` where there are no lines.
    example
        What stands there, shortened.
    """

    reason: str
    rows: int
    place: str
    example: str

    def __str__(self) -> str:
        # As Python writes it, so that nothing in it is acted on by a terminal.
        rows = f"{self.rows:,} row{'s' if self.rows > 1 else ''}"
        return f"{rows} with {self.reason} (first in {self.place}: {self.example!r})"

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types."""
        return asdict(self)


def shortened(text: object) -> str:
    """The beginning of a line or value, on one line."""
    given = "" if text is None else str(text)
    return given if len(given) <= _LONGEST else f"{given[: _LONGEST - 1]}…"


def problem_of(reason: str, lines: pl.DataFrame) -> tuple[Problem, ...]:
    """One problem of all of ``lines`` (columns ``line`` and ``text``), none if there are none."""
    if lines.height == 0:
        return ()
    first = lines.row(0, named=True)
    return (Problem(reason, lines.height, f"line {first['line']}", shortened(first["text"])),)


def rows_of(problems: Iterable[Problem]) -> int:
    """How many rows were left out in all."""
    return sum(problem.rows for problem in problems)


def merged(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """One problem for each reason; the first example of it stands."""
    found: dict[str, Problem] = {}
    for problem in problems:
        same = found.get(problem.reason)
        found[problem.reason] = (
            problem if same is None else replace(same, rows=same.rows + problem.rows)
        )
    return tuple(found.values())
