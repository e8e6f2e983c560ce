"""What came of the lists that a service has shown, and what another run would have made of it.

A service logs each list with the probability that each of its items had to be in it. An event of a
user on an item belongs to the latest list before it that showed the user this item, if that was not
longer ago than a window. Whether an item of a list is clicked is taken to depend on the user and
the item alone, not on what stands beside it (the document-based model of Li et al. 2018). Then the
clicks on a list ``L`` of another policy are a sum over its items, and inverse propensities tell it
from the items that were shown, as some of them were chosen at random::

    IPS    Σ_{i ∈ L, shown} c_i / p_i
    SNIPS  IPS · |L| / Σ_{i ∈ L, shown} 1 / p_i        (Swaminathan & Joachims 2015, in the mean)
    DR     Σ_{i ∈ L} q_i + Σ_{i ∈ L, shown} (c_i - q_i) / p_i            (Dudík et al. 2011)

The expectation of ``Σ 1 / p_i`` over the items of ``L`` that are shown is the number of those that
could have been: what is missing from ``|L|`` has no support, and IPS takes it for never clicked.

The other policy answers each request as it would have been served then: under the rules of the
request, from the items that could be shown, with what the user had done by then.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cnsdiff.base.errors import DataError, InputError, did_you_mean
from cnsdiff.data.ids import Vocabulary
from cnsdiff.display.wording import duration, percent
from cnsdiff.evaluation.significance import Interval, clustered
from cnsdiff.serving.ranking import arrange
from cnsdiff.serving.schemas import RecommendRequest
from cnsdiff.serving.version import LoadedVersion

#: Lists of a shadow are kept and not shown.
SHADOW = "shadow"
#: Folds of users for the model of clicks, and lists that an item's rate is drawn to the mean by.
_FOLDS, _PRIOR = 5, 20.0
#: How often the environment of a run is counted anew over the time of the answers, and how many
#: scores are at hand at once (64 MiB).
_REFRESHES, _SCORES = 24, 2**24
_NOT_LOGGED = (
    "their rules were not logged, as they were too long or an earlier version of cnsdiff answered"
)
#: Below this share of a target's items the estimates say little of it; and so do fewer clicks.
LEAST_SUPPORT, LEAST_SIZE = 0.8, 100.0

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Shown:
    """Lists that were shown, and what came of them.

    Attributes
    ----------
    answers
        A row each, in the order of time: ``user``, ``at``, ``arm``, ``version``, ``k``, and where
        they are from a store ``seq`` and ``item_seq``.
    items
        A row for each item of a list: ``answer`` (row of the other), ``item``, ``propensity``,
        ``clicked``.
    n_open
        Lists left out, as their window was not over.
    """

    answers: pl.DataFrame
    items: pl.DataFrame
    n_open: int

    @classmethod
    def of(
        cls,
        answers: pl.DataFrame,
        events: pl.DataFrame,
        window: float,
        types: Collection[str] | None = None,
    ) -> Shown:
        """Give each event to the list that it came of.

        Parameters
        ----------
        answers, events
            As :class:`cnsdiff.serving.store.Store` gives them.
        window
            For how long after a list an event may be due to it, in seconds.
        types
            Of the events that count; all, if not given.

        Raises
        ------
        DataError
            No list is left, or no event is of such a type.
        """
        seen = answers.filter(pl.col("arm") != SHADOW, pl.col("items").list.len() > 0)
        if not len(seen):
            raise DataError("the store has no answers yet; send requests to the service first")
        ends = [float(seen["at"].to_numpy().max())]
        if len(events):
            ends.append(float(events["timestamp"].to_numpy().max()))
        over = seen.filter(pl.col("at") + window <= max(ends)).sort("at", maintain_order=True)
        if not len(over):
            raise DataError(
                f"none of the {len(seen):,} lists is older than the window of {duration(window)} "
                "in which their events are waited for; give a shorter window, or wait"
            )
        if types is not None:
            events = _of_types(events, types)
        columns = ["user", "at", "arm", "version", "k", "seq", "item_seq"]
        # Which list an event belongs to is told by all lists, those whose window is open, too.
        every = seen.sort("at", maintain_order=True).with_row_index("answer")
        items = (
            every.select("answer", "user", "at", pl.col("items", "propensities"))
            .explode("items", "propensities")
            .rename({"items": "item", "propensities": "propensity"})
        )
        due = events.select("user", "item", pl.col("timestamp").alias("at")).sort("at")
        credited = due.join_asof(
            items.select("user", "item", "at", "answer").with_columns(shown_at=pl.col("at")),
            on="at",
            by=["user", "item"],
            strategy="backward",
            check_sortedness=False,
        ).filter(pl.col("at") - pl.col("shown_at") <= window)
        clicks = credited.select("answer", "item").unique().with_columns(clicked=pl.lit(1.0))
        table = items.join(clicks, on=["answer", "item"], how="left", maintain_order="left")
        # Those whose window is over come first.
        rows = table.filter(pl.col("answer") < len(over)).select(
            pl.col("answer").cast(pl.Int64), "item", "propensity", pl.col("clicked").fill_null(0.0)
        )
        known = [name for name in columns if name in every.columns]
        return cls(every.head(len(over)).select(known), rows, len(seen) - len(over))

    def only(self, some: NDArray[np.bool_]) -> Shown:
        """Some of the lists, ``(n,)`` of which are true."""
        number = np.cumsum(some) - 1
        rows = self.items["answer"].to_numpy()
        items = self.items.filter(some[rows]).with_columns(answer=number[rows[some[rows]]])
        return Shown(self.answers.filter(some), items, self.n_open)

    @property
    def users(self) -> Numbers:
        """``(n,)`` whose each list is, as a number."""
        codes = self.answers["user"].rank("dense").cast(pl.Int64).to_numpy()
        return np.asarray(codes - 1)

    @property
    def clicks(self) -> Floats:
        """``(n,)`` clicked items of each list."""
        rows, clicked = (self.items[name].to_numpy() for name in ("answer", "clicked"))
        return np.bincount(rows, clicked, len(self.answers)).astype(np.float64)


def _of_types(events: pl.DataFrame, types: Collection[str]) -> pl.DataFrame:
    known = events["type"].unique().drop_nulls().sort().to_list()
    for name in types:
        if len(events) and name not in known:
            other = f"they have {', '.join(known)}" if known else "they have none"
            raise DataError(
                f"no event of the store has the type {name!r}{did_you_mean(name, known)}; {other}"
            )
    return events.filter(pl.col("type").is_in(list(types)))


@dataclass(frozen=True)
class Arm:
    """The lists of an arm and version.

    Attributes
    ----------
    hit_rate, clicks
        Share of lists with a click, and clicks a list, with 95% intervals clustered by user.
    """

    arm: str
    version: str
    answers: int
    users: int
    hit_rate: Interval
    clicks: Interval


@dataclass(frozen=True)
class ArmDifference:
    """An arm less another, over the time in which both answered."""

    arm: str
    version: str
    against: tuple[str, str]
    answers: int
    hit_rate: Interval
    clicks: Interval


def arms_of(shown: Shown) -> tuple[list[Arm], list[ArmDifference]]:
    """Figures of each arm and version, the most answered first, and their differences from that.

    Who is in which arm is drawn by user, so arms are compared over the time that they share.
    """
    users, clicks, at = shown.users, shown.clicks, shown.answers["at"].to_numpy()
    measures = ((clicks > 0).astype(np.float64), clicks)
    counts = shown.answers.group_by("arm", "version").len().sort("len", "arm", descending=True)
    rows, arms, differences = [], [], []
    for arm, version, n in counts.iter_rows():
        mine = (shown.answers["arm"] == arm).to_numpy() & (
            shown.answers["version"] == version
        ).to_numpy()
        own = np.flatnonzero(mine)
        rows.append(own)
        hit_rate, mean = (mean_of(values[own], users[own]) for values in measures)
        arms.append(Arm(arm, version, n, len(np.unique(users[own])), hit_rate, mean))
    for own, figures in zip(rows[1:], arms[1:], strict=True):
        start = max(at[own].min(), at[rows[0]].min())
        end = min(at[own].max(), at[rows[0]].max())
        both = [part[(at[part] >= start) & (at[part] <= end)] for part in (own, rows[0])]
        if not all(map(len, both)):
            continue
        hit_rate, mean = (difference_of(values, users, *both) for values in measures)
        against = arms[0].arm, arms[0].version
        n = sum(map(len, both))
        differences.append(ArmDifference(figures.arm, figures.version, against, n, hit_rate, mean))
    return arms, differences


@dataclass(frozen=True)
class OffPolicy:
    """Clicks on a list of a policy that was not served, each with a 95% interval by user.

    Attributes
    ----------
    answers, users
        Lists that tell it, and whose.
    served
        Clicks on the lists that were shown.
    ips, snips, dr
        See the module.
    gain
        ``dr - served``, list by list.
    effective_size
        How many equally weighted items those that were shown are worth.
    support
        Share of the target's items that could have been shown.
    """

    answers: int
    users: int
    served: Interval
    ips: Interval
    snips: Interval
    dr: Interval
    gain: Interval
    effective_size: float
    support: float

    @property
    def warnings(self) -> list[str]:
        """Why the estimates may be far from the truth, a sentence each."""
        warnings = []
        if self.support < LEAST_SUPPORT:
            warnings.append(
                f"only {percent(self.support)} of the run's items could have been shown, so that "
                "IPS is too low and the others guess the rest; explore farther down the list"
            )
        if self.effective_size < LEAST_SIZE:
            warnings.append(
                f"all rests on as few as {self.effective_size:.0f} shown items; explore more, or "
                "wait for more answers"
            )
        return warnings


def off_policy(shown: Shown, lists: Sequence[Sequence[str]]) -> OffPolicy:
    """Estimate the clicks on other lists from those that were shown.

    Parameters
    ----------
    lists
        Of each answer, the items that the target would have shown.
    """
    n, users, served = len(shown.answers), shown.users, shown.clicks
    target = pl.DataFrame({"answer": np.arange(n), "item": lists}).explode("item").drop_nulls()
    ids = pl.concat([shown.items["item"], target["item"]]).unique(maintain_order=True)
    numbers = Vocabulary(ids.alias("id"))
    answer, propensity, clicked = (
        shown.items[name].to_numpy() for name in ("answer", "propensity", "clicked")
    )
    item, wanted = numbers.encode(shown.items["item"]), numbers.encode(target["item"])
    wanted_by = target["answer"].to_numpy()
    matched = np.isin(answer * len(ids) + item, wanted_by * len(ids) + wanted)
    weight = np.where(matched, 1 / propensity, 0.0)
    rates = _click_rates(item, clicked, users[answer] % _FOLDS, len(ids))

    def total(values: Floats, rows: Numbers = answer) -> Floats:
        return np.bincount(rows, values, n).astype(np.float64)

    ips, weights = total(weight * clicked), total(weight)
    length = np.bincount(wanted_by, minlength=n).astype(np.float64)
    residual = weight * (clicked - rates[users[answer] % _FOLDS, item])
    dr = total(rates[users[wanted_by] % _FOLDS, wanted], wanted_by) + total(residual)
    # A ratio, by the influence of each list on it.
    share = weights.mean() / max(length.mean(), 1e-12)
    ratio = ips.mean() / share if share else np.nan
    influence = (ips - ips.mean() - ratio * (weights / max(length.mean(), 1e-12) - share)) / (
        n * share if share else np.nan
    )
    squares = float(np.square(weight).sum())
    return OffPolicy(
        answers=n,
        users=len(np.unique(users)),
        served=mean_of(served, users),
        ips=mean_of(ips, users),
        snips=clustered(float(ratio), influence, users),
        dr=mean_of(dr, users),
        gain=mean_of(dr - served, users),
        effective_size=float(weight.sum() ** 2 / squares) if squares else 0.0,
        support=float(min(share, 1.0)),
    )


def _click_rates(item: Numbers, clicked: Floats, fold: Numbers, n_items: int) -> Floats:
    """``(folds, n_items)`` clicks an item gets when it is shown, as the other folds tell."""
    cells = fold * n_items + item
    shape = _FOLDS, n_items
    shows = np.bincount(cells, minlength=_FOLDS * n_items).reshape(shape)
    clicks = np.bincount(cells, clicked, _FOLDS * n_items).reshape(shape)
    shows, clicks = (own.sum(axis=0) - own for own in (shows, clicks))
    base = clicks.sum(axis=1, keepdims=True) / np.maximum(shows.sum(axis=1, keepdims=True), 1)
    rates: Floats = (clicks + _PRIOR * base) / (shows + _PRIOR)
    return rates


def mean_of(values: Floats, users: Numbers) -> Interval:
    """The mean over lists, its interval clustered by user."""
    mean = float(values.mean())
    return clustered(mean, (values - mean) / len(values), users)


def difference_of(values: Floats, users: Numbers, one: Numbers, other: Numbers) -> Interval:
    """The mean over some lists less that over others; a user may have both."""
    means = [float(values[rows].mean()) for rows in (one, other)]
    influence = [
        sign * (values[rows] - mean) / len(rows)
        for rows, mean, sign in zip((one, other), means, (1, -1), strict=True)
    ]
    return clustered(
        means[0] - means[1],
        np.concatenate(influence),
        np.concatenate([users[one], users[other]]),
    )


@dataclass(frozen=True)
class Answered:
    """The lists that a run would have answered with.

    Attributes
    ----------
    lists
        Of each answer; ``None`` where it cannot be told.
    left_out
        Why it cannot, and of how many answers.
    """

    lists: list[list[str] | None]
    left_out: Counter[str]


def lists_at(
    version: LoadedVersion,
    answers: pl.DataFrame,
    events: pl.DataFrame,
    items: pl.DataFrame,
    rules_of: Callable[[Sequence[int]], Sequence[str | None]],
    nobody: Collection[str] = (),
) -> Answered:
    """The lists that a run would have answered with, had it been served.

    Users are folded in with what they did before each answer, the items are those of its time, and
    the environment is counted anew a few times over the time of the answers.

    Parameters
    ----------
    version
        The run, which is taken through the time of the answers.
    answers
        ``seq``, ``user``, ``at``, ``k`` and ``item_seq``, in the order of time, from the end of the
        run's log on.
    events
        ``seq``, ``user``, ``item`` and ``timestamp`` of those that the service counts.
    items
        As :meth:`cnsdiff.serving.store.Store.item_history` gives them.
    rules_of
        The rules of answers by their ``seq``.
    nobody
        Users who were forgotten, whom the run must not know.
    """
    before = _Histories(events)
    first = events.sort("seq").unique(["user", "item"], keep="first").sort("timestamp")
    times, changes = first["timestamp"].to_numpy(), items["seq"].to_numpy()
    # Of several processes one may be behind by a moment: the items go on for all at once.
    item_seqs = np.maximum.accumulate(answers["item_seq"].fill_null(0).to_numpy())
    counted = changed = 0
    lists: list[list[str] | None] = []
    left_out: Counter[str] = Counter()
    for rows, refreshed in _spans(item_seqs, version):
        part = answers[rows]
        until = int(np.searchsorted(changes, item_seqs[rows][0], side="right"))
        if until > changed:
            version.take_items(items[changed:until])
        if refreshed:
            moment = int(np.searchsorted(times, part["at"][0]))
            version.take_events(first[counted:moment])
            counted = moment
        if refreshed or until > changed:
            version.renew()
        changed = until
        snapshot = version.snapshot
        requests, histories = [], []
        rules = rules_of(part["seq"].to_list())
        for user, at, k, own in zip(part["user"], part["at"], part["k"], rules, strict=True):
            given = {} if own is None else json.loads(own)
            requests.append(RecommendRequest.model_validate({**given, "user": user, "k": k}))
            histories.append(before.of(user, at))
        tastes = snapshot.tastes(requests, histories, [user in nobody for user in part["user"]])
        for request, taste, own in zip(requests, tastes, rules, strict=True):
            try:
                if own is None:
                    raise InputError(_NOT_LOGGED)
                scores = snapshot.scores(request, taste)
                numbers, *_ = arrange(scores, request, snapshot.catalogue, taste.seen)
                lists.append([str(item) for item in snapshot.catalogue.index.names(numbers)])
            except InputError as error:
                left_out[str(error)] += 1
                lists.append(None)
    return Answered(lists, left_out)


def _spans(item_seqs: Numbers, version: LoadedVersion) -> Iterator[tuple[slice, bool]]:
    """Answers in a row that one snapshot gives, and whether its environment is a new one."""
    n = len(item_seqs)
    refreshes = {int(rows[0]) for rows in np.array_split(np.arange(n), min(_REFRESHES, n))}
    ends = {*refreshes, *(np.flatnonzero(np.diff(item_seqs)) + 1).tolist(), n}
    start = 0
    for end in sorted(ends - {0}):
        while start < end:
            at_once = max(1, _SCORES // len(version.snapshot.model.items))
            stop = min(end, start + at_once)
            yield slice(start, stop), start in refreshes
            start = stop


class _Histories:
    """What users did, by user and time."""

    def __init__(self, events: pl.DataFrame) -> None:
        events = events.sort("user", "timestamp")
        self._items, self._times = events["item"], events["timestamp"].to_numpy()
        names = events["user"].rle().struct
        ends = np.cumsum(names.field("len").to_numpy()).tolist()
        self._rows = dict(
            zip(names.field("value"), zip([0, *ends], ends, strict=False), strict=True)
        )

    def of(self, user: str, at: float) -> list[str]:
        """The items of a user's events before a time."""
        start, end = self._rows.get(user, (0, 0))
        end = start + int(np.searchsorted(self._times[start:end], at))
        return self._items[start:end].to_list()


def to_dict(figures: Any) -> Any:
    """Dataclasses of figures in JSON's types, an interval as its value and its two ends."""
    if isinstance(figures, Interval):
        return {"value": figures.value, "low": figures.low, "high": figures.high}
    if hasattr(figures, "__dataclass_fields__"):
        return {name: to_dict(getattr(figures, name)) for name in figures.__dataclass_fields__}
    return [to_dict(one) for one in figures] if isinstance(figures, list | tuple) else figures
