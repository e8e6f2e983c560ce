"""Whole numbers in given proportions: none above its cap, and the sum exact."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Quotas nearer than this to each other, or to a whole number, count as equal.
_EQUAL = 1e-9


def apportion(
    total: int, weights: NDArray[np.float64], caps: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Divide ``total`` in proportion to ``weights``, at most ``caps[i]`` for the ``i``-th.

    First the real quotas: ``min(caps[i], level * weights[i])`` with the one ``level`` at which
    they sum to ``total`` (water-filling). Then whole numbers: each quota is rounded down, and
    the largest remainders are rounded up, ties in order of index (Hamilton's method).

    Parameters
    ----------
    total
        The sum asked for.
    weights
        ``(n,)``, finite and not negative; a weight of zero gets nothing.
    caps
        ``(n,)`` not negative.

    Returns
    -------
    array
        ``(n,)`` int64, summing to ``total``; each within 1 of its quota.

    Raises
    ------
    ValueError
        The caps of the positive weights do not hold ``total``, or an argument is out of range.
    """
    weights = np.asarray(weights, dtype=np.float64)
    caps = np.where(weights > 0, np.asarray(caps, dtype=np.int64), 0)
    if not np.isfinite(weights).all() or (weights < 0).any() or (caps < 0).any() or total < 0:
        raise ValueError("weights must be finite, and no argument negative")
    if total > caps.sum():
        raise ValueError(f"the caps hold {caps.sum()}, not {total}")
    quotas = _quotas(total, weights, caps)
    counts = np.minimum(np.floor(quotas + _EQUAL).astype(np.int64), caps)
    remainders = np.round((quotas - counts) / _EQUAL)
    # What is capped has no remainder, so the largest ones belong to those with room for one more.
    ranked = np.argsort(np.where(counts < caps, -remainders, np.inf), kind="stable")
    counts[ranked[: total - int(counts.sum())]] += 1
    return counts


def _quotas(
    total: int, weights: NDArray[np.float64], caps: NDArray[np.int64]
) -> NDArray[np.float64]:
    """``min(caps, level * weights)`` with the level at which they sum to ``total``."""
    open_ = np.flatnonzero(caps > 0)
    # The level at which each reaches its cap; in this order they fill up.
    full_at = caps[open_] / weights[open_]
    order = np.argsort(full_at, kind="stable")
    filled = np.concatenate([[0], np.cumsum(caps[open_][order])[:-1]])
    still_open = np.cumsum(weights[open_][order][::-1])[::-1]
    levels = (total - filled) / still_open
    # The level is right once the next to fill up does not.
    fits = np.flatnonzero(levels <= full_at[order])
    level = levels[fits[0]] if fits.size else np.inf
    quotas = np.zeros(len(weights))
    quotas[open_] = np.minimum(caps[open_], level * weights[open_])
    return quotas
