"""Which weights anticipate which shift (equation 23)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from cnsdiff.base.errors import CnsdiffWarning, ConfigError, InputError, did_you_mean
from cnsdiff.data import Split
from cnsdiff.data.reading.times import looks_unlike_seconds
from cnsdiff.evaluation.anticipation import Anticipated, Anticipation, Slicing
from cnsdiff.evaluation.drift import Drift
from cnsdiff.evaluation.evaluate import item_counts
from cnsdiff.samplers.environment import strata

_POWERS_OF_EXPOSURE = {"inverse-exposure": -1.0, "inverse-propensity": -0.5}


def anticipate(
    anticipated: Anticipated,
    split: Split,
    train: csr_array,
    *,
    ks: Sequence[int] = (10, 20),
    strength: float = 1.0,
    half_life: float = 0.1,
    slices: int = 4,
    slice_by: Slicing = "popularity",
    drift: float = 0.5,
    seed: int = 0,
    exposure: NDArray[Any] | None = None,
) -> Anticipation:
    """The validation objective for an anticipated shift.

    Parameters
    ----------
    anticipated
        ``"inverse-popularity"``: pairs weigh ``1 / pop_i``, as if all items were interacted with
        alike; ``"inverse-exposure"``: ``1 / exposure_i``, as if all were shown alike;
        ``"inverse-propensity"``: ``exposure_i^-½``, the same where people also find what they like
        without being shown it (the propensity of Saito et al., WSDM 2020);
        ``"tempered"``: ``pop_i^-strength``; ``"recency"``: halved with every ``half_life`` of the
        validation data's time span; ``"worst-slice"``: the worst of ``slices`` strata of about
        equal mass; ``"drift"``: a share of the tastes has changed (see :class:`Drift`).
    split
        Validation pairs from the training distribution.
    train
        ``(n_users, n_items)`` training pairs; popularity ``pop_i`` and activity are counted here.
    ks
        Cut-offs.
    strength
        0 is no shift, 1 a uniform and 2 an inverted popularity; below 0 the popular get more so.
    half_life
        As a share of the time between the first and the last validation pair.
    slices, slice_by
        How many strata, of item popularity, user activity, or time.
    drift, seed
        Share of the held-out pairs that come from a changed taste; seed of whose.
    exposure
        ``(n_items,)`` how often each item was exposed, see
        :func:`~cnsdiff.evaluation.dial.exposure_counts`; less than one counts as one.
        None: as often as it occurs in train.

    Raises
    ------
    ConfigError
        The name is unknown, times are needed and not there, all pairs fall into one slice, or
        none can stand for a changed taste.
    InputError
        ``exposure`` is of another length.
    """
    if anticipated not in get_args(Anticipated):
        known = get_args(Anticipated)
        raise ConfigError(
            f"no validation objective is called {anticipated!r}{did_you_mean(anticipated, known)}; "
            f"available: {', '.join(known)}"
        )
    n_users, n_items = train.shape
    if anticipated == "drift":
        return Drift(split, train, ks, drift, seed)
    counts = item_counts(train).double().numpy()
    popularity = counts[split.items]
    if anticipated == "inverse-popularity":
        weights = popularity[None] ** -1.0
    elif anticipated in _POWERS_OF_EXPOSURE:
        exposure = counts if exposure is None else exposure
        if exposure.shape != (n_items,):
            raise InputError(
                f"the exposure has shape {exposure.shape}, train has {n_items} items; give one "
                "count per item"
            )
        power = _POWERS_OF_EXPOSURE[anticipated]
        weights = np.maximum(exposure[split.items], 1.0)[None] ** power
    elif anticipated == "tempered":
        weights = popularity[None] ** -strength
    elif anticipated == "recency":
        times = _times(split, anticipated)
        span = float(np.ptp(times)) or 1.0
        weights = 2.0 ** ((times - times.max()) / (half_life * span))[None]
    else:
        if slice_by == "popularity":
            value = popularity
        elif slice_by == "activity":
            value = np.diff(train.indptr)[split.users].astype(np.float64)
        else:
            value = _times(split, anticipated)
        weights = _strata(value, slices, slice_by)
    return Anticipation(anticipated, split, n_users, n_items, weights, ks)


def _times(split: Split, anticipated: str) -> NDArray[np.float64]:
    if split.timestamps is None:
        raise ConfigError(
            f"the validation objective {anticipated!r} needs timestamps, which the {split.name} "
            "split lacks; prepare the dataset with a timestamp column or select on another"
        )
    unit = looks_unlike_seconds(split.timestamps)
    if unit is not None:
        warnings.warn(
            f"the times of the {split.name} split {unit}; prepare the dataset again",
            CnsdiffWarning,
            stacklevel=2,
        )
    return split.timestamps.astype(np.float64)


def _strata(value: NDArray[np.float64], n: int, by: str) -> NDArray[np.float64]:
    """Indicator weights ``(S, m)`` of strata of about equal mass; equal values stay together."""
    stratum = strata(torch.from_numpy(value), n).numpy()
    present = np.unique(stratum)
    if len(present) < 2:
        raise ConfigError(
            f"all validation pairs have about the same {by}, so 'worst-slice' has one slice only; "
            "slice by something else or select on 'valid'"
        )
    weights: NDArray[np.float64] = (stratum[None] == present[:, None]).astype(np.float64)
    return weights
