"""The shift between train and a held-out split, beside what chance alone would show.

Two random halves of one log differ too: a distance between small samples is never 0. The level
of chance is measured, not assumed: train and split are pooled, divided again at random into
parts of the same sizes (what a random hold-out would have done), and measured in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnsdiff.data import Split
from cnsdiff.diagnostics.measures import Distances, distances, quantiles, wasserstein

SECONDS_A_DAY = 86_400.0
#: Cells of equal width into which the whole time of a dataset is divided.
TIME_CELLS = 50
#: Random re-divisions behind a level of chance.
DRAWS = 5


@dataclass(frozen=True)
class Shift:
    """Distances of one split from train, on one axis."""

    observed: Distances
    """As measured."""
    chance: Distances | None
    """Mean over random re-divisions of the same pairs into parts of the same sizes; None if the
    data are so few that every re-division left the split empty."""


@dataclass(frozen=True)
class Frame:
    """Features that the splits of a dataset share, so that they can be compared."""

    n_users: int
    n_items: int
    n_periods: int = 0
    """Sizes of the categories; no periods, no comparison of them."""
    first: float | None = None
    last: float | None = None
    """Earliest and latest timestamp of all splits (epoch seconds); None without timestamps."""

    def time_cells(self, timestamps: NDArray[Any]) -> NDArray[np.int64]:
        """Number of pairs in each of ``TIME_CELLS`` cells between ``first`` and ``last``."""
        if self.first is None or self.last is None or self.first == self.last:
            return np.bincount(np.zeros(timestamps.size, dtype=np.int64), minlength=TIME_CELLS)
        scaled = (timestamps - self.first) / (self.last - self.first) * TIME_CELLS
        return np.bincount(np.clip(scaled.astype(np.int64), 0, TIME_CELLS - 1), None, TIME_CELLS)


def measure(train: Split, split: Split, frame: Frame) -> dict[str, Distances]:
    """Distances of ``split`` from ``train`` on every axis that both have.

    ``items`` and ``users``: how the pairs are spread over them. Their positions, for the
    Wasserstein distance, are the quantiles of train's counts (see
    :func:`~cnsdiff.diagnostics.measures.quantiles`). ``time``: over cells of equal width, the
    Wasserstein distance exactly, in days. ``periods``: over their labels.
    """
    by_axis = {}
    for axis, size in (("items", frame.n_items), ("users", frame.n_users)):
        before = np.bincount(getattr(train, axis), minlength=size)
        after = np.bincount(getattr(split, axis), minlength=size)
        by_axis[axis] = distances(before, after, quantiles(before))
    if train.timestamps is not None and split.timestamps is not None:
        cells = distances(frame.time_cells(train.timestamps), frame.time_cells(split.timestamps))
        days = _days_apart(train.timestamps, split.timestamps)
        by_axis["time"] = replace(cells, wasserstein=days)
    if train.periods is not None and split.periods is not None:
        size = frame.n_periods
        by_axis["periods"] = distances(
            np.bincount(train.periods, minlength=size),
            np.bincount(split.periods, minlength=size),
        )
    return by_axis


def measure_with_chance(
    train: Split,
    split: Split,
    frame: Frame,
    generator: np.random.Generator,
    *,
    draws: int = DRAWS,
) -> dict[str, Shift]:
    """:func:`measure`, and its mean over ``draws`` random re-divisions of the pooled pairs."""
    pooled = _pool(train, split)
    divided = (redivide(pooled, len(split), frame, generator) for _ in range(draws))
    by_chance = [measure(*parts, frame) for parts in divided if parts is not None]
    return {
        axis: Shift(observed, _mean([drawn[axis] for drawn in by_chance]))
        for axis, observed in measure(train, split, frame).items()
    }


def redivide(
    pooled: Split, size: int, frame: Frame, generator: np.random.Generator
) -> tuple[Split, Split] | None:
    """Divide pairs at random into a train split and a held-out one of ``size``.

    As in preparing a dataset, held-out pairs of a user or item unknown to train are dropped; None
    if none is left.
    """
    held = np.zeros(len(pooled), dtype=bool)
    held[generator.choice(len(pooled), size, replace=False, shuffle=False)] = True
    train = _take(pooled, ~held)
    knows_user = np.bincount(train.users, minlength=frame.n_users) > 0
    knows_item = np.bincount(train.items, minlength=frame.n_items) > 0
    held &= knows_user[pooled.users] & knows_item[pooled.items]
    return (train, _take(pooled, held)) if held.any() else None


def _days_apart(left: NDArray[Any], right: NDArray[Any]) -> float:
    times = np.concatenate([left, right]).astype(np.float64)
    is_left = np.arange(times.size) < left.size
    return wasserstein(times / SECONDS_A_DAY, is_left.astype(float), (~is_left).astype(float))


def _pool(train: Split, split: Split) -> Split:
    def joined(left: NDArray[Any] | None, right: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if left is None or right is None else np.concatenate([left, right])

    pooled = Split(
        "pooled",
        np.concatenate([train.users, split.users]),
        np.concatenate([train.items, split.items]),
        joined(train.timestamps, split.timestamps),
        joined(train.periods, split.periods),
    )
    if pooled.timestamps is None:
        return pooled
    # Sorted once, every part of it is, and the sort behind each distance has little to do.
    return _take(pooled, np.argsort(pooled.timestamps, kind="stable"))


def _take(pairs: Split, where: NDArray[np.bool_] | NDArray[np.intp]) -> Split:
    return replace(
        pairs,
        users=pairs.users[where],
        items=pairs.items[where],
        timestamps=None if pairs.timestamps is None else pairs.timestamps[where],
        periods=None if pairs.periods is None else pairs.periods[where],
    )


def _mean(drawn: list[Distances]) -> Distances | None:
    if not drawn:
        return None

    def mean(name: str) -> float | None:
        values = [getattr(one, name) for one in drawn]
        return None if values[0] is None else float(np.mean(values))

    means: dict[str, Any] = {field.name: mean(field.name) for field in fields(Distances)}
    return Distances(**means)
