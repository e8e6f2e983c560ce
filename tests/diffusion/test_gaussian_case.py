"""A case with a known answer: Gaussian data, and the denoiser that is its posterior mean.

For ``z_0 ~ N(m, S)`` the best prediction is

    E[z_0 | z_t] = m + sqrt(ᾱ_t) S (ᾱ_t S + (1 - ᾱ_t) I)⁻¹ (z_t - sqrt(ᾱ_t) m),

which is affine in ``z_t``, so the whole reverse chain is, and mean and covariance of what it
generates can be followed exactly. With finitely many steps they are not quite those of the
data: DDPM's step from ``t`` to ``s`` has the variance of ``q(z_s | z_t, z_0)`` and leaves out
that of ``z_0`` given ``z_t``. The error vanishes as the steps become finer, which is checked on
the exact moments; that :meth:`generate` has these moments is checked by sampling.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnsdiff.diffusion.process import GaussianDiffusion, cosine, ladder

Array = NDArray[np.float64]
MEAN = np.array([1.0, -0.5, 0.2])
_FACTOR = np.array([[0.9, 0.0, 0.0], [0.5, 0.7, 0.0], [-0.4, 0.3, 0.5]])
COVARIANCE = _FACTOR @ _FACTOR.T
N = 40_000


class Oracle:
    """``E[z_0 | z_t]`` of the data above."""

    def __init__(self, process: GaussianDiffusion) -> None:
        kept = process.alpha_bar.numpy()[:, None, None]
        cover = kept * COVARIANCE + (1 - kept) * np.eye(3)
        self.gain = torch.from_numpy(np.sqrt(kept) * COVARIANCE @ np.linalg.inv(cover))
        self.kept = process.alpha_bar
        self.mean = torch.from_numpy(MEAN)

    def __call__(self, z_t: Tensor, t: Tensor) -> Tensor:
        centred = z_t - self.kept[t].sqrt().unsqueeze(-1) * self.mean
        return self.mean + torch.einsum("...ij,...j->...i", self.gain[t], centred)


def exact_moments(
    steps: int, start: int, data: tuple[Array, Array], calls: int | None = None
) -> tuple[Array, Array]:
    """Mean and covariance of what a chain from ``data`` (its mean, covariance) generates."""
    kept = cosine(steps).numpy()
    mean = np.sqrt(kept[start]) * data[0]
    cover = kept[start] * data[1] + (1 - kept[start]) * np.eye(3)
    for t, s in pairwise(ladder(start, calls)):
        ratio = kept[t] / kept[s]
        weight_0 = np.sqrt(kept[s]) * (1 - ratio) / (1 - kept[t])
        weight_t = np.sqrt(ratio) * (1 - kept[s]) / (1 - kept[t])
        marginal = kept[t] * COVARIANCE + (1 - kept[t]) * np.eye(3)
        gain = np.sqrt(kept[t]) * COVARIANCE @ np.linalg.inv(marginal)
        step = weight_0 * gain + weight_t * np.eye(3)
        mean = weight_0 * (MEAN - np.sqrt(kept[t]) * gain @ MEAN) + step @ mean
        variance = (1 - ratio) * (1 - kept[s]) / (1 - kept[t])
        cover = step @ cover @ step.T + variance * np.eye(3)
    return mean, cover


def data_rows(seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(MEAN + rng.normal(size=(N, 3)) @ _FACTOR.T)


def generate(z_0: Tensor, steps: int, start: int, calls: int | None = None, seed: int = 0) -> Array:
    process = GaussianDiffusion(cosine(steps))
    stream = torch.Generator().manual_seed(seed)
    made = process.generate(Oracle(process), z_0, [start], stream, calls=calls)
    result: Array = made[0].numpy()
    return result


def assert_moments(sample: Array, mean: Array, cover: Array) -> None:
    """Within z = 4.5 standard errors of a Gaussian sample's moments (12 numbers at once)."""
    variances = np.diag(cover)
    mean_error = np.sqrt(variances / len(sample))
    cover_error = np.sqrt((np.outer(variances, variances) + cover**2) / len(sample))
    assert (np.abs(sample.mean(axis=0) - mean) < 4.5 * mean_error).all()
    assert (np.abs(np.cov(sample.T) - cover) < 4.5 * cover_error).all()


def distance(moments: tuple[Array, Array]) -> float:
    """Largest error in the covariance, relative to the data's largest variance."""
    return float(np.abs(moments[1] - COVARIANCE).max() / COVARIANCE.max())


NOTHING = (np.zeros(3), np.zeros((3, 3)))


def test_the_error_of_a_full_chain_vanishes_with_the_step_size() -> None:
    errors = [distance(exact_moments(steps, steps, NOTHING)) for steps in (50, 200, 800)]
    # First order in the step size: four times the steps, about a quarter of the error.
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 0.007


def test_the_error_of_a_partial_chain_vanishes_with_the_step_size() -> None:
    errors = [
        distance(exact_moments(steps, steps // 2, (MEAN, COVARIANCE))) for steps in (50, 200, 800)
    ]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 0.007


def test_pure_noise_becomes_the_data_distribution() -> None:
    sample = generate(torch.zeros(N, 3, dtype=torch.float64), steps=500, start=500)
    mean, cover = exact_moments(500, 500, NOTHING)
    assert distance((mean, cover)) < 0.011
    assert_moments(sample, mean, cover)


@pytest.mark.parametrize("start", [20, 100, 160])
def test_a_partial_chain_from_data_keeps_the_data_distribution(start: int) -> None:
    sample = generate(data_rows(1), steps=200, start=start)
    mean, cover = exact_moments(200, start, (MEAN, COVARIANCE))
    assert distance((mean, cover)) < 0.025
    assert_moments(sample, mean, cover)
    # The mean has no bias at all: the oracle's error is zero on average at every step.
    np.testing.assert_allclose(mean, MEAN, rtol=1e-10)


@pytest.mark.parametrize("calls", [1, 3, 10])
def test_a_strided_chain_has_the_moments_of_its_ladder(calls: int) -> None:
    sample = generate(data_rows(2), steps=200, start=160, calls=calls)
    assert_moments(sample, *exact_moments(200, 160, (MEAN, COVARIANCE), calls))


def test_a_strided_chain_comes_nearer_to_the_data_with_more_calls() -> None:
    errors = [
        distance(exact_moments(200, 160, (MEAN, COVARIANCE), calls)) for calls in (1, 5, 25, 160)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.025 < 0.5 < errors[0]


def test_small_starts_stay_near_their_positive_and_large_ones_forget_it() -> None:
    z_0 = data_rows(3)
    near = [np.corrcoef(generate(z_0, 200, s)[:, 0], z_0[:, 0])[0, 1] for s in (10, 60, 200)]
    # z = 4.5 for no correlation: 4.5 / sqrt(N) = 0.0225.
    assert near[0] > 0.95 > near[1] > 0.2
    assert abs(near[2]) < 0.0225
