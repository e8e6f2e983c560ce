"""The dial while training, when it is done, and what it is never chosen on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cnsdiff import ConfoundedWorld, Recommender
from cnsdiff.backbones.base import Embeddings
from cnsdiff.data import Dataset
from cnsdiff.evaluation import EmbeddingScorer
from cnsdiff.evaluation.anticipation import PEOPLE
from cnsdiff.evaluation.dial import COARSE, FINE, prudent_dial
from cnsdiff.training import selection as module
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.selection import Selection

EPOCHS = {"epochs": 3, "batch_size": 64}


def tables(world: Dataset, seed: int = 0) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    return Embeddings(
        torch.randn(world.n_users, 8, generator=generator),
        torch.randn(world.n_items, 8, generator=generator),
    )


def selection(world: Dataset, **training) -> One:
    train = world.split("train").csr(world.n_users, world.n_items)
    return One({"it": TrainingConfig(**training)}, world, train, (10, 20))


class One(Selection):
    """A selection by one objective, of embeddings."""

    def __call__(self, embeddings):
        return super().__call__(EmbeddingScorer(*embeddings))["it"]

    def dial(self, embeddings):
        return self.place(EmbeddingScorer(*embeddings), ["it"])["it"].dial

    @property
    def split(self):
        return self.split_of("it")


def ndcg_by_hand(
    world: Dataset, embeddings: Embeddings, gamma: float, users=None, weighted: bool = False
) -> float:
    """NDCG@20 of validation at a dial, user by user; only of ``users`` if given.

    Pairs weigh 1, or ``1 / pop_i``.
    """
    sums, weights = by_user(world, embeddings, gamma, users, weighted)
    return float(sums.sum() / weights.sum())


def users_by_hand(world, embeddings, gamma, weighted=False) -> np.ndarray:
    """What each user adds to the weighted mean: the mean, and the user's distance from it."""
    sums, weights = by_user(world, embeddings, gamma, None, weighted)
    mean = sums.sum() / weights.sum()
    return mean + (sums - mean * weights) / weights.mean()


def by_user(world, embeddings, gamma, users, weighted) -> tuple[np.ndarray, np.ndarray]:
    """Each user's weighted NDCG@20 and weight."""
    scores = (embeddings.users @ embeddings.items.T).double().numpy()
    train = world.split("train").csr(world.n_users, world.n_items).toarray() > 0
    valid = world.split("valid").csr(world.n_users, world.n_items).toarray() > 0
    logs = np.log(np.maximum(exposed(world), 1))
    e = (logs - logs.mean()) / logs.std()
    scores = np.where(train, -np.inf, scores + gamma * scores.std(axis=1).mean() * e)
    pop = train.sum(axis=0).clip(1)
    total, norm = [], []
    for u in np.flatnonzero(valid.any(axis=1)):
        if users is None or u in users:
            gains = {i: 1 / pop[i] if weighted else 1.0 for i in np.flatnonzero(valid[u])}
            best = np.argsort(-scores[u], kind="stable")[:20]
            dcg = sum(gains.get(i, 0.0) / math.log2(r + 2) for r, i in enumerate(best))
            ranked = sorted(gains.values(), reverse=True)[:20]
            ideal = sum(gain / math.log2(r + 2) for r, gain in enumerate(ranked))
            weight = sum(gains.values()) / len(gains)
            total.append(weight * dcg / ideal)
            norm.append(weight)
    return np.array(total), np.array(norm)


def best_by_hand(world: Dataset, embeddings: Embeddings, gammas, users=None, weighted=False):
    """The best of some dials; of equal ones that nearest 0."""
    values = {g: ndcg_by_hand(world, embeddings, g, users, weighted) for g in gammas}
    return max(values, key=lambda g: (round(values[g], 9), -abs(g), g))


def exposed(world: Dataset) -> np.ndarray:
    if "exposures" in world.table_names:
        return world.table("exposures")["exposures"].to_numpy()
    return np.bincount(world.split("train").items, minlength=world.n_items)


@pytest.mark.parametrize("seed", range(3))
def test_an_epoch_is_worth_its_best_dial(world, seed):
    found = selection(world)(tables(world, seed))
    values = {gamma: ndcg_by_hand(world, tables(world, seed), gamma) for gamma in COARSE}
    assert found["ndcg@20"] == pytest.approx(max(values.values()), rel=1e-9)
    assert values[found["dial"]] == pytest.approx(max(values.values()), rel=1e-9)
    assert max(values.values()) > min(values.values())


@pytest.mark.parametrize("on", ["valid", "inverse-popularity"])
@pytest.mark.parametrize("seed", range(3))
def test_the_last_word_is_the_prudent_one_of_the_fine_grid(world, seed, on):
    columns = {
        gamma: users_by_hand(world, tables(world, seed), gamma, weighted=on != "valid")
        for gamma in FINE
    }
    assert selection(world, select_on=on).dial(tables(world, seed)) == prudent_dial(columns)


def test_equally_good_dials_count_as_the_one_nearest_zero(world):
    nothing = Embeddings(*(torch.zeros_like(table) for table in tables(world)))
    assert selection(world).dial(nothing) == 0, "scores without a spread turn with no dial"


@pytest.mark.parametrize("on", ["valid", "inverse-popularity"])
def test_some_users_tell_it_while_training_and_all_in_the_end(world, monkeypatch, on):
    """A sample that is the same each time, and then everybody."""
    weighted, whole, apart = on != "valid", selection(world, select_on=on), []
    assert len(whole.split) == len(world.split("valid"))
    monkeypatch.setattr(module, "DIAL_USERS", 7)
    for embeddings in (tables(world, seed) for seed in range(4)):
        chosen = selection(world, select_on=on)
        users = set(chosen.split.users)
        assert len(users) == 7
        assert users == set(selection(world, select_on=on).split.users)
        assert len(chosen.split) == sum(u in users for u in world.split("valid").users)
        coarse = best_by_hand(world, embeddings, COARSE, users, weighted)
        found = chosen(embeddings)
        assert found["dial"] == coarse
        value = ndcg_by_hand(world, embeddings, coarse, users, weighted)
        assert found[chosen.objectives["it"].selection_metrics[0]] == pytest.approx(value, rel=1e-9)
        assert chosen.dial(embeddings) == whole.dial(embeddings)
        apart.append(coarse != best_by_hand(world, embeddings, COARSE, None, weighted))
    assert any(apart), "the sample was never heard"
    assert len(selection(world, dial="off").split) == len(world.split("valid"))


@pytest.mark.parametrize("dial", ["off", 0.0, -0.7])
def test_a_dial_that_is_fixed(world, dial):
    found = selection(world, dial=dial)(tables(world))
    gamma = 0.0 if dial == "off" else dial
    assert found["ndcg@20"] == pytest.approx(ndcg_by_hand(world, tables(world), gamma), rel=1e-9)
    assert found.get("dial") == (None if dial == "off" else dial)
    training = {**EPOCHS, "epochs": 1, "dial": dial}
    assert Recommender(sampler="random", training=training).fit(world).dial_ == gamma


def test_one_objective_picks_the_epoch_and_the_dial(world):
    """Under an anticipated shift that one decides, not the plain metric."""
    on, name = "inverse-popularity", "ndcg@20 (inverse-popularity)"
    plain = []
    for embeddings in (tables(world, seed) for seed in range(5)):
        values = {g: selection(world, select_on=on, dial=g)(embeddings)[name] for g in COARSE}
        found = selection(world, select_on=on)(embeddings)
        assert values[found["dial"]] == found[name] == max(values.values())
        plain.append(selection(world)(embeddings)["dial"] == found["dial"])
    assert not all(plain), "the two differ"


def test_early_stopping_sees_the_best_reading(world):
    model = Recommender(sampler="random", training=EPOCHS).fit(world)
    values = [record["validation"]["ndcg@20"] for record in model.history_]
    assert model.best_epoch_ == values.index(max(values)) + 1
    assert all(record["validation"]["dial"] in COARSE for record in model.history_)
    assert next(iter(model.history_[0]["validation"])) == "ndcg@20"
    again = selection(world, **EPOCHS)
    read = again(Embeddings(model.user_embeddings_, model.item_embeddings_))
    assert read == model.history_[model.best_epoch_ - 1]["validation"]
    assert model.dial_ == again.dial(Embeddings(model.user_embeddings_, model.item_embeddings_))


def test_the_dial_changes_no_gradient(world):
    """With the same number of epochs the last weights are the same, however they are read."""
    settings = {**EPOCHS, "epochs": 1}
    ours = Recommender(sampler="random", training=settings).fit(world)
    theirs = Recommender(sampler="random", training={**settings, "dial": "off"}).fit(world)
    assert torch.equal(ours.item_embeddings_, theirs.item_embeddings_)
    assert torch.equal(ours.model_.dial_step, theirs.model_.dial_step)
    assert (ours.dial_ != 0, theirs.dial_) == (True, 0.0)
    assert "dial" not in theirs.history_[0]["validation"]


def test_even_exposure_asks_for_less_popularity():
    """Trained once, read for two environments: the validation pairs say which way."""
    world = ConfoundedWorld(n_users=300, n_items=120, seed=0).dataset()
    model = Recommender("mf", "random", training={"epochs": 15, "lr": 0.02, "fhn_every": None})
    model.fit(world)
    even = model.best_dial(world, "inverse-exposure")
    assert model.best_dial(world) == model.dial_
    assert even < 0 <= model.dial_
    ood = {g: model.evaluate(world, ["test_ood"], dial=g)["test_ood"] for g in (even, model.dial_)}
    assert ood[even]["ndcg@20"] > ood[model.dial_]["ndcg@20"]


@pytest.mark.parametrize(
    ("select_on", "is_a_bet"),
    [
        ("inverse-propensity", True),
        ("inverse-exposure", True),
        ("inverse-popularity", False),
        ("valid", False),
    ],
)
def test_what_validation_cannot_tell_is_called_a_bet(world, select_on, is_a_bet):
    notes = " ".join(selection(world, select_on=select_on, fhn_every=None).notes)
    assert (f"{select_on} is a bet" in notes) is is_a_bet
    assert (f"some {PEOPLE} of them, judged, would settle it (target_sample=..." in notes) is (
        is_a_bet
    )
