"""AdvInfoNCE against its formula written out in loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from cnsdiff.backbones.base import Embeddings
from cnsdiff.objectives.objective import Objective, ObjectiveConfig
from cnsdiff.samplers.adversarial import AdversarialConfig, AdversarialSampler
from cnsdiff.testing import DIM, check_sampler, make_context, tiny_positives

POSITIVES, TAU, N = tiny_positives(), 0.4, 6


def build(**settings) -> AdversarialSampler:
    config = AdversarialConfig(n_negatives=N, **settings)
    return AdversarialSampler(POSITIVES, DIM, config, torch.Generator().manual_seed(0))


def tables(world) -> Embeddings:
    return Embeddings(*(table.float().requires_grad_() for table in world.embeddings))


def context(epoch=1):
    return replace(make_context(3, epoch=epoch), temperature=TAU)


def by_hand(sampler, batch, embeddings, items) -> float:
    """``- mean log e^{s_p} / (e^{s_p} + N Σ_j p_j e^{s_j})``."""
    losses = []
    embeddings = Embeddings(*(table.detach() for table in embeddings))
    users, catalogue = sampler.users.detach(), sampler.items.detach()
    for user, positive, drawn in zip(batch.users, batch.positives, items, strict=True):
        hard = [math.exp(float(users[user] @ catalogue[j])) for j in drawn]
        of = [math.exp(float(embeddings.users[user] @ embeddings.items[j]) / TAU) for j in drawn]
        own = math.exp(float(embeddings.users[user] @ embeddings.items[positive]) / TAU)
        total = sum(h / sum(hard) * s for h, s in zip(hard, of, strict=True))
        losses.append(-math.log(own / (own + N * total)))
    return sum(losses) / len(losses)


def test_the_objective_and_the_adversary_have_the_papers_loss(world):
    sampler, embeddings = build(), tables(world)
    with torch.no_grad():
        sampler.users.mul_(10)
    negatives = sampler(world.batch, embeddings, context())
    expected = by_hand(sampler, world.batch, embeddings, negatives.items)
    assert -negatives.loss.item() == pytest.approx(expected, rel=1e-5)
    options = {"loss": "softmax", "temperature": TAU, "l2": 0.0}
    objective = Objective(ObjectiveConfig(**options), POSITIVES)
    terms = objective(world.batch, embeddings, embeddings, negatives, context())
    assert terms["softmax"].item() == pytest.approx(expected, rel=1e-5)
    assert not POSITIVES.contains(world.batch.users.unsqueeze(1), negatives.items).any()


def test_the_adversary_raises_the_loss_and_moves_nothing_else(world):
    sampler, embeddings = build(), tables(world)
    optimiser = torch.optim.Adam(sampler.trained_parameters(), lr=0.05)
    start = sampler(world.batch, embeddings, context())
    for _ in range(30):
        optimiser.zero_grad()
        negatives = sampler(world.batch, embeddings, context())
        negatives.loss.backward()
        optimiser.step()
    end = sampler(world.batch, embeddings, context())
    assert torch.equal(start.items, end.items)  # the same draws
    assert end.loss < start.loss - 0.1
    assert end.diagnostics["hardness"] > start.diagnostics["hardness"] + 0.1
    assert embeddings.users.grad is None and embeddings.items.grad is None
    scores = (embeddings.users[world.batch.users].unsqueeze(1) * embeddings.items[end.items]).sum(2)
    assert (end.weights * scores).sum(1).mean() > (start.weights * scores).sum(1).mean()


def test_it_learns_in_some_epochs_only(world):
    sampler, embeddings = build(interval=3, rounds=2), tables(world)
    learnt = [
        epoch
        for epoch in range(1, 15)
        if sampler(world.batch, embeddings, context(epoch)).loss is not None
    ]
    assert learnt == [1, 4]


def test_the_contract():
    check_sampler(AdversarialSampler)
