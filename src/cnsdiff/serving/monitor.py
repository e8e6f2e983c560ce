"""What a service did lately: requests, events, and how often the lists of each arm were taken."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from cnsdiff.evaluation.fhn import wilson

#: Minutes shown, requests whose times tell quantiles, and users whose last list is remembered.
MINUTES, _LATEST, _USERS = 60, 4_096, 200_000
#: An event on an item counts for the last list that showed it, if it comes within a day.
WINDOW = 86_400.0


@dataclass(frozen=True)
class Minute:
    """What came in a minute, counted from the start of the service."""

    minute: int
    requests: int
    events: int


class Traffic:
    """Requests and events of the last hour."""

    def __init__(self) -> None:
        self._started, self._lock = time.monotonic(), threading.Lock()
        self._minutes: OrderedDict[int, list[int]] = OrderedDict()
        self._seconds: deque[float] = deque(maxlen=_LATEST)

    def add(self, *, requests: int = 0, events: int = 0, seconds: float | None = None) -> None:
        """Count what just came."""
        minute = int((time.monotonic() - self._started) // 60)
        with self._lock:
            counts = self._minutes.setdefault(minute, [0, 0])
            counts[0] += requests
            counts[1] += events
            while len(self._minutes) > MINUTES:
                self._minutes.popitem(last=False)
            if seconds is not None:
                self._seconds.append(seconds)

    def minutes(self) -> list[Minute]:
        """Those of the last hour in which something came."""
        with self._lock:
            return [Minute(minute, *counts) for minute, counts in self._minutes.items()]

    def rates(self) -> tuple[float, float]:
        """Requests and events a second, over this minute and the one before."""
        now = (time.monotonic() - self._started) / 60
        some = [counts for counts in self.minutes() if counts.minute >= int(now) - 1]
        seconds = 60 * min(now, now % 1 + 1)
        requests = sum(counts.requests for counts in some)
        events = sum(counts.events for counts in some)
        return requests / max(seconds, 1.0), events / max(seconds, 1.0)

    def quantiles(self, *shares: float) -> list[float | None]:
        """Seconds to answer that a share of the latest requests took at most."""
        with self._lock:
            seconds = np.array(self._seconds)
        return [float(np.quantile(seconds, share)) if len(seconds) else None for share in shares]


@dataclass(frozen=True)
class Taken:
    """How often the lists of an arm were taken from: a share with its 95 % interval (Wilson)."""

    arm: str
    version: str
    lists: int
    taken: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Hits:
    """Of the users' next events after a list of the active version, how many its list held.

    ``rate`` is that of the latest, as many as are alike (ADWIN); ``before`` is what it fell from,
    beyond chance, and has not come back to; ``None`` where it did not fall. ``message`` says so.
    """

    events: int
    rate: float
    before: float | None
    message: str


class HitRate:
    """How often a user's next event is on an item of the list, watched for a fall.

    The window of ADWIN (Bifet and Gavaldà, 2007) grows while the rate stands still and drops its
    older part where the two differ beyond chance.
    """

    def __init__(self) -> None:
        from river.drift import ADWIN

        self._window, self._events = ADWIN(), 0  # type: ignore[no-untyped-call]
        self._before: float | None = None

    def add(self, hit: bool) -> None:
        """Count the event that followed a list."""
        before = float(self._window.estimation)
        self._window.update(int(hit))  # type: ignore[no-untyped-call]
        self._events += 1
        rate = float(self._window.estimation)
        if self._before is None:
            if self._window.drift_detected and rate < before:
                self._before = before
        elif rate >= self._before:
            self._before = None

    @property
    def fallen(self) -> bool:
        """Whether it fell and has not come back."""
        return self._before is not None

    def figures(self) -> Hits | None:
        """As it stands; ``None`` before the first event."""
        if not self._events:
            return None
        rate = float(self._window.estimation)
        message = (
            ""
            if self._before is None
            else (
                f"Lists hold less of what their users take next: {100 * rate:.1f}% of the latest, "
                f"{100 * self._before:.1f}% before."
            )
        )
        return Hits(self._events, rate, self._before, message)


@dataclass
class _Shown:
    """The last list of a user."""

    at: float
    arm: tuple[str, str]
    items: frozenset[str]
    followed: bool = False


class Arms:
    """Which lists were followed by an event on one of their items.

    An event counts for the user's last list before it, and a list counts once.
    """

    def __init__(self) -> None:
        self.answer_seq = self.event_seq = 0
        self._last: OrderedDict[str, _Shown] = OrderedDict()
        self._counts: dict[tuple[str, str], list[int]] = {}
        self.hits = HitRate()
        self.since = -math.inf

    def restart(self, since: float) -> None:
        """Count anew, lists from a moment on."""
        self.since = since
        self.hits = HitRate()
        self._counts.clear()
        self._last.clear()

    def forget(self) -> None:
        """Count from now on: what is remembered of users goes."""
        self._last.clear()

    def take(self, answers: pl.DataFrame, events: pl.DataFrame) -> None:
        """Follow both logs, the columns of ``Store.answers_after`` and ``events_after``."""
        shown: Iterable[tuple[object, ...]] = ()
        if len(answers):
            self.answer_seq = int(answers["seq"][-1])
            some = answers.filter((pl.col("at") >= self.since) & (pl.col("arm") != "shadow"))
            shown = some.select("at", "user", "arm", "version", "items").iter_rows()
        done: Iterable[tuple[object, ...]] = ()
        if len(events):
            self.event_seq = int(events["seq"][-1])
            done = events.select("timestamp", "user", "item").iter_rows()
        # In the order of time; at one moment a list comes before what is taken from it.
        both = [(float(row[0]), 0, row) for row in shown]  # type: ignore[arg-type]
        both += [(float(row[0]), 1, row) for row in done]  # type: ignore[arg-type]
        for at, kind, row in sorted(both, key=lambda entry: entry[:2]):
            if kind == 0:
                _, user, arm, version, items = row
                key = str(arm), str(version)
                self._counts.setdefault(key, [0, 0])[0] += 1
                self._last[str(user)] = _Shown(at, key, frozenset(items))  # type: ignore[call-overload]
                self._last.move_to_end(str(user))
                if len(self._last) > _USERS:
                    self._last.popitem(last=False)
                continue
            _, user, item = row
            last = self._last.get(str(user))
            if last is None or not 0 <= at - last.at <= WINDOW:
                continue
            hit = item in last.items
            if last.arm[0] == "main" and not last.followed:
                self.hits.add(hit)
            last.followed = True
            if hit:
                self._counts[last.arm][1] += 1
                del self._last[str(user)]

    def figures(self) -> list[Taken]:
        """Of each arm and version."""
        return [
            Taken(*key, lists, taken, taken / lists, *wilson(taken, lists))
            for key, (lists, taken) in sorted(self._counts.items())
        ]
