"""Tables of user-item interactions under the user's own ids, and what a data set is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl

from cnsdiff.base.errors import DataError, did_you_mean
from cnsdiff.base.text import parameter


@dataclass(frozen=True)
class Interactions:
    """Interactions: user and item, and where known the rating and the time.

    Attributes
    ----------
    frame
        One row per interaction. Columns ``user`` and ``item`` hold the ids as given (Int64,
        UInt64 or String); ``rating`` (Float64), ``timestamp`` (Int64 or Float64, usually epoch
        seconds), ``period`` (a label as given), ``event`` (String, its type) and ``weight``
        (Float64, of the event in training) are optional. No nulls.
    source
        File path or ``"DataFrame"``, for messages.
    skipped
        Malformed rows left out while reading.
    problems
        Why they were left out, each reason with its number of rows and an example.
    columns
        What the source calls each column of ``frame`` (``"1"``, ``"2"``, … without a header);
        empty where nothing was read.
    funnel
        What has been left out so far, from all rows of the source to those of ``frame``.
    """

    frame: pl.DataFrame
    source: str
    skipped: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    funnel: tuple[Step, ...] = ()

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

    def narrowed(self, step: str, frame: pl.DataFrame, *left_out: Problem) -> Interactions:
        """The rows of ``frame``, with a step more in the funnel."""
        funnel = self.funnel or (Step("read", len(self)),)
        told = tuple(problem for problem in left_out if problem.rows)
        return replace(self, frame=frame, funnel=(*funnel, Step(step, frame.height, told)))

    def of_events(self, events: Mapping[str, float] | Iterable[str]) -> Interactions:
        """The interactions of some types, with the weights of these in training.

        Parameters
        ----------
        events
            Weights by type, 0 or from 1e-6 to 1e6, or types that count alike. The column
            ``weight`` is there only where not all rows have the same.

        Raises
        ------
        DataError
            There is no column ``event``, no row of one of the types, or a weight is negative, no
            number, or all are 0.
        """
        weights = checked_events(events)
        if "event" not in self.frame.columns:
            raise DataError(
                f"{self.source}: has no types of events to choose from; name their column with "
                f"{parameter('event', 'NAME')}, or leave {parameter('events')} out"
            )
        counts = dict(self.frame["event"].value_counts(sort=True).iter_rows())
        for event in weights:
            if event not in counts:
                raise DataError(
                    f"{self.source}: has no event {event!r}{did_you_mean(event, counts)}; its "
                    f"events are {event_counts(counts)}"
                )
        frame = self.frame.filter(pl.col("event").is_in(list(weights)))
        if len({weights[event] for event in weights}) > 1:
            frame = frame.with_columns(
                pl.col("event").replace_strict(weights, return_dtype=pl.Float64).alias("weight")
            )
        others = [(event, n) for event, n in counts.items() if event not in weights]
        left_out = [Problem("another event", n, example=shortened(event)) for event, n in others]
        return self.narrowed("events", frame, *left_out)

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
        below = Problem(f"a rating below {threshold:g}", len(self) - positives.height)
        return self.narrowed("positive", positives, below)

    def deduplicated(self) -> Interactions:
        """One row per (user, item): the earliest, or the first where times are equal or absent.

        Rows keep their order. A pair has the greatest of its weights.
        """
        pair = ["user", "item"]
        repeated = self.frame.select(pair).is_duplicated()
        if not repeated.any():
            return self.narrowed("pairs", self.frame)
        # Sorting is what costs, so only the repeated pairs are sorted.
        candidates = self.frame.with_row_index("_row").filter(repeated)
        if "timestamp" in candidates.columns:
            candidates = candidates.sort("timestamp", "_row")
        first = candidates.unique(pair, keep="first", maintain_order=True)["_row"]
        frame = self.frame
        if "weight" in frame.columns:
            frame = frame.with_columns(pl.col("weight").max().over(pair))
        distinct = frame.filter((~repeated).scatter(first, True))
        repeats = Problem("repeats of a pair", len(self) - distinct.height)
        return self.narrowed("pairs", distinct, repeats)

    def without_heavy_users(self, most: int) -> Interactions:
        """Without the users of more than ``most`` rows; rows keep their order.

        Raises
        ------
        DataError
            ``most`` is below 1, or nobody is left.
        """
        most = checked_most(most)
        kept = self.frame.filter(pl.len().over("user") <= most)
        if kept.height == 0 and self.frame.height:
            raise DataError(
                f"{self.source}: every user has more than {most:,} pair{'s' * (most != 1)}; raise "
                f"{parameter('max_per_user')}"
            )
        n_users = self.n_users - kept["user"].n_unique()
        pairs = f"{most:,} pair{'s' * (most != 1)}"
        users = f"{n_users:,} user{'s' if n_users > 1 else ''} with more than {pairs}"
        return self.narrowed("light", kept, Problem(users, len(self) - kept.height))

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
        kept = self.frame[rows]
        outside = Problem(f"outside the {user}/{item} core", len(self) - kept.height)
        return self.narrowed("core", kept, outside)


#: The least weight of an event above 0, and the greatest: float32, in which models train, tells
#: no more apart.
LEAST_WEIGHT, MOST_WEIGHT = 1e-6, 1e6


def is_weight(number: float) -> bool:
    """Whether it may weigh the events of a type: 0, or of a size that training can tell."""
    return number == 0 or LEAST_WEIGHT <= number <= MOST_WEIGHT


def checked_events(events: Mapping[str, float] | Iterable[str]) -> dict[str, float]:
    """Weights by type of event; :class:`DataError` if they are none."""
    if isinstance(events, str):
        events = [events]
    pairs = events.items() if isinstance(events, Mapping) else [(event, 1.0) for event in events]
    weights: dict[str, float] = {}
    for event, weight in pairs:
        number = isinstance(weight, int | float | np.integer | np.floating)
        if isinstance(weight, bool) or not number or not is_weight(weight):
            raise DataError(
                f"the weight of the event {event!r} is {weight!r}; give 0, or a number from "
                f"{LEAST_WEIGHT:f} to {MOST_WEIGHT:,.0f}, or leave the event out"
            )
        weights[str(event)] = float(weight)
    if not any(weights.values()):
        raise DataError(
            f"{parameter('events')} gives no event a weight above 0; give at least one a weight, "
            "such as 1"
        )
    return weights


def event_counts(counts: Mapping[str, int], most: int = 8) -> str:
    """``'view' (94,212), 'cart' (11,880)``; the ``most`` frequent of them."""
    shown = [f"{shortened(event)!r} ({n:,})" for event, n in list(counts.items())[:most]]
    more = len(counts) - len(shown)
    return ", ".join([*shown, f"and {more:,} more"] if more > 0 else shown)


def checked_most(most: Any) -> int:
    """The greatest number of pairs of a user; :class:`DataError` if it is none."""
    whole = isinstance(most, int | np.integer) and not isinstance(most, bool | np.bool_)
    if not whole or most < 1:
        raise DataError(
            f"{parameter('max_per_user')} needs a whole number of 1 or more, and it is {most!r}"
        )
    return int(most)


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
    place: str = ""
    """Of the first: ``"line 5"``, or ``"row 5"`` where there are no lines."""
    example: str = ""
    """The text of the line, shortened."""
    missing: bool = False
    """Whether the row is well-formed, but the id of its user or item is missing."""

    def __str__(self) -> str:
        # As Python writes it, so that nothing in it is acted on by a terminal.
        rows = f"{self.rows:,} row{'s' if self.rows > 1 else ''}"
        return f"{rows} with {self.reason} (first in {self.place}: {self.example!r})"


@dataclass(frozen=True)
class Step:
    """A step of the funnel from a log to its pairs."""

    name: str
    """``"read"``, ``"readable"``, ``"events"``, ``"log"``, ``"drawn"``, ``"positive"``,
    ``"pairs"``, ``"light"`` or ``"core"``."""
    rows: int
    """Rows that are left."""
    left_out: tuple[Problem, ...] = ()
    """Why others went in this step."""

    def to_dict(self) -> dict[str, object]:
        """In JSON's types."""
        left_out = [asdict(problem) for problem in self.left_out]
        return {"name": self.name, "rows": self.rows, "left_out": left_out}


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
