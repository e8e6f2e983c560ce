"""The conditional logit against scipy's optimum, and against choices of known coefficients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from cnsdiff.environment.conditional_logit import fit_conditional_logit


def loss(b, features, available, ridge):
    """The mean negative log-likelihood, set by set."""
    total = 0.0
    for rows, there in zip(features, available, strict=True):
        values = rows @ b
        total -= values[0] - np.log(np.exp(values[there]).sum())
    return total / len(features) + ridge / 2 * (b @ b)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(5, 40),
    alternatives=st.integers(2, 8),
    k=st.integers(1, 4),
    ridge=st.sampled_from([1e-4, 1e-2, 1.0]),
)
def test_finds_the_optimum_of_scipy(seed, n, alternatives, k, ridge):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, alternatives, k))
    available = rng.random((n, alternatives)) < 0.8
    available[:, 0] = True
    b = fit_conditional_logit(
        torch.from_numpy(features), torch.from_numpy(available), ridge=ridge
    ).numpy()
    best = minimize(loss, np.zeros(k), args=(features, available, ridge), tol=1e-10)
    assert loss(b, features, available, ridge) <= best.fun + 1e-9
    assert b == pytest.approx(best.x, rel=1e-3, abs=1e-3)


def test_recovers_known_coefficients():
    rng = np.random.default_rng(0)
    truth = np.array([0.8, -1.2, 0.3])
    features = rng.normal(size=(20_000, 10, 3))
    # The largest of Gumbel-perturbed values is a draw of the softmax.
    chosen = (features @ truth + rng.gumbel(size=(20_000, 10))).argmax(axis=1)
    rows = np.arange(len(features))
    features[rows, 0], features[rows, chosen] = (
        features[rows, chosen].copy(),
        features[rows, 0].copy(),
    )
    b = fit_conditional_logit(torch.from_numpy(features))
    assert b.numpy() == pytest.approx(truth, abs=0.03)


def test_columns_that_are_alike_share_and_a_constant_one_counts_for_nothing():
    rng = np.random.default_rng(1)
    column = rng.normal(size=(200, 5, 1))
    features = np.concatenate([column, column, np.ones((200, 5, 1))], axis=2)
    first, second, constant = fit_conditional_logit(torch.from_numpy(features)).tolist()
    assert first == pytest.approx(second)
    assert constant == 0.0


def test_many_choices_end_where_the_gradient_is_zero():
    """A part of them finds most of the way; in blocks, and with alternatives that are absent."""
    rng = np.random.default_rng(2)
    features = rng.normal(size=(2000, 40, 6)) * [1, 3, 0.1, 1, 1, 1]
    features[:, 0, 1] += 2
    available = rng.random((2000, 40)) < 0.7
    available[:, 0] = True
    b = fit_conditional_logit(torch.from_numpy(features), torch.from_numpy(available), ridge=1e-3)
    leaf = b.clone().requires_grad_()
    logits = torch.from_numpy(features) @ leaf
    logits = logits.masked_fill(~torch.from_numpy(available), -torch.inf)
    value = (torch.logsumexp(logits, 1) - logits[:, 0]).mean() + 5e-4 * leaf.square().sum()
    value.backward()
    assert leaf.grad.abs().max() < 1e-7
