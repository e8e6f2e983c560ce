"""What picks the best epoch: validation, as it is or as under an anticipated shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from cnsdiff.backbones.base import Embeddings
from cnsdiff.data import Dataset, Split
from cnsdiff.evaluation import Anticipation, EmbeddingScorer, anticipate, evaluate_split
from cnsdiff.evaluation.anticipation import Anticipated
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


class Selection:
    """Measures embeddings on the split that selects; of the held-out splits it opens no other.

    Parameters
    ----------
    config
        Its ``select_*`` fields.
    dataset
        Has the split that selects.
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
        self.split = dataset.split(config.selection_split)
        self.anticipation: Anticipation | None = None
        if config.anticipated is not None:
            self.anticipation = as_configured(config.anticipated, config, self.split, train, ks)

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
        """Metrics by name."""
        result = evaluate_split(
            EmbeddingScorer(*embeddings),
            self.split,
            self.train,
            ks=self.ks,
            anticipations=() if self.anticipation is None else (self.anticipation,),
            device=self.device,
        )
        return result.metrics
