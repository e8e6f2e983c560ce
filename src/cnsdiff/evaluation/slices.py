"""Accuracy on parts of a split: by how popular its items, how active its users, how late its pairs.

Each held-out pair falls into one part. A part is measured as if its pairs were the whole split: the
lists are the same, only what counts as relevant changes, so items of other parts compete as they do
in use. A user without a pair in a part is left out of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnsdiff.base.errors import InputError
from cnsdiff.data import Split
from cnsdiff.evaluation.metrics import relevance_of
from cnsdiff.evaluation.protocol import measure


@dataclass(frozen=True)
class Cut:
    """Ranges of a value, one after the other, from the least upwards.

    Attributes
    ----------
    edges
        ``(S - 1,)`` rising; part ``s`` holds the values from ``edges[s - 1]`` on and below
        ``edges[s]``.
    names
        ``S`` of them, for a reader.
    """

    edges: NDArray[np.float64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def part_of(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """The part ``0 … S-1`` of each of ``values (m,)``, those beyond all ranges included."""
        part: NDArray[np.int64] = np.searchsorted(self.edges, values, side="right").astype(np.int64)
        return part


def cut_counts(counts: NDArray[np.int64], n: int = 5) -> Cut:
    """Ranges of ``counts (I,)`` with about equal numbers of items (or users) that have any.

    Equal counts never fall into different ranges, so there may be fewer than ``n``.

    Raises
    ------
    InputError
        ``n`` is below 1, or all counts are 0.
    """
    present = np.sort(counts[counts > 0])
    _require(n, present.size)
    edges = _edges(present, n)
    lows = [int(present[0]), *map(int, edges)]
    highs = [*(low - 1 for low in lows[1:]), int(present[-1])]
    names = (
        f"{low:,}" if low == high else f"{low:,}–{high:,}"
        for low, high in zip(lows, highs, strict=True)
    )
    return Cut(edges.astype(np.float64), tuple(names))


def cut_times(timestamps: NDArray[Any], n: int = 5) -> Cut:
    """Ranges of ``timestamps (m,)`` (epoch seconds) with about equal numbers of pairs.

    Named by the day each begins (UTC), or by the minute where days are too coarse to tell them
    apart.

    Raises
    ------
    InputError
        ``n`` is below 1, or there are none.
    """
    ordered = np.sort(timestamps).astype(np.float64)
    _require(n, ordered.size)
    edges = _edges(ordered, n)
    # datetime ends in the year 9999; datetime64 takes whatever stands in a file.
    begins = np.array([ordered[0], *edges]).astype(np.int64).astype("datetime64[s]")
    days = begins.astype("datetime64[D]")
    named = days if np.unique(days).size == days.size else begins.astype("datetime64[m]")
    return Cut(edges, tuple(str(moment).replace("T", " ") for moment in named))


def _require(n: int, size: int) -> None:
    if n < 1 or not size:
        raise InputError(f"{size} values cannot be divided into {n} parts; give some of both")


def _edges(ordered: NDArray[Any], n: int) -> NDArray[Any]:
    """Starts of the 2nd, 3rd, … of ``n`` equal parts of sorted values, without empty parts."""
    above: NDArray[Any] = ordered[ordered > ordered[0]]
    if not above.size:
        return above
    begins = ordered[(np.arange(1, n) * ordered.size) // n]
    # Where the first value fills a part and more, the next part begins with the next value.
    edges: NDArray[Any] = np.unique(np.maximum(begins, above[0]))
    return edges


def sliced_accuracy(
    users: Tensor,
    lists: Tensor,
    split: Split,
    parts: NDArray[np.int64],
    shape: tuple[int, int],
    ks: tuple[int, ...] = (10, 20),
) -> pl.DataFrame:
    """Every user's accuracy on each part of a split.

    Parameters
    ----------
    users
        ``(n,)`` rising, all users of the split among them.
    lists
        ``(n, K)`` their ranked items, on the CPU, with ``K`` at least the largest cut-off.
    split
        The held-out pairs.
    parts
        ``(len(split),)`` the part of each pair, from 0.
    shape
        Numbers of users and items.
    ks
        Cut-offs.

    Returns
    -------
    DataFrame
        ``part``, ``user``, ``n_relevant`` and every accuracy metric: one row per part and user
        with a pair in it.

    Raises
    ------
    InputError
        ``parts`` is of another length than the split.
    """
    if parts.shape != split.users.shape:
        raise InputError(f"{len(split)} pairs need as many parts, not {parts.shape}")
    popularity = torch.zeros(shape[1])  # only list-level metrics want it, and they are dropped
    frames = []
    for part in np.unique(parts):
        within = parts == part
        own = Split(split.name, split.users[within], split.items[within])
        relevant = relevance_of(own, f"part {part} of {split.name}", shape)
        rows = torch.searchsorted(users, relevant.users)
        per_user = measure(relevant, lists[rows], popularity, ks, per_user=True).per_user
        assert per_user is not None
        frames.append(per_user.insert_column(0, pl.lit(int(part)).alias("part")))
    return pl.concat(frames)
