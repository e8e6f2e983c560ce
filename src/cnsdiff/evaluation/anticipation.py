"""Validation objectives that anticipate a shift, from IID validation data alone (equation 23).

A test set under a shift is not at hand when the best epoch is chosen, and must not be. But IID
validation pairs can be *weighted* so that they count as they would under the shift: by the inverse
popularity or exposure of their items, by how recent they are, or slice by slice with the worst one
counting.

The plain metric is a mean over users of a mean over their relevant items, that is, an expectation
over pairs ``(u, i)`` drawn with probability ``1 / (n_users · n_u)``. Weights ``w_ui`` reweight that
expectation (importance weighting, self-normalised)::

    Recall@K = Σ_u (1/n_u) Σ_{i hit} w_ui  /  Σ_u (1/n_u) Σ_i w_ui
    NDCG@K   = Σ_u w̄_u DCG_u / IDCG_u     /  Σ_u w̄_u           gains w_ui, w̄_u = mean of w_ui

so that equal weights give the plain metric exactly.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.base.errors import CnsdiffWarning, ConfigError, InputError, did_you_mean
from cnsdiff.base.seeding import numpy_generator
from cnsdiff.data import Split
from cnsdiff.data.reading.times import looks_unlike_seconds
from cnsdiff.evaluation.metrics import Relevance, item_counts
from cnsdiff.samplers.environment import strata

Anticipated = Literal[
    "inverse-popularity",
    "inverse-exposure",
    "inverse-propensity",
    "tempered",
    "recency",
    "worst-slice",
    "drift",
]
Slicing = Literal["popularity", "activity", "time"]

#: Objectives that bet on exposure: that people will follow it less, no validation pair tells.
POWERS_OF_EXPOSURE = {"inverse-exposure": -1.0, "inverse-propensity": -0.5}

#: People judged as under the shift who settle such a bet, on average (docs/choosing.md).
PEOPLE = 100

#: Metrics that have a weighted form.
WEIGHTED = ("recall", "ndcg")


def anticipated_name(metric: str, anticipated: str) -> str:
    """The name of a metric under an anticipated shift."""
    return f"{metric} ({anticipated})"


class Anticipation:
    """Weighted metrics of ranked lists; of several weightings, the worst.

    Parameters
    ----------
    name
        What the shift is called in the names of the metrics: ``"ndcg@20 (name)"``.
    split
        The validation pairs.
    n_users, n_items
        Size of the catalogue.
    weights
        ``(S, m)`` weights of the ``m`` pairs under each of ``S`` weightings, none negative, none
        all zero.
    ks
        Cut-offs.
    """

    def __init__(
        self,
        name: str,
        split: Split,
        n_users: int,
        n_items: int,
        weights: NDArray[np.float64],
        ks: Sequence[int],
    ) -> None:
        self.name = name
        self._relevance = Relevance(split.users, split.items, n_users, n_items)
        self.ks = tuple(sorted(set(ks)))
        order = np.argsort(split.users * n_items + split.items, kind="stable")
        users = torch.from_numpy(split.users[order])
        self._weights = torch.from_numpy(np.ascontiguousarray(weights[:, order]))
        n_pairs = self._relevance.counts.to(torch.float64)
        mean = [_sums(users, w, n_users) / n_pairs.clamp(min=1) for w in self._weights]
        self._mean_weight = torch.stack(mean)
        ideal = [_ideal_gains(users, w, n_users, self.ks) for w in self._weights]
        self._ideal = torch.stack(ideal)

    @property
    def effective_pairs(self) -> float:
        """Kish's effective number of pairs, ``(Σ w)² / Σ w²``; of several weightings, the least."""
        total, squares = self._weights.sum(1), self._weights.square().sum(1)
        return float((total.square() / squares).min())

    def __call__(self, users: Tensor, items: Tensor) -> dict[str, float]:
        """``{"recall@10 (name)": …, …}`` of the lists ``items (n, K)`` of ``users (n,)``.

        ``users`` must be all that have a pair, each once (others change nothing); ``items`` hold
        -1 for none, and reach to the largest cut-off or the end of the catalogue.
        """
        return {
            key: min(float(sums.sum() / weight.sum()) for sums, weight in weightings)
            for key, weightings in self._sums(users, items).items()
        }

    def per_user(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """``{"recall@10 (name)": (n,) float64, …}``: of each user, with the metrics as their means.

        A value is the metric and what the user adds to it or takes from it (its influence), so that
        differences between lists have the standard error of a mean. With equal weights it is the
        user's own metric.
        """
        values = {}
        for key, weightings in self._sums(users, items).items():
            sums, weight = min(weightings, key=lambda pair: float(pair[0].sum() / pair[1].sum()))
            mean = sums.sum() / weight.sum()
            values[key] = mean + (sums - mean * weight) / weight.mean()
        return values

    def _sums(self, users: Tensor, items: Tensor) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """By metric, for each weighting: ``(n,)`` what users add to the sum, and their weights."""
        place, hit = self._relevance.positions(users, items)
        discount = 1.0 / torch.arange(2.0, items.shape[1] + 2.0, dtype=torch.float64).log2()
        n_pairs = self._relevance.counts[users].clamp(min=1).to(torch.float64)
        found: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for weights, mean, ideal in zip(self._weights, self._mean_weight, self._ideal, strict=True):
            gains = weights[place] * hit
            user_weight = mean[users]
            for at, k in enumerate(self.ks):
                cut = min(k, items.shape[1])
                recall = gains[:, :cut].sum(1) / n_pairs
                dcg = (gains[:, :cut] * discount[:cut]).sum(1)
                best = ideal[at][users]
                ndcg = torch.where(best > 0, dcg / best.clamp(min=1e-300), 0.0)
                for metric, sums in (("recall", recall), ("ndcg", user_weight * ndcg)):
                    key = anticipated_name(f"{metric}@{k}", self.name)
                    found.setdefault(key, []).append((sums, user_weight))
        return found


def _sums(users: Tensor, values: Tensor, n_users: int) -> Tensor:
    return torch.bincount(users, values, minlength=n_users)


def _ideal_gains(users: Tensor, weights: Tensor, n_users: int, ks: Sequence[int]) -> Tensor:
    """``(len(ks), n_users)`` DCG of each user's pairs in the best order; ``users`` ascending."""
    best_first = torch.from_numpy(np.lexsort((-weights.numpy(), users.numpy())))
    # Users are ascending already, so only the order within each changes.
    starts = torch.searchsorted(users, users)
    rank = torch.arange(len(users)) - starts
    gains = weights[best_first] / (rank + 2.0).to(torch.float64).log2()
    return torch.stack([_sums(users, gains * (rank < min(k, len(rank))), n_users) for k in ks])


class Drift(Anticipation):
    """Metrics after a share ``δ`` of the tastes has changed, in place of weights.

    Nobody knows to what a taste will change, so it is modelled as somebody else's: each of the
    users with validation pairs gets the pairs of another of them, drawn at random, less those that
    are its own training pairs::

        metric = (1 - δ) · metric(pairs) + δ · metric(pairs of others)

    What a model knows of the one user alone counts for less, what it knows of all for more.

    Parameters
    ----------
    split
        The validation pairs.
    train
        ``(U, I)`` training pairs.
    ks
        Cut-offs.
    share
        ``δ``, from 0 (no drift) to 1.
    seed
        Of the draw.

    Raises
    ------
    ConfigError
        Every pair of another user is one that trains.
    """

    def __init__(
        self, split: Split, train: csr_array, ks: Sequence[int], share: float, seed: int = 0
    ) -> None:
        n_users, n_items = train.shape
        equal = np.ones((1, len(split)))
        super().__init__("drift", split, n_users, n_items, equal, ks)
        users = _somebody_else(split.users, numpy_generator(seed, "anticipation/drift"))
        trained = np.repeat(np.arange(n_users), np.diff(train.indptr)) * n_items + train.indices
        new = ~np.isin(users * n_items + split.items, trained)
        if not new.any():
            raise ConfigError(
                "every validation pair, given to another user, is a training pair, so nothing "
                "stands for a changed taste; select on 'valid'"
            )
        changed = Split(split.name, users[new], split.items[new])
        self.share = share
        self._changed = Anticipation(self.name, changed, n_users, n_items, equal[:, new], ks)
        self._pair_weights = (1 - share) / len(split) + share * new / new.sum()

    @property
    def effective_pairs(self) -> float:
        """Kish's number for the validation pairs, each with what it weighs in both metrics."""
        return float(self._pair_weights.sum() ** 2 / np.square(self._pair_weights).sum())

    def __call__(self, users: Tensor, items: Tensor) -> dict[str, float]:
        """As of :class:`Anticipation`, named ``"ndcg@10 (drift)"``."""
        now, then = super().__call__(users, items), self._changed(users, items)
        return {key: (1 - self.share) * now[key] + self.share * then[key] for key in now}

    def per_user(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """As of :class:`Anticipation`."""
        now, then = super().per_user(users, items), self._changed.per_user(users, items)
        return {key: (1 - self.share) * now[key] + self.share * then[key] for key in now}


def _somebody_else(users: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """For each of ``users`` another of them: a random cycle, so that nobody is their own.

    Of one user alone there is no other.
    """
    distinct = np.unique(users)
    cycle = generator.permutation(len(distinct))
    other = np.empty_like(cycle)
    other[cycle] = np.roll(cycle, 1)
    return distinct[other[np.searchsorted(distinct, users)]]


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
    elif anticipated in POWERS_OF_EXPOSURE:
        exposure = counts if exposure is None else exposure
        if exposure.shape != (n_items,):
            raise InputError(
                f"the exposure has shape {exposure.shape}, train has {n_items} items; give one "
                "count per item"
            )
        power = POWERS_OF_EXPOSURE[anticipated]
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
