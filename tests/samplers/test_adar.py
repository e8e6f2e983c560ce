"""ADAR-like negatives: the step at which a positive turns, and how far it is noised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cnsdiff.backbones.base import Embeddings
from cnsdiff.samplers import Batch
from cnsdiff.samplers.adar import ADARConfig, ADARSampler
from cnsdiff.testing import DIM, check_sampler, make_context, tiny_positives

POSITIVES = tiny_positives()


def build(**settings) -> ADARSampler:
    config = ADARConfig(**settings)
    return ADARSampler(POSITIVES, DIM, config, torch.Generator().manual_seed(0))


def turning_steps(world, sampler) -> list[int]:
    """By hand: the first step at which the expected score is below the boundary."""
    items = world.embeddings.items.numpy()
    scores = world.embeddings.users.numpy() @ items.T
    kept = np.sqrt(sampler.process.alpha_bar.numpy())
    steps = []
    for user, positive in zip(world.batch.users, world.batch.positives, strict=True):
        own, mean, spread = scores[user, positive], scores[user].mean(), scores[user].std(ddof=1)
        boundary = mean + sampler.config.boundary * spread
        expected = mean + kept * (own - mean)
        below = [t for t in range(1, len(kept)) if expected[t] <= boundary]
        steps.append(below[0] if own > boundary else 1)
    return steps


@pytest.mark.parametrize("boundary", [0.2, 1.0])
def test_the_positive_is_noised_to_where_it_turns(world, boundary):
    sampler = build(boundary=boundary, n_negatives=4000)
    steps = turning_steps(world, sampler)
    assert len(set(steps)) > 5
    out = sampler(world.batch, world.embeddings, make_context(0))
    assert out.diagnostics["step"].item() == pytest.approx(np.mean(steps))
    items = world.embeddings.items
    mean, scale = items.mean(dim=0), items.std()
    kept = sampler.process.alpha_bar[steps].unsqueeze(1)
    about = kept.sqrt() * (items[world.batch.positives] - mean) + mean
    noise = (1 - kept).sqrt() * scale
    np.testing.assert_array_less(abs(out.vectors.mean(dim=1) - about) / noise, 5 / 4000**0.5)
    np.testing.assert_allclose(
        out.vectors.std(dim=1), noise.expand(-1, DIM), rtol=5 / (2 * 4000) ** 0.5
    )


def test_the_higher_the_positive_scores_the_later_it_turns(world):
    sampler = build(boundary=0.5, n_negatives=1)
    users = torch.ones(POSITIVES.n_users, DIM, dtype=torch.float64)
    rows = world.batch.positives == 0
    batch = Batch(
        *(ids[rows] for ids in (world.batch.index, world.batch.users, world.batch.positives))
    )
    steps = []
    for more in (1.0, 2.0, 4.0):
        items = world.embeddings.items.clone()
        items[0] += more
        out = sampler(batch, Embeddings(users, items), make_context(0))
        steps.append(out.diagnostics["step"].item())
    assert steps == sorted(steps) and steps[0] < steps[-1]


def test_of_the_cosine_they_have_unit_length(world):
    out = build(n_negatives=3)(world.batch, world.embeddings, replace(make_context(0), cosine=True))
    np.testing.assert_allclose(out.vectors.norm(dim=-1), 1.0)
    assert not out.vectors.requires_grad


def test_the_contract():
    check_sampler(ADARSampler)
