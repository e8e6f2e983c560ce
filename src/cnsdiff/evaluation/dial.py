"""The dial: how much of the environment a score keeps, read after training (equation 22).

A model trained in one environment is read under another by adding that environment's share::

    s_γ(u, i) = s(u, i) + γ · σ_s · e_i

``e_i`` is the log-probability that the environment exposes item ``i``, standardised over the items;
``σ_s`` is how far a user's scores spread, so that ``γ`` has no unit and means the same for every
model. ``γ = 0`` reads the model as it was trained, below 0 popularity counts for less, above for
more. The weights stay as they are: one model walks the whole frontier between the environment it
was trained in and one without any preference.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.base.errors import InputError
from cnsdiff.evaluation.anticipation import Anticipation
from cnsdiff.evaluation.metrics import item_counts, relevance_of
from cnsdiff.evaluation.protocol import SplitEvaluation, check, measure
from cnsdiff.evaluation.ranking import BiasedTop, Excluded, Scorer, require_room

if TYPE_CHECKING:
    from cnsdiff.data import Dataset, Split

#: Where a reading is looked for: a coarse grid while training, a fine one, which holds the coarse
#: one, when it is done.
COARSE = (-2.0, -1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0, 2.0, 4.0)
FINE = (
    *(-4.0, -2.8, -2.0, -1.4, -1.0, -0.7, -0.5, -0.35, -0.25, -0.2, -0.15, -0.1, -0.05),
    *(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.85, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0),
)


#: Users whose scores tell the spread, and how many at a time; a mean over them settles quickly.
_SPREAD_USERS, _SPREAD_BATCH = 256, 32
#: Scores that stay in a cache while their deviation is taken.
_CACHED = 2**16


def exposure_counts(dataset: Dataset, train: csr_array | None = None) -> Tensor:
    """``(I,)`` float64: how often the log shows that each item was exposed.

    The side table ``exposures`` where the dataset has it, whatever the users thought of the item;
    for want of it the training pairs of the item, which also tell how much it is liked. Neither
    holds anything of the held-out pairs. ``train (U, I)`` are those pairs, if they are at hand.
    """
    if "exposures" in dataset.table_names:
        counts = dataset.table("exposures")["exposures"].to_numpy()
    else:
        items = dataset.split("train").items if train is None else train.indices
        counts = np.bincount(items, minlength=dataset.n_items)
    return torch.from_numpy(counts.astype(np.float64))


def exposure_score(dataset: Dataset) -> Tensor:
    """``(I,)`` float32 ``e``: :func:`standardised_log` of :func:`exposure_counts`."""
    return standardised_log(exposure_counts(dataset))


def standardised_log(exposure: Tensor) -> Tensor:
    """``e``: the log of each item's exposure, zero mean and unit standard deviation over items.

    Parameters
    ----------
    exposure
        ``(I,)`` how often each item was exposed (or, for want of that, interacted with); items
        with less than one count as one.

    Returns
    -------
    Tensor
        ``(I,)`` float32; all zero where every item was exposed alike.
    """
    log = exposure.double().clamp(min=1).log()
    centred = log - log.mean()
    deviation = centred.square().mean().sqrt()
    return (centred / deviation if deviation > 1e-9 else torch.zeros_like(log)).float()


def spread(scorer: Scorer) -> float:
    """``σ_s``: the standard deviation over the items of a user's scores, a mean over users.

    Of evenly spaced users; scores of minus infinity are left out.
    """
    n = min(_SPREAD_USERS, scorer.n_users)
    users = torch.linspace(0, scorer.n_users - 1, n, dtype=torch.float64).round().long()
    return float(deviations(scorer, users).mean())


def deviations(scorer: Scorer, users: Tensor, n_items: int | None = None) -> Tensor:
    """``(n,)`` float64 ``σ_u``: the standard deviation of each user's scores of the first items.

    Of all items by default; scores of minus infinity are left out.
    """
    found, stop = [], scorer.n_items if n_items is None else n_items
    with torch.no_grad():
        for batch in torch.split(users, _SPREAD_BATCH):
            found.append(deviations_of(scorer.score_block(batch, 0, stop)))
    return torch.cat(found)


def deviations_of(scores: Tensor) -> Tensor:
    """``(B,)`` float64: the standard deviation of each row of ``scores (B, I)``.

    Scores of minus infinity are left out.
    """
    found = []
    for part in torch.split(scores, max(1, _CACHED // max(1, scores.shape[1]))):
        values, known = part.double(), part.isfinite()
        count = known.sum(dim=1).clamp(min=1)
        mean = torch.where(known, values, 0.0).sum(dim=1) / count
        squares = torch.where(known, values - mean[:, None], 0.0).square()
        found.append((squares.sum(dim=1) / count).sqrt())
    return torch.cat(found)


def dial_bias(dial_step: Tensor, gamma: float) -> Tensor:
    """``γ · σ_s · e``: what a dial adds to each item's score.

    Parameters
    ----------
    dial_step
        ``(I,)`` ``σ_s · e``, what one unit of the dial adds to a score.
    gamma
        The dial.

    Raises
    ------
    InputError
        ``gamma`` is not a number, or so large that a score would be infinite.
    """
    bias = gamma * dial_step
    if not (math.isfinite(gamma) and bool(bias.isfinite().all())):
        raise InputError(f"the dial is {gamma:g}; give a finite number, usually from -4 to 8")
    return bias


class Dialled:
    """A scorer read at a dial; itself a :class:`~cnsdiff.evaluation.Scorer`.

    Parameters
    ----------
    scorer
        The model as trained.
    exposure_score
        ``(I,)`` ``e``, see :func:`exposure_score`.
    gamma
        The dial; 0 leaves the scores as they are.
    sigma
        ``σ_s``; measured by :func:`spread` when not given.
    """

    def __init__(
        self, scorer: Scorer, exposure_score: Tensor, gamma: float, sigma: float | None = None
    ) -> None:
        if tuple(exposure_score.shape) != (scorer.n_items,):
            raise InputError(
                f"the exposure score has shape {tuple(exposure_score.shape)}, the model knows "
                f"{scorer.n_items} items; give one value per item"
            )
        self.scorer = scorer
        self.gamma = gamma
        self.n_users, self.n_items = scorer.n_users, scorer.n_items
        self.sigma = spread(scorer) if sigma is None else sigma
        self._bias = dial_bias(self.sigma * exposure_score, gamma).to(self.device)

    @property
    def device(self) -> torch.device:
        return torch.device(getattr(self.scorer, "device", None) or "cpu")

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        scores = self.scorer.score_block(users, start, stop)
        return scores + self._bias[start:stop] if self.gamma else scores


def readings(
    scorer: Scorer,
    exposure_score: Tensor,
    split: Split,
    train: csr_array,
    *,
    gammas: Sequence[float] = FINE,
    ks: Sequence[int] = (10, 20),
    anticipations: Sequence[Anticipation] = (),
    device: torch.device | str | None = None,
) -> dict[float, dict[str, float]]:
    """The metrics of a split at each dial, those of the anticipated shifts among them.

    As :func:`~cnsdiff.evaluation.evaluate_split` measures them, but users are scored once.
    """
    sigma = spread(scorer) if any(gammas) else 0.0  # at 0 it is not needed
    return readings_at(
        scorer,
        {gamma: dial_bias(sigma * exposure_score, gamma) if gamma else None for gamma in gammas},
        split,
        train,
        ks=ks,
        anticipations=anticipations,
        device=device,
    )


def readings_at(
    scorer: Scorer,
    biases: Mapping[float, Tensor | None],
    split: Split,
    train: csr_array,
    *,
    ks: Sequence[int] = (10, 20),
    anticipations: Sequence[Anticipation] = (),
    device: torch.device | str | None = None,
) -> dict[float, dict[str, float]]:
    """The metrics of a split with each bias ``(I,)`` added to the scores; users are scored once."""
    measured = evaluations_at(
        scorer, biases, split, train, ks=ks, anticipations=anticipations, device=device
    )
    return {at: evaluation.metrics for at, evaluation in measured}


def evaluations_at(
    scorer: Scorer,
    biases: Mapping[float, Tensor | None],
    split: Split,
    train: csr_array,
    *,
    ks: Sequence[int],
    anticipations: Sequence[Anticipation],
    device: torch.device | str | None = None,
    per_user: bool = False,
) -> Iterator[tuple[float, SplitEvaluation]]:
    """As :func:`readings_at`, one evaluation after the other, with each user's metrics if asked."""
    ks = check(scorer, train, ks)
    held_out, counts = relevance_of(split, "the split", train.shape), item_counts(train)
    lists = lists_at(scorer, biases, held_out.users, max(ks), exclude=train, device=device)
    for at, items in lists.items():
        yield (
            at,
            measure(held_out, items, counts, ks, anticipations=anticipations, per_user=per_user),
        )


#: Scores kept at a time while the dial turns (64 MiB), and users (more are slower on a CPU).
_KEPT_SCORES, _KEPT_USERS = 2**24, 256


def lists_at(
    scorer: Scorer,
    biases: Mapping[float, Tensor | None],
    users: Tensor,
    k: int,
    *,
    exclude: csr_array,
    device: torch.device | str | None = None,
) -> dict[float, Tensor]:
    """``(n, min(k, I))`` the best items of each user with each bias, on the CPU; scored once.

    Parameters
    ----------
    biases
        ``(I,)`` what is added to the scores, by a number that tells them apart.
    users
        ``(n,)`` indices.
    exclude
        ``(U, I)`` pairs left out, usually those of training.
    scorer, device
        As in :func:`~cnsdiff.evaluation.rank`.
    """
    check(scorer, exclude, (k,))
    require_room(len(biases) * len(users), min(k, scorer.n_items))
    place = torch.device(device or getattr(scorer, "device", None) or "cpu")
    excluded = Excluded(exclude, place)
    best = BiasedTop(biases, k, scorer.n_items, place)
    batch = max(1, min(_KEPT_USERS, _KEPT_SCORES // scorer.n_items))
    lists: dict[float, list[Tensor]] = {at: [] for at in biases}
    with torch.no_grad():
        for some in torch.split(users, batch):
            some = some.to(place)
            # A copy, lest what the scorer keeps be masked.
            scores = scorer.score_block(some, 0, scorer.n_items).to(place, torch.float32, copy=True)
            scores[excluded.pairs(some)] = -torch.inf
            for at, items in best(scores):
                lists[at].append(items.cpu())
    return {at: torch.cat(batches) for at, batches in lists.items()}


def best_reading(measured: dict[float, dict[str, float]], metric: str) -> tuple[float, float]:
    """The dial with the best value of ``metric``, and the value; of equal ones, that nearest 0."""
    gamma = max(measured, key=lambda g: (measured[g][metric], -abs(g), g))
    return gamma, measured[gamma][metric]


def prudent_dial(measured: Mapping[float, NDArray[np.float64]]) -> float:
    """Of dials that are as good as the best, as far as one can tell, the one nearest 0.

    The candidates are the modes: the dials at which the mean is larger than at the next dials on
    either side (of equal neighbours, that nearest 0). One is as good as the best if it is behind it
    by no more than one standard error of their difference.

    Parameters
    ----------
    measured
        By dial, ``(n,)`` the metric of each user, the users in one order.
    """
    gammas = sorted(measured)
    means = {gamma: float(measured[gamma].mean()) for gamma in gammas}

    def rank(gamma: float) -> tuple[float, float]:
        return -abs(gamma), gamma

    # Runs of dials with one mean, and those of them that stand out.
    runs = [(mean, list(run)) for mean, run in itertools.groupby(gammas, means.__getitem__)]
    heights = [-math.inf, *(mean for mean, _ in runs), -math.inf]
    modes = [
        max(run, key=rank)
        for at, (mean, run) in enumerate(runs)
        if heights[at] < mean > heights[at + 2]
    ]
    best = max(modes, key=lambda gamma: (means[gamma], *rank(gamma)))

    def as_good(gamma: float) -> bool:
        behind = measured[best] - measured[gamma]
        variance = behind.var(ddof=1) if len(behind) > 1 else 0.0
        return bool(behind.mean() <= math.sqrt(variance / len(behind)))

    return max((mode for mode in modes if as_good(mode)), key=rank)


def in_words(gamma: float) -> str:
    """A dial for a reader: ``-0.25 (popularity counts for less than in training)``."""
    if gamma == 0:
        return "0 (scores as trained)"
    return f"{gamma:g} (popularity counts for {'more' if gamma > 0 else 'less'} than in training)"
