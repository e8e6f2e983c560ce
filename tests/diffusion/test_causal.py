"""Both causal terms against their definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from cnsdiff.diffusion import causal
from cnsdiff.diffusion.denoiser import Denoiser
from cnsdiff.diffusion.process import GaussianDiffusion, cosine, linear_var

STEPS, DIM, ENVIRONMENTS = 20, 5, 3
PROCESSES = {
    "cosine": GaussianDiffusion(cosine(STEPS)),
    "authors": GaussianDiffusion(linear_var(STEPS, 1e-5, 2e-3)),
}
T = torch.arange(1, STEPS + 1)
PRIOR = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)

every_schedule = pytest.mark.parametrize("name", PROCESSES)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def denoiser() -> Denoiser:
    stream = torch.Generator().manual_seed(1)
    return Denoiser(
        DIM, STEPS, hidden=8, user_dim=4, environments=ENVIRONMENTS, generator=stream
    ).double()


@given(
    means=st.tuples(st.floats(-5, 5), st.floats(-5, 5)),
    variances=st.tuples(st.floats(1e-3, 10), st.floats(1e-3, 10)),
)
@settings(deadline=None, max_examples=100)
def test_gaussian_kl_is_pytorchs(
    means: tuple[float, float], variances: tuple[float, float]
) -> None:
    m_1, m_2, v_1, v_2 = (torch.tensor(x, dtype=torch.float64) for x in (*means, *variances))
    expected = kl_divergence(Normal(m_1, v_1.sqrt()), Normal(m_2, v_2.sqrt()))
    torch.testing.assert_close(
        causal.gaussian_kl(m_1, v_1, m_2, v_2), expected, rtol=1e-8, atol=1e-10
    )


@every_schedule
def test_step_kl_is_its_definition(name: str) -> None:
    process = PROCESSES[name]
    denoised, previous = normal(STEPS, DIM, seed=2), normal(STEPS, DIM, seed=3)
    kept = process.alpha_bar.tolist()

    def sigma_squared(t: int) -> float:
        t = max(t, 2)  # the variance of the first step is the second's, as in DDPM
        beta = 1 - kept[t] / kept[t - 1]
        return beta * (1 - kept[t - 1]) / (1 - kept[t])

    ours = causal.step_kl(process, denoised, previous, T)
    for row, t in enumerate(T.tolist()):
        before = 1.0 if t == 1 else sigma_squared(t - 1)
        expected = kl_divergence(
            Normal(denoised[row], sigma_squared(t) ** 0.5), Normal(previous[row], before**0.5)
        ).mean()
        torch.testing.assert_close(ours[row], expected, rtol=1e-9, atol=0)


def test_step_kl_is_zero_only_for_equal_means_at_equal_variances() -> None:
    # σ_1 = σ_2 by convention: at t = 2 the two Gaussians differ in their means only.
    z, t = normal(1, DIM), torch.tensor([2])
    process = PROCESSES["cosine"]
    torch.testing.assert_close(causal.step_kl(process, z, z, t), torch.zeros(1).double())
    assert causal.step_kl(process, z + 0.1, z, t).item() > 0


@every_schedule
def test_backdoor_is_the_kl_between_observed_and_interventional_reverse_steps(name: str) -> None:
    process, model = PROCESSES[name], denoiser()
    z_t, user = normal(STEPS, DIM, seed=4), normal(STEPS, 4, seed=5)
    one_hots = torch.eye(ENVIRONMENTS, dtype=torch.float64)
    own = one_hots[T % ENVIRONMENTS]
    ours = causal.backdoor(
        process, model(z_t, T, user, own), model.interventional(z_t, T, user, PRIOR), T
    )
    # The reverse means themselves, one per environment, averaged under π.
    means = [process.posterior(model(z_t, T, user, e), z_t, T)[0] for e in one_hots]
    intervened = sum(p * mean for p, mean in zip(PRIOR, means, strict=True))
    observed = process.posterior(model(z_t, T, user, own), z_t, T)[0]
    sigma = process.step_variance(T).sqrt()
    expected = kl_divergence(Normal(observed, sigma), Normal(intervened, sigma)).mean(dim=-1)
    torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-12)
    explicit = ((observed - intervened) ** 2 / (2 * sigma**2)).mean(dim=-1)
    torch.testing.assert_close(ours, explicit, rtol=1e-7, atol=1e-12)
    assert bool((ours > 0).all())


@every_schedule
def test_backdoor_is_zero_when_the_denoiser_ignores_the_environment(name: str) -> None:
    model = denoiser()
    assert model.from_environment is not None
    torch.nn.init.zeros_(model.from_environment.weight)
    z_t, own = normal(STEPS, DIM), torch.eye(ENVIRONMENTS, dtype=torch.float64)[T % ENVIRONMENTS]
    term = causal.backdoor(
        PROCESSES[name], model(z_t, T, None, own), model.interventional(z_t, T, None, PRIOR), T
    )
    # Σ_e π(e) = 1 only up to rounding, amplified by 1 / σ².
    assert term.max().item() < 1e-20


def test_minimising_backdoor_makes_the_denoiser_ignore_the_environment() -> None:
    process, model = PROCESSES["cosine"], denoiser()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    z_t, e = normal(60, DIM), torch.eye(ENVIRONMENTS, dtype=torch.float64).repeat(20, 1)
    t = T.repeat_interleave(3)

    def spread() -> Tensor:
        return model(z_t, t, None, e) - model.interventional(z_t, t, None, PRIOR)

    before = spread().abs().mean().item()
    for _ in range(200):
        optimizer.zero_grad()
        loss = causal.backdoor(
            process, model(z_t, t, None, e), model.interventional(z_t, t, None, PRIOR), t
        ).mean()
        loss.backward()
        optimizer.step()
    assert spread().abs().mean().item() < 0.05 * before
