"""Describe a log before it is divided: its events, heavy users, repeats, sittings, new users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl

from cnsdiff.base.text import parameter
from cnsdiff.data import Interactions
from cnsdiff.data.interactions import Problem, Step, event_counts, shortened
from cnsdiff.data.reading.times import date_of
from cnsdiff.diagnostics.shift import SECONDS_A_DAY
from cnsdiff.display.wording import percent

#: A user is heavy whose log of rows lies so many robust standard deviations above the median,
#: each of at least ``_LEAST_SPREAD``; and nobody is where the heavy ones hold a small share.
_DEVIATIONS, _LEAST_SPREAD, _NOTICEABLE = 4.5, 0.75, 0.08
_MAD = 1.4826  # times the median absolute deviation is the standard deviation of a normal variable
#: Most users come once where so many of those with two rows and more have all within a day.
_MOST = 0.5
_LEAST_USERS = 20
_WEEK = 7 * SECONDS_A_DAY


@dataclass(frozen=True)
class HeavyUsers:
    """Users with far more rows than others, such as crawlers, shared accounts and tests."""

    users: int
    share: float
    """Of all rows."""
    example: str
    """Id of the heaviest."""
    rows: int
    """Its rows."""
    median: float
    """Rows of a usual user."""
    max_per_user: int
    """The most pairs that any other user has."""


@dataclass(frozen=True)
class Week:
    """A week of a log, counted from its first row; the last may be shorter."""

    start: str
    """UTC, ``2020-01-31 12:00:00``."""
    rows: int
    new_users: int
    new_items: int
    """Whose first row is in it."""


@dataclass(frozen=True)
class LogDescription:
    """What is in a log."""

    source: str
    rows: int
    users: int
    items: int
    columns: Mapping[str, str]
    """What the source calls each column."""
    events: Mapping[str, int]
    """Rows of each type of event, the most frequent first; empty without a column of them."""
    repeats: int
    """Rows whose pair has one already."""
    exact_repeats: int
    """Those of them that are alike in all columns read."""
    most_repeated: int
    """Rows of the most frequent pair."""
    heavy: HeavyUsers | None
    single_sitting: float | None
    """Share of the users with two rows and more who have all of them within a day; None without
    times, or in a log of less than a week."""
    weeks: Sequence[Week]
    """Empty without times, and where they span less than a week or more than 40 years."""
    weighted: bool
    """Whether events have been chosen."""

    def to_dict(self) -> dict[str, object]:
        """In JSON's types."""
        return {**asdict(self), "weeks": [asdict(week) for week in self.weeks]}

    def remarks(self, max_per_user: int | None = None) -> list[str]:
        """What to think of before dividing the log, a sentence each.

        Where users of more pairs than ``max_per_user`` are left out, nothing of heavy ones.
        """
        told = []
        if len(self.events) > 1 and not self.weighted:
            # What is rare is, as a rule, what is meant: a purchase, not a view.
            rare = [event for event in reversed(list(self.events)) if event][:4]
            weights = dict(zip(rare, (1, 0.5, 0.2, 0.1), strict=False))
            told.append(
                f"Column {self.columns.get('event', 'event')!r} holds the events "
                f"{event_counts(self.events)}, and all count alike; "
                f"{parameter('events', rare[:1])} keeps only some, "
                f"{parameter('events', weights)} weighs them in training."
            )
        if (heavy := self.heavy) is not None and max_per_user is None:
            who = "One user" if heavy.users == 1 else f"{heavy.users:,} users"
            them = "it" if heavy.users == 1 else "them"
            told.append(
                f"{who} of {self.users:,} made {percent(heavy.share)} of the rows "
                f"({heavy.example!r} {heavy.rows:,}, where {heavy.median:,.0f} is usual), as a "
                f"crawler or a test does; {parameter('max_per_user', heavy.max_per_user)} leaves "
                f"{them} out."
            )
        if self.single_sitting is not None and self.single_sitting > _MOST:
            told.append(
                f"{percent(self.single_sitting)} of the users with two rows and more have all of "
                "them within a day, so a shift in time is one to new users here, not one in what "
                "the same users want."
            )
        return told


def describe_log(log: Interactions) -> LogDescription:
    """Describe interactions as read.

    Parameters
    ----------
    log
        From :func:`~cnsdiff.data.read_interactions`.
    """
    frame = log.frame
    events: dict[str, int] = {}
    if "event" in frame.columns:
        events = dict(frame["event"].value_counts(sort=True).iter_rows())
    pairs = frame.group_by("user", "item").len()
    seen = [column for column in frame.columns if column != "weight"]
    times = None
    if "timestamp" in frame.columns:
        span = frame["timestamp"].to_numpy()
        times = float(span.min()), float(span.max())
    dated = times is not None and times[1] - times[0] >= _WEEK
    return LogDescription(
        source=log.source,
        rows=frame.height,
        users=log.n_users,
        items=log.n_items,
        columns={role: log.columns.get(role, role) for role in seen},
        events=events,
        repeats=frame.height - pairs.height,
        exact_repeats=frame.height - frame.select(seen).n_unique(),
        most_repeated=int(pairs["len"].to_numpy().max()),
        heavy=_heavy(frame, pairs),
        single_sitting=_single_sitting(frame) if dated else None,
        weeks=_weeks(frame, *times) if dated and times is not None else (),
        weighted=any(step.name == "events" for step in log.funnel),
    )


def _heavy(frame: pl.DataFrame, pairs: pl.DataFrame) -> HeavyUsers | None:
    """Users above a robust threshold who hold a noticeable share of the rows, if there are any."""
    users = pairs.group_by("user", maintain_order=False).agg(
        pl.col("len").sum().alias("rows"), pl.len().alias("pairs")
    )
    if users.height < _LEAST_USERS:
        return None
    rows = np.log(users["rows"].to_numpy())
    median = float(np.median(rows))
    spread = max(_MAD * float(np.median(np.abs(rows - median))), _LEAST_SPREAD)
    above = rows > median + _DEVIATIONS * spread
    if not above.any() or above.all():
        return None
    # Only those whom a limit on pairs would leave out, and nobody beside them.
    most = int(users.filter(~above)["pairs"].to_numpy().max())
    heavy = users.filter(pl.Series(above) & (users["pairs"] > most)).sort("rows", "user")
    share = float(heavy["rows"].sum() / frame.height)
    if share < _NOTICEABLE:
        return None
    example, n_rows, _ = heavy.row(-1)
    return HeavyUsers(heavy.height, share, shortened(example), n_rows, float(np.exp(median)), most)


def _single_sitting(frame: pl.DataFrame) -> float | None:
    spans = frame.group_by("user").agg(
        pl.len().alias("rows"),
        (pl.col("timestamp").max() - pl.col("timestamp").min()).alias("span"),
    )
    spans = spans.filter(pl.col("rows") > 1)
    if spans.height < _LEAST_USERS:
        return None
    return int((spans["span"] <= SECONDS_A_DAY).sum()) / spans.height


def _weeks(frame: pl.DataFrame, first: float, last: float) -> tuple[Week, ...]:
    """Rows, and first rows of users and items, in each week."""
    n_weeks = int((last - first) // _WEEK) + 1
    if n_weeks > 40 * 53:  # times that are no times, most likely
        return ()

    def counts(times: pl.Series) -> list[int]:
        weeks = ((times.to_numpy() - first) // _WEEK).astype(np.int64)
        counted: list[int] = np.bincount(weeks, minlength=n_weeks).tolist()
        return counted

    firsts = (
        frame.group_by(side).agg(pl.col("timestamp").min())["timestamp"]
        for side in ("user", "item")
    )
    starts = (date_of(first + week * _WEEK) for week in range(n_weeks))
    return tuple(map(Week, starts, counts(frame["timestamp"]), *map(counts, firsts)))


#: What is left after each step.
_STEPS = {
    "read": "rows read",
    "readable": "readable",
    "events": "of the events asked for",
    "log": "not shown at random",
    "drawn": "of the users drawn",
    "positive": "positive",
    "pairs": "pairs of a user and an item",
    "light": "of users that are not heavy",
    "core": "in the core",
}


def funnel_lines(funnel: Sequence[Step]) -> list[tuple[str, int]]:
    """A funnel in words: rows after each step, above them those left out (below 0) and why."""
    lines: list[tuple[str, int]] = []
    for at, step in enumerate(funnel):
        if 0 < at < len(funnel) - 1 and step.rows == funnel[at - 1].rows and not step.left_out:
            continue  # nothing went
        lines += [(f"  {_why(problem)}", -problem.rows) for problem in step.left_out]
        lines.append((_STEPS.get(step.name, step.name), step.rows))
    return lines


def _why(problem: Problem) -> str:
    """The reason, and the first place; or else what stands there, as Python writes it."""
    if not problem.place:
        return f"{problem.reason} {problem.example!r}" if problem.example else problem.reason
    kind = "missing id" if problem.missing else "malformed"
    return f"{kind}: {problem.reason} ({problem.place})"
