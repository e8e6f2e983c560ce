"""What negatives from ``q`` make of a score that our sampler and loss teach (equation 21).

The scores are a free table: the users' vectors are its rows, the items' the unit vectors. Its
optimum is known in closed form from ``p(i|u)``, which no code under test computes.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cnsdiff.backbones.base import Embeddings
from cnsdiff.data.positives import Positives
from cnsdiff.objectives.objective import Objective, ObjectiveConfig
from cnsdiff.samplers.base import Batch, Context
from cnsdiff.samplers.static import ExposureConfig, ExposureSampler

USERS, ITEMS = 4, 24
PER_USER, DRAWS = 100, 128
Matrix = NDArray[np.float64]


def click_shares() -> Matrix:
    """``p(i|u)`` ``(U, I)``: an environment that all share, times tastes."""
    rng = np.random.default_rng(0)
    environment, taste = rng.normal(0, 0.8, ITEMS), rng.normal(0, 0.4, (USERS, ITEMS))
    joint = np.exp(environment + taste)
    return np.asarray(joint / joint.sum(axis=1, keepdims=True))


P = click_shares()
#: As many log entries of each item as its share of all clicks says, and the rounded share itself.
COUNTS = np.rint(2000 * P.mean(axis=0)).astype(np.int64)
LOG_POP = np.log(COUNTS / COUNTS.sum())


def log_of_the_world() -> Positives:
    items = np.repeat(np.arange(ITEMS), COUNTS)
    return Positives(np.arange(len(items)), items, len(items), ITEMS)


@cache
def learn(alpha: float, log_q: float, steps: int = 500) -> Matrix:
    """The scores after training, a mean over the last half of the steps."""
    positives = log_of_the_world()
    config = ExposureConfig(exponent=alpha, n_negatives=DRAWS)
    sampler = ExposureSampler(positives, ITEMS, config, torch.Generator())
    objective = Objective(ObjectiveConfig(loss="softmax", l2=0.0, log_q=log_q), positives)
    generator = torch.Generator().manual_seed(1)
    context = Context(progress=0.0, negatives=generator, noise=generator)
    table, unit = torch.zeros(USERS, ITEMS, requires_grad=True), torch.eye(ITEMS)
    users = torch.arange(USERS).repeat_interleave(PER_USER)
    below = torch.from_numpy(P.cumsum(axis=1))
    optimiser = torch.optim.Adam([table], lr=0.05)
    total = torch.zeros(USERS, ITEMS)
    for step in range(steps):
        # Positives at even distances in p(.|u): nearly its shares in every batch.
        places = (torch.arange(PER_USER) + torch.rand(1, generator=generator)) / PER_USER
        clicked = torch.searchsorted(below, places.double().expand(USERS, -1).contiguous())
        batch = Batch(users, users, clicked.clamp(max=ITEMS - 1).flatten())
        embeddings = Embeddings(table, unit)
        negatives = sampler(batch, embeddings, context)
        loss = sum(objective(batch, embeddings, embeddings, negatives, context).values())
        optimiser.zero_grad()
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        optimiser.step()
        if step >= steps // 2:
            total += table.detach()
    return (total / (steps - steps // 2)).double().numpy()


def log_r() -> Matrix:
    """Where the own positive is left out of the negatives, ``log p`` gives way to ``log r``.

    The loss of a row is ``-log(r / (1 - r))`` of its positive, ``r ∝ q e^s``, so that at its
    optimum ``r (1 - r) ∝ p``; ``r`` is ``p`` where that is small.
    """
    found = np.empty_like(P)
    for user, p in enumerate(P):
        low, high = 0.0, 1 / (4 * p.max())
        for _ in range(60):
            scale = (low + high) / 2
            r = [(1 - math.sqrt(1 - 4 * scale * share)) / 2 for share in p]
            low, high = (low, scale) if sum(r) > 1 else (scale, high)
        found[user] = np.log(r)
    return found


def distance(found: Matrix, expected: Matrix) -> float:
    """RMSE over pairs, up to a constant of the user."""
    difference = found - expected
    return float(np.sqrt(np.mean((difference - difference.mean(axis=1, keepdims=True)) ** 2)))


@pytest.mark.parametrize(
    ("alpha", "log_q"),
    [(0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (1.0, 1.0)],
    ids=["uniform", "half", "observed", "observed and corrected"],
)
def test_the_score_is_log_p_less_log_q(alpha: float, log_q: float) -> None:
    found = learn(alpha, log_q)
    # A correction by log q in the logits gives back what negatives from q take away.
    kept = alpha - log_q
    assert distance(found, log_r() - kept * LOG_POP) < 0.075
    assert distance(found, np.log(P) - kept * LOG_POP) < 0.1
    # Any other share of the environment is a clear miss.
    for wrong in (kept - 0.5, kept + 0.5):
        assert distance(found, np.log(P) - wrong * LOG_POP) > 0.25


def test_read_under_another_environment_the_score_is_of_that_environment() -> None:
    """The dial in natural units: tastes learnt in one environment, in another's popularity."""
    environment = np.random.default_rng(1).normal(0, 0.8, ITEMS)
    elsewhere = P / np.exp(LOG_POP) * np.exp(environment)
    elsewhere /= elsewhere.sum(axis=1, keepdims=True)
    read = learn(1.0, 0.0) + environment
    assert distance(read, np.log(elsewhere)) < 0.1
    assert distance(learn(0.0, 0.0), np.log(elsewhere)) > 0.5
