"""Dynamic negative sampling (Zhang et al. 2013): the candidate that scores highest."""

from __future__ import annotations

from cnsdiff.backbones.base import Embeddings
from cnsdiff.samplers.base import SAMPLERS, Batch, Context, Negatives
from cnsdiff.samplers.candidates import CandidateSampler, pick


@SAMPLERS.register("dns")
class DNSSampler(CandidateSampler):
    """``argmax_{n ∈ C_u} s(u, n)``."""

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Negatives:
        return Negatives(items=pick(*self.scored(batch, embeddings, context)))
