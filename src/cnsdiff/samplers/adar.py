"""Negatives like those of ADAR (Li et al., 2026): the positive, noised until it is none any more.

Source: arXiv 2601.01448. A diffusion takes the positive's vector to noise; at the step where it
turns from a positive into a negative, which depends on its score, it is as hard as a negative can
be.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.search_space import Searched
from cnsdiff.diffusion.process import GaussianDiffusion, cosine
from cnsdiff.samplers.base import SAMPLERS, Batch, Context, Sampler, SamplerConfig, Vectors


class ADARConfig(SamplerConfig):
    """Settings of :class:`ADARSampler`."""

    steps: int = Field(100, ge=2, le=10_000, description="T, the number of noise steps")
    boundary: Annotated[float, Searched(low=0.0, high=3.0)] = Field(
        1.0,
        ge=-100,
        le=100,
        description="m: a positive turns negative where it is expected to score m deviations "
        "above the user's average item",
    )


@SAMPLERS.register("adar")
class ADARSampler(Sampler):
    """``z_t ~ q(z_t | z_p)`` at the first step whose expected score is below the boundary.

    With items about their mean ``μ``, of covariance ``Σ`` over the catalogue, a user's scores have
    the mean ``u·μ`` and the deviation ``σ_u = sqrt(uᵀΣu)``, and a noised positive is expected to
    score ``u·μ + sqrt(ᾱ_t) (s_p - u·μ)``. So the step is the first with
    ``sqrt(ᾱ_t) (s_p - u·μ) ≤ m σ_u``: the higher the positive scores, the later. Where it scores
    below the boundary already, it is the first step of all. The noise is isotropic, as in the
    paper, which trains a denoiser beside; the negative is the noised vector, which needs none.

    The vectors carry no gradient.
    """

    Config = ADARConfig
    config: ADARConfig
    needs_free_items = False

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.process = GaussianDiffusion(cosine(self.config.steps))

    @torch.no_grad()
    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Vectors:
        table, users = embeddings.items, embeddings.users[batch.users]
        mean, scale = table.mean(dim=0), table.std().clamp(min=torch.finfo(table.dtype).tiny)
        z_0 = (table[batch.positives] - mean) / scale
        # Where the positive turns: sqrt(ᾱ_t) falls with t.
        spread = (users @ torch.cov(table.T) * users).sum(dim=1).clamp(min=0).sqrt()
        above = scale * (users * z_0).sum(dim=1)
        kept = self.process.alpha_bar.sqrt().to(above.dtype)
        bound = self.config.boundary * spread / above.clamp(min=torch.finfo(above.dtype).tiny)
        bound = torch.where(above > self.config.boundary * spread, bound, 1.0)
        t = (kept.unsqueeze(0) > bound.unsqueeze(1)).sum(dim=1)
        t = t.clamp(min=1, max=self.config.steps)
        # Noise it so far.
        shape = len(batch), self.config.n_negatives, table.shape[1]
        noise = torch.randn(shape, generator=context.noise, device=table.device, dtype=table.dtype)
        vectors = self.process.add_noise(z_0.unsqueeze(1), t.unsqueeze(1), noise) * scale + mean
        if context.cosine:
            vectors = F.normalize(vectors, dim=-1)
        return Vectors(vectors, diagnostics={"step": t.float().mean()})
