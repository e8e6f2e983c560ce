"""Adaptive hardness negative sampling (Lai et al. 2024): the harder, the worse the positive."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.search_space import Searched
from cnsdiff.samplers.base import SAMPLERS, Batch, Context, Negatives
from cnsdiff.samplers.candidates import CandidateConfig, CandidateSampler, pick


class AHNSConfig(CandidateConfig):
    """Settings of :class:`AHNSSampler`."""

    alpha: Annotated[float, Searched(low=0.1, high=5.0, log=True)] = Field(
        1.0, ge=0, description="α, added to the positive's score"
    )
    beta: Annotated[float, Searched(low=0.05, high=1.0, log=True)] = Field(
        0.1, gt=0, description="β, scale of the score aimed at"
    )
    q: Annotated[float, Searched(low=-3.0, high=-1.0)] = Field(
        -2.0,
        ge=-100,
        le=100,
        description="below -1, a higher positive score asks for an easier negative",
    )
    floor: float = Field(
        0.1, gt=0, description="s(u,p) + α counts as this where it is less: our guard"
    )


@SAMPLERS.register("ahns")
class AHNSSampler(CandidateSampler):
    """``argmin_{n ∈ C_u} |s(u,n) - β (s(u,p) + α)^{q+1}|``.

    With ``q < -1`` the score aimed at has a pole where ``s(u,p) + α = 0`` and is negative, or not
    a number, beyond it: of the positives the model ranks worst, the authors' code asks for the
    *easiest* negatives. Ours keeps ``s(u,p) + α`` from falling below ``floor``, so that such a
    positive asks for negatives as hard as any. 0.1 is the smallest α the authors use: with any of
    their settings the guard acts on positives of negative score alone.
    """

    Config = AHNSConfig
    config: AHNSConfig

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Negatives:
        config = self.config
        candidates, scores = self.scored(batch, embeddings, context)
        with torch.no_grad():
            users, items = embeddings.users[batch.users], embeddings.items[batch.positives]
            base = ((users * items).sum(dim=-1) + config.alpha).clamp(min=config.floor)
            aim = (config.beta * base.pow(config.q + 1)).view(-1, 1, 1)
            return Negatives(items=pick(candidates, -(scores - aim).abs()))
