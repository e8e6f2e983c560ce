"""What a dataset looks like, as plain values: for tables, for JSON and for figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from cnsdiff.diagnostics.shift import Shift


@dataclass(frozen=True)
class Counts:
    """How many of the ``present`` users (or items) of a split there are, and their pairs.

    Attributes
    ----------
    present
        Those with at least one pair in the split.
    mean, median
        Pairs of one that is present.
    gini
        Unevenness over all of the dataset's, absent ones included: 0 (all alike) to 1.
    effective
        ``exp(entropy)``: as diverse as so many equally frequent ones.
    """

    present: int
    mean: float
    median: float
    gini: float
    effective: float


@dataclass(frozen=True)
class Time:
    """When the pairs of a split were observed.

    Attributes
    ----------
    first, median, last
        UTC, ISO 8601 (taking timestamps for epoch seconds).
    span_days
        ``last - first``.
    overlap_days
        Length of the time that lies within both the split's range and train's; None, like the
        next, if train has no timestamps.
    after_train
        Share of the split's pairs later than train's last.
    moved_spans
        Wasserstein-1 distance of the split's time from train's, in spans of train; None for train
        itself and where that span is 0.
    cells
        Share of the split's pairs in each of the equal cells of ``Description.time_edges``.
    """

    first: str
    median: str
    last: str
    span_days: float
    overlap_days: float | None
    after_train: float | None
    moved_spans: float | None
    cells: tuple[float, ...]


@dataclass(frozen=True)
class SplitDescription:
    """One split.

    Attributes
    ----------
    pairs
        Number of interactions.
    density
        Pairs over ``n_users x n_items`` of the dataset.
    dropped_unknown
        Held-out pairs that preparing dropped as their user or item is cold (not in train); None
        if the manifest does not say.
    users, items
        Counts of either.
    head, tail
        Share of the pairs on the 20 % of items most popular in train, and on the 20 % least.
    top_decile_items
        Share of the split's items that are among the 10 % most popular in train.
    deciles
        Share of the pairs on each tenth of the items, the most popular in train first: ``(10,)``.
    long_tail
        Share of the pairs on the split's own most popular items, at
        :data:`~cnsdiff.diagnostics.concentration.CURVE_GRID`: ``(101,)``.
    activity
        Share of the split's users with 1, 2-3, 4-7, … pairs in it.
    shift
        Distances from train by axis (``items``, ``users``, ``time``, ``environments``); empty for
        train itself.
    time
        None without timestamps.
    environments
        Share of the pairs under each label; None without labels.
    """

    pairs: int
    density: float
    dropped_unknown: int | None
    users: Counts
    items: Counts
    head: float
    tail: float
    top_decile_items: float
    deciles: tuple[float, ...]
    long_tail: tuple[float, ...]
    activity: tuple[float, ...]
    shift: Mapping[str, Shift]
    time: Time | None
    environments: Mapping[str, float] | None


@dataclass(frozen=True)
class Overlap:
    """What two splits share.

    Attributes
    ----------
    left, right
        Names of the splits.
    pairs
        Interactions in both; must be 0.
    users_jaccard, items_jaccard
        Users (items) in both over users (items) in either.
    """

    left: str
    right: str
    pairs: int
    users_jaccard: float
    items_jaccard: float


@dataclass(frozen=True)
class Description:
    """A dataset described; made by :func:`~cnsdiff.diagnostics.describe`.

    Attributes
    ----------
    name, scenario, fingerprint
        Of the dataset.
    n_users, n_items
        Those of train.
    seed, draws
        Behind the levels of chance.
    splits
        By name, train first.
    overlaps
        For every two splits.
    time_edges
        The ``TIME_CELLS + 1`` edges of the cells of time, UTC; empty without timestamps.
    problems
        What is wrong with the dataset, a sentence each.
    """

    name: str
    scenario: str
    fingerprint: str
    n_users: int
    n_items: int
    seed: int
    draws: int
    splits: Mapping[str, SplitDescription]
    overlaps: tuple[Overlap, ...]
    time_edges: tuple[str, ...]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it in dicts, lists, numbers, strings and None: ready for JSON, without NaN."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    def table(self) -> pl.DataFrame:
        """One row per split and a column per number.

        A distance is named by axis and measure, ``items_js``, and its level of chance
        ``items_js_chance``; numbers that a split does not have are null.
        """
        rows = [_row(self, name, split) for name, split in self.splits.items()]
        return pl.DataFrame(rows, infer_schema_length=None)


def _row(description: Description, name: str, split: SplitDescription) -> dict[str, Any]:
    row: dict[str, Any] = {
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
