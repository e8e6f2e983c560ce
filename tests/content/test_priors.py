"""Priors, posteriors and first clicks, each against a twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import Ridge as Judge

from cnsdiff.content.priors import (
    PENALTIES,
    PRIORS,
    Gaussian,
    Ridge,
    covariance_of,
    energy_score,
)

D = 4


def gaussian(n: int = 6, seed: int = 0) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(D, D, generator=generator, dtype=torch.float64)
    return Gaussian(torch.randn(n, D, generator=generator), half @ half.T + 0.1 * torch.eye(D))


@given(st.floats(0.01, 100), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_the_posterior_is_that_of_the_formula(c, seed):
    prior = gaussian(seed=seed)
    z = torch.randn(6, D, generator=torch.Generator().manual_seed(seed + 9))
    counts = torch.tensor([0, 1, 2, 5, 50, 1000])
    ours = prior.posterior(z, counts, c).numpy()
    sigma = prior.covariance.numpy()
    unit = c * np.trace(sigma) / D
    for row, n in enumerate(counts.tolist()):
        m, own = prior.mean[row].numpy(), z[row].numpy()
        expected = m
        if n:
            gain = sigma @ np.linalg.inv(sigma + unit / n * np.eye(D))
            expected = m + gain @ (own - m)
        np.testing.assert_allclose(ours[row], expected, atol=1e-4)


def test_without_pull_the_learnt_vectors_stay_and_new_items_have_the_mean():
    prior, z = gaussian(), torch.ones(6, D)
    counts = torch.tensor([0, 1, 2, 3, 4, 5])
    posterior = prior.posterior(z, counts, 0.0)
    assert torch.equal(posterior[1:], z[1:])
    assert torch.equal(posterior[0], prior.mean[0])


def test_the_more_interactions_the_less_is_left_open():
    left = gaussian().left_open(torch.tensor([0, 1, 5, 100, 10**6]), 1.0)
    assert left[0] == pytest.approx(1)
    assert (left.diff() < 0).all()
    assert left[-1] < 1e-3


def test_first_clicks_lead_to_the_mode_that_an_optimiser_finds():
    prior = gaussian(3)
    users = torch.randn(50, D, generator=torch.Generator().manual_seed(3))
    clickers, items, tau = np.array([4, 9, 9]), np.array([0, 0, 2]), 0.7
    ours = prior.after_clicks(users, clickers, items, tau).numpy()
    precision = np.linalg.inv(prior.covariance.numpy())
    x = users.numpy().astype(float)
    centre, spread = x.mean(axis=0), np.cov(x.T, bias=True)

    def loss(z: np.ndarray, row: int) -> float:
        away = z - prior.mean[row].numpy()
        own = clickers[items == row]
        log_mean = centre @ z / tau + z @ spread @ z / (2 * tau**2)
        return 0.5 * away @ precision @ away - sum(x[u] @ z / tau - log_mean for u in own)

    for row in range(3):
        best = minimize(loss, np.zeros(D), args=(row,), tol=1e-10).x
        np.testing.assert_allclose(ours[row], best, atol=1e-4)
    np.testing.assert_allclose(ours[1], prior.mean[1], atol=1e-5)  # nobody clicked


def data(n: int = 300) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(n, 5, generator=generator)
    slopes = torch.randn(5, D, generator=generator)
    vectors = features @ slopes + 0.1 * torch.randn(n, D, generator=generator) + 2
    return features, vectors, torch.randint(1, 50, (n,), generator=generator)


def test_ridge_is_scikit_learns_at_one_of_the_penalties():
    features, vectors, counts = data()
    ours = Ridge.fit(features, vectors, counts, 0)
    weights = (counts / (counts + 5.0)).numpy()
    x = features.numpy().astype(float)
    centred = x - np.average(x, axis=0, weights=weights)
    scale = (weights[:, None] * centred**2).sum(axis=0).mean()
    nearest = []
    for penalty in PENALTIES:
        judge = Judge(alpha=penalty * scale).fit(x, vectors.numpy(), sample_weight=weights)
        nearest.append(np.abs(judge.predict(x) - ours(features).numpy()).max())
    assert min(nearest) < 1e-4


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_is_kept_as_tensors_and_fitted_alike_by_its_seed(name, monkeypatch):
    for setting, small in (("STEPS", 200), ("CALLS", 5), ("DRAWS", 4), ("HIDDEN", 64)):
        monkeypatch.setattr(f"cnsdiff.content.priors.{setting}", small)
    features, vectors, counts = data()
    kind = PRIORS[name]
    fitted = kind.fit(features, vectors, counts, 3)
    again = kind.of_state({key: own.clone() for key, own in fitted.state().items()})
    assert torch.equal(fitted(features), again(features))
    assert torch.equal(fitted(features), kind.fit(features, vectors, counts, 3)(features))
    error = (fitted(features) - vectors).square().mean()
    spread = (vectors - vectors.mean(dim=0)).square().mean()
    if name == "mean":
        assert error == pytest.approx(float(spread), rel=0.05)
    else:
        assert error < 0.5 * spread


def test_the_energy_score_prefers_the_truth():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(400, D, generator=generator)
    good = torch.randn(32, 400, D, generator=generator)
    assert energy_score(good, truth) < energy_score(good + 1, truth)
    assert energy_score(good, truth) < energy_score(good * 0.2, truth)
    assert energy_score(good, truth) < energy_score(good * 3, truth)


def test_what_is_left_open_is_a_covariance():
    away = torch.randn(5000, D, generator=torch.Generator().manual_seed(0)) + 3
    np.testing.assert_allclose(covariance_of(away), np.eye(D), atol=0.1)
