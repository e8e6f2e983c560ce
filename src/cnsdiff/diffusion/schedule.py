"""Noise schedules: how much of the data is left after ``t`` steps of noise (equation 6).

A schedule is a pure function that returns ``ᾱ_0 … ᾱ_T``, a float64 tensor of ``T + 1`` values
that starts at exactly 1 and falls: ``q(z_t | z_0) = N(sqrt(ᾱ_t) z_0, (1 - ᾱ_t) I)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

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


#: Every schedule by name, as ``(steps, start, end) -> ᾱ``; the cosine has no bounds to set.
SCHEDULES: dict[str, Callable[[int, float, float], Tensor]] = {
    "linear": linear,
    "linear-var": linear_var,
    "cosine": lambda steps, start, end: cosine(steps),
}
