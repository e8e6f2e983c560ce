"""CNSDiff: negatives synthesised by a conditional diffusion model (Zhao et al. 2025).

Source: arXiv 2508.07243. A training pair's negative is its positive, noised and denoised again: the
starting step, a curriculum and a cap control how hard it is, a causal term frees it of the
environment. Six steps a batch; the numbers are those of docs/equations.md.

===  =================================================  ===========  ============================
no.  step                                               equations    code
===  =================================================  ===========  ============================
1    what is diffused, and under which condition        7            ``_scales``, ``_environment``
2    train the denoiser, with the causal term           8, 11 to 14  ``_loss``
3    generate from every starting step                  9, 10, 15    ``_generate``
4    keep the candidate that the user scores highest    16           :func:`hardest`
5    mix it with a random item, the less the later      17           :func:`curriculum_share`
6    pull back what scores above its own positive       18           :func:`cap`
===  =================================================  ===========  ============================

docs/method.md lists where the authors' code departs from their paper; each departure is a setting.
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
from cnsdiff.diffusion.process import SCHEDULES, GaussianDiffusion
from cnsdiff.samplers.base import SAMPLERS, Batch, Context, Sampler, SamplerConfig, Vectors
from cnsdiff.samplers.environment import EnvironmentKind, environment_labels


class CNSDiffConfig(SamplerConfig):
    """Settings of :class:`CNSDiffSampler`; the defaults are ours."""

    # Process: how the positive is noised
    steps: int = Field(20, ge=2, le=10_000, description="T, the number of noise steps")
    schedule: Literal["linear", "linear-var", "cosine"] = Field(
        "cosine", description="how the signal's share ᾱ_t falls with t"
    )
    noise_scale: float = Field(1.0, gt=0, description="factor s of the schedule's bounds")
    noise_min: float = Field(1e-4, gt=0, description="lower bound (linear, linear-var)")
    noise_max: float = Field(0.9, gt=0, description="upper bound (linear, linear-var)")
    standardise: bool = Field(True, description="diffuse vectors of unit variance")

    # Denoiser: its network, its condition and its losses
    train_denoiser: bool = Field(True, description="off: it stays as it was initialised")
    hidden: int = Field(64, ge=1, le=2**14, description="width of its hidden layers")
    depth: int = Field(1, ge=1, le=100, description="number of its hidden layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the noisy vector")
    dropout_in_generation: bool = Field(False, description="drop out while generating, too")
    normalise_input: bool = Field(False, description="bring the noisy vector to unit length")
    condition_user: bool = Field(True, description="condition on the user's embedding")
    environment: EnvironmentKind = Field(
        "popularity", description="what tells the environment e of a training pair"
    )
    n_environments: int = Field(4, ge=2, le=10_000, description="K, unless the data name their own")
    condition_dropout: float = Field(0.1, ge=0, lt=1, description="classifier-free dropout")
    guidance: Annotated[float, Searched(low=0.0, high=3.0)] = Field(
        1.0, ge=0, description="0 ignores the user, 1 is plain conditioning"
    )
    learning_rate: Annotated[float | None, Searched(low=1e-4, high=1e-2, log=True)] = Field(
        None, gt=0, description="of the denoiser; None: training's"
    )
    diffusion_weight: float = Field(1.0, ge=0, description="λ_diff, of all its losses")
    weighting: Literal["snr", "uniform"] = Field(
        "uniform", description="w_t of the reconstruction: the ELBO's, or 1"
    )
    causal: Literal["none", "step_kl", "backdoor"] = Field(
        "backdoor", description="the causal term: the authors' code's, or the intervention itself"
    )
    causal_weight: Annotated[float, Searched(low=0.01, high=1.0, log=True)] = Field(
        0.1, ge=0, description="λ_c, of the causal term beside the reconstruction"
    )
    detach_positive: bool = Field(True, description="its losses do not move the positive")

    # Hardness: what is generated, and how hard it may be
    starts: tuple[int, ...] = Field((10, 14, 18), description="t_s: small is near, large generic")
    full_chain: bool = Field(False, description="run every chain from T, whatever its start")
    calls: int | None = Field(
        1,
        ge=1,
        le=10_000,
        description="denoiser calls per chain; 1 jumps to E[z_0 | z_t], None: every step",
    )
    stochastic: bool = Field(True, description="draw reverse steps in place of taking their mean")
    curriculum_start: tuple[float, float] = Field((1.0, 9.0), description="(a, b) of Beta at first")
    curriculum_end: tuple[float, float] = Field((9.0, 1.0), description="(a, b) of Beta at the end")
    cap_margin: float | None = Field(
        0.0, description="m, of a score over its positive's; None: no cap"
    )

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
    """The diffusion negative sampler, in the six steps of :mod:`cnsdiff.samplers.cnsdiff`."""

    Config = CNSDiffConfig
    config: CNSDiffConfig
    environments: Tensor
    prior: Tensor

    def __init__(
        self, positives: Positives, dim: int, config: CNSDiffConfig, generator: torch.Generator
    ) -> None:
        super().__init__(positives, dim, config, generator)
        low, high = config.noise_scale * config.noise_min, config.noise_scale * config.noise_max
        self.process = GaussianDiffusion(SCHEDULES[config.schedule](config.steps, low, high))
        labels = environment_labels(positives, config.environment, config.n_environments)
        n_environments = 0 if config.environment == "none" else config.n_environments
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

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Vectors:
        config, n = self.config, self.config.n_negatives
        users = embeddings.users.index_select(0, batch.users)
        positives = embeddings.items.index_select(0, batch.positives)
        rows = torch.arange(len(batch), device=users.device).repeat_interleave(n)

        # 1. What is diffused, z_0, and the condition c = (user, environment), of unit variance.
        user_scale, item_scale = self._scales(users, positives)
        z_0 = (positives.detach() if config.detach_positive else positives) / item_scale
        condition = users.detach() / user_scale if config.condition_user else None
        environment, prior = self._environment(batch)

        # 2. Train the denoiser at a random timestep, with the causal term (11, 12 or 14).
        loss, diagnostics = self._loss(z_0, condition, environment, prior, context)

        with torch.no_grad():
            # 3. Generate a candidate from every starting step, under do(environment) (10, 13, 15).
            wide = None if condition is None else condition[rows]
            candidates = self._generate(z_0.detach()[rows], wide, prior, context) * item_scale
            if context.cosine:
                candidates = F.normalize(candidates, dim=-1)
            # 4. Keep the one that the user scores highest (16).
            generated = hardest(users[rows], candidates)

        # 5. Mix it with a random item, the easy end of the curriculum, which has gradient (17).
        ids = self.positives.sample_negatives(batch.users, n, context.negatives)
        random = embeddings.items.index_select(0, ids.flatten())
        share = curriculum_share(
            len(rows), context.progress, config.curriculum_start, config.curriculum_end,
            context.noise,
        )  # fmt: skip
        mixed = share * generated + (1 - share) * random
        if context.cosine:
            mixed = F.normalize(mixed, dim=-1)

        # 6. Pull towards the random item what scores above its positive by more than m (18).
        if config.cap_margin is not None:
            mixed, over = cap(users[rows], positives[rows], mixed, random, config.cap_margin)
            diagnostics["capped"] = over.float().mean()

        with torch.no_grad():
            gap = ((mixed - positives[rows]) * users[rows]).sum(-1)
            diagnostics["hardness"] = torch.sigmoid(gap).mean()
            diagnostics["cos_to_positive"] = F.cosine_similarity(generated, positives[rows]).mean()
        return Vectors(
            mixed.view(len(batch), n, self.dim),
            pool=torch.cat([generated, random]),
            loss=loss,
            diagnostics=diagnostics,
        )

    def _scales(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Root mean squares of this batch's vectors: the unit in which they are diffused."""
        if not self.config.standardise:
            return users.new_ones(()), items.new_ones(())
        tiny = torch.finfo(users.dtype).tiny
        with torch.no_grad():
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
        """``λ_diff (L_rec + λ_c L_causal)`` at one random timestep per row, and its parts."""
        config, process, generator = self.config, self.process, context.noise
        # Forward (7): z_t of a random t.
        t = torch.randint(1, process.steps + 1, (len(z_0),), generator=generator, device=z_0.device)
        noise = torch.randn(z_0.shape, generator=generator, device=z_0.device)
        z_t = process.add_noise(z_0, t, noise)
        # Reconstruction (11), with parts of the condition dropped (15).
        condition = drop_condition(condition, config.condition_dropout, generator)
        label = drop_condition(environment, config.condition_dropout, generator)
        denoised = self.denoiser(z_t, t, condition, label, dropout_generator=generator)
        reconstruction = (z_0 - denoised).square().mean(dim=-1)
        if config.weighting == "snr":
            reconstruction = process.elbo_weight(t).to(z_0.dtype) * reconstruction
        total = reconstruction.mean()
        diagnostics = {"reconstruction": total.detach()}
        # Causal term: the authors' (12), or the intervention's (13, 14).
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

    def _generate(
        self, z_0: Tensor, condition: Tensor | None, prior: Tensor | None, context: Context
    ) -> Tensor:
        """Candidates ``(G, B, d)``, one per starting step, whatever the environment."""
        config = self.config
        dropout = context.noise if config.dropout_in_generation else None

        def predict(z_t: Tensor, t: Tensor, user: Tensor | None) -> Tensor:
            if prior is not None and config.causal == "backdoor":  # (13)
                return self.denoiser.interventional(z_t, t, user, prior, dropout_generator=dropout)
            # Without the backdoor term the environment is dropped: the learned marginal.
            denoised: Tensor = self.denoiser(z_t, t, user, None, dropout_generator=dropout)
            return denoised

        def denoise(z_t: Tensor, t: Tensor) -> Tensor:
            conditional = predict(z_t, t, condition)
            if condition is None or config.guidance == 1.0:
                return conditional
            return guided(conditional, predict(z_t, t, None), config.guidance)  # (15)

        return self.process.generate(
            denoise,
            z_0,
            config.starts,
            context.noise,
            calls=config.calls,
            stochastic=config.stochastic,
            full_chain=config.full_chain,
        )


def hardest(users: Tensor, candidates: Tensor) -> Tensor:
    """Of ``G`` candidates per row keep the one the user scores highest.

    ``users`` is ``(B, d)``, ``candidates`` ``(G, B, d)``; the result ``(B, d)``.
    """
    best = (candidates * users).sum(dim=-1).argmax(dim=0)
    return candidates[best, torch.arange(len(users), device=users.device)]


def curriculum_share(
    n: int,
    progress: float,
    start: tuple[float, float],
    end: tuple[float, float],
    generator: torch.Generator,
) -> Tensor:
    """``m ~ Beta(a_p, b_p)``, the generated share of a negative, ``(n, 1)``.

    ``(a_p, b_p)`` moves linearly from ``start`` to ``end`` with the training progress ``p``.
    """
    a, b = (first + (last - first) * progress for first, last in zip(start, end, strict=True))
    # A Beta variate is a ratio of Gamma variates; torch.distributions takes no generator.
    gamma = torch._standard_gamma(
        torch.tensor([a, b], device=generator.device).expand(n, 2).contiguous(),
        generator=generator,
    )
    return gamma[:, :1] / gamma.sum(dim=1, keepdim=True)


def cap(
    users: Tensor, positives: Tensor, negatives: Tensor, fallback: Tensor, margin: float
) -> tuple[Tensor, Tensor]:
    """Guard against synthetic false negatives: pull those scored too high toward ``fallback``.

    A negative may not score above its own positive by more than ``margin``. One that does is
    moved along the line to its fallback (a random item) until it scores exactly at the limit,
    or all the way if the fallback itself scores above it.

    Parameters
    ----------
    users, positives, negatives, fallback
        ``(B, d)`` each.
    margin
        Allowed excess in score.

    Returns
    -------
    tuple
        The guarded negatives ``(B, d)`` and which rows were pulled back ``(B,)``.
    """
    with torch.no_grad():
        limit = (users * positives).sum(-1) + margin
        score = (users * negatives).sum(-1)
        floor = (users * fallback).sum(-1)
        over = score > limit
        share = ((limit - floor) / (score - floor)).clamp(0.0, 1.0)
        share = torch.where(over & (floor < limit), share, (~over).to(share.dtype)).unsqueeze(-1)
    return share * negatives + (1 - share) * fallback, over
