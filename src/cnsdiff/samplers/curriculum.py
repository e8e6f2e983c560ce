"""Curriculum negative sampling, hard to easy: DNS over fewer and fewer candidates."""

from __future__ import annotations

from cnsdiff.backbones.base import Embeddings
from cnsdiff.samplers.base import SAMPLERS, Batch, Context, Negatives
from cnsdiff.samplers.candidates import CandidateSampler, pick


@SAMPLERS.register("curriculum")
class CurriculumSampler(CandidateSampler):
    """DNS over the first ``max(1, ⌊(1 - t/T) N⌋)`` candidates (as read in AHNS).

    ``t/T`` is the progress of training. Candidates are drawn independently, so the others are
    not drawn at all.
    """

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Negatives:
        n = max(1, int((1 - context.progress) * self.config.candidates))
        return Negatives(items=pick(*self.scored(batch, embeddings, context, n)))
