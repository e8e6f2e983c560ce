"""Covariates of the environment: how often, how lately and since when each item was seen.

Each column is a function of the items and times of interactions before one moment. It can be
computed again at a later moment from the interactions until then, without training anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array

from cnsdiff.base.errors import DataError

Times = NDArray[np.int64] | NDArray[np.float64]

#: Half-lives of decayed counts, as shares of the time span.
HALF_LIVES = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.0025)
#: What is added to a decayed count in its logarithm. The logarithm tells items of the past apart
#: by how long they have been out of use, ``log(1 + count)`` those of the present by how much they
#: are used: which of them matters differs from log to log, and the coefficients tell.
_LEAST = 1e-4
#: In logarithms of a time: it and shorter ones, as a share of the span, are alike.
_SHORTEST = 1e-3
#: Interactions at once, or as many as there are items.
_AT_ONCE = 2**18


class Covariates(NamedTuple):
    """Standardised columns over the items, at a moment.

    Attributes
    ----------
    names
        ``"count"``, ``"half-life 0.05"`` and ``"log half-life 0.05"`` of each decayed count,
        ``"age"`` since the first interaction, ``"idle"`` since the last.
    values
        ``(I, K)`` float64, each column of zero mean and unit standard deviation over the items,
        or all zero where the items do not differ.
    moment, span
        When, and the length of time that half-lives are shares of, both in the units of the times;
        0 without times.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    moment: float = 0.0
    span: float = 0.0


def covariates_at(
    items: NDArray[np.int64],
    times: Times | None,
    n_items: int,
    *,
    moment: float | None = None,
    half_lives: Sequence[float] = HALF_LIVES,
    span: float | None = None,
) -> Covariates:
    """The covariates of ``n_items`` items, from interactions until a moment.

    Parameters
    ----------
    items, times
        ``(n,)`` the interactions, in any order; without times, ``"count"`` is the only column.
    n_items
        Those without interactions count as never seen.
    moment
        By default that of the last interaction.
    half_lives
        As shares of ``span``.
    span
        By default from the first interaction to ``moment``.

    Raises
    ------
    DataError
        An interaction is later than the moment.
    """
    columns = {"count": np.log1p(np.bincount(items, minlength=n_items))}
    if times is None or not len(times):
        return Covariates(tuple(columns), _standardised(columns))
    moment = float(times.max()) if moment is None else moment
    late = int(np.count_nonzero(times > moment))
    if late:
        raise DataError(
            f"{late:,} of {len(times):,} interactions are later than the moment that the "
            "environment is computed at; leave them out"
        )
    span = span or max(moment - float(times.min()), 1.0)
    # One pass over the interactions, in blocks that stay in the processor's cache.
    decayed = np.zeros((n_items, len(half_lives)))
    oldest, latest = np.zeros(n_items), np.full(n_items, np.inf)
    at_once = max(_AT_ONCE, n_items)
    for start in range(0, len(items), at_once):
        some, now = items[start : start + at_once], times[start : start + at_once]
        ages = (moment - now) / span
        np.maximum.at(oldest, some, ages)
        np.minimum.at(latest, some, ages)
        weights = np.empty((len(half_lives), len(some)))
        for k, half_life in enumerate(half_lives):
            if k and half_lives[k - 1] == 2 * half_life:
                np.square(weights[k - 1], out=weights[k])  # far cheaper than a power
            else:
                np.exp2(ages / -half_life, out=weights[k])
        owner = csc_array(
            (np.ones(len(some)), some, np.arange(len(some) + 1)), shape=(n_items, len(some))
        )
        decayed += np.asarray(owner @ weights.T)
    for half_life, count in zip(half_lives, decayed.T, strict=True):
        columns[f"half-life {half_life:g}"] = np.log1p(count)
        columns[f"log half-life {half_life:g}"] = np.log(count + _LEAST)
    never = np.isinf(latest)
    latest[never] = 1.0  # no interaction in all the time there is
    for name, age in (("age", oldest), ("idle", latest)):
        columns[name] = np.log(age + _SHORTEST)
    return Covariates(tuple(columns), _standardised(columns), moment, span)


def _standardised(columns: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """The columns as a matrix ``(I, K)``, each of zero mean and unit deviation."""
    matrix = np.stack(list(columns.values()), axis=1)
    centred = matrix - matrix.mean(axis=0)
    deviations = np.sqrt(np.square(centred).mean(axis=0))
    alike = deviations <= 1e-9
    return np.where(alike, 0.0, centred / np.where(alike, 1.0, deviations))
