"""Noise schedules against their definitions and the published numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnsdiff.diffusion.process import (
    MAX_BETA,
    SCHEDULES,
    GaussianDiffusion,
    cosine,
    linear,
    linear_var,
)

#: The authors' settings: scale 0.1, σ_min 1e-4, σ_max 0.02, T 20.
AUTHORS = linear_var(20, 0.1 * 1e-4, 0.1 * 0.02)

bounds = st.tuples(st.floats(1e-6, 0.4), st.floats(0.01, 0.5)).map(lambda b: (b[0], b[0] + b[1]))


def test_linear_multiplies_what_evenly_spaced_betas_leave() -> None:
    betas = np.linspace(1e-3, 0.3, 7)
    expected = [np.prod(1 - betas[:t]) for t in range(8)]
    np.testing.assert_allclose(linear(7, 1e-3, 0.3).numpy(), expected, rtol=1e-12)


def test_linear_var_spaces_the_variance_evenly() -> None:
    variance = 1 - linear_var(7, 1e-3, 0.3)[1:]
    np.testing.assert_allclose(variance.numpy(), np.linspace(1e-3, 0.3, 7), rtol=1e-10)


def test_cosine_follows_its_formula_until_the_last_step_is_clipped() -> None:
    steps, s = 20, 0.008
    f = [math.cos((t / steps + s) / (1 + s) * math.pi / 2) ** 2 for t in range(steps + 1)]
    kept = cosine(steps).numpy()
    np.testing.assert_allclose(kept[:-1], np.array(f[:-1]) / f[0], rtol=1e-12)
    # cos(π/2) = 0 would destroy everything; the clip leaves 1 - MAX_BETA of the step before.
    np.testing.assert_allclose(kept[-1], kept[-2] * (1 - MAX_BETA), rtol=1e-10)


@pytest.mark.parametrize("name", SCHEDULES)
@given(steps=st.integers(2, 200), bounds=bounds)
@settings(deadline=None, max_examples=50)
def test_every_schedule_falls_from_one_and_stays_above_zero(
    name: str, steps: int, bounds: tuple[float, float]
) -> None:
    kept = SCHEDULES[name](steps, *bounds)
    assert kept.dtype == torch.float64
    assert kept.shape == (steps + 1,)
    assert kept[0] == 1.0
    assert bool((kept.diff() < 0).all())
    assert kept[-1] > 0


def test_the_authors_settings_add_next_to_no_noise() -> None:
    assert 1 - AUTHORS[-1].item() == pytest.approx(0.002, rel=1e-9)


def test_the_authors_snr_weights_are_those_of_their_code() -> None:
    weights = GaussianDiffusion(AUTHORS).elbo_weight(torch.arange(1, 21))
    assert weights[0].item() == 1.0
    assert weights[1].item() == pytest.approx(91284, rel=1e-4)
    assert weights.mean().item() == pytest.approx(4975.05, rel=1e-5)


def test_snr_weights_after_the_first_add_up_to_the_fall_of_the_snr() -> None:
    process = GaussianDiffusion(cosine(20))
    weights = process.elbo_weight(torch.arange(2, 21))
    first, last = process.snr(torch.tensor([1, 20]))
    assert weights.sum().item() == pytest.approx((first - last).item(), rel=1e-12)
