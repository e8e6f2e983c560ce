"""The Gaussian diffusion process: schedules, forward, posterior, reverse, partial generation.

Timesteps run ``t = 1 … T``; ``t = 0`` is the data. Everything here is arithmetic on vectors
whose last axis is the embedding; timesteps are integer tensors that broadcast against the
other axes. Sources: Ho et al. 2020 (DDPM), Song et al. 2021 (strided steps); equations 6 to 11.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

#: Predicts ``ẑ_0`` from ``z_t`` (..., d) and its timesteps (...).
Denoise = Callable[[Tensor, Tensor], Tensor]


class GaussianDiffusion(nn.Module):
    """The process with a given schedule ``ᾱ_0 … ᾱ_T`` (see :data:`SCHEDULES`)."""

    alpha_bar: Tensor

    def __init__(self, alpha_bar: Tensor) -> None:
        super().__init__()
        self.register_buffer("alpha_bar", alpha_bar, persistent=False)

    @property
    def steps(self) -> int:
        """``T``, the number of noise steps."""
        return len(self.alpha_bar) - 1

    # -- forward -------------------------------------------------------------------------------

    def add_noise(self, z_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """A draw of ``q(z_t | z_0) = N(sqrt(ᾱ_t) z_0, (1 - ᾱ_t) I)``."""
        kept = self.alpha_bar[t].unsqueeze(-1)
        signal, rest = kept.sqrt().to(z_0.dtype), (1 - kept).sqrt().to(z_0.dtype)
        return (signal * z_0).addcmul(rest, noise)

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio ``ᾱ_t / (1 - ᾱ_t)``, float64; infinite at ``t = 0``."""
        return self.alpha_bar[t] / (1 - self.alpha_bar[t])

    def elbo_weight(self, t: Tensor) -> Tensor:
        """``w_t = SNR(t-1) - SNR(t)``, and ``w_1 = 1``: the ELBO's weight on ``‖z_0 - ẑ_0‖²``."""
        return torch.where(t > 1, self.snr((t - 1).clamp(min=1)) - self.snr(t), 1.0)

    # -- reverse -------------------------------------------------------------------------------

    def posterior(
        self, z_0: Tensor, z_t: Tensor, t: Tensor, s: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean (..., d) and variance (..., 1) of ``q(z_s | z_t, z_0)`` for ``s < t``.

        ``s`` is ``t - 1`` when not given, which is the DDPM posterior; a longer stride is the
        same formula with ``α_{t|s} = ᾱ_t / ᾱ_s``. There is no step from ``t = 0``.
        """
        mean_0, mean_t, variance = self._posterior_coefficients(t, t - 1 if s is None else s)
        dtype = z_t.dtype
        return (mean_0.to(dtype) * z_0).addcmul(mean_t.to(dtype), z_t), variance.to(dtype)

    def _posterior_coefficients(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept_t = self.alpha_bar[t].unsqueeze(-1)
        kept_s = self.alpha_bar[s].unsqueeze(-1)
        step = kept_t / kept_s
        return (
            kept_s.sqrt() * (1 - step) / (1 - kept_t),
            step.sqrt() * (1 - kept_s) / (1 - kept_t),
            (1 - step) * (1 - kept_s) / (1 - kept_t),
        )

    def posterior_weight_of_data(self, t: Tensor) -> Tensor:
        """The factor of ``z_0`` in the posterior mean of a single step, (..., 1) float64."""
        return self._posterior_coefficients(t, t - 1)[0]

    def step_variance(self, t: Tensor) -> Tensor:
        """``σ_t²`` of a single reverse step, (..., 1) float64.

        At ``t = 1`` the posterior is a point; as in DDPM, its variance is taken from ``t = 2``
        so that divergences stay finite.
        """
        t = t.clamp(min=min(2, self.steps))
        return self._posterior_coefficients(t, t - 1)[2]

    def reverse_step(
        self, denoise: Denoise, z_t: Tensor, t: Tensor, s: Tensor, noise: Tensor | None
    ) -> Tensor:
        """One draw of ``p_θ(z_s | z_t)``, or its mean when ``noise`` is ``None``."""
        mean, variance = self.posterior(denoise(z_t, t), z_t, t, s)
        return mean if noise is None else mean + variance.sqrt() * noise

    def generate(
        self,
        denoise: Denoise,
        z_0: Tensor,
        starts: Sequence[int],
        generator: torch.Generator,
        *,
        calls: int | None = None,
        stochastic: bool = True,
        full_chain: bool = False,
    ) -> Tensor:
        """Partial generation: noise ``z_0`` to each starting step, then run the chain back.

        All starting steps share each call of the denoiser.

        Parameters
        ----------
        denoise
            Called with ``z_t`` of shape ``(G, B, d)`` and timesteps ``(G, 1)``.
        z_0
            ``(B, d)`` vectors to start from.
        starts
            ``G`` starting steps in ``0 … T``: small stays near ``z_0``, large is generic.
        generator
            Source of the noise.
        calls
            Denoiser calls per chain (evenly strided steps); every step when ``None``.
        stochastic
            Whether each reverse step draws from ``p_θ`` or takes its mean.
        full_chain
            Run every chain from ``T`` whatever its starting step, as the authors' code does:
            the starting step then only sets how much noise is added.

        Returns
        -------
        Tensor
            ``(G, B, d)`` generated vectors.
        """
        device = z_0.device
        start = torch.tensor(list(starts), device=device).unsqueeze(1)
        noise = _normal((len(starts), *z_0.shape), z_0, generator)
        z = self.add_noise(z_0.expand(len(starts), *z_0.shape), start, noise)
        ladders = [ladder(self.steps if full_chain else s, calls) for s in starts]
        for rung in range(max(len(steps) for steps in ladders) - 1):
            active = [g for g, steps in enumerate(ladders) if len(steps) > rung + 1]
            t = torch.tensor([ladders[g][rung] for g in active], device=device).unsqueeze(1)
            s = torch.tensor([ladders[g][rung + 1] for g in active], device=device).unsqueeze(1)
            every = len(active) == len(ladders)
            z_t = z if every else z[active]
            step_noise = _normal(z_t.shape, z_t, generator) if stochastic else None
            z_s = self.reverse_step(denoise, z_t, t, s, step_noise)
            z = z_s if every else z.index_copy(0, torch.tensor(active, device=device), z_s)
        return z


def ladder(start: int, calls: int | None) -> list[int]:
    """The descending timesteps from ``start`` to 0 of a chain with at most ``calls`` steps."""
    if calls is None or calls >= start:
        return list(range(start, -1, -1))
    return [round(start * (calls - rung) / calls) for rung in range(calls + 1)]


def _normal(shape: Sequence[int], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=generator, device=like.device, dtype=like.dtype)


# -- schedules: how much of the data is left after t steps of noise (equation 6) ---------------

#: No single step may destroy more than this share of the variance (Nichol & Dhariwal 2021).
MAX_BETA = 0.999


def linear(steps: int, start: float, end: float) -> Tensor:
    """``β_t`` linear from ``start`` to ``end`` (Ho et al. 2020)."""
    return _from_betas(torch.linspace(start, end, steps, dtype=torch.float64))


def linear_var(steps: int, start: float, end: float) -> Tensor:
    """``1 - ᾱ_t`` linear from ``start`` to ``end`` (DiffRec, Wang et al. 2023)."""
    kept = 1.0 - torch.linspace(start, end, steps, dtype=torch.float64)
    before = torch.cat([kept.new_ones(1), kept[:-1]])
    return _from_betas(1.0 - kept / before)


def cosine(steps: int, offset: float = 0.008) -> Tensor:
    """``ᾱ_t ∝ cos²(((t/T + s) / (1 + s)) π/2)`` (Nichol & Dhariwal 2021)."""
    time = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    kept = torch.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2
    return _from_betas(1.0 - kept[1:] / kept[:-1])


def _from_betas(betas: Tensor) -> Tensor:
    kept = torch.cumprod(1.0 - betas.clamp(0.0, MAX_BETA), dim=0)
    return torch.cat([kept.new_ones(1), kept])


#: Every schedule by name, as ``(steps, start, end) -> ᾱ``: ``ᾱ_0 … ᾱ_T``, float64, starts at
#: exactly 1 and falls. The cosine has no bounds to set.
SCHEDULES: dict[str, Callable[[int, float, float], Tensor]] = {
    "linear": linear,
    "linear-var": linear_var,
    "cosine": lambda steps, start, end: cosine(steps),
}
