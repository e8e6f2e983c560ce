"""Choosing rows at random, for all users and items at once."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def rounded(share: float, n: int) -> int:
    """The whole number nearest to ``share * n``, halves upwards."""
    return math.floor(share * n + 0.5)


def others(rows: Rows, n: int) -> Rows:
    """The numbers below ``n`` that are not among ``rows``, ascending."""
    rest = np.ones(n, dtype=bool)
    rest[rows] = False
    return np.flatnonzero(rest)


def draw(rows: Rows, size: int, rng: np.random.Generator) -> Rows:
    """``size`` of ``rows``, each with the same chance, in their order."""
    chosen = rng.choice(len(rows), size=size, replace=False, shuffle=False)
    return rows[np.sort(chosen)]


def rank_within(groups: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """A random order within each group: ``(n,)`` ranks from 0.

    The rows of rank below ``k`` are ``k`` random rows of each group.
    """
    shuffled = rng.permutation(len(groups))
    order = shuffled[np.argsort(groups[shuffled], kind="stable")]
    sizes = np.bincount(groups) if len(groups) else np.zeros(0, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[order] = np.arange(len(groups)) - np.repeat(starts, sizes)
    return ranks


def anchors(
    users: NDArray[np.int64], items: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Mark at least one random row of each user ``(n,)`` and of each item ``(n,)``, both from 0.

    As long as the marked rows stay in train, so does every user and item. A row marked for its user
    serves its item too, so fewer rows than users and items are marked.
    """
    marked = np.zeros(len(users), dtype=bool)
    for groups in (users, items):
        # Rows already marked come first, so that they are taken where there are any.
        ranks = rng.permutation(len(groups)) - len(groups) * marked
        first = np.full(groups.max(initial=-1) + 1, len(groups))
        np.minimum.at(first, groups, ranks)
        marked |= ranks == first[groups]
    return marked
