"""Generated exposure: negatives drawn from a diffusion model of what the environment shows.

:class:`~cnsdiff.samplers.static.ExposureSampler` draws catalogue items from ``q(i | e)``; here
a diffusion model of their embeddings, conditioned on the environment ``e``, makes vectors instead
(equation 21). The user is no condition: given the environment, exposure is independent of taste.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.search_space import Searched
from cnsdiff.data.positives import Positives
from cnsdiff.diffusion.denoiser import Denoiser, drop_condition, guided
from cnsdiff.diffusion.process import GaussianDiffusion, cosine
from cnsdiff.samplers.base import SAMPLERS, Batch, Context, SharedVectors
from cnsdiff.samplers.environment import strata
from cnsdiff.samplers.static import ExposureConfig, ExposureSampler


class ExposureDiffusionConfig(ExposureConfig):
    """Settings of :class:`ExposureDiffusionSampler`."""

    n_negatives: int = Field(512, ge=1, le=10**6, description="M, negatives shared by a batch")
    made_by: Literal["diffusion", "noise", "catalogue"] = Field(
        "diffusion",
        description="what makes a vector from an item: the trained generator; as its controls, "
        "noise of the same level, or nothing",
    )
    steps: int = Field(100, ge=2, le=10_000, description="T, the number of noise steps")
    start: Annotated[int, Searched(low=5, high=95, integer=True)] = Field(
        50, ge=0, le=10_000, description="starting step: 0 stays at an item, T is generic"
    )
    calls: int = Field(4, ge=1, le=10_000, description="denoiser calls per chain")
    hidden: int = Field(128, ge=1, le=2**14)
    depth: int = Field(2, ge=1, le=100)
    n_environments: int = Field(4, ge=1, le=10_000, description="K strata of popularity")
    condition_dropout: float = Field(0.1, ge=0, lt=1, description="classifier-free dropout")
    guidance: Annotated[float, Searched(low=0.0, high=3.0)] = Field(
        1.0, ge=0, description="0 ignores the environment, 1 is plain"
    )
    diffusion_weight: float = Field(1.0, ge=0, description="λ_diff")
    item_gradient: bool = Field(
        False, description="whether the item that a vector was made from is moved in its place"
    )

    @model_validator(mode="after")
    def _check(self) -> ExposureDiffusionConfig:
        if self.start > self.steps:
            raise ValueError(f"start is {self.start}, beyond the last step {self.steps}")
        return self


@SAMPLERS.register("exposure_diffusion")
class ExposureDiffusionSampler(ExposureSampler):
    """``z ~ q(z | e)``: an item as the environment shows it, noised to ``start`` and denoised.

    Trained on the embeddings of items drawn from ``q(i | e)``, in units of one standard deviation
    about their mean, by ``E_t ‖z_0 - f_θ(z_t, t, e)‖²``. The vectors carry no gradient to items
    (unless ``item_gradient``): a synthesised negative moves users alone.
    """

    Config = ExposureDiffusionConfig
    shardable: ClassVar[bool] = True
    shares_draws: ClassVar[bool] = True
    needs_free_items: ClassVar[bool] = False
    config: ExposureDiffusionConfig
    strata: Tensor

    def __init__(
        self,
        positives: Positives,
        dim: int,
        config: ExposureDiffusionConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__(positives, dim, config, generator)
        self.process = GaussianDiffusion(cosine(config.steps))
        self.denoiser = None
        if config.made_by == "diffusion":
            self.denoiser = Denoiser(
                dim,
                config.steps,
                hidden=config.hidden,
                depth=config.depth,
                environments=config.n_environments,
                generator=generator,
            )
        stratum = strata(positives.item_counts.double(), config.n_environments)
        self.register_buffer("strata", stratum, persistent=False)

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> SharedVectors:
        items = self.draw(context)
        table = embeddings.items.detach()
        centre, scale = table.mean(dim=0), table.std().clamp(min=torch.finfo(table.dtype).tiny)
        z_0 = (table[items] - centre) / scale
        stratum = F.one_hot(self.strata[items], self.config.n_environments).to(z_0.dtype)
        loss, diagnostics = None, {}
        if self.denoiser is not None:
            reconstruction = self._reconstruction(self.denoiser, z_0, stratum, context)
            loss = self.config.diffusion_weight * reconstruction
            diagnostics["reconstruction"] = reconstruction.detach()
        with torch.no_grad():
            vectors = self._make(z_0, stratum, context) * scale + centre
            if context.cosine:
                vectors = F.normalize(vectors, dim=-1)
            diagnostics["cos_to_source"] = F.cosine_similarity(vectors, table[items]).mean()
        if self.config.item_gradient:
            source = F.embedding(items, embeddings.items)
            vectors = source + (vectors - source).detach()
        return SharedVectors(vectors, items, loss=loss, diagnostics=diagnostics)

    def _reconstruction(
        self, denoiser: Denoiser, z_0: Tensor, stratum: Tensor, context: Context
    ) -> Tensor:
        """``‖z_0 - f_θ(z_t, t, e)‖²`` at one random timestep per vector, a mean over ``d``."""
        generator, device = context.noise, z_0.device
        t = torch.randint(
            1, self.process.steps + 1, (len(z_0),), generator=generator, device=device
        )
        noise = torch.randn(z_0.shape, generator=generator, device=device)
        condition = drop_condition(stratum, self.config.condition_dropout, generator)
        denoised = denoiser(self.process.add_noise(z_0, t, noise), t, None, condition)
        error: Tensor = (z_0 - denoised).square().mean()
        return error

    def _make(self, z_0: Tensor, stratum: Tensor, context: Context) -> Tensor:
        """The vectors ``(M, d)``, in the units of the diffusion."""
        config, start = self.config, self.config.start
        if config.made_by == "catalogue":
            return z_0
        denoiser = self.denoiser
        if denoiser is None:
            noise = torch.randn(z_0.shape, generator=context.noise, device=z_0.device)
            level = torch.tensor(start, device=z_0.device)
            # Noised and scaled back: the signal keeps its size, the noise is that of the start.
            signal = self.process.alpha_bar[level].clamp(min=1e-3).sqrt().to(z_0.dtype)
            return self.process.add_noise(z_0, level, noise) / signal

        def denoise(z_t: Tensor, t: Tensor) -> Tensor:
            plain: Tensor = denoiser(z_t, t, None, stratum)
            if config.guidance == 1:
                return plain
            unconditional: Tensor = denoiser(z_t, t, None, None)
            return guided(plain, unconditional, config.guidance)

        return self.process.generate(
            denoise, z_0, [start], context.noise, calls=config.calls, stochastic=True
        )[0]
