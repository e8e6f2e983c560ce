"""Screened hard negatives against loops, and the teacher's loss against the softmax."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import cnsdiff
from cnsdiff.backbones.base import Embeddings
from cnsdiff.objectives.losses import sampled_softmax
from cnsdiff.samplers.screened import ScreenedConfig, ScreenedSampler
from cnsdiff.testing import DIM, check_sampler, make_context

CANDIDATES = 10


def build(world, **settings) -> ScreenedSampler:
    config = ScreenedConfig(**{"candidates": CANDIDATES, "share": 0.35, **settings})
    return ScreenedSampler(world.positives, DIM, config, torch.Generator().manual_seed(0)).double()


def best_without(scores, worth, n_out):
    """The place of the best score, without the places that are worth most."""
    order = sorted(range(len(scores)), key=lambda place: worth[place], reverse=True)
    return max(order[n_out:], key=lambda place: scores[place])


@pytest.mark.parametrize("judge", ["teacher", "self"])
def test_the_hardest_of_what_the_judge_leaves(world, judge):
    sampler = build(world, judge=judge, n_negatives=2)
    out = sampler(world.batch, world.embeddings, make_context(4))
    expected = []
    for rows, user in zip(world.rows(2, CANDIDATES, 4), world.batch.users.tolist(), strict=True):
        own = []
        for row in rows:
            worth = row.scores
            if judge == "teacher":
                users, items = (table.detach() for table in sampler.teacher)
                worth = [
                    float(F.cosine_similarity(users[user], items[item], dim=0))
                    for item in row.candidates
                ]
            own.append(row.candidates[best_without(row.scores, worth, 3)])
        expected.append(own)
    assert out.items.tolist() == expected


def test_the_teacher_has_the_loss_of_the_default(world):
    sampler, context = build(world), make_context(4)
    out = sampler(world.batch, world.embeddings, context)
    # The same draws in the same order.
    context = make_context(4)
    sampler.score_candidates(world.batch, world.embeddings, context)
    drawn = sampler.exposure.draw(context)
    users, items = (F.normalize(table, dim=1) for table in sampler.teacher)
    rows = users[world.batch.users] / 0.2
    expected = sampled_softmax(
        (rows * items[world.batch.positives]).sum(dim=1),
        rows @ items[drawn].T,
        drawn != world.batch.positives.unsqueeze(1),
    )
    assert out.loss.item() == pytest.approx(expected.item())


def test_the_teacher_learns_and_the_model_is_not_moved(world):
    sampler = build(world)
    embeddings = Embeddings(*(table.clone().requires_grad_() for table in world.embeddings))
    optimiser = torch.optim.Adam(sampler.trained_parameters(), lr=0.05)
    losses = []
    for seed in range(40):
        optimiser.zero_grad()
        loss = sampler(world.batch, embeddings, make_context(seed)).loss
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < sum(losses[:10]) - 0.5
    assert embeddings.users.grad is None and embeddings.items.grad is None
    with torch.no_grad():
        assert sampler(world.batch, embeddings, make_context(0)).loss is None


def test_it_leaves_out_more_of_what_users_would_like():
    """In a world whose truth is known: fewer false negatives than the unscreened have."""
    world = cnsdiff.ConfoundedWorld(n_users=200, n_items=100, exposures=40, seed=0).dataset()
    shares = {}
    for share in (0.0, 0.5):
        model = cnsdiff.Recommender(
            "mf",
            "screened",
            sampler_options={"share": share},
            backbone_options={"init": "spectral"},
            training={"epochs": 6, "lr": 0.01},
            seed=0,
        ).fit(world)
        shares[share] = model.false_negatives(world, on="truth", n=5000).fhn
    assert shares[0.5] < shares[0.0] - 0.05


def test_a_context_of_a_cosine_changes_nothing_about_the_teacher(world):
    context = replace(make_context(4), cosine=True)
    one, other = (
        build(world)(world.batch, world.embeddings, c) for c in (context, make_context(4))
    )
    assert torch.equal(one.items, other.items)


def test_the_contract():
    check_sampler(ScreenedSampler)
