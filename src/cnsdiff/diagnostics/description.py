"""Describe a dataset: counts, long tail, overlaps, and how far each split is from train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cnsdiff.base.errors import DataError
from cnsdiff.base.seeding import numpy_generator
from cnsdiff.data import Dataset, Split
from cnsdiff.data.reading.times import looks_unlike_seconds
from cnsdiff.diagnostics.shift import (
    DRAWS,
    SECONDS_A_DAY,
    TIME_CELLS,
    Frame,
    Shift,
    measure_with_chance,
    shares,
)

#: Shares of items at which the long-tail curve is given.
CURVE_GRID: NDArray[np.float64] = np.linspace(0.0, 1.0, 101)
DECILES = 10


@dataclass(frozen=True)
class Counts:
    """Number of the ``present`` users (or items) of a split, and of their pairs."""

    present: int
    """Those with at least one pair in the split."""
    mean: float
    median: float
    """Pairs of one that is present."""
    gini: float
    """Unevenness over all of the dataset's, absent ones included: 0 (all alike) to 1."""
    effective: float
    """``exp(entropy)``: as diverse as so many equally frequent ones."""


@dataclass(frozen=True)
class Time:
    """When the pairs of a split were observed."""

    first: str
    median: str
    last: str
    """UTC, ISO 8601 (taking timestamps for epoch seconds)."""
    span_days: float
    """``last - first``."""
    overlap_days: float | None
    """Length of the time that lies within both the split's range and train's; None, like the
    next, if train has no timestamps."""
    after_train: float | None
    """Share of the split's pairs later than train's last."""
    moved_spans: float | None
    """Wasserstein-1 distance of the split's time from train's, in spans of train; None for train
    itself and where that span is 0."""
    cells: tuple[float, ...]
    """Share of the split's pairs in each of the equal cells of ``Description.time_edges``."""


@dataclass(frozen=True)
class SplitDescription:
    """One split."""

    pairs: int
    """Number of interactions."""
    density: float
    """Pairs over ``n_users x n_items`` of the dataset."""
    dropped_unknown: int | None
    """Held-out pairs that preparing dropped as their user or item is cold (not in train); None
    if the manifest does not say."""
    users: Counts
    items: Counts
    """Counts of either."""
    head: float
    tail: float
    """Share of the pairs on the 20% of items most popular in train, and on the 20% least."""
    top_decile_items: float
    """Share of the split's items that are among the 10% most popular in train."""
    deciles: tuple[float, ...]
    """Share of the pairs on each tenth of the items, the most popular in train first: ``(10,)``."""
    long_tail: tuple[float, ...]
    """Share of the pairs on the split's own most popular items, at
    :data:`CURVE_GRID`: ``(101,)``."""
    activity: tuple[float, ...]
    """Share of the split's users with 1, 2-3, 4-7, … pairs in it."""
    shift: Mapping[str, Shift]
    """Distances from train by axis (``items``, ``users``, ``time``, ``periods``); empty for
    train itself."""
    time: Time | None
    """None without timestamps."""
    periods: Mapping[str, float] | None
    """Share of the pairs under each label; None without labels."""


@dataclass(frozen=True)
class Overlap:
    """The overlap of two splits."""

    left: str
    right: str
    """Names of the splits."""
    pairs: int
    """Interactions in both; must be 0."""
    users_jaccard: float
    items_jaccard: float
    """Users (items) in both over users (items) in either."""


@dataclass(frozen=True)
class Description:
    """A dataset described; made by :func:`~cnsdiff.diagnostics.description`."""

    name: str
    scenario: str
    fingerprint: str
    """Of the dataset."""
    n_users: int
    n_items: int
    """Those of train."""
    seed: int
    draws: int
    """Behind the levels of chance."""
    splits: Mapping[str, SplitDescription]
    """By name, train first."""
    overlaps: tuple[Overlap, ...]
    """For every two splits."""
    time_edges: tuple[str, ...]
    """The ``TIME_CELLS + 1`` edges of the cells of time, UTC; empty without timestamps."""
    problems: tuple[str, ...]
    """Faults of the dataset, a sentence each."""

    def to_dict(self) -> dict[str, object]:
        """All of it in dicts, lists, numbers, strings and None: ready for JSON, without NaN."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    def table(self) -> pl.DataFrame:
        """One row per split and a column per number.

        A distance is named by axis and measure, ``items_js``, and its level of chance
        ``items_js_chance``; numbers that a split does not have are null.
        """
        rows = [_row(self, name, split) for name, split in self.splits.items()]
        return pl.DataFrame(rows, infer_schema_length=None)


def _row(description: Description, name: str, split: SplitDescription) -> dict[str, object]:
    row: dict[str, object] = {
        "dataset": description.name,
        "scenario": description.scenario,
        "split": name,
        "pairs": split.pairs,
        "users": split.users.present,
        "items": split.items.present,
        "density": split.density,
        "dropped_unknown": split.dropped_unknown,
    }
    for axis, counts in (("users", split.users), ("items", split.items)):
        values = asdict(counts)
        row |= {f"{axis}_{key}": values[key] for key in ("mean", "median", "gini", "effective")}
    row |= {"head": split.head, "tail": split.tail, "top_decile_items": split.top_decile_items}
    if split.time is not None:
        when = asdict(split.time)
        row |= {f"time_{key}": value for key, value in when.items() if key != "cells"}
    for axis, shift in split.shift.items():
        row |= {f"{axis}_{key}": value for key, value in asdict(shift.observed).items()}
        if shift.chance is not None:
            chance = asdict(shift.chance)
            row |= {f"{axis}_{key}_chance": value for key, value in chance.items()}
    return row


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple | list) else value


def describe(dataset: Dataset, *, seed: int = 0, draws: int = DRAWS) -> Description:
    """Describe all splits of ``dataset`` and measure the shift of each from train.

    Parameters
    ----------
    dataset
        Every split of it is read.
    seed
        Of the random re-divisions that give the levels of chance.
    draws
        How many of them; their mean is reported.

    Raises
    ------
    DataError
        A split has no pairs, or its file is damaged.
    """
    splits = {name: dataset.split(name) for name in dataset.split_names}
    for name, split in splits.items():
        if len(split) == 0:
            place = dataset.path or dataset.name
            raise DataError(f"{place}: its {name} split has no pairs; prepare the dataset again")
    # What all splits are compared on: the ids of train, the periods, the whole time.
    times = [split.timestamps for split in splits.values() if split.timestamps is not None]
    frame = Frame(
        n_users=dataset.n_users,
        n_items=dataset.n_items,
        n_periods=len(dataset.periods),
        first=min((float(t.min()) for t in times), default=None),
        last=max((float(t.max()) for t in times), default=None),
    )
    edges: NDArray[np.float64] = np.array([])
    if frame.first is not None and frame.last is not None:
        edges = np.linspace(frame.first, frame.last, TIME_CELLS + 1)
    train = splits["train"]
    deciles = popularity_deciles(np.bincount(train.items, minlength=frame.n_items))
    # What is wrong with the dataset: times that are no seconds, pairs in two splits.
    unit = None if train.timestamps is None else looks_unlike_seconds(train.timestamps)
    problems = [] if unit is None else [f"its times {unit}; prepare the dataset again"]
    overlaps = tuple(_overlap(splits[a], splits[b], frame) for a, b in combinations(splits, 2))
    problems += [
        f"{shared.pairs:,} pairs are both in {shared.left} and in {shared.right}; prepare the "
        "dataset again from splits that do not overlap"
        for shared in overlaps
        if shared.pairs
    ]
    return Description(
        name=dataset.name,
        scenario=dataset.scenario,
        fingerprint=dataset.fingerprint,
        n_users=dataset.n_users,
        n_items=dataset.n_items,
        seed=seed,
        draws=draws,
        splits={
            name: _describe_split(dataset, train, split, frame, deciles, seed=seed, draws=draws)
            for name, split in splits.items()
        },
        overlaps=overlaps,
        time_edges=tuple(map(_utc, edges)),
        problems=tuple(problems),
    )


def _describe_split(
    dataset: Dataset,
    train: Split,
    split: Split,
    frame: Frame,
    deciles: NDArray[np.int64],
    *,
    seed: int,
    draws: int,
) -> SplitDescription:
    by_user = np.bincount(split.users, minlength=frame.n_users)
    by_item = np.bincount(split.items, minlength=frame.n_items)
    on_decile = decile_shares(deciles, by_item)
    # frexp is exact where log2 of a whole number would round.
    octaves = np.frexp(by_user[by_user > 0].astype(np.float64))[1] - 1
    periods = None
    if split.periods is not None:
        parts = shares(np.bincount(split.periods, minlength=frame.n_periods))
        periods = dict(zip(map(str, dataset.periods), map(float, parts), strict=True))
    shift: dict[str, Shift] = {}
    if split is not train:
        # A stream for each split, so that leaving one out changes nothing for the others.
        generator = numpy_generator(seed, f"diagnostics.chance.{split.name}")
        shift = measure_with_chance(train, split, frame, generator, draws=draws)
    return SplitDescription(
        pairs=len(split),
        density=len(split) / (frame.n_users * frame.n_items),
        dropped_unknown=dataset.manifest.splits[split.name].dropped_unknown,
        users=_counts(by_user),
        items=_counts(by_item),
        head=float(on_decile[: DECILES // 5].sum()),
        tail=float(on_decile[-(DECILES // 5) :].sum()),
        top_decile_items=float((deciles[by_item > 0] == 0).mean()),
        deciles=_floats(on_decile),
        long_tail=_floats(long_tail_curve(by_item)),
        activity=_floats(shares(np.bincount(octaves))),
        shift=shift,
        time=_time(train, split, shift, frame),
        periods=periods,
    )


def _counts(counts: NDArray[Any]) -> Counts:
    present = counts[counts > 0]
    return Counts(
        present=present.size,
        mean=float(present.mean()),
        median=float(np.median(present)),
        gini=gini(counts),
        effective=effective_number(counts),
    )


def _time(train: Split, split: Split, shift: Mapping[str, Shift], frame: Frame) -> Time | None:
    if split.timestamps is None:
        return None
    timestamps = split.timestamps
    first, last = float(timestamps.min()), float(timestamps.max())
    overlap = after = moved = None
    if train.timestamps is not None:
        train_first, train_last = float(train.timestamps.min()), float(train.timestamps.max())
        overlap = max(min(last, train_last) - max(first, train_first), 0.0) / SECONDS_A_DAY
        after = float((timestamps > train_last).mean())
        days = shift["time"].observed.wasserstein if "time" in shift else None
        if days is not None and train_last > train_first:
            moved = days / ((train_last - train_first) / SECONDS_A_DAY)
    return Time(
        first=_utc(first),
        median=_utc(float(np.median(timestamps))),
        last=_utc(last),
        span_days=(last - first) / SECONDS_A_DAY,
        overlap_days=overlap,
        after_train=after,
        moved_spans=moved,
        cells=_floats(shares(frame.time_cells(timestamps))),
    )


def _utc(seconds: float) -> str:
    # datetime ends in the year 9999; datetime64 takes whatever stands in a file.
    return str(np.datetime64(int(seconds), "s"))


def _overlap(left: Split, right: Split, frame: Frame) -> Overlap:
    in_left, in_right = (split.users * frame.n_items + split.items for split in (left, right))
    return Overlap(
        left=left.name,
        right=right.name,
        pairs=np.intersect1d(in_left, in_right, assume_unique=True).size,
        users_jaccard=_jaccard(left.users, right.users, frame.n_users),
        items_jaccard=_jaccard(left.items, right.items, frame.n_items),
    )


def _jaccard(left: NDArray[np.int64], right: NDArray[np.int64], size: int) -> float:
    in_left, in_right = (np.bincount(numbers, minlength=size) > 0 for numbers in (left, right))
    return float((in_left & in_right).sum() / (in_left | in_right).sum())


def _floats(values: NDArray[Any]) -> tuple[float, ...]:
    return tuple(map(float, values))


# --- How concentrated counts are


def gini(counts: NDArray[Any]) -> float:
    """Gini coefficient of counts ``(n,)``, zeros included: 0 if all are equal, ``1 - 1/n`` if one
    category has everything.
    """
    ascending = np.sort(shares(counts))
    n = ascending.size
    rank = np.arange(1, n + 1)
    return max(float(((2 * rank - n - 1) @ ascending) / n), 0.0)


def effective_number(counts: NDArray[Any]) -> float:
    """``exp(entropy)``: how many equally frequent categories would be as diverse (Hill, 1973)."""
    p = shares(counts)
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def long_tail_curve(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Share of interactions on the most frequent ``x`` of the categories, for ``CURVE_GRID``.

    Categories are ordered by their own ``counts`` ``(n,)``; linear between whole numbers of them.
    The result is ``(101,)``, rises from 0 to 1 and lies on the diagonal if all are equal.
    """
    held = np.concatenate(([0.0], np.cumsum(np.sort(shares(counts))[::-1])))
    curve = np.interp(CURVE_GRID, np.arange(held.size) / (held.size - 1), held)
    curve[-1] = 1.0
    return curve


def popularity_deciles(counts: NDArray[Any]) -> NDArray[np.int64]:
    """The decile of each category by its count, ``(n,)``: 0 holds the most frequent tenth.

    Deciles hold equal numbers of categories (up to one); ties are broken by position.
    """
    values = np.asarray(counts)
    rank = np.empty(values.size, dtype=np.int64)
    rank[np.argsort(-values, kind="stable")] = np.arange(values.size)
    result: NDArray[np.int64] = DECILES * rank // values.size
    return result


def decile_shares(deciles: NDArray[np.int64], counts: NDArray[Any]) -> NDArray[np.float64]:
    """Share of ``counts`` ``(n,)`` that falls on the categories of each decile, ``(10,)``."""
    result: NDArray[Any] = np.bincount(deciles, weights=shares(counts), minlength=DECILES)
    return result
