"""The validation objectives of a benchmark, measured together and at several dials.

Ranking is what costs, so no list is ranked twice: all objectives read the same lists, those
without a dial and those at ``γ = 0`` share theirs, and users are scored once for all dials.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.base.errors import DataError
from cnsdiff.benchmark.grid import PLAIN, is_dialled, without_dial
from cnsdiff.data import Dataset, Split
from cnsdiff.evaluation import Scorer, rank
from cnsdiff.evaluation.anticipation import Anticipated, anticipated_name
from cnsdiff.evaluation.dial import (
    COARSE,
    Dialled,
    best_reading,
    dialled_lists,
    exposure_counts,
    near,
    standardised_log,
)
from cnsdiff.evaluation.metrics import accuracy
from cnsdiff.evaluation.relevance import Relevance
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.selection import DIAL_USERS, as_configured, some_users


class Reading(NamedTuple):
    """A model read at the dial that is best by an objective, and the objective's value there."""

    scorer: Dialled
    gamma: float
    value: float


class Objectives:
    """Validation objectives of the ranked lists of all users that have a validation pair.

    Parameters
    ----------
    names
        ``"valid"``, or names of :data:`~cnsdiff.evaluation.anticipation.Anticipated`.
    metric
        Recall or NDCG at a cut-off.
    split
        Validation pairs.
    train
        ``(U, I)`` training pairs.
    settings
        Its ``select_*`` fields shape the anticipated objectives.
    exposure
        ``(I,)`` how often each item was exposed.

    Attributes
    ----------
    users : Tensor of int64, shape (n,)
        Whose lists it reads, ascending.
    """

    def __init__(
        self,
        names: Sequence[str],
        metric: str,
        split: Split,
        train: csr_array,
        settings: TrainingConfig,
        exposure: NDArray[np.float64],
    ) -> None:
        self.metric, self.ks = metric, (int(metric.partition("@")[2]),)
        self._relevance = Relevance(split.users, split.items, *train.shape)
        self.users = self._relevance.users
        if not len(self.users):
            raise DataError("the valid split holds no interactions, so nothing can be selected")
        self._anticipations = {
            name: as_configured(
                cast("Anticipated", name), settings, split, train, self.ks, exposure=exposure
            )
            for name in names
            if name != PLAIN
        }

    def __call__(self, items: Tensor, names: Sequence[str]) -> dict[str, float]:
        """The value of each objective of the lists ``(n, K)`` of :attr:`users`."""
        return {name: self._value(items, name) for name in names}

    def _value(self, items: Tensor, name: str) -> float:
        if name != PLAIN:
            found = self._anticipations[name](self.users, items)
            return found[anticipated_name(self.metric, name)]
        hits, n_relevant = self._relevance.hits(self.users, items), self._relevance.counts
        return float(accuracy(hits, n_relevant[self.users], self.ks)[self.metric].mean())


class Validation:
    """The validation objectives of a benchmark, measured together.

    Parameters
    ----------
    dataset
        Its train and valid splits and its exposures are read, no other.
    selections
        ``"valid"``, or names of :data:`~cnsdiff.evaluation.anticipation.Anticipated`; with
        ``"+dial"`` behind, at the dial where the objective is best.
    metric
        Recall or NDCG at a cut-off.
    settings
        Their ``select_*`` fields shape the anticipated ones.
    device
        Where to rank.
    dial_users
        At most so many users place the dial in :meth:`__call__`: a sample, the same in every
        training on the dataset. Objectives without a dial are always measured on all users.
    """

    def __init__(
        self,
        dataset: Dataset,
        selections: Sequence[str],
        metric: str,
        settings: TrainingConfig,
        device: torch.device | str = "cpu",
        dial_users: int = DIAL_USERS,
    ) -> None:
        self.selections = tuple(selections)
        self.device = torch.device(device)
        self.train = dataset.split("train").csr(dataset.n_users, dataset.n_items)
        split, counts = dataset.split("valid"), exposure_counts(dataset)
        exposure = counts.numpy()
        names = list(dict.fromkeys(map(without_dial, selections)))
        self._whole = Objectives(names, metric, split, self.train, settings, exposure)
        self._sample, self._rows = self._whole, torch.arange(len(self._whole.users))
        dialled = list(dict.fromkeys(map(without_dial, filter(is_dialled, selections))))
        if dialled:
            self.exposure_score = standardised_log(counts).to(self.device)
        if dialled and len(self._rows) > dial_users:
            part = some_users(split, dial_users)
            self._sample = Objectives(dialled, metric, part, self.train, settings, exposure)
            self._rows = torch.searchsorted(self._whole.users, self._sample.users)
        self._k = max(self._whole.ks)

    def __call__(self, scorer: Scorer, selections: Sequence[str] | None = None) -> dict[str, float]:
        """The value of each of these selections (all by default), by its name."""
        asked = self.selections if selections is None else selections
        plain = [name for name in asked if not is_dialled(name)]
        dialled = [name for name in asked if is_dialled(name)]
        bases = list(dict.fromkeys(map(without_dial, dialled)))
        values: dict[str, float] = {}
        at: dict[float, dict[str, float]] = {}
        if plain:
            users = self._whole.users
            items, _ = rank(scorer, users, self._k, exclude=self.train, device=self.device)
            items = items.cpu()
            values = self._whole(items, plain)
            if dialled:
                at[0.0] = self._sample(items[self._rows], bases)
        if dialled:
            gammas = [gamma for gamma in COARSE if gamma not in at]
            at |= self._readings(scorer, self._sample, bases, gammas)
            values |= {name: best_reading(at, without_dial(name))[1] for name in dialled}
        return {name: values[name] for name in asked}

    def read(
        self, scorer: Scorer, selections: Sequence[str], gammas: Sequence[float] | None = None
    ) -> dict[str, Reading]:
        """The best dial by each of these selections, on all users.

        Of ``gammas``; by default of the fine ones about the coarse one that the sample likes best.
        """
        bases = list(dict.fromkeys(map(without_dial, selections)))
        if not bases:
            return {}
        # Each objective has a neighbourhood of its own, whatever others are read beside it.
        own = dict.fromkeys(bases, tuple(gammas or ()))
        if gammas is None:
            coarse = self._readings(scorer, self._sample, bases, COARSE)
            own = {base: near(best_reading(coarse, base)[0]) for base in bases}
        every = sorted(set(itertools.chain.from_iterable(own.values())))
        at = self._readings(scorer, self._whole, bases, every)
        found = {}
        for name in selections:
            base = without_dial(name)
            gamma, value = best_reading({gamma: at[gamma] for gamma in own[base]}, base)
            found[name] = Reading(Dialled(scorer, self.exposure_score, gamma), gamma, value)
        return found

    def _readings(
        self, scorer: Scorer, objectives: Objectives, names: Sequence[str], gammas: Sequence[float]
    ) -> dict[float, dict[str, float]]:
        """The value of each objective at each dial."""
        lists = dialled_lists(
            scorer,
            self.exposure_score,
            objectives.users,
            self._k,
            gammas=gammas,
            exclude=self.train,
            device=self.device,
        )
        return {gamma: objectives(items, names) for gamma, items in lists.items()}
