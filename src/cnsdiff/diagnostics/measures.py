"""Distances of two distributions and the concentration of one, from counts of categories.

Counts are vectors ``(n,)`` over one list of categories: the pairs of every item in a split, say.
Logarithms are natural, so divergences are in nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr
from scipy.stats import rankdata

Counts = NDArray[np.integer[Any]] | NDArray[np.floating[Any]]

#: Largest Jensen–Shannon divergence, in nats: that of distributions without common support.
MAX_JS = float(np.log(2.0))
#: Added to every count before a Kullback–Leibler divergence, which an empty category would
#: otherwise make infinite (Krichevsky and Trofimov, 1981).
SMOOTHING = 0.5


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
    ranks = rankdata(counts, method="average")
    result: NDArray[np.float64] = (ranks - 0.5) / ranks.size
    return result


#: Shares of items at which the long-tail curve is given.
CURVE_GRID: NDArray[np.float64] = np.linspace(0.0, 1.0, 101)
DECILES = 10


def gini(counts: Counts) -> float:
    """Gini coefficient of counts ``(n,)``, zeros included: 0 if all are equal, ``1 - 1/n`` if one
    category has everything.
    """
    ascending = np.sort(shares(counts))
    n = ascending.size
    rank = np.arange(1, n + 1)
    return max(float(((2 * rank - n - 1) @ ascending) / n), 0.0)


def effective_number(counts: Counts) -> float:
    """``exp(entropy)``: how many equally frequent categories would be as diverse (Hill, 1973)."""
    p = shares(counts)
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def long_tail_curve(counts: Counts) -> NDArray[np.float64]:
    """Share of interactions on the most frequent ``x`` of the categories, for ``CURVE_GRID``.

    Categories are ordered by their own ``counts`` ``(n,)``; linear between whole numbers of them.
    The result is ``(101,)``, rises from 0 to 1 and lies on the diagonal if all are equal.
    """
    held = np.concatenate(([0.0], np.cumsum(np.sort(shares(counts))[::-1])))
    curve = np.interp(CURVE_GRID, np.arange(held.size) / (held.size - 1), held)
    curve[-1] = 1.0
    return curve


def popularity_deciles(counts: Counts) -> NDArray[np.int64]:
    """The decile of each category by its count, ``(n,)``: 0 holds the most frequent tenth.

    Deciles hold equal numbers of categories (up to one); ties are broken by position.
    """
    values = np.asarray(counts)
    rank = np.empty(values.size, dtype=np.int64)
    rank[np.argsort(-values, kind="stable")] = np.arange(values.size)
    result: NDArray[np.int64] = DECILES * rank // values.size
    return result


def decile_shares(deciles: NDArray[np.int64], counts: Counts) -> NDArray[np.float64]:
    """Share of ``counts`` ``(n,)`` that falls on the categories of each decile, ``(10,)``."""
    result: NDArray[Any] = np.bincount(deciles, weights=shares(counts), minlength=DECILES)
    return result
