"""Causal regularisation of the reverse process, in two forms (equations 12 and 14).

Both are Kullback–Leibler divergences between Gaussians, given per row as the mean over the
embedding's axes (so that their size does not grow with ``d``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from cnsdiff.diffusion.process import GaussianDiffusion


def gaussian_kl(mean_1: Tensor, var_1: Tensor, mean_2: Tensor, var_2: Tensor) -> Tensor:
    """``KL( N(mean_1, var_1) ‖ N(mean_2, var_2) )`` for each entry; shapes broadcast."""
    return 0.5 * (var_2.log() - var_1.log() + var_1 / var_2 + (mean_1 - mean_2) ** 2 / var_2 - 1.0)


def step_kl(process: GaussianDiffusion, denoised: Tensor, z_previous: Tensor, t: Tensor) -> Tensor:
    """The term of the authors' code: the prediction against the forward sample one step back.

    ``KL( N(f_θ(z_t, t), σ_t²) ‖ N(z_{t-1}, σ_{t-1}²) )``, where at ``t = 1`` the second
    variance is 1, as in their code. No environment enters.

    Parameters
    ----------
    denoised
        ``(B, d)`` predictions ``f_θ(z_t, t)``.
    z_previous
        ``(B, d)`` forward samples at ``t - 1`` made with the same noise.
    t
        ``(B,)`` timesteps.

    Returns
    -------
    Tensor
        ``(B,)`` divergences.
    """
    variance = process.step_variance(t)
    previous = torch.where(t.unsqueeze(-1) > 1, process.step_variance((t - 1).clamp(min=1)), 1.0)
    dtype = denoised.dtype
    kl = gaussian_kl(denoised, variance.to(dtype), z_previous, previous.to(dtype))
    return kl.mean(dim=-1)


def backdoor(
    process: GaussianDiffusion, observed: Tensor, interventional: Tensor, t: Tensor
) -> Tensor:
    """The intervention itself: how far the reverse step leans on the observed environment.

    ``KL( N(μ_θ(z_t,t,c,e), σ_t²) ‖ N(μ̄, σ_t²) ) = ‖μ_θ(z_t,t,c,e) - μ̄‖² / (2σ_t²)`` with
    ``μ̄ = Σ_e π(e) μ_θ(z_t,t,c,e)``. Both means are affine in the prediction of ``z_0`` with the
    same coefficients, so only the difference of the predictions is needed.

    Parameters
    ----------
    observed
        ``(B, d)`` predictions of ``z_0`` under each row's own environment.
    interventional
        ``(B, d)`` predictions averaged over environments (``Denoiser.interventional``).
    t
        ``(B,)`` timesteps.

    Returns
    -------
    Tensor
        ``(B,)`` divergences.
    """
    weight = process.posterior_weight_of_data(t) ** 2 / (2 * process.step_variance(t))
    difference = (observed - interventional) ** 2
    return (weight.to(observed.dtype) * difference).mean(dim=-1)
