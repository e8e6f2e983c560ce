"""Scores in units of each user's own spread: the units, and what does not depend on them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_array

from cnsdiff import ConfoundedWorld, Recommender, load_dataset
from cnsdiff.base.errors import InputError
from cnsdiff.base.storage import sha256
from cnsdiff.environment import rehearse
from cnsdiff.environment.environment import OwnUnits
from cnsdiff.evaluation import EmbeddingScorer, rank
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.selection import EnvironmentSelection


class Table:
    """A scorer that has all its scores, and is asked for blocks of them."""

    def __init__(self, scores: torch.Tensor) -> None:
        self.scores, (self.n_users, self.n_items) = scores, scores.shape

    def score_block(self, users: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        return self.scores[users, start:stop].clone()


@pytest.fixture(scope="module")
def tables():
    generator = torch.Generator().manual_seed(3)
    users = torch.randn(70, 5, generator=generator) * torch.rand(70, 1, generator=generator) ** 4
    return users, torch.randn(40, 5, generator=generator) + 2


def test_each_user_has_a_standard_deviation_of_1(tables):
    scores = tables[0] @ tables[1].T
    expected = scores.double().numpy()
    expected /= expected.std(axis=1, keepdims=True)
    everyone = torch.arange(70)
    for scorer in (EmbeddingScorer(*tables), Table(scores)):
        own = OwnUnits(scorer)
        np.testing.assert_allclose(own.score_block(everyone, 0, 40), expected, rtol=2e-4, atol=1e-5)
        # By blocks, some users again, others for the first time.
        again = OwnUnits(scorer)
        for users in ([4, 1], [1, 69, 4]):
            block = again.score_block(torch.tensor(users), 30, 40)
            np.testing.assert_allclose(block, expected[users, 30:], rtol=2e-4, atol=1e-5)
        assert rank(own, everyone, 10)[0].equal(rank(scorer, everyone, 10)[0])


def test_a_unit_once_measured_stays_whoever_is_asked_beside(tables):
    """Some users of a batch are known and others not; by a whole block and by a part of one."""
    scores = tables[0] @ tables[1].T
    expected = OwnUnits(Table(scores)).score_block(torch.arange(70), 0, 40)
    for start, stop in ((0, 40), (10, 30)):
        own = OwnUnits(Table(scores))
        own.score_block(torch.tensor([3, 1]), 0, 40)
        for users in ([1, 7, 1, 3], [7, 8], []):
            block = own.score_block(torch.tensor(users, dtype=torch.int64), start, stop)
            torch.testing.assert_close(block, expected[users, start:stop])


def test_units_keep_no_gradient():
    """Scores of a caller may have one, and be asked for again."""
    scores = torch.arange(10.0).reshape(2, 5).requires_grad_()
    own = OwnUnits(Table(scores))
    for _ in range(2):
        own.score_block(torch.arange(2), 0, 5).sum().backward()
    np.testing.assert_allclose(scores.grad, 2 / np.sqrt(2), rtol=1e-6)


def test_what_is_never_recommended_has_no_part_in_the_unit(tables):
    scores = tables[0] @ tables[1].T
    barred = scores.clone()
    barred[:, 7] = -torch.inf
    own = OwnUnits(Table(barred)).score_block(torch.arange(70), 0, 40)
    assert bool(own[:, 7].isneginf().all())
    kept = torch.arange(40) != 7
    np.testing.assert_allclose(own[:, kept].double().std(dim=1, correction=0), 1, rtol=1e-5)


def test_scores_that_are_all_alike_stay_as_they_are():
    alike = OwnUnits(Table(torch.full((2, 5), 0.25)))
    assert alike.score_block(torch.arange(2), 0, 5).tolist() == [[0.25] * 5] * 2
    zeros = OwnUnits(EmbeddingScorer(torch.zeros(2, 3), torch.ones(5, 3)))
    assert zeros.score_block(torch.arange(2), 0, 5).tolist() == [[0.0] * 5] * 2


@pytest.fixture(scope="module")
def rehearsal():
    world = ConfoundedWorld(n_users=60, n_items=50, exposures=40, seed=1)
    return rehearse(world.dataset(shift="temporal"))


@given(st.integers(0, 2**16), st.booleans())
@settings(max_examples=8, deadline=None)
def test_how_large_a_users_scores_are_changes_no_environment(rehearsal, seed, by_table):
    """Each user's scores times a number of their own: the same choice, at the same value."""
    part = rehearsal.dataset
    generator = torch.Generator().manual_seed(seed)
    users = torch.randn(part.n_users, 6, generator=generator)
    items = torch.randn(part.n_items, 6, generator=generator)
    factors = torch.exp(3 * torch.randn(part.n_users, 1, generator=generator))
    train = part.split("train").csr(part.n_users, part.n_items)
    objective = {"": TrainingConfig(select_on="rehearsal")}
    selection = EnvironmentSelection(objective, part, train, (20,))
    choices = []
    for vectors in (users, factors * users):
        scorer = Table(vectors @ items.T) if by_table else EmbeddingScorer(vectors, items)
        choices.append(selection.choice(scorer, ""))
    first, second = choices
    assert first.environment is not None and second.environment is not None
    assert second.value == pytest.approx(first.value, abs=1e-6)
    assert second.environment.coefficients == pytest.approx(
        first.environment.coefficients, abs=1e-3
    )


# --- models


TRAINING = {"epochs": 2, "batch_size": 64, "fhn_every": None}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "world"
    world = ConfoundedWorld(n_users=60, n_items=50, exposures=40, seed=1)
    world.dataset(shift="temporal").save(path)
    return load_dataset(path)


@pytest.fixture(scope="module", params=["default", "random", "ease", "itemknn"])
def model(request, data):
    """The default by cosines, BPR by inner products, and two by item weights."""
    kind = {"default": {}, "random": {"sampler": "random"}}
    options = kind.get(request.param, {"backbone": request.param})
    if request.param in kind:
        options = {**options, "training": TRAINING, "backbone_options": {"dim": 4}}
    return Recommender(**options).fit(data, select_on="rehearsal")


def scores_of(model: Any, dial: float | None = 0.0) -> np.ndarray:
    scorer = model.scorer(dial=dial)
    return scorer.score_block(torch.arange(scorer.n_users), 0, scorer.n_items).double().numpy()


def test_a_rehearsed_model_is_in_own_units_and_stays_so(model, tmp_path):
    assert model.model_.own_units
    np.testing.assert_allclose(scores_of(model.model_).std(axis=1), 1, rtol=1e-3)
    model.save(tmp_path / "run")
    again = Recommender.load(tmp_path / "run").model_
    assert again.own_units
    np.testing.assert_array_equal(scores_of(again, None), scores_of(model.model_, None))


def test_a_run_from_before_is_scored_as_it_was(model, tmp_path):
    """It does not say that it is in own units, and nothing is divided by any."""
    model.save(tmp_path / "run")
    place = tmp_path / "run" / "activity.safetensors"
    tensors = load_file(place)
    del tensors["own_units"]
    save_file(tensors, place)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    manifest["sha256"][place.name] = sha256(place)
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    old = Recommender.load(tmp_path / "run").model_
    assert not old.own_units
    if hasattr(old, "weights"):
        weights = old.weights.numpy() if torch.is_tensor(old.weights) else old.weights.toarray()
        np.testing.assert_allclose(scores_of(old), old.train.toarray() @ weights, atol=1e-4)
    else:
        np.testing.assert_array_equal(scores_of(old), scores_of(model.model_))


def test_items_added_change_no_score_of_the_others(model):
    """Neither of a user as trained nor of one who is folded in."""
    inner = model.model_
    n = len(inner.items)
    longer = inner.with_items(pl.Series("id", range(1000, 1000 + n), dtype=inner.items.dtype))
    np.testing.assert_allclose(scores_of(longer)[:, :n], scores_of(inner), rtol=1e-4, atol=1e-5)
    everyone, folded = np.arange(len(inner.users)), []
    for own in (inner, longer):
        since = np.zeros((len(everyone), len(own.items)), dtype=np.float32)
        since[:, :4] = 1
        scorer = own.fold_in(everyone, csr_array(since))
        folded.append(scorer.score_block(torch.arange(len(everyone)), 0, n).numpy())
    np.testing.assert_allclose(folded[1], folded[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(folded[0].std(axis=1), 1, rtol=1e-3)


def test_pairs_of_nobody_and_of_a_user_without_a_history_have_scores(model):
    inner = model.model_
    user, item = inner.users[:1].to_list(), inner.items[:1].to_list()
    assert len(inner.score([], [])) == 0
    assert np.isfinite(inner.score(user, item)).all()
    if hasattr(inner, "weights"):
        new = replace(inner, train=csr_array(inner.train.shape, dtype=np.float32))
        assert list(new.score(user, item, dial=0.0)) == [0.0]


def test_a_sampler_is_asked_with_the_vectors_it_trained_with(model, data):
    if not hasattr(model.model_, "user_embeddings"):
        with pytest.raises(InputError, match="solved in closed form"):
            model.sampled_negatives(data)
        return
    users, items = model.sampled_negatives(data, n=4).embeddings
    assert not users.requires_grad and not items.requires_grad
    own = model.model_.user_embeddings
    cosines = torch.nn.functional.cosine_similarity(users, own, dim=1)
    np.testing.assert_allclose(cosines, 1, atol=1e-4)
    np.testing.assert_allclose(items, model.model_.item_embeddings, atol=1e-5)
    if model.config_.objective.score == "cosine":
        np.testing.assert_allclose(users.norm(dim=1), 1, rtol=1e-5)
    else:
        spreads = (users @ items.T).std(dim=1)
        assert float(spreads.max() / spreads.min()) > 1.05, "as trained, not in own units"


def test_of_a_model_with_content_only_one_part_is_in_own_units(tmp_path):
    world = ConfoundedWorld(n_users=60, n_items=50, exposures=40, seed=1)
    dataset = world.dataset(shift="temporal")
    options = {"training": TRAINING, "backbone_options": {"dim": 4}}
    model = Recommender(**options, content={"prior": "ridge", "rank": 4})
    model.fit(dataset, select_on="rehearsal")
    assert model.environment_ is not None and model.model_.content is not None
    assert not model.model_.own_units
