"""Selection of the best epoch and the dial: on validation as it is, or under an anticipated shift.

An *objective* is what the ``select_*`` fields and the ``dial`` of a training configuration say. The
epochs of a training do not depend on it, so that several objectives may read one training: each
keeps the epoch that it likes best, and waits for a better one as long as its patience lasts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.base.errors import DataError
from cnsdiff.base.text import parameter
from cnsdiff.data import Dataset, Split
from cnsdiff.data.target import SAMPLE, target_sample
from cnsdiff.display.wording import count
from cnsdiff.environment import HALF_LIVES, Choices, Covariates, Environment, covariates_at
from cnsdiff.environment.environment import CHOICES, SCALES, OwnUnits
from cnsdiff.evaluation import Anticipation, Scorer, anticipate, readings
from cnsdiff.evaluation.anticipation import PEOPLE, POWERS_OF_EXPOSURE, Anticipated
from cnsdiff.evaluation.dial import (
    COARSE,
    FINE,
    best_reading,
    dial_bias,
    evaluations_at,
    exposure_counts,
    prudent_dial,
    readings_at,
    spread,
    standardised_log,
)
from cnsdiff.training.config import TrainingConfig

#: Of a rehearsal: fewer choose by chance.
FEW_USERS = 20

#: Validation users who tell the dial of an epoch while training; all tell it in the end.
DIAL_USERS = 2000
#: Choices that the environment is fitted to after each epoch; in the end it is to all.
EPOCH_CHOICES = 500
#: Dials at which all users are ranked at once.
_AT_ONCE = 7


@dataclass
class EarlyStopping:
    """The best validation so far, and how long ago it was.

    Parameters
    ----------
    metrics
        What is compared: one metric must rise; of several, none may fall (the published rule).
    patience
        Validations without improvement to wait for; ``None`` never stops.
    """

    metrics: Sequence[str]
    patience: int | None
    best_epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)
    stale: int = 0

    def update(self, epoch: int, values: Mapping[str, float]) -> bool:
        """Take in a validation; true if it is the best so far."""
        new = {name: values[name] for name in self.metrics}
        if not self.best:
            improved = True
        elif len(self.metrics) == 1:
            improved = all(new[name] > self.best[name] for name in self.metrics)
        else:
            improved = all(new[name] >= self.best[name] for name in self.metrics)
        if improved:
            self.best_epoch, self.best, self.stale = epoch, new, 0
        else:
            self.stale += 1
        return improved

    @property
    def should_stop(self) -> bool:
        return self.patience is not None and self.stale >= self.patience


class Choice(NamedTuple):
    """What is chosen once a model is trained.

    Attributes
    ----------
    dial
        0 where there is an environment.
    environment
        On a rehearsal, unless the objective has no dial.
    value
        Of the validation metric.
    """

    dial: float
    environment: Environment | None
    value: float


class Selects(Protocol):
    """Measures a model after each epoch, by objectives that each choose one."""

    @property
    def objectives(self) -> Mapping[str, TrainingConfig]:
        """By name; the first is the one that a checkpoint keeps."""

    def __call__(
        self, scorer: Scorer, names: Iterable[str] | None = None
    ) -> dict[str, dict[str, float]]:
        """The metrics by each of these objectives, all by default."""

    def choice(self, scorer: Scorer, name: str) -> Choice:
        """What suits a trained model best by an objective, on all users."""


def selection_of(
    objectives: Mapping[str, TrainingConfig],
    dataset: Dataset,
    train: csr_array,
    ks: Sequence[int],
    device: torch.device | str = "cpu",
) -> Selection | EnvironmentSelection:
    """The selection by these objectives, of which all rehearse or none; parameters as theirs."""
    rehearses = any(objective.rehearses for objective in objectives.values())
    kind = EnvironmentSelection if rehearses else Selection
    return kind(objectives, dataset, train, ks, device)


def only_choice(selection: Selects, scorer: Scorer, name: str) -> Choice:
    """The choice for a model that is compared with no other: not measured if all is fixed."""
    fixed = selection.objectives[name].fixed_dial
    return selection.choice(scorer, name) if fixed is None else Choice(fixed, None, math.nan)


class Reading(NamedTuple):
    """The dial at which an objective is best, and its value there."""

    dial: float
    value: float


class Selection:
    """Measures a model by one or more objectives, on the split that selects and on no other.

    Where an objective picks the dial (``dial="auto"``), an epoch is worth what it is at its best
    dial of :data:`~cnsdiff.evaluation.dial.COARSE`: the same pairs and the same metric pick both.
    All objectives read the same lists, and each user is scored once for all dials. Nothing is kept
    from one validation to the next.

    Parameters
    ----------
    objectives
        By name; all select on one split, and what shapes a shift is the same for all.
    dataset
        Has that split; its exposures are what the dial turns.
    train
        ``(U, I)`` training pairs, which are masked.
    ks
        Cut-offs.
    device
        Where to rank.

    Raises
    ------
    DataError
        The dataset has no such split, or nothing is in it.
    ConfigError
        An anticipated shift needs what the split lacks.
    """

    def __init__(
        self,
        objectives: Mapping[str, TrainingConfig],
        dataset: Dataset,
        train: csr_array,
        ks: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.objectives, self.train, self.ks, self.device = dict(objectives), train, ks, device
        exposure = exposure_counts(dataset, train)
        self.exposure_score, self._exposure = standardised_log(exposure), exposure.numpy()
        (split_name,) = {objective.selection_split for objective in self.objectives.values()}
        self._whole = self._sample = (
            target_sample(dataset) if split_name == SAMPLE else dataset.split(split_name)
        )
        if not len(self._whole):
            raise DataError(
                f"the {split_name} split holds no interactions, so nothing can be selected"
            )
        if any(objective.fixed_dial is None for objective in self.objectives.values()):
            self._sample = self._whole.of_some_users(DIAL_USERS)
        self._anticipations: dict[tuple[str, int], Anticipation] = {}
        for name in self.objectives:  # what is wrong is said before anything is trained
            self._anticipation(name, self.split_of(name))

    def split_of(self, name: str) -> Split:
        """The pairs that an epoch is measured on: those of a sample of users, for a dial's sake."""
        return self._sample if self.objectives[name].fixed_dial is None else self._whole

    @property
    def notes(self) -> list[str]:
        """Remarks on the objectives for the user, each in one line."""
        notes = []
        for name, objective in self.objectives.items():
            split = self.split_of(name)
            anticipation = self._anticipation(name, split)
            if objective.select_on == "test_ood":
                notes.append(
                    "WARNING: select_on=test_ood picks the epoch on the test set, as the published "
                    "code does; these numbers are not an honest estimate"
                )
            elif objective.select_on == "target-sample":
                notes.append(
                    f"selecting on {len(split):,} pairs of {len(np.unique(split.users)):,} judged "
                    "users of the target"
                )
            elif anticipation is not None:
                notes.append(
                    f"selecting on {anticipation.name}: the {len(split):,} validation pairs "
                    f"weigh as much as {anticipation.effective_pairs:,.0f} equal ones"
                )
            if objective.select_on in POWERS_OF_EXPOSURE:
                notes.append(
                    f"{objective.select_on} is a bet: no validation pair tells whether the users "
                    "to be served follow exposure less, and valid may serve them better; some "
                    f"{PEOPLE} of them, judged, would settle it ({parameter('target_sample', ...)} "
                    "when preparing)"
                )
        return notes

    def __call__(
        self, scorer: Scorer, names: Iterable[str] | None = None
    ) -> dict[str, dict[str, float]]:
        """The metrics by each of these objectives (all by default), at the dial that it reads at.

        Where a dial is in use, it is among them as ``"dial"``.
        """
        groups: dict[int, list[str]] = {}
        for name in self.objectives if names is None else names:
            groups.setdefault(id(self.split_of(name)), []).append(name)
        values: dict[str, dict[str, float]] = {}
        for group in groups.values():
            dials = {name: self._dials(name) for name in group}
            at = self._read(scorer, self.split_of(group[0]), group, dials)
            for name in group:
                dial = self._best({dial: at[dial] for dial in dials[name]}, name).dial
                turned = self.objectives[name].dial != "off"
                values[name] = at[dial] | ({"dial": dial} if turned else {})
        return values

    def place(
        self, scorer: Scorer, names: Iterable[str], dials: Sequence[float] | None = None
    ) -> dict[str, Reading]:
        """The dial by each of these objectives, on all users: the :func:`prudent_dial` of a grid.

        On judged users it is the best one, which serves others better once 50 are asked
        (``docs/research-log.md``, section 12). The grid is ``dials``, by default
        :data:`~cnsdiff.evaluation.dial.FINE`.
        """
        names = list(names)
        if not names:
            return {}
        keys = {name: self.objectives[name].selection_metrics[0] for name in names}
        columns: dict[str, dict[float, NDArray[np.float64]]] = {name: {} for name in names}
        metrics: dict[str, dict[float, dict[str, float]]] = {name: {} for name in names}
        grid = FINE if dials is None else tuple(dials)
        sigma = spread(scorer) if any(grid) else 0.0
        for start in range(0, len(grid), _AT_ONCE):  # the lists at all dials are too many to keep
            some = grid[start : start + _AT_ONCE]
            step = sigma * self.exposure_score
            for dial, evaluation in evaluations_at(
                scorer,
                {dial: dial_bias(step, dial) if dial else None for dial in some},
                self._whole,
                self.train,
                ks=self.ks,
                anticipations=self._anticipated(names, self._whole),
                device=self.device,
                per_user=True,
            ):
                assert evaluation.per_user is not None
                for name, key in keys.items():
                    columns[name][dial] = evaluation.per_user[key].to_numpy()
                    metrics[name][dial] = {key: evaluation[key]}
        placed = {
            name: self._best(metrics[name], name).dial
            if self.objectives[name].select_on == "target-sample"
            else prudent_dial(columns[name])
            for name in names
        }
        return {
            name: Reading(dial, metrics[name][dial][keys[name]]) for name, dial in placed.items()
        }

    def choice(self, scorer: Scorer, name: str) -> Choice:
        """The dial that suits a model best by an objective, or as it is fixed, on all users."""
        objective = self.objectives[name]
        if objective.fixed_dial is None:
            dial, value = self.place(scorer, [name])[name]
            return Choice(dial, None, value)
        value = self(scorer, [name])[name][objective.selection_metrics[0]]
        return Choice(objective.fixed_dial, None, value)

    def _dials(self, name: str) -> tuple[float, ...]:
        fixed = self.objectives[name].fixed_dial
        return COARSE if fixed is None else (fixed,)

    def _best(self, at: dict[float, dict[str, float]], name: str) -> Reading:
        return Reading(*best_reading(at, self.objectives[name].selection_metrics[0]))

    def _read(
        self,
        scorer: Scorer,
        split: Split,
        names: Iterable[str],
        dials: Mapping[str, Sequence[float]],
    ) -> dict[float, dict[str, float]]:
        """The metrics of a split at each dial that any of these objectives wants."""
        return readings(
            scorer,
            self.exposure_score,
            split,
            self.train,
            gammas=sorted({dial for wanted in dials.values() for dial in wanted}),
            ks=self.ks,
            anticipations=self._anticipated(names, split),
            device=self.device,
        )

    def _anticipated(self, names: Iterable[str], split: Split) -> tuple[Anticipation, ...]:
        """The shifts that these objectives anticipate, each once."""
        anticipations = {
            anticipation.name: anticipation
            for name in names
            if (anticipation := self._anticipation(name, split)) is not None
        }
        return tuple(anticipations.values())

    def _anticipation(self, name: str, split: Split) -> Anticipation | None:
        objective = self.objectives[name]
        if objective.anticipated is None:
            return None
        key = objective.anticipated, id(split)
        if key not in self._anticipations:
            self._anticipations[key] = as_configured(
                objective.anticipated, objective, split, self.train, self.ks, self._exposure
            )
        return self._anticipations[key]


def as_configured(
    anticipated: Anticipated,
    config: TrainingConfig,
    split: Split,
    train: csr_array,
    ks: Sequence[int],
    exposure: NDArray[Any] | None = None,
) -> Anticipation:
    """The validation objective for an anticipated shift, shaped by the ``select_*`` fields.

    ``exposure (I,)`` is how often each item was exposed; None: as often as it occurs in train.
    """
    return anticipate(
        anticipated,
        split,
        train,
        ks=ks,
        strength=config.select_strength,
        half_life=config.select_half_life,
        slices=config.select_slices,
        slice_by=config.select_slice_by,
        drift=config.select_drift,
        exposure=exposure,
    )


class EnvironmentSelection:
    """Measures a model read under the environment that suits it best, on a rehearsal.

    After each epoch the environment is fitted to held-out pairs (:class:`Choices`), and an epoch is
    worth what the model reaches at the best of :data:`SCALES`; by an objective without a dial, what
    it reaches as it was trained.

    Parameters
    ----------
    objectives
        By name; all choose by one metric.
    dataset
        A rehearsal: its valid split comes after its train split.
    train
        ``(U, I)`` training pairs, which are masked.
    ks, device
        Cut-offs, and where to rank.
    """

    def __init__(
        self,
        objectives: Mapping[str, TrainingConfig],
        dataset: Dataset,
        train: csr_array,
        ks: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.objectives, self.train, self.ks, self.device = dict(objectives), train, ks, device
        self._log, self._whole = dataset.split("train"), dataset.split("valid")
        self._sample = self._whole.of_some_users(DIAL_USERS)
        # The shift that comes beside that of time is the same for all.
        first = next(iter(self.objectives.values()))
        self._anticipations: dict[int, tuple[Anticipation, ...]] = {}
        for pairs in (self._whole, self._sample):
            beside = first.anticipated
            self._anticipations[id(pairs)] = (
                () if beside is None else (as_configured(beside, first, pairs, train, ks),)
            )

    # Not needed where no objective has a dial.
    @cached_property
    def covariates(self) -> Covariates:
        """Of the items at the cut."""
        return covariates_at(self._log.items, self._log.timestamps, self.train.shape[1])

    @cached_property
    def _choices(self) -> Choices:
        return Choices(self._whole, self.train, self.covariates)

    @property
    def notes(self) -> list[str]:
        """Remarks for the user."""
        n_users = len(np.unique(self._whole.users))
        notes = [
            f"rehearsing on the last {len(self._whole):,} training pairs, of "
            f"{count(n_users, 'user')} known before them"
        ]
        if n_users < FEW_USERS:
            notes.append(
                f"fewer than {FEW_USERS} users choose by chance; give a longer horizon, or select "
                "on 'valid' if most users come only once"
            )
        return notes

    def __call__(
        self, scorer: Scorer, names: Iterable[str] | None = None
    ) -> dict[str, dict[str, float]]:
        """The metrics at the best scale of the fitted environment, which is among them."""
        names = list(self.objectives if names is None else names)
        at, _ = self._read(scorer, self._sample, names)
        values = {}
        for name in names:
            scale = self._best(at, name)
            values[name] = at[scale] | ({"environment": scale} if self._fits(name) else {})
        return values

    def choice(self, scorer: Scorer, name: str) -> Choice:
        """The environment that suits a model best by an objective, on all users."""
        at, coefficients = self._read(scorer, self._whole, [name])
        scale = self._best(at, name)
        value = at[scale][self.objectives[name].selection_metrics[0]]
        if not self._fits(name):
            return Choice(0.0, None, value)
        environment = Environment(
            names=list(self.covariates.names),
            coefficients=(scale * coefficients).tolist(),
            half_lives=list(HALF_LIVES),
            span=self.covariates.span,
            moment=self.covariates.moment,
        )
        return Choice(0.0, environment, value)

    def _fits(self, name: str) -> bool:
        return self.objectives[name].dial == "auto"

    def _best(self, at: dict[float, dict[str, float]], name: str) -> float:
        if not self._fits(name):
            return 0.0
        return best_reading(at, self.objectives[name].selection_metrics[0])[0]

    def _read(
        self, scorer: Scorer, split: Split, names: Sequence[str]
    ) -> tuple[dict[float, dict[str, float]], Tensor]:
        """The metrics at each scale, as far as these objectives ask, and the coefficients at 1."""
        biases: dict[float, Tensor | None] = {0.0: None}
        coefficients = torch.empty(0, dtype=torch.float64)
        if any(self._fits(name) for name in names):
            scorer = OwnUnits(scorer)
            at_most = CHOICES if split is self._whole else EPOCH_CHOICES
            coefficients = self._choices.coefficients(scorer, at_most=at_most)
            step = torch.from_numpy(self.covariates.values) @ coefficients
            biases |= {scale: (scale * step).float() for scale in SCALES if scale}
        at = readings_at(
            scorer,
            biases,
            split,
            self.train,
            ks=self.ks,
            anticipations=self._anticipations[id(split)],
            device=self.device,
        )
        return at, coefficients
