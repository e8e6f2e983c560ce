"""Random negative sampling (RNS): uniform over the items a user has not interacted with."""

from __future__ import annotations

from typing import ClassVar

from cnsdiff.backbones.base import Embeddings
from cnsdiff.samplers.base import SAMPLERS, Batch, Context, Items, Sampler


@SAMPLERS.register("random")
class RandomSampler(Sampler):
    """``n ~ U(I ∖ I_u⁺)``, exactly."""

    shardable: ClassVar[bool] = True
    reads_embeddings: ClassVar[bool] = False

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Items:
        n = self.config.n_negatives
        return Items(self.positives.sample_negatives(batch.users, n, context.negatives))
