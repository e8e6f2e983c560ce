"""The shift between train and a held-out split, beside what chance alone would show.

Two random halves of one log differ too: a distance between small samples is never 0. The level
of chance is measured, not assumed: train and split are pooled, divided again at random into
parts of the same sizes (what a random hold-out would have done), and measured in the same way.
Logarithms are natural, so divergences are in nats.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

from cnsdiff.data import Split

SECONDS_A_DAY = 86_400.0
#: Cells of equal width into which the whole time of a dataset is divided.
TIME_CELLS = 50
#: Random re-divisions behind a level of chance.
DRAWS = 5
#: The pairs of every item in a split, say: ``(n,)`` over one list of categories.
Counts = NDArray[np.integer[Any]] | NDArray[np.floating[Any]]
#: Largest Jensen–Shannon divergence, in nats: that of distributions without common support.
MAX_JS = float(np.log(2.0))
#: Added to every count before a Kullback–Leibler divergence, which an empty category would
#: otherwise make infinite (Krichevsky and Trofimov, 1981).
SMOOTHING = 0.5


# --- Two distributions


@dataclass(frozen=True)
class Distances:
    """Distances of a split's distribution ``q`` from train's ``p``."""

    js: float
    """Jensen–Shannon divergence in nats, 0 to ln 2 = 0.693. The headline."""
    kl_split_train: float
    kl_train_split: float
    """Kullback–Leibler divergences ``KL(q ‖ p)`` and ``KL(p ‖ q)`` in nats, of smoothed counts."""
    tv: float
    """Total variation, 0 to 1: the share of pairs that would have to move."""
    wasserstein: float | None
    """Wasserstein-1 distance in the unit of the positions; None where categories have none."""


def distances(
    train: Counts, split: Counts, positions: NDArray[np.floating[Any]] | None = None
) -> Distances:
    """All distances between two count vectors ``(n,)``; ``positions`` ``(n,)`` places them."""
    return Distances(
        js=jensen_shannon(train, split),
        kl_split_train=kullback_leibler(split, train),
        kl_train_split=kullback_leibler(train, split),
        tv=total_variation(train, split),
        wasserstein=None if positions is None else wasserstein(positions, train, split),
    )


def shares(counts: Counts) -> NDArray[np.float64]:
    """Counts ``(n,)`` scaled to sum one; ValueError if one is negative or infinite, or all 0."""
    weights = np.asarray(counts, dtype=np.float64)
    total = weights.sum()
    if not np.isfinite(total) or total <= 0 or weights.min() < 0:
        raise ValueError("counts must be finite, not negative, and not all zero")
    result: NDArray[np.float64] = weights / total
    return result


def jensen_shannon(p: Counts, q: Counts) -> float:
    """``½ KL(p ‖ m) + ½ KL(q ‖ m)`` with ``m = ½ (p + q)``, in nats (Lin, 1991).

    The divergence, not its square root (which is called the Jensen–Shannon distance).
    """
    left, right = shares(p), shares(q)
    middle = (left + right) / 2
    value = float(rel_entr(left, middle).sum() + rel_entr(right, middle).sum()) / 2
    # Rounding must not lead out of the range.
    return min(max(value, 0.0), MAX_JS)


def kullback_leibler(p: Counts, q: Counts, *, smoothing: float = SMOOTHING) -> float:
    """``KL(p ‖ q) = Σ p ln(p / q)`` in nats, after ``smoothing`` is added to every count of both.

    Infinite if ``smoothing`` is 0 and ``p`` has a category that ``q`` lacks.
    """
    left = shares(np.asarray(p, dtype=np.float64) + smoothing)
    right = shares(np.asarray(q, dtype=np.float64) + smoothing)
    return max(float(rel_entr(left, right).sum()), 0.0)


def total_variation(p: Counts, q: Counts) -> float:
    """``½ Σ |p - q|``, 0 to 1."""
    return min(float(np.abs(shares(p) - shares(q)).sum()) / 2, 1.0)


def wasserstein(positions: NDArray[np.floating[Any]], p: Counts, q: Counts) -> float:
    """Wasserstein-1 distance ``∫ |F_p - F_q|`` of weights ``p`` and ``q`` at ``positions``.

    In the unit of ``positions`` ``(n,)``, which need be neither sorted nor distinct.
    """
    order = np.argsort(positions, kind="stable")
    gap = np.cumsum(shares(p)[order] - shares(q)[order])[:-1]
    return float(np.abs(gap) @ np.diff(np.asarray(positions, dtype=np.float64)[order]))


def quantiles(counts: Counts) -> NDArray[np.float64]:
    """Where each of ``n`` categories stands by its count, ``(n,)`` in (0, 1); the largest is last.

    Mid-ranks ``(rank - ½) / n``, the mean rank where counts are equal.
    """
    from scipy.stats import rankdata  # takes a second to import

    ranks = rankdata(counts, method="average")
    result: NDArray[np.float64] = (ranks - 0.5) / ranks.size
    return result


# --- Two splits


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
    :func:`quantiles`). ``time``: over cells of equal width, the
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

    return Distances(*(mean(field.name) for field in fields(Distances)))  # type: ignore[arg-type]
