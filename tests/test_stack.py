"""Two models stacked: one model whose scores are the sum of both, weighed by validation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnsdiff import ConfoundedWorld, Recommender
from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.errors import ConfigError, InputError, TrainingError
from cnsdiff.benchmark.fit import fit_model
from cnsdiff.evaluation import EmbeddingScorer, evaluate_split
from cnsdiff.evaluation.dial import Dialled, exposure_score
from cnsdiff.recommender import stack
from cnsdiff.recommender.config import resolve_config, second_config
from cnsdiff.recommender.stack import WEIGHTS, stacked
from cnsdiff.training.loop import Trainer

BRIEF = {"epochs": 4, "fhn_every": None, "patience_steps": 0, "batch_size": 256}
SECOND = {"preset": "bpr-lightgcn", "set": {"training": BRIEF, "objective.l2": 0.01}}


@pytest.fixture(scope="module")
def world():
    return ConfoundedWorld(n_users=100, n_items=120, seed=1).dataset()


def tables(seed: int, users: int = 7, items: int = 11, dim: int = 3) -> Embeddings:
    rng = torch.Generator().manual_seed(seed)
    return Embeddings(
        torch.randn(users, dim, generator=rng), torch.randn(items, dim, generator=rng)
    )


@given(seed=st.integers(0, 10**6), weights=st.sampled_from(WEIGHTS))
def test_scores_are_the_weighted_sum_of_standardised_scores(seed, weights):
    first, second = tables(seed), tables(seed + 1, dim=5)
    joint = stacked([first, second], weights)
    scores = (joint.users @ joint.items.T).double().numpy()
    expected = np.zeros_like(scores)
    for weight, table in zip(weights, (first, second), strict=True):
        own = (table.users.double() @ table.items.double().T).numpy()
        unit = own.std(axis=1, keepdims=True) if 0 not in weights else 1.0
        expected += (weight if 0 not in weights else min(weight, 1.0)) * own / unit
    # What is the same for all items of a user ranks nothing.
    scores -= scores.mean(axis=1, keepdims=True)
    expected -= expected.mean(axis=1, keepdims=True)
    assert np.allclose(scores, expected, atol=1e-5)


def test_a_user_without_a_taste_does_not_divide_by_nothing():
    flat = Embeddings(torch.zeros(2, 3), torch.randn(5, 3))
    assert flat.deviations().tolist() == [1.0, 1.0]
    assert torch.isfinite(stacked([flat, tables(0, 2, 5)], (1.0, 1.0)).users).all()


def test_the_weights_are_those_that_validation_likes_best(world):
    model = Recommender(training=BRIEF, stack=SECOND, seed=3).fit(world)
    alone = [
        Recommender(training=BRIEF, seed=3).fit(world),
        Recommender(preset="bpr-lightgcn", training=BRIEF, objective={"l2": 0.01}, seed=3).fit(
            world, select_on="valid"
        ),
    ]
    assert model.best_epoch_ == alone[0].best_epoch_
    own = [Embeddings(m.user_embeddings_, m.item_embeddings_) for m in alone]
    valid, train = world.split("valid"), model.model_.train
    values = {}
    for weights in WEIGHTS:
        scorer = EmbeddingScorer(*stacked(own, weights))
        values[weights] = max(
            evaluate_split(Dialled(scorer, exposure_score(world), dial), valid, train)["ndcg@20"]
            for dial in (-0.5, -0.2, -0.1, 0.0, 0.1, 0.2, 0.5, 1.0)
        )
    chosen = tuple(model.stack_.weights)
    # A coarse look: the chosen one is worth what the best is, but for the fineness of the dial.
    assert values[chosen] >= max(values.values()) - 0.01
    joint = stacked(own, chosen)
    assert torch.allclose(model.user_embeddings_, joint.users, atol=1e-6)
    assert torch.equal(model.item_embeddings_, joint.items)


def test_it_is_saved_served_and_exported_as_any_model(world, tmp_path):
    model = Recommender(training=BRIEF, stack=SECOND, seed=3).fit(world, run=tmp_path / "run")
    loaded = Recommender.load(tmp_path / "run")
    users = world.users[:9]
    assert loaded.recommend(users, k=5).equals(model.recommend(users, k=5))
    assert loaded.stack_ == model.stack_
    assert loaded.config_.stack.preset == "bpr-lightgcn"
    again = Recommender.load(tmp_path / "run").clone().fit(world)
    assert again.user_embeddings_.equal(model.user_embeddings_)
    assert not list((tmp_path / "run").glob("second*"))


@pytest.mark.parametrize("training", range(4))
def test_killed_in_any_training_it_goes_on_to_the_same(world, tmp_path, monkeypatch, training):
    monkeypatch.setattr(stack, "WEIGHTS", ((1.0, 1.0),))
    whole = Recommender(training=BRIEF, stack=SECOND, seed=3).fit(world, refit=True)
    calls = -1
    fit, epoch = Trainer.fit, Trainer._train_epoch

    def counted(self, *args, **kwargs):
        nonlocal calls
        calls += 1
        return fit(self, *args, **kwargs)

    def killed(self, number, *args):
        if calls == training and number == 2:
            raise TrainingError("killed")
        return epoch(self, number, *args)

    assert whole.user_embeddings_.shape[1] == 2 * 64
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "fit", counted)
        patched.setattr(Trainer, "_train_epoch", killed)
        with pytest.raises(TrainingError, match="killed"):
            Recommender(training=BRIEF, stack=SECOND, seed=3).fit(
                world, refit=True, run=tmp_path / "run"
            )
    # An epoch is saved of each training until then, under the name that the run directory tells.
    saved = {file.name for file in (tmp_path / "run").glob("*.safetensors")}
    names = "checkpoint", "second", "refit", "second-refit"
    assert saved == {f"{name}.safetensors" for name in names[: training + 1]}
    model = Recommender(training=BRIEF, stack=SECOND, seed=3).fit(
        world, refit=True, run=tmp_path / "run"
    )
    assert model.user_embeddings_.equal(whole.user_embeddings_)
    assert model.item_embeddings_.equal(whole.item_embeddings_)


def test_rehearsed(world):
    model = Recommender(training=BRIEF, stack=SECOND, seed=3).fit(world, select_on="rehearsal")
    assert model.environment_ is not None
    assert tuple(model.stack_.weights) in WEIGHTS
    assert model.model_.train.nnz == len(world.merged().split("train"))


@pytest.mark.parametrize("weights", [WEIGHTS, ((1.0, 1.0),), ((0.0, 1.0),)])
@pytest.mark.parametrize("selection", ["valid", "valid+dial", "rehearsal+dial"])
def test_a_benchmark_stacks_as_a_recommender_does(world, selection, weights, monkeypatch):
    monkeypatch.setattr(stack, "WEIGHTS", weights)
    config = resolve_config({"training": BRIEF, "stack": SECOND, "seed": 3})
    choice = fit_model(config, world, [selection], "ndcg@20").choices[selection]
    on, _, dial = selection.partition("+")
    training = {**BRIEF, "dial": "auto" if dial else "off"}
    model = Recommender(training=training, stack=SECOND, seed=3).fit(world, select_on=on)
    users = torch.arange(5)
    device = torch.device("cpu")
    expected = model.model_.scorer(device).score_block(users, 0, world.n_items)
    assert torch.allclose(choice.scorer.score_block(users, 0, world.n_items), expected, atol=1e-5)


def test_nobody_is_asked_for_negatives_of_two_samplers(world, monkeypatch):
    monkeypatch.setattr(stack, "WEIGHTS", ((1.0, 1.0),))
    model = Recommender(training=BRIEF, stack=SECOND, seed=3).fit(world)
    with pytest.raises(InputError, match="a stack of two"):
        model.sampled_negatives(world, n=5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"preset": "bpr-lightgnc"}, "did you mean 'bpr-lightgcn'"),
        ({"preset": "bpr-lightgcn", "set": {"objective.l3": 1}}, "stack.*'objective.l3'"),
        ({"preset": "bpr-lightgcn", "set": {"seed": 1}}, "seed is that of the first"),
        ({"preset": "bpr-lightgcn", "set": {"stack": {}}}, "stack is that of the first"),
        ({"set": {"objective.l2": 1}}, "preset no name"),
        ({"pre": "x"}, "'stack.pre'"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(ConfigError, match=words):
        resolve_config({"stack": settings})


def test_what_chooses_is_that_of_the_first():
    config = resolve_config(
        {"training": {"select_on": "recency", "dial": "off"}, "seed": 7, "stack": SECOND}
    )
    second = second_config(config)
    assert (second.training.select_on, second.training.dial, second.seed) == ("recency", "off", 7)
    assert second.objective.l2 == 0.01
    assert second_config(resolve_config({})) is None


def test_the_second_trains_as_long_as_the_first_unless_it_says_so():
    def second(preset, **settings):
        stack = {"preset": preset, "set": settings}
        config = resolve_config({"training": {"epochs": 7, "batch_size": 99}, "stack": stack})
        return second_config(config).training

    assert (second("bpr-lightgcn").epochs, second("bpr-lightgcn").batch_size) == (7, 99)
    assert second("bpr-lightgcn", training={"epochs": 3}).epochs == 3
    assert second("ssm-lightgcn").batch_size == 2048  # part of that method
