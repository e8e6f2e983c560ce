"""A sampler of one's own."""

from __future__ import annotations

import torch
from pydantic import Field

from cnsdiff.backbones import Embeddings
from cnsdiff.samplers import Batch, Context, Items, Sampler, SamplerConfig


class MixedConfig(SamplerConfig):
    """Settings of ``mixed``."""

    candidates: int = Field(8, ge=1, description="random items that a hard negative is the best of")
    share: float = Field(0.5, ge=0, le=1, description="share of hard negatives")


class Mixed(Sampler):
    """Random negatives, and among them some that score highest of several."""

    Config = MixedConfig
    config: MixedConfig

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Items:
        shape = (len(batch), self.n_negatives, self.config.candidates)
        draws = self.n_negatives * self.config.candidates
        drawn = self.positives.sample_negatives(batch.users, draws, context.negatives).view(shape)
        with torch.no_grad():  # choosing is no part of what is learnt
            users = embeddings.users[batch.users]
            hardest = torch.einsum("bd,bnmd->bnm", users, embeddings.items[drawn]).argmax(dim=2)
            chance = torch.rand(shape[:2], generator=context.negatives, device=drawn.device)
            chosen = torch.where(chance < self.config.share, hardest, 0)
        return Items(drawn.gather(2, chosen.unsqueeze(2)).squeeze(2))
