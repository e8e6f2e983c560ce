"""Tables of user-item interactions under the user's own ids, and what a data set is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl

from cnsdiff.base.errors import DataError
from cnsdiff.base.text import parameter


@dataclass(frozen=True)
class Interactions:
    """Interactions: user and item, and where known the rating and the time.

    Attributes
    ----------
    frame
        One row per interaction. Columns ``user`` and ``item`` hold the ids as given (Int64,
        UInt64 or String); ``rating`` (Float64), ``timestamp`` (Int64 or Float64, usually epoch
        seconds) and ``period`` (a label as given) are optional. No nulls.
    source
        File path or ``"DataFrame"``, for messages.
    skipped
        Malformed rows left out while reading.
    problems
        Why they were left out, each reason with its number of rows and an example.
    columns
        What the source calls each column of ``frame`` (``"1"``, ``"2"``, … without a header);
        empty where nothing was read.
    """

    frame: pl.DataFrame
    source: str
    skipped: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return self.frame.height

    @property
    def n_users(self) -> int:
        """Number of different users."""
        return self.frame["user"].n_unique()

    @property
    def n_items(self) -> int:
        """Number of different items."""
        return self.frame["item"].n_unique()

    def positives(self, threshold: float | None) -> Interactions:
        """The interactions rated at least ``threshold``; all of them when it is None.

        Raises
        ------
        DataError
            A threshold is given but there are no ratings, or no rating reaches it.
        """
        threshold = checked_threshold(threshold)
        if threshold is None:
            return self
        if "rating" not in self.frame.columns:
            raise DataError(
                f"{self.source}: the threshold {threshold:g} needs ratings, but there is no rating "
                f"column; name it with {parameter('rating', 'NAME')} or leave "
                f"{parameter('threshold')} out"
            )
        positives = self.frame.filter(pl.col("rating") >= threshold)
        if positives.height == 0 and self.frame.height:
            raise DataError(
                f"{self.source}: no rating reaches the threshold {threshold:g} (the highest is "
                f"{self.frame['rating'].to_numpy().max():g}); lower {parameter('threshold')}"
            )
        return replace(self, frame=positives)

    def deduplicated(self) -> Interactions:
        """One row per (user, item): the earliest, or the first where times are equal or absent.

        Rows keep their order.
        """
        pair = ["user", "item"]
        repeated = self.frame.select(pair).is_duplicated()
        if not repeated.any():
            return self
        # Sorting is what costs, so only the repeated pairs are sorted.
        candidates = self.frame.with_row_index("_row").filter(repeated)
        if "timestamp" in candidates.columns:
            candidates = candidates.sort("timestamp", "_row")
        first = candidates.unique(pair, keep="first", maintain_order=True)["_row"]
        return replace(self, frame=self.frame.filter((~repeated).scatter(first, True)))

    def k_core(self, user: int, item: int) -> Interactions:
        """The largest part in which every user has ``user`` rows and every item ``item`` rows.

        Dropping an item may leave a user short and the other way round, so it is repeated until
        nothing changes. Rows are counted, so call :meth:`deduplicated` first to count pairs. The
        result may be empty; rows keep their order.

        Raises
        ------
        DataError
            ``user`` or ``item`` is negative.
        """
        user, item = checked_core(user, "user"), checked_core(item, "item")
        users = _codes(self.frame["user"])
        items = _codes(self.frame["item"])
        rows = np.arange(self.frame.height)
        while rows.size:
            user_counts = np.bincount(users[rows])
            item_counts = np.bincount(items[rows])
            keep = (user_counts[users[rows]] >= user) & (item_counts[items[rows]] >= item)
            if keep.all():
                break
            rows = rows[keep]
        return replace(self, frame=self.frame[rows])


def checked_threshold(threshold: Any) -> float | None:
    """The least rating of a positive as a number; :class:`DataError` if it is none."""
    if threshold is None:
        return None
    number = isinstance(threshold, int | float | np.integer | np.floating | Decimal)
    if isinstance(threshold, bool | np.bool_) or not number or not math.isfinite(threshold):
        raise DataError(f"the threshold is a number such as 4 or 3.5, not {threshold!r}")
    # A float of 32 bits is what it prints, as ratings are.
    return float(str(threshold)) if isinstance(threshold, np.floating) else float(threshold)


def checked_core(least: Any, side: str) -> int:
    """The least number of rows of each user or item; :class:`DataError` if it is none."""
    whole = isinstance(least, int | np.integer) and not isinstance(least, bool | np.bool_)
    if not whole or least < 0:
        raise DataError(
            f"a k-core needs counts of 0 or more, whole numbers, and that of the {side}s is "
            f"{least!r}"
        )
    return int(least)


def _codes(ids: pl.Series) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Dense integers, one for each different id."""
    codes: np.ndarray[tuple[int], np.dtype[np.int64]] = ids.rank("dense").cast(pl.Int64).to_numpy()
    return codes - 1


@dataclass(frozen=True)
class Source:
    """A data set before it is split.

    Attributes
    ----------
    tables
        Interactions by role: ``"log"`` for the one log most scenarios divide, ``"randomised"``
        for one whose items were shown at random (or all of them), or the names of ready splits.
    features
        ``"user_features"`` with a column ``user`` and ``"item_features"`` with a column ``item``,
        each id once, beside any columns that describe them; in the ids of ``tables``.
    name
        What the data set is called.
    provenance
        For the manifest's ``source``: ``files``, ``licence``, … No full paths: they say nothing
        on another machine.
    """

    tables: Mapping[str, Interactions]
    features: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    name: str = "unnamed"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Source | Interactions) -> Source:
        """A lone table of interactions is the log."""
        return source if isinstance(source, Source) else cls({"log": source})


_LONGEST = 60  # characters of an example


@dataclass(frozen=True)
class Problem:
    """Rows left out for one reason."""

    reason: str
    """``"too few fields"``."""
    rows: int
    """Number of rows left out for it."""
    place: str
    """Of the first: ``"line 5"``, or ``"row 5"`` where there are no lines."""
    example: str
    """The text of the line, shortened."""

    def __str__(self) -> str:
        # As Python writes it, so that nothing in it is acted on by a terminal.
        rows = f"{self.rows:,} row{'s' if self.rows > 1 else ''}"
        return f"{rows} with {self.reason} (first in {self.place}: {self.example!r})"


def leave_out(what: str = "lines") -> str:
    """The option that leaves malformed rows out, for a sentence."""
    return f"pass {parameter('skip_bad', True)} to leave such {what} out"


def shortened(text: object) -> str:
    """The beginning of a line or value, on one line."""
    line = "" if text is None else str(text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def problem_of(reason: str, lines: pl.DataFrame) -> tuple[Problem, ...]:
    """One problem of all of ``lines`` (columns ``line`` and ``text``), none if there are none."""
    if lines.height == 0:
        return ()
    first = lines.row(0, named=True)
    return (Problem(reason, lines.height, f"line {first['line']}", shortened(first["text"])),)


def rows_of(problems: Iterable[Problem]) -> int:
    """Number of rows left out in all."""
    return sum(problem.rows for problem in problems)


def merged(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """One problem for each reason; the first example of it stands."""
    by_reason: dict[str, Problem] = {}
    for problem in problems:
        same = by_reason.get(problem.reason)
        by_reason[problem.reason] = (
            problem if same is None else replace(same, rows=same.rows + problem.rows)
        )
    return tuple(by_reason.values())
