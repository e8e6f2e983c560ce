"""CNSDiff: negatives synthesised by a conditional diffusion model (arXiv 2508.07243).

The positive's embedding is noised to a starting step and denoised back; the starting step, a
curriculum and a cap control hardness; a causal term frees the generator of the environment.
docs/method.md lists where the authors' code departs from their paper; each departure is a field of
:class:`CNSDiffConfig`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.search_space import Searched
from cnsdiff.data.positives import Positives
from cnsdiff.diffusion import causal
from cnsdiff.diffusion.denoiser import Denoiser, drop_condition, guided
from cnsdiff.diffusion.process import GaussianDiffusion
from cnsdiff.diffusion.schedule import SCHEDULES
from cnsdiff.samplers.base import SAMPLERS, Batch, Context, Negatives, Sampler, SamplerConfig
from cnsdiff.samplers.environment import EnvironmentKind, environment_labels
from cnsdiff.samplers.hardness import cap, curriculum_share, hardest


class CNSDiffConfig(SamplerConfig):
    """Settings of :class:`CNSDiffSampler`; the defaults are ours."""

    # The process
    steps: int = Field(20, ge=2, le=10_000, description="T, the number of noise steps")
    schedule: Literal["linear", "linear-var", "cosine"] = "cosine"
    noise_scale: float = Field(1.0, gt=0, description="factor s of the schedule's bounds")
    noise_min: float = Field(1e-4, gt=0, description="lower bound (linear, linear-var)")
    noise_max: float = Field(0.9, gt=0, description="upper bound (linear, linear-var)")
    standardise: bool = Field(True, description="diffuse vectors of unit variance")

    # The denoiser
    train_denoiser: bool = True
    hidden: int = Field(64, ge=1, le=2**14)
    depth: int = Field(1, ge=1, le=100)
    dropout: float = Field(0.0, ge=0, lt=1, description="on the noisy vector")
    dropout_in_generation: bool = False
    normalise_input: bool = False
    condition_user: bool = True
    environment: EnvironmentKind = "popularity"
    n_environments: int = Field(4, ge=2, le=10_000, description="K, unless the data name their own")
    condition_dropout: float = Field(0.1, ge=0, lt=1, description="classifier-free dropout")
    guidance: Annotated[float, Searched(low=0.0, high=3.0)] = Field(
        1.0, ge=0, description="0 ignores the user, 1 is plain conditioning"
    )
    learning_rate: Annotated[float | None, Searched(low=1e-4, high=1e-2, log=True)] = Field(
        None, gt=0, description="of the denoiser; None: training's"
    )

    # Its losses
    diffusion_weight: float = Field(1.0, ge=0, description="λ_diff")
    weighting: Literal["snr", "uniform"] = "uniform"
    causal: Literal["none", "step_kl", "backdoor"] = "backdoor"
    causal_weight: Annotated[float, Searched(low=0.01, high=1.0, log=True)] = Field(
        0.1, ge=0, description="λ_c"
    )
    detach_positive: bool = True

    # Generation and hardness
    starts: tuple[int, ...] = (10, 14, 18)
    full_chain: bool = False
    calls: int | None = Field(
        1,
        ge=1,
        le=10_000,
        description="denoiser calls per chain; 1 jumps to E[z_0 | z_t], None: every step",
    )
    stochastic: bool = True
    curriculum_start: tuple[float, float] = (1.0, 9.0)
    curriculum_end: tuple[float, float] = (9.0, 1.0)
    cap_margin: float | None = Field(0.0, description="None: no cap")

    @model_validator(mode="after")
    def _check(self) -> CNSDiffConfig:
        if not self.starts or not all(0 <= start <= self.steps for start in self.starts):
            raise ValueError(f"starts must be one or more steps between 0 and steps={self.steps}")
        if self.causal == "backdoor" and self.environment == "none":
            raise ValueError("causal='backdoor' needs an environment; set environment='popularity'")
        if self.schedule != "cosine":
            low, high = self.noise_scale * self.noise_min, self.noise_scale * self.noise_max
            if not 0 < low < high < 1:
                raise ValueError("noise_scale * noise_min and * noise_max must rise within (0, 1)")
        for a, b in (self.curriculum_start, self.curriculum_end):
            if min(a, b) < 0 or a + b == 0:
                raise ValueError(
                    "curriculum_start and curriculum_end are the two parameters of a Beta "
                    "distribution: neither below 0, and not both 0"
                )
        return self


@SAMPLERS.register("cnsdiff")
class CNSDiffSampler(Sampler):
    """The diffusion negative sampler: equations 6 to 19."""

    Config = CNSDiffConfig
    config: CNSDiffConfig
    environments: Tensor
    prior: Tensor

    def __init__(
        self,
        positives: Positives,
        dim: int,
        config: CNSDiffConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__(positives, dim, config, generator)
        low, high = config.noise_scale * config.noise_min, config.noise_scale * config.noise_max
        self.process = GaussianDiffusion(SCHEDULES[config.schedule](config.steps, low, high))
        n_environments = 0 if config.environment == "none" else config.n_environments
        labels = None
        if config.environment not in ("none", "learned"):
            labels = environment_labels(positives, config.environment, n_environments)
        if config.environment == "given" and labels is not None:
            n_environments = int(labels.max()) + 1
        self.denoiser = Denoiser(
            dim,
            config.steps,
            hidden=config.hidden,
            depth=config.depth,
            user_dim=dim if config.condition_user else 0,
            environments=n_environments,
            dropout=config.dropout,
            normalise_input=config.normalise_input,
            generator=generator,
        )
        self.assignment: nn.Parameter | None = None
        if config.environment == "learned":
            logits = torch.randn(positives.n_items, n_environments, generator=generator)
            self.assignment = nn.Parameter(logits)
        elif labels is not None:
            share = torch.bincount(labels, minlength=n_environments) / len(labels)
            self.register_buffer("environments", labels, persistent=False)
            self.register_buffer("prior", share.float(), persistent=False)

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        return self.parameters() if self.config.train_denoiser else iter(())

    @property
    def learning_rate(self) -> float | None:
        return self.config.learning_rate

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Negatives:
        config = self.config
        users = embeddings.users.index_select(0, batch.users)
        positives = embeddings.items.index_select(0, batch.positives)
        user_scale, item_scale = self._scales(users, positives)
        z_0 = (positives.detach() if config.detach_positive else positives) / item_scale
        condition = users.detach() / user_scale if config.condition_user else None
        environment, prior = self._environment(batch)

        loss, diagnostics = self._loss(z_0, condition, environment, prior, context)
        n = config.n_negatives
        with torch.no_grad():
            rows = torch.arange(len(batch), device=z_0.device).repeat_interleave(n)
            wide = None if condition is None else condition[rows]
            candidates = self._generate(z_0.detach()[rows], wide, prior, context)
            candidates = candidates * item_scale
            if context.cosine:
                candidates = F.normalize(candidates, dim=-1)
            generated = hardest(users[rows], candidates)

        # Random items with gradient: the easy end of the curriculum, and the cap's refuge.
        random_items = self.positives.sample_negatives(batch.users, n, context.negatives)
        random = embeddings.items.index_select(0, random_items.flatten())
        share = curriculum_share(
            len(rows), context.progress, config.curriculum_start, config.curriculum_end,
            context.noise,
        )  # fmt: skip
        mixed = share * generated + (1 - share) * random
        if context.cosine:
            mixed = F.normalize(mixed, dim=-1)
        if config.cap_margin is not None:
            mixed, pulled = cap(users[rows], positives[rows], mixed, random, config.cap_margin)
            diagnostics["capped"] = pulled.float().mean()
        with torch.no_grad():
            gap = ((mixed - positives[rows]) * users[rows]).sum(-1)
            diagnostics["hardness"] = torch.sigmoid(gap).mean()
            diagnostics["cos_to_positive"] = F.cosine_similarity(generated, positives[rows]).mean()
        return Negatives(
            vectors=mixed.view(len(batch), n, self.dim),
            pool=torch.cat([generated, random]),
            loss=loss,
            diagnostics=diagnostics,
        )

    def _scales(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Root mean squares of this batch's vectors: the unit in which they are diffused."""
        with torch.no_grad():
            if not self.config.standardise:
                return users.new_ones(()), items.new_ones(())
            tiny = torch.finfo(users.dtype).tiny
            return (
                users.square().mean().sqrt().clamp(min=tiny),
                items.square().mean().sqrt().clamp(min=tiny),
            )

    def _environment(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Each row's weights over environments ``(B, K)``, and the prior ``π`` ``(K,)``."""
        if self.config.environment == "none":
            return None, None
        if self.assignment is not None:
            weights = self.assignment[batch.positives].softmax(dim=-1)
            return weights, weights.detach().mean(dim=0)
        labels = self.environments[batch.index]
        return F.one_hot(labels, len(self.prior)).to(self.prior.dtype), self.prior

    def _loss(
        self,
        z_0: Tensor,
        condition: Tensor | None,
        environment: Tensor | None,
        prior: Tensor | None,
        context: Context,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``λ_diff (L_rec + L_causal)`` at one random timestep per row, and its parts."""
        config, process, generator = self.config, self.process, context.noise
        shape, device = (len(z_0),), z_0.device
        t = torch.randint(1, process.steps + 1, shape, generator=generator, device=device)
        noise = torch.randn(z_0.shape, generator=generator, device=device)
        z_t = process.add_noise(z_0, t, noise)
        condition = self._drop(condition, generator)
        kept_environment = self._drop(environment, generator)
        denoised = self.denoiser(z_t, t, condition, kept_environment, dropout_generator=generator)
        reconstruction = (z_0 - denoised).square().mean(dim=-1)
        if config.weighting == "snr":
            reconstruction = process.elbo_weight(t).to(z_0.dtype) * reconstruction
        total = reconstruction.mean()
        diagnostics = {"reconstruction": total.detach()}
        if config.causal == "step_kl":
            # As in the authors' code, z_1 stands in for z_0 itself at t = 1.
            previous = process.add_noise(z_0, (t - 1).clamp(min=1), noise)
            regulariser = causal.step_kl(process, denoised, previous, t).mean()
        elif config.causal == "backdoor":
            assert prior is not None
            # No dropout here: the two predictions must differ by the environment alone.
            observed = self.denoiser(z_t, t, condition, environment)
            intervened = self.denoiser.interventional(z_t, t, condition, prior)
            regulariser = causal.backdoor(process, observed, intervened, t).mean()
        else:
            return config.diffusion_weight * total, diagnostics
        diagnostics["causal"] = regulariser.detach()
        total = total + config.causal_weight * regulariser
        return config.diffusion_weight * total, diagnostics

    def _drop(self, condition: Tensor | None, generator: torch.Generator) -> Tensor | None:
        """What the denoiser sees of a condition while it trains."""
        if condition is None:
            return None
        return drop_condition(condition, self.config.condition_dropout, generator)

    def _generate(
        self, z_0: Tensor, condition: Tensor | None, prior: Tensor | None, context: Context
    ) -> Tensor:
        """Candidates ``(G, B, d)``, one per starting step, under the intervention on ``E``."""
        config = self.config
        dropout = context.noise if config.dropout_in_generation else None

        def predict(z_t: Tensor, t: Tensor, user: Tensor | None) -> Tensor:
            if prior is not None and config.causal == "backdoor":
                return self.denoiser.interventional(z_t, t, user, prior, dropout_generator=dropout)
            # Without the backdoor term the environment is dropped: the learned marginal.
            denoised: Tensor = self.denoiser(z_t, t, user, None, dropout_generator=dropout)
            return denoised

        def denoise(z_t: Tensor, t: Tensor) -> Tensor:
            conditional = predict(z_t, t, condition)
            if condition is None or config.guidance == 1.0:
                return conditional
            return guided(conditional, predict(z_t, t, None), config.guidance)

        return self.process.generate(
            denoise,
            z_0,
            config.starts,
            context.noise,
            calls=config.calls,
            stochastic=config.stochastic,
            full_chain=config.full_chain,
        )
