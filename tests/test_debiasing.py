"""Inverse propensities and popularity deconfounding against plain loops, and what they do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cnsdiff import ConfoundedWorld, Dataset, Recommender
from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.errors import ConfigError
from cnsdiff.data.positives import Positives
from cnsdiff.objectives.losses import (
    PropensityConfig,
    deconfounded,
    inverse_propensity,
    popularity_power,
)
from cnsdiff.objectives.objective import Objective, ObjectiveConfig
from cnsdiff.recommender.config import resolve_config
from cnsdiff.samplers.base import Items, Negatives, Vectors
from cnsdiff.testing import make_batch, make_context, tiny_positives

POSITIVES = tiny_positives()
BATCH = make_batch(POSITIVES, torch.arange(0, len(POSITIVES), 2))
B, DIM, N = len(BATCH), 5, 3
COUNTS = [int(c) for c in POSITIVES.item_counts]
IPS = {"propensity": {"exponent": 0.7, "floor": 0.4}}
PDA = {"popularity_exponent": 0.6}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tables() -> Embeddings:
    """Embeddings whose scores have both signs, with gradient."""
    users, items = normal(POSITIVES.n_users, DIM), normal(POSITIVES.n_items, DIM, seed=1)
    return Embeddings(users.requires_grad_(), items.requires_grad_())


def drawn(form: str) -> Negatives:
    if form == "vectors":
        return Vectors(normal(B, N, DIM, seed=2))
    items = POSITIVES.sample_negatives(BATCH.users, N, torch.Generator().manual_seed(5))
    weights = normal(B, N, seed=3).exp() if form == "weighted items" else None
    return Items(items, weights)


def loss_of(options: dict[str, Any], negatives: Negatives | None, tables: Embeddings) -> Tensor:
    objective = Objective(ObjectiveConfig(l2=0.0, **options), POSITIVES)
    embeddings = objective.project(tables)
    (loss,) = objective(BATCH, embeddings, embeddings, negatives, make_context(6)).values()
    return loss


def propensity_weights(eta: float, floor: float) -> list[float]:
    """Of each item, by its definition over the training interactions."""
    raw = [1 / max((count / max(COUNTS)) ** eta, floor) for count in COUNTS]
    interactions = [raw[item] for item in POSITIVES.pairs[:, 1].tolist()]
    return [w * len(interactions) / sum(interactions) for w in raw]


def by_hand(options: dict[str, Any], negatives: Negatives | None, tables: Embeddings) -> Tensor:
    """The ranking loss row by row, from scores one by one."""
    temperature = options.get("temperature", 1.0)
    gamma = options.get("popularity_exponent", 0.0)
    ips = options.get("propensity", {"exponent": 0.0, "floor": 1.0})
    weights = propensity_weights(ips["exponent"], ips["floor"])
    total = torch.zeros((), dtype=torch.float64)
    for row, (u, i) in enumerate(zip(BATCH.users.tolist(), BATCH.positives.tolist(), strict=True)):

        def score(vector: Tensor, item: int, user: int = u) -> Tensor:
            s = (tables.users[user] * vector).sum() / temperature
            if gamma:
                positive = s + 1 if s > 0 else s.exp()
                return positive * (COUNTS[item] / max(COUNTS)) ** gamma
            return s

        own, others = score(tables.items[i], i), []
        if negatives is None:
            others = [score(tables.items[j], j) for j in BATCH.positives.tolist() if j != i]
        elif isinstance(negatives, Items):
            others = [score(tables.items[j], j) for j in negatives.items[row].tolist()]
        else:
            others = [score(vector, i) for vector in negatives.vectors[row]]
        if options.get("loss") == "softmax":
            loss = -(own.exp() / (own.exp() + sum(s.exp() for s in others))).log()
        else:
            shares = [1 / len(others)] * len(others)
            if isinstance(negatives, Items) and negatives.weights is not None:
                shares = negatives.weights[row].tolist()
            terms = zip(shares, others, strict=True)
            loss = sum(share * -(own - s).sigmoid().log() for share, s in terms)
        total = total + weights[i] * loss
    return total / B


FORMS = ["items", "weighted items", "vectors"]
SETTINGS = [
    IPS,
    {"propensity": {"exponent": 2.0, "floor": 0.01}, "temperature": 0.5},
    PDA,
    {**PDA, "temperature": 0.5},
    {**PDA, **IPS},
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", SETTINGS)
def test_bpr_and_its_gradient_are_those_of_the_formula(form: str, options: dict[str, Any]) -> None:
    negatives, ours, theirs = drawn(form), tables(), tables()
    loss, expected = loss_of(options, negatives, ours), by_hand(options, negatives, theirs)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)
    slopes, wanted = torch.autograd.grad(loss, ours), torch.autograd.grad(expected, theirs)
    for slope, right in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, right, rtol=1e-5, atol=1e-7)
    assert (loss - loss_of({}, negatives, ours)).abs() > 1e-3


@pytest.mark.parametrize("source", ["sampler", "in-batch"])
def test_softmax_rows_are_weighted_by_inverse_propensity(source: str) -> None:
    options = {"loss": "softmax", "negatives": source, "temperature": 0.5, **IPS}
    negatives, ours, theirs = drawn("items") if source == "sampler" else None, tables(), tables()
    loss, expected = loss_of(options, negatives, ours), by_hand(options, negatives, theirs)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)
    slopes, wanted = torch.autograd.grad(loss, ours), torch.autograd.grad(expected, theirs)
    for slope, right in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, right, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("form", FORMS)
def test_switched_off_the_loss_has_the_same_bits(form: str) -> None:
    negatives, embeddings = drawn(form), tables()
    off = {"propensity": {"exponent": 0.0, "floor": 0.9}, "popularity_exponent": 0.0}
    users, own = embeddings.users[BATCH.users], embeddings.items[BATCH.positives]
    others = torch.einsum("bd,bnd->bn", users, negatives.embed(embeddings))
    losses = torch.nn.functional.softplus(others - (users * own).sum(-1).unsqueeze(1))
    plain = losses.mean()
    if isinstance(negatives, Items) and negatives.weights is not None:
        plain = (negatives.weights * losses).sum(dim=1).mean()
    assert torch.equal(loss_of(off, negatives, embeddings), plain)


def test_the_other_terms_are_not_weighted() -> None:
    embeddings, negatives = tables(), drawn("items")
    named = [
        Objective(ObjectiveConfig(contrastive={"weight": 0.3}, **options), POSITIVES)(
            BATCH, embeddings, embeddings, negatives, make_context(6)
        )
        for options in ({}, {**IPS, **PDA})
    ]
    assert set(named[0]) == {"bpr", "contrastive", "l2"}
    assert {key for key in named[0] if not torch.equal(named[0][key], named[1][key])} == {"bpr"}


# -- the parts ---------------------------------------------------------------------------------


def test_the_mean_weight_of_the_interactions_is_one_and_the_floor_bounds_it() -> None:
    counts = torch.tensor([1000, 300, 20, 1, 0])
    for eta in (0.0, 0.5, 1.0, 3.0):
        weights = inverse_propensity(counts, PropensityConfig(exponent=eta, floor=0.05))
        assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
        assert weights.max() / weights.min() <= 1 / 0.05 * (1 + 1e-6)
    assert torch.equal(inverse_propensity(counts, PropensityConfig(exponent=0)), torch.ones(5))


def test_popularity_is_relative_to_the_most_popular() -> None:
    power = popularity_power(torch.tensor([8, 2, 0]), 0.5)
    torch.testing.assert_close(power, torch.tensor([1.0, 0.5, 0.0]).double())


def test_the_deconfounded_score_rises_everywhere_and_stays_finite() -> None:
    scores = torch.tensor([-90.0, -40.0, -1.0, 0.0, 1e-3, 2.0, 500.0], requires_grad=True)
    values = deconfounded(scores, torch.ones(()))
    wanted = [s + 1 if s > 0 else math.exp(s) for s in scores.tolist()]
    torch.testing.assert_close(values, torch.tensor(wanted), rtol=1e-5, atol=0.0)
    assert (values.diff() > 0).all()
    values.sum().backward()
    assert scores.grad is not None
    torch.testing.assert_close(
        scores.grad, torch.tensor([min(1.0, w) for w in wanted]), rtol=1e-5, atol=0.0
    )


# -- the configuration -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({**PDA, "loss": "softmax"}, "deconfounds BPR; set objective.loss to 'bpr' or"),
        ({**PDA, "score": "cosine"}, "needs inner products; set objective.score to 'inner' or"),
        ({"popularity_exponent": -1}, "objective.popularity_exponent: "),
        ({"propensity": {"exponent": -1}}, "objective.propensity.exponent: "),
        ({"propensity": {"floor": 0}}, "objective.propensity.floor: "),
        ({"propensity": {"flor": 1}}, "'objective.propensity.flor' (did you mean 'floor'?)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(objective: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_config({"sampler": {"name": "random"}, "objective": objective})
    assert words in str(caught.value)


def test_presets_switch_one_treatment_on() -> None:
    ips, pda = (resolve_config(preset=f"{name}-lightgcn").objective for name in ("ips", "pda"))
    assert (ips.propensity.exponent, ips.popularity_exponent) == (0.5, 0)
    assert (pda.propensity.exponent, pda.popularity_exponent) == (0, 0.1)


# -- what they do ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> Dataset:
    """A log ruled by popularity, and an OOD test that inverts it."""
    return ConfoundedWorld(n_users=300, n_items=150, confounding=3.0, seed=0).dataset()


def pull_on_items(dataset: Dataset, options: dict[str, Any]) -> np.ndarray:
    """How much one epoch of training pulls each item up, all scores being zero."""
    train = dataset.split("train")
    positives = Positives(train.users, train.items, dataset.n_users, dataset.n_items)
    batch = make_batch(positives)
    users = torch.ones(dataset.n_users, 1, dtype=torch.float64)
    items = torch.zeros(dataset.n_items, 1, dtype=torch.float64, requires_grad=True)
    embeddings = Embeddings(users, items)
    negatives = Vectors(torch.zeros(len(batch), 1, 1, dtype=torch.float64))
    objective = Objective(ObjectiveConfig(l2=0.0, **options), positives)
    loss = objective(batch, embeddings, embeddings, negatives, make_context())["bpr"]
    pull: np.ndarray = -torch.autograd.grad(loss, items)[0][:, 0].numpy()
    return pull / pull.sum()


def test_with_eta_one_all_items_above_the_floor_weigh_the_same(world: Dataset) -> None:
    counts = np.bincount(world.split("train").items, minlength=world.n_items)
    floor = 0.1
    above = counts >= floor * counts.max()
    assert above.sum() > 20
    assert (~above).sum() > 20
    np.testing.assert_allclose(pull_on_items(world, {}), counts / counts.sum(), rtol=1e-6)
    pull = pull_on_items(world, {"propensity": {"exponent": 1.0, "floor": floor}})
    np.testing.assert_allclose(pull[above], pull[above].mean(), rtol=1e-6)
    # Below the floor an item has the largest weight there is, and still counts for less.
    share = counts[~above] / (floor * counts.max())
    np.testing.assert_allclose(pull[~above], pull[above].mean() * share, rtol=1e-6)


def test_treated_models_lean_less_on_popularity_and_do_better_when_it_turns(
    world: Dataset,
) -> None:
    log_popularity = np.log(np.bincount(world.split("train").items))
    slopes, ndcg = {}, {}
    for name, objective in {
        "plain": {},
        "ips .5": {"propensity": {"exponent": 0.5}},
        "ips 1": {"propensity": {"exponent": 1.0}},
        "pda .1": {"popularity_exponent": 0.1},
        "pda .25": {"popularity_exponent": 0.25},
    }.items():
        training = {"epochs": 10, "batch_size": 512, "lr": 0.01, "patience": None}
        model = Recommender(
            preset="bpr-lightgcn", objective=objective, training=training, threads=1
        ).fit(world)
        embeddings = model.model_.scorer()
        scores = embeddings.user_embeddings.mean(0) @ embeddings.item_embeddings.T
        slopes[name] = np.polyfit(log_popularity, scores.numpy(), 1)[0]
        ndcg[name] = model.evaluate(world, ["test_ood"])["test_ood"]["ndcg@20"]
    assert slopes["plain"] > slopes["ips .5"] > slopes["ips 1"]
    assert slopes["plain"] > slopes["pda .1"] > slopes["pda .25"]
    assert all(ndcg[name] > 1.05 * ndcg["plain"] for name in ndcg if name != "plain")
