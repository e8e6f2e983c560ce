"""How unevenly interactions are spread over items (or users)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnsdiff.diagnostics.distances import Counts, shares

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
    given = np.asarray(counts)
    rank = np.empty(given.size, dtype=np.int64)
    rank[np.argsort(-given, kind="stable")] = np.arange(given.size)
    result: NDArray[np.int64] = DECILES * rank // given.size
    return result


def decile_shares(deciles: NDArray[np.int64], counts: Counts) -> NDArray[np.float64]:
    """Share of ``counts`` ``(n,)`` that falls on the categories of each decile, ``(10,)``."""
    result: NDArray[Any] = np.bincount(deciles, weights=shares(counts), minlength=DECILES)
    return result
