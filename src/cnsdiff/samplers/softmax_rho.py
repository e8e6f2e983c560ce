"""Softmax-v(ρ, N) (Shi et al. 2023): all candidates count, the harder the more."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.search_space import Searched
from cnsdiff.samplers.base import SAMPLERS, Batch, Context, Negatives
from cnsdiff.samplers.candidates import CandidateConfig, CandidateSampler

#: Losses of about 0.7 that differ by less differ by no more than single precision's rounding.
_SMALLEST_TEMPERATURE = 1e-6


class SoftmaxRhoConfig(CandidateConfig):
    """Settings of :class:`SoftmaxRhoSampler`."""

    candidates: int = Field(200, ge=2, le=10**5, description="N, candidates, all of which are used")
    rho: Annotated[float, Searched(low=0.05, high=5.0, log=True)] = Field(
        1.0, gt=0, description="λ of τ = sqrt(Var Z / 2λ), the ρ of the name: larger is harder"
    )

    @model_validator(mode="after")
    def _check(self) -> SoftmaxRhoConfig:
        if self.n_negatives != 1:
            raise ValueError(
                "softmax_rho uses every candidate; leave n_negatives at 1 and set candidates"
            )
        return self


@SAMPLERS.register("softmax_rho")
class SoftmaxRhoSampler(CandidateSampler):
    """All of ``C_u``, weighted by ``softmax(Z / τ - log q)``.

    ``Z = -log σ(s(u,p) - s(u,n))`` is each candidate's BPR loss, and ``τ = sqrt(Var Z / 2λ)`` with
    the unbiased variance over the row's candidates, as in the authors' code; the weights carry no
    gradient and sum to 1. Candidates are uniform, so ``log q`` is a constant, which a softmax does
    not feel. ``Z / τ`` has a spread of ``sqrt(2λ)`` whatever the scores' scale. Where ``Z`` does
    not vary, theirs divides by 0; ours bounds ``τ`` from below, and all weights are alike.
    """

    Config = SoftmaxRhoConfig
    config: SoftmaxRhoConfig

    @property
    def n_negatives(self) -> int:
        return self.config.candidates

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Negatives:
        candidates, scores = self.scored(batch, embeddings, context)
        with torch.no_grad():
            users, items = embeddings.users[batch.users], embeddings.items[batch.positives]
            positive = (users * items).sum(dim=-1, keepdim=True)
            losses = F.softplus(scores.squeeze(1) - positive)
            temperature = (losses.var(dim=1, keepdim=True) / (2 * self.config.rho)).sqrt()
            weights = (losses / temperature.clamp(min=_SMALLEST_TEMPERATURE)).softmax(dim=1)
        return Negatives(items=candidates.squeeze(1), weights=weights)
