"""What picks the best epoch and the dial: validation, as it is or under an anticipated shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.seeding import numpy_generator
from cnsdiff.data import Dataset, Split
from cnsdiff.evaluation import Anticipation, EmbeddingScorer, anticipate, readings
from cnsdiff.evaluation.anticipation import Anticipated
from cnsdiff.evaluation.dial import (
    COARSE,
    best_reading,
    exposure_counts,
    near,
    standardised_log,
)
from cnsdiff.training.config import TrainingConfig


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


#: Validation users whose lists tell the dial coarsely; all tell it finely.
DIAL_USERS = 2000


class Selection:
    """Measures embeddings on the split that selects; of the held-out splits it opens no other.

    Where the dial is chosen (``training.dial="auto"``), an epoch is worth what it is at its best
    dial of :data:`~cnsdiff.evaluation.dial.COARSE`: the same pairs and the same metric pick both.
    It keeps no state from one validation to the next.

    Parameters
    ----------
    config
        Its ``select_*`` fields and its ``dial``.
    dataset
        Has the split that selects; its environment is what the dial turns.
    train
        ``(U, I)`` training pairs, which are masked.
    ks
        Cut-offs.
    device
        Where to rank.

    Raises
    ------
    DataError
        The dataset has no such split.
    ConfigError
        The anticipated shift needs what the split lacks.
    """

    def __init__(
        self,
        config: TrainingConfig,
        dataset: Dataset,
        train: csr_array,
        ks: Sequence[int],
        device: torch.device | str,
    ) -> None:
        self.config, self.train, self.ks, self.device = config, train, ks, device
        exposure = exposure_counts(dataset)
        self.exposure_score, self._exposure = standardised_log(exposure), exposure.numpy()
        self._whole = dataset.split(config.selection_split)
        self.split = self._whole if config.dial != "auto" else some_users(self._whole, DIAL_USERS)
        self.anticipation = self._anticipate(self.split)

    def _anticipate(self, split: Split) -> Anticipation | None:
        if self.config.anticipated is None:
            return None
        return as_configured(
            self.config.anticipated, self.config, split, self.train, self.ks, self._exposure
        )

    @property
    def note(self) -> str | None:
        """What the user should know of it, in one line."""
        if self.config.select_on == "test_ood":
            return (
                "WARNING: select_on=test_ood picks the epoch on the test set, as the published "
                "code does; these numbers are not an honest estimate"
            )
        if self.anticipation is not None:
            return (
                f"selecting on {self.anticipation.name}: the {len(self.split):,} validation pairs "
                f"weigh as much as {self.anticipation.effective_pairs:,.0f} equal ones"
            )
        return None

    def __call__(self, embeddings: Embeddings) -> Mapping[str, float]:
        """Metrics by name, and ``"dial"`` where one is in use: the one they are read at."""
        if self.config.dial == "off":
            return self._read(embeddings, (0.0,), self.split, self.anticipation)[0.0]
        fixed = self.config.fixed_dial
        dials = COARSE if fixed is None else (fixed,)
        found = self._read(embeddings, dials, self.split, self.anticipation)
        dial, _ = best_reading(found, self.config.selection_metrics[0])
        return found[dial] | {"dial": dial}

    def dial(self, embeddings: Embeddings) -> float:
        """The dial of a trained model, or as fixed.

        Of the fine ones about the coarse one that the sample likes best, the best on all validation
        users. Readings that are equally good count as the one nearest 0.
        """
        if self.config.fixed_dial is not None:
            return self.config.fixed_dial
        metric = self.config.selection_metrics[0]
        coarse = self._read(embeddings, COARSE, self.split, self.anticipation)
        dials = near(best_reading(coarse, metric)[0])
        fine = self._read(embeddings, dials, self._whole, self._anticipate(self._whole))
        return best_reading(fine, metric)[0]

    def _read(
        self,
        embeddings: Embeddings,
        dials: Sequence[float],
        split: Split,
        anticipation: Anticipation | None,
    ) -> dict[float, dict[str, float]]:
        return readings(
            EmbeddingScorer(*embeddings),
            self.exposure_score,
            split,
            self.train,
            gammas=dials,
            ks=self.ks,
            anticipations=() if anticipation is None else (anticipation,),
            device=self.device,
        )


def some_users(split: Split, n: int) -> Split:
    """The pairs of ``n`` users of a split, the same ones whatever the seed of the run."""
    users = np.unique(split.users)
    if len(users) <= n:
        return split
    chosen = numpy_generator(0, "dial users").choice(users, n, replace=False)
    return split.of_users(chosen)


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
