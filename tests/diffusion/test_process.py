"""The forward process and its posterior against closed forms worked out independently."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnsdiff.diffusion.process import SCHEDULES, GaussianDiffusion

STEPS = 20
PROCESSES = {
    name: GaussianDiffusion(schedule(STEPS, 0.01, 0.6)) for name, schedule in SCHEDULES.items()
}

every_schedule = pytest.mark.parametrize("name", PROCESSES)
pairs_of_steps = st.tuples(st.integers(0, STEPS), st.integers(0, STEPS)).filter(
    lambda pair: pair[0] < pair[1]
)
value = st.floats(-3, 3)


def at(t: int) -> torch.Tensor:
    return torch.tensor(t)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def bayes(kept_s: float, kept_t: float, z_0: float, z_t: float) -> tuple[float, float]:
    """``q(z_s | z_t, z_0) ∝ q(z_t | z_s) q(z_s | z_0)``: a product of two Gaussians in ``z_s``."""
    ratio = kept_t / kept_s
    # N(z_t; sqrt(ratio) z_s, 1 - ratio), read as a Gaussian in z_s.
    mean_a, precision_a = z_t / math.sqrt(ratio), ratio / (1 - ratio)
    mean_b, precision_b = math.sqrt(kept_s) * z_0, 1 / (1 - kept_s)
    precision = precision_a + precision_b
    return (mean_a * precision_a + mean_b * precision_b) / precision, 1 / precision


@every_schedule
def test_no_step_adds_no_noise(name: str) -> None:
    z_0, noise = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        PROCESSES[name].add_noise(z_0, torch.zeros(5, dtype=torch.int64), noise), z_0
    )


@every_schedule
def test_the_marginal_has_its_mean_and_variance(name: str) -> None:
    process, n = PROCESSES[name], 200_000
    noise = torch.randn(n, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for t in (1, 7, STEPS):
        kept = process.alpha_bar[t].item()
        z_t = process.add_noise(torch.full_like(noise, 1.7), at(t).expand(n), noise)
        # Standard errors of a normal sample's mean and variance; z = 4.
        assert abs(z_t.mean().item() - math.sqrt(kept) * 1.7) < 4 * math.sqrt((1 - kept) / n)
        assert abs(z_t.var().item() - (1 - kept)) < 4 * (1 - kept) * math.sqrt(2 / n)


@every_schedule
def test_single_steps_add_up_to_the_direct_marginal(name: str) -> None:
    kept = PROCESSES[name].alpha_bar.tolist()
    mean, variance = 1.0, 0.0
    for t in range(1, STEPS + 1):
        step = kept[t] / kept[t - 1]
        mean, variance = math.sqrt(step) * mean, step * variance + (1 - step)
        # Read off add_noise: its answer to data 1 with noise 0, and to data 0 with noise 1.
        data, noise = (
            PROCESSES[name].add_noise(column(*z), at(t), column(*e)).item()
            for z, e in (((1,), (0,)), ((0,), (1,)))
        )
        assert data == pytest.approx(mean, rel=1e-12)
        assert noise**2 == pytest.approx(variance, rel=1e-12)


def test_timesteps_broadcast_over_rows_and_groups() -> None:
    process = PROCESSES["cosine"]
    z_0, noise = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([[1], [5], [20]])
    together = process.add_noise(z_0, t, noise)
    for g in range(3):
        for b in range(4):
            alone = process.add_noise(z_0[g, b], t[g, 0], noise[g, b])
            torch.testing.assert_close(together[g, b], alone)


@every_schedule
@given(steps=pairs_of_steps.filter(lambda pair: pair[0] > 0), z_0=value, z_t=value)
@settings(deadline=None, max_examples=60)
def test_the_posterior_is_bayes_rule(
    name: str, steps: tuple[int, int], z_0: float, z_t: float
) -> None:
    s, t = steps
    process = PROCESSES[name]
    mean, variance = process.posterior(column(z_0), column(z_t), at(t), at(s))
    expected = bayes(process.alpha_bar[s].item(), process.alpha_bar[t].item(), z_0, z_t)
    assert mean.item() == pytest.approx(expected[0], rel=1e-8, abs=1e-8)
    assert variance.item() == pytest.approx(expected[1], rel=1e-8)


@every_schedule
@given(t=st.integers(1, STEPS), z_0=value, z_t=value)
@settings(deadline=None, max_examples=30)
def test_the_posterior_of_the_data_is_the_data(name: str, t: int, z_0: float, z_t: float) -> None:
    mean, variance = PROCESSES[name].posterior(column(z_0), column(z_t), at(t), at(0))
    assert mean.item() == pytest.approx(z_0, rel=1e-12, abs=1e-12)
    assert variance.item() == 0.0


@every_schedule
def test_one_step_back_is_the_default(name: str) -> None:
    t = torch.arange(1, STEPS + 1)
    z_0, z_t = torch.randn(2, STEPS, 3, generator=torch.Generator().manual_seed(3))
    ours = PROCESSES[name].posterior(z_0, z_t, t)
    for given_s, default in zip(PROCESSES[name].posterior(z_0, z_t, t, t - 1), ours, strict=True):
        assert torch.equal(given_s, default)


@every_schedule
def test_one_step_back_is_the_ddpm_formula(name: str) -> None:
    process = PROCESSES[name]
    kept = process.alpha_bar.numpy()
    beta = 1 - kept[1:] / kept[:-1]
    z_0, z_t = np.random.default_rng(4).normal(size=(2, STEPS))
    # Ho et al. 2020, eq. 7.
    mean = (np.sqrt(kept[:-1]) * beta * z_0 + np.sqrt(1 - beta) * (1 - kept[:-1]) * z_t) / (
        1 - kept[1:]
    )
    variance = (1 - kept[:-1]) / (1 - kept[1:]) * beta
    ours = process.posterior(
        torch.from_numpy(z_0)[:, None], torch.from_numpy(z_t)[:, None], torch.arange(1, STEPS + 1)
    )
    np.testing.assert_allclose(ours[0][:, 0].numpy(), mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours[1][:, 0].numpy(), variance, rtol=1e-10, atol=1e-16)


@every_schedule
@given(steps=pairs_of_steps, z_0=value)
@settings(deadline=None, max_examples=60)
def test_a_step_back_undoes_the_steps_forward(
    name: str, steps: tuple[int, int], z_0: float
) -> None:
    """∫ q(z_s | z_t, z_0) q(z_t | z_0) dz_t = q(z_s | z_0), by the laws of total mean/variance."""
    s, t = steps
    process = PROCESSES[name]
    kept_s, kept_t = process.alpha_bar[s].item(), process.alpha_bar[t].item()
    intercept, variance = process.posterior(column(z_0), column(0), at(t), at(s))
    slope = process.posterior(column(0), column(1), at(t), at(s))[0].item()
    mean = intercept.item() + slope * math.sqrt(kept_t) * z_0
    total = variance.item() + slope**2 * (1 - kept_t)
    assert mean == pytest.approx(math.sqrt(kept_s) * z_0, rel=1e-9, abs=1e-12)
    assert total == pytest.approx(1 - kept_s, rel=1e-8, abs=1e-14)


@every_schedule
def test_the_weight_of_data_is_the_slope_of_the_posterior_mean_in_the_data(name: str) -> None:
    process, t = PROCESSES[name], torch.arange(1, STEPS + 1)
    zero, one = torch.zeros(STEPS, 1).double(), torch.ones(STEPS, 1).double()
    slope = process.posterior(one, zero, t)[0] - process.posterior(zero, zero, t)[0]
    torch.testing.assert_close(process.posterior_weight_of_data(t), slope)


@every_schedule
def test_the_step_variance_is_the_posteriors_and_at_the_first_step_the_seconds(name: str) -> None:
    process, t = PROCESSES[name], torch.arange(1, STEPS + 1)
    zero = torch.zeros(STEPS, 1).double()
    posterior, ours = process.posterior(zero, zero, t)[1], process.step_variance(t)
    torch.testing.assert_close(ours[1:], posterior[1:])
    assert ours[0] == posterior[1]
    assert bool((ours > 0).all())


def test_half_precision_vectors_stay_in_their_type() -> None:
    z = torch.ones(2, 3, dtype=torch.bfloat16)
    process, t = PROCESSES["cosine"], torch.tensor([3, 4])
    assert process.add_noise(z, t, z).dtype == torch.bfloat16
    assert process.posterior(z, z, t)[0].dtype == torch.bfloat16


def test_a_reverse_step_without_noise_is_the_posterior_mean_of_the_prediction() -> None:
    process = PROCESSES["cosine"]
    z_t = torch.randn(4, 3, generator=torch.Generator().manual_seed(5))
    t, s = torch.full((4,), 9), torch.full((4,), 5)
    mean, variance = process.posterior(z_t.sin(), z_t, t, s)
    step = process.reverse_step(lambda z, t: z.sin(), z_t, t, s, None)
    assert torch.equal(step, mean)
    noise = torch.randn(4, 3, generator=torch.Generator().manual_seed(6))
    noisy = process.reverse_step(lambda z, t: z.sin(), z_t, t, s, noise)
    torch.testing.assert_close((noisy - mean) / variance.sqrt(), noise, rtol=1e-4, atol=1e-5)
