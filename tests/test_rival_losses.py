"""The losses of rivals, and screened negatives, against their formulas written out in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import cnsdiff
from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.errors import ConfigError
from cnsdiff.data.positives import Positives
from cnsdiff.objectives import rivals
from cnsdiff.objectives.losses import log_sum, screened
from cnsdiff.objectives.objective import Objective, ObjectiveConfig, counted
from cnsdiff.recommender.config import resolve_config
from cnsdiff.samplers.base import Items, SharedItems
from cnsdiff.testing import make_batch, make_context, tiny_positives

POSITIVES = tiny_positives()
BATCH = make_batch(POSITIVES)
B, DIM, TAU = len(BATCH), 6, 0.3
LOSSES = ["psl", "bsl", "sl@k", "bc"]
ACTIVATIONS = {
    "tanh": lambda d: math.tanh(d) + 1,
    "atan": lambda d: math.atan(d) + 1,
    "relu": lambda d: max(d + 1, 0.0),
}


def cosines(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1


POSITIVE, NEGATIVE = cosines(8), cosines(8, 5, seed=1)
ADMISSIBLE = cosines(8, 5, seed=2) < 0.5
ADMISSIBLE[:, 0] = True


def rows():
    """Each row's positive, and those of its negatives that count."""
    for positive, negative, mask in zip(POSITIVE, NEGATIVE, ADMISSIBLE, strict=True):
        yield positive.item(), negative[mask].tolist()


def assert_rows(losses: Tensor, expected: list[float]) -> None:
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_psl_is_its_formula(activation):
    sigma = ACTIVATIONS[activation]
    expected = [
        math.log(1 + sum(sigma((n - p) / 2) ** (1 / TAU) for n in negatives))
        for p, negatives in rows()
    ]
    assert_rows(rivals.psl(POSITIVE, NEGATIVE, ADMISSIBLE, TAU, activation), expected)


def test_bsl_is_its_formula_and_at_one_temperature_the_softmax_without_the_positive():
    for own in (0.7, TAU):
        expected = [
            -math.log(math.exp(p / own) / sum(math.exp(n / TAU) for n in negatives) ** (TAU / own))
            for p, negatives in rows()
        ]
        assert_rows(rivals.bsl(POSITIVE, NEGATIVE, ADMISSIBLE, TAU, own), expected)
    nothing = torch.zeros(8, 5, dtype=torch.bool)
    lone = POSITIVE.clone().requires_grad_()
    losses = rivals.bsl(lone, NEGATIVE, nothing, TAU, 0.7)
    losses.sum().backward()
    assert losses.tolist() == [0.0] * 8 and lone.grad.tolist() == [0.0] * 8


def test_sl_at_k_is_its_formula():
    threshold = cosines(8, seed=3)
    expected = [
        math.log(1 + sum(math.exp((n - p) / TAU) for n in negatives))
        / (1 + math.exp(-(p - beta) / 0.4))
        for (p, negatives), beta in zip(rows(), threshold.tolist(), strict=True)
    ]
    assert_rows(rivals.sl_at_k(POSITIVE, NEGATIVE, ADMISSIBLE, TAU, threshold, 0.4), expected)


def test_the_bc_loss_is_its_formula_and_without_margins_the_softmax():
    margin = cosines(8, seed=4).abs() * math.pi
    expected = []
    for (p, negatives), xi in zip(rows(), margin.tolist(), strict=True):
        theta = math.acos(p)
        own = math.exp(math.cos(theta + min(xi, math.pi - theta)) / TAU)
        expected.append(-math.log(own / (own + sum(math.exp(n / TAU) for n in negatives))))
    assert_rows(rivals.bc(POSITIVE, NEGATIVE, ADMISSIBLE, TAU, margin), expected)
    none = rivals.bc(POSITIVE, NEGATIVE, ADMISSIBLE, TAU, torch.zeros(8))
    softmax = log_sum(POSITIVE / TAU, NEGATIVE / TAU, ADMISSIBLE) - POSITIVE / TAU
    torch.testing.assert_close(none, softmax)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    n=st.integers(1, 6),
    k=st.integers(1, 9),
    seed=st.integers(0, 10**6),
)
def test_the_kth_best_of_a_users_scores(counts, n, k, seed):
    row = torch.repeat_interleave(torch.tensor(counts))
    scores, sampled = cosines(len(row), seed=seed), cosines(len(counts), n, seed=seed + 1)
    expected = []
    for at in range(len(counts)):
        own = sorted([*scores[row == at].tolist(), *sampled[at].tolist()], reverse=True)
        expected.append(own[min(k, len(own)) - 1])
    assert rivals.kth_best(row, scores, sampled, k).tolist() == expected


def test_margins_are_small_where_popularity_tells_the_pair():
    """Users of few clicks take the four popular items, users of many take all."""
    pairs = [(u, i) for u in range(40) for i in range(2)]
    pairs += [(u, i) for u in range(40, 60) for i in range(12)]
    users, items = np.array(pairs).T
    positives = Positives(users, items, 60, 12)
    of_users, of_items, angles = rivals.popularity_angles(positives, 0.1)
    few, many = of_users[0], of_users[59]
    popular, rare = of_items[0], of_items[11]
    assert angles[few, popular] < angles[few, rare] - 0.5
    assert angles[few, popular] < angles[many, rare]
    # What is fitted is the share of each item among the pairs of alike users.
    shares = torch.softmax(angles.cos() / 0.1 + of_items.bincount().log(), dim=1)
    assert shares[few, popular] > 0.95
    assert shares[many, popular] == pytest.approx(2 / 12, abs=0.02)


def project(objective: Objective) -> Embeddings:
    tables = Embeddings(
        cosines(POSITIVES.n_users, DIM, seed=5), cosines(POSITIVES.n_items, DIM, seed=6)
    )
    return objective.project(tables)


def term(negatives, epoch=1, **options) -> float:
    config = ObjectiveConfig(**{"score": "cosine", "temperature": TAU, "l2": 0.0, **options})
    objective = Objective(config, POSITIVES)
    tables = project(objective)
    terms = objective(BATCH, tables, tables, negatives, make_context(6, epoch=epoch))
    return terms[options["loss"]].item()


@pytest.mark.parametrize("loss", LOSSES)
def test_in_a_batch_a_row_never_meets_its_own_positive(loss):
    """Shared negatives and the same of each row's own come to one loss."""
    items = torch.arange(POSITIVES.n_items)
    others = torch.stack([items[items != own] for own in BATCH.positives])
    own = term(Items(others), loss=loss)
    assert term(SharedItems(items), loss=loss) == pytest.approx(own)
    assert own != pytest.approx(term(SharedItems(items[:2]), loss=loss))


def test_the_threshold_is_of_the_users_own_positives():
    config = ObjectiveConfig(loss="sl@k", score="cosine", temperature=TAU, l2=0.0, rival={"k": 3})
    objective = Objective(config, POSITIVES)
    users, items = project(objective)
    drawn = POSITIVES.sample_negatives(BATCH.users, 4, torch.Generator().manual_seed(5))
    losses = []
    for user, positive, own in zip(BATCH.users, BATCH.positives, drawn, strict=True):
        liked = POSITIVES.matrix[[int(user)]].indices
        scores = sorted((items[[*liked, *own.tolist()]] @ users[user]).tolist(), reverse=True)
        p = float(items[positive] @ users[user])
        weight = 1 / (1 + math.exp(-(p - scores[2])))
        others = (items[own] @ users[user]).tolist()
        losses.append(weight * math.log(1 + sum(math.exp((n - p) / TAU) for n in others)))
    value = term(Items(drawn), loss="sl@k", rival={"k": 3})
    assert value == pytest.approx(np.mean(losses))


@pytest.mark.parametrize("loss", ["softmax", *LOSSES])
def test_screened_negatives_are_those_that_score_highest(loss):
    items = torch.arange(POSITIVES.n_items)
    objective = Objective(ObjectiveConfig(score="cosine"), POSITIVES)
    users, catalogue = project(objective)
    scores = users[BATCH.users] @ catalogue.T
    scores[torch.arange(B), BATCH.positives] = torch.inf  # no negative
    n = int(0.4 * len(items))
    left = scores.argsort(dim=1, descending=True)[:, 1 + n :]
    expected = term(Items(left), loss=loss)
    shared = SharedItems(items)
    assert term(shared, epoch=3, loss=loss, screen=0.4) == pytest.approx(expected)
    assert term(shared, epoch=2, loss=loss, screen=0.4) == term(shared, loss=loss)


def test_screening_leaves_out_as_many_of_each_row():
    kept = screened(NEGATIVE, ADMISSIBLE, 0.4)
    assert (ADMISSIBLE & ~kept).sum(dim=1).tolist() == [2] * 8
    assert not (kept & ~ADMISSIBLE).any()
    for scores, before, after in zip(NEGATIVE, ADMISSIBLE, kept, strict=True):
        if after.any():
            assert scores[before & ~after].min() >= scores[after].max()


def test_what_is_counted_is_what_the_loss_uses():
    items, share = torch.arange(POSITIVES.n_items), 0.4
    config = ObjectiveConfig(loss="softmax", score="cosine", l2=0.0, screen=share)
    tables = project(Objective(config, POSITIVES))
    shared = SharedItems(items)
    kept = counted(config, shared, BATCH, tables, 3)
    scores = tables.users[BATCH.users] @ tables.items.T
    expected = torch.ones_like(scores)
    for row, own in enumerate(BATCH.positives.tolist()):
        others = [item for item in scores[row].argsort(descending=True).tolist() if item != own]
        expected[row, [own, *others[: int(share * len(items))]]] = 0
    assert torch.equal(kept.weights, expected)
    assert counted(config, shared, BATCH, tables, 2) is shared
    own = counted(config, Items(items.expand(B, -1)), BATCH, tables, 3)
    assert (own.weights == 0).sum(dim=1).tolist() == [int(share * len(items))] * B


def test_screening_lowers_the_share_that_is_counted_as_false():
    world = cnsdiff.ConfoundedWorld(n_users=200, n_items=100, exposures=40, seed=0).dataset()
    shares = []
    for screen in (0.0, 0.5):
        model = cnsdiff.Recommender(objective={"screen": screen}, training={"epochs": 4}, seed=0)
        model.fit(world)
        shares.append(model.false_negatives(world, on="truth", n=5000).fhn)
        assert model.history_[-1]["train"]["fhn_judged"] > 0
    assert shares[1] < 0.8 * shares[0]


@pytest.mark.parametrize("loss", LOSSES)
def test_each_learns(loss):
    dataset = cnsdiff.ConfoundedWorld(n_users=60, n_items=40, exposures=20, seed=0).dataset()
    options = {"loss": loss, "score": "cosine", "temperature": 0.2}
    model = cnsdiff.Recommender(
        "mf", "exposure", objective=options, training={"epochs": 3, "lr": 0.05}, seed=0
    ).fit(dataset)
    losses = [epoch["train"][loss] for epoch in model.history_]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "psl"}, "is made for cosines"),
        ({"loss": "bc", "score": "cosine", "log_q": 1.0}, "log_q corrects a softmax"),
        ({"loss": "softmax", "rival": {"k": 5}}, "objective.rival.k is of objective.loss 'sl@k'"),
        ({"screen": 0.3}, "set objective.loss to 'softmax'"),
        (
            {"loss": "softmax", "negatives": "in-batch+sampler", "screen": 0.3},
            "set objective.negatives to 'sampler' or 'in-batch'",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        resolve_config({"objective": options, "sampler": {"name": "random"}})
