"""Covariates of the environment: how often, how lately and since when each item was seen.

Each column is a function of the items and times of interactions before one moment. It can be
computed again at a later moment from the interactions until then, without training anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cnsdiff.environment.activity import HALF_LIVES, Activity, Times

#: What is added to a decayed count in its logarithm. The logarithm tells items of the past apart
#: by how long they have been out of use, ``log(1 + count)`` those of the present by how much they
#: are used: which of them matters differs from log to log, and the coefficients tell.
_LEAST = 1e-4
#: In logarithms of a time: it and shorter ones, as a share of the span, are alike.
_SHORTEST = 1e-3


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

    @classmethod
    def of(cls, activity: Activity) -> Self:
        """The covariates of items whose activity is known.

        Items that came later are measured by the scale of those known at first; one that nobody
        has interacted with yet is like their mean.
        """
        columns = {"count": np.log1p(activity.counts)}
        for half_life, count in zip(activity.half_lives, activity.decayed.T, strict=True):
            columns[f"half-life {half_life:g}"] = np.log1p(count)
            columns[f"log half-life {half_life:g}"] = np.log(count + _LEAST)
        never = activity.counts == 0
        # Without an interaction in all the time there is.
        age = np.where(never, 0.0, (activity.moment - activity.first) / activity.span)
        idle = np.where(never, 1.0, (activity.moment - activity.last) / activity.span)
        columns["age"], columns["idle"] = np.log(age + _SHORTEST), np.log(idle + _SHORTEST)
        values = _standardised(columns, activity.n_known)
        values[activity.n_known :][never[activity.n_known :]] = 0.0
        return cls(tuple(columns), values, activity.moment, activity.span)


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

    Parameters are those of :meth:`Activity.of`, whose errors these are; without times, ``"count"``
    is the only column.
    """
    if times is None or not len(times):
        columns = {"count": np.log1p(np.bincount(items, minlength=n_items))}
        return Covariates(tuple(columns), _standardised(columns, n_items))
    return Covariates.of(
        Activity.of(items, times, n_items, moment=moment, half_lives=half_lives, span=span)
    )


def _standardised(columns: dict[str, NDArray[np.float64]], n_known: int) -> NDArray[np.float64]:
    """The columns as a matrix ``(I, K)``, each of zero mean and unit deviation over the known."""
    matrix = np.stack(list(columns.values()), axis=1)
    centred = matrix - matrix[:n_known].mean(axis=0)
    deviations = np.sqrt(np.square(centred[:n_known]).mean(axis=0))
    alike = deviations <= 1e-9
    return np.where(alike, 0.0, centred / np.where(alike, 1.0, deviations))
