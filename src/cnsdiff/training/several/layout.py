"""Where the embedding tables of a training lie: whole in every process, unless sharded."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from cnsdiff.backbones.base import Embeddings
from cnsdiff.data.positives import Positives
from cnsdiff.training.checkpoint import TrainingState
from cnsdiff.training.several.processes import Processes
from cnsdiff.training.several.slices import Slices
from cnsdiff.training.step import TrainingStep


class Layout:
    """Every process has everything; a shard has its share."""

    #: Whether a process that has no rows in a batch must propagate with the others all the same.
    propagates_together = False

    def slices(
        self, positives: Positives, count: int, processes: Processes, *, lacking: bool = False
    ) -> Slices:
        """How batches of all training interactions are cut into ``count`` slices.

        With ``lacking``, of all whose user lacks some item.
        """
        rows = positives.rows_with_negatives() if lacking else None
        return Slices(positives.pairs[:, 0], count, processes, rows=rows)

    def shared_parameters(self, step: TrainingStep) -> Iterable[nn.Parameter]:
        """The parameters that every process has a copy of, with a gradient of its own slices."""
        learnt = step.sampler.trained_parameters()
        return [*step.backbone.parameters(), *learnt]

    def device(self, device: torch.device) -> torch.device:
        """Where the first process holds all embeddings, given where it trains."""
        return device

    def embeddings(self, embeddings: Embeddings) -> Embeddings:
        """All embeddings, in the first process, of what each has. A collective."""
        return embeddings

    def whole(self, state: TrainingState) -> TrainingState:
        """The state of all, in the first process, of the state of each. A collective."""
        return state

    def own(self, state: TrainingState) -> TrainingState:
        """The share of this process in the state of all."""
        return state
