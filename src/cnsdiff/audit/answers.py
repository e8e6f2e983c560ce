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
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from cnsdiff.base.errors import DataError
from cnsdiff.data.ids import Vocabulary
from cnsdiff.data.splits import pair_matrix
from cnsdiff.display.wording import percent
from cnsdiff.evaluation import rank
from cnsdiff.evaluation.significance import Interval, clustered
from cnsdiff.recommender.eligibility import rows_of
from cnsdiff.recommender.embedding_model import Model
from cnsdiff.recommender.update import Elsewhere

#: Lists of a shadow are kept and not shown.
SHADOW = "shadow"
#: Folds of users for the model of clicks, and lists that an item's rate is drawn to the mean by.
_FOLDS, _PRIOR = 5, 20.0
#: How often the environment of a run is counted anew over the time of the answers.
_REFRESHES = 24
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
        A row each, in the order of time: ``user``, ``at``, ``arm``, ``version``, ``k``.
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
    def of(cls, answers: pl.DataFrame, events: pl.DataFrame, window: float) -> Shown:
        """Give each event to the list that it came of.

        Parameters
        ----------
        answers, events
            As :class:`cnsdiff.serving.store.Store` gives them.
        window
            For how long after a list an event may be due to it, in the units of the times.

        Raises
        ------
        DataError
            No list is left.
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
                f"none of the {len(seen):,} lists is older than the window of {window:g} in which "
                "their events are waited for; give a shorter window, or wait"
            )
        columns = ["user", "at", "arm", "version", "k"]
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
        return cls(every.head(len(over)).select(columns), rows, len(seen) - len(over))

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


def lists_at(model: Model, answers: pl.DataFrame, events: pl.DataFrame) -> list[list[str]]:
    """The lists that a run would have answered with, as it would have been served.

    Users are folded in with what they did before each answer, and have none of it in their lists;
    the environment is counted anew a few times over the time of the answers.

    Parameters
    ----------
    answers
        ``user``, ``at`` and ``k``, in the order of time, from the end of the run's log on.
    events
        ``user``, ``item`` and ``timestamp``.
    """
    n_items = len(model.items)
    known = Vocabulary(model.items.alias("id"))
    done = events.with_columns(number=pl.Series(known.encode(events["item"])))
    done = done.filter(pl.col("number") >= 0).sort("timestamp")
    times, numbers = done["timestamp"].to_numpy(), done["number"].to_numpy()
    users = Vocabulary(model.users.alias("id")).encode(answers["user"])
    left_out, names = model.left_out(), model.items.cast(pl.String).to_numpy()
    activity, counted = model.activity, 0
    if activity is not None:  # what the run has learnt is counted already
        counted = int(np.searchsorted(times, activity.moment, side="right"))
    bias = getattr(model.scorer(), "item_bias", None)
    lists: list[list[str]] = []
    for rows in np.array_split(np.arange(len(answers)), min(_REFRESHES, len(answers))):
        part = answers[rows].with_row_index("row")
        if activity is not None:
            moment = float(part["at"][0])
            until = max(counted, int(np.searchsorted(times, moment)))
            new = slice(counted, until)
            activity = activity.followed_by(numbers[new], times[new], moment=moment)
            bias, counted = model.live_bias(activity), until
        before = part.join(done, on="user").filter(pl.col("timestamp") < pl.col("at"))
        before = before.unique(["row", "number"])
        place, item = (before[name].cast(pl.Int64).to_numpy() for name in ("row", "number"))
        since = pair_matrix(place, item, (len(rows), n_items))
        scorer = Elsewhere(model.fold_in(users[rows], since), torch.arange(n_items), bias)
        exclude = rows_of(left_out, users[rows]) + since
        longest = min(int(part["k"].to_numpy().max()), n_items)
        best = rank(scorer, torch.arange(len(rows)), longest, exclude=exclude)[0].numpy()
        lists += [names[own[own >= 0][:k]].tolist() for own, k in zip(best, part["k"], strict=True)]
    return lists


def to_dict(figures: Any) -> Any:
    """Dataclasses of figures in JSON's types, an interval as its value and its two ends."""
    if isinstance(figures, Interval):
        return {"value": figures.value, "low": figures.low, "high": figures.high}
    if hasattr(figures, "__dataclass_fields__"):
        return {name: to_dict(getattr(figures, name)) for name in figures.__dataclass_fields__}
    return [to_dict(one) for one in figures] if isinstance(figures, list | tuple) else figures
