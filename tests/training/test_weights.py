"""Weights of pairs: from a log through every place that trains, and to no metric."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from launching import furthest, train_together

from cnsdiff import Recommender, load_dataset, prepare
from cnsdiff.base.errors import DataError
from cnsdiff.data import Dataset, Interactions
from cnsdiff.data.positives import Positives
from cnsdiff.environment import rehearse
from cnsdiff.evaluation import evaluate_split
from cnsdiff.export.dataset_tables import pairs_of
from cnsdiff.references import IALS, MostPop
from cnsdiff.references.base import RecentMostPop
from cnsdiff.training.processes import Processes
from cnsdiff.training.sharding import Shard

EVENTS = {"buy": 1, "cart": 0.5, "view": 0.1}
TRAINING = {"epochs": 2, "batch_size": 128, "fhn_every": None}


def clicks(seed: int = 0, n: int = 2500) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user": rng.integers(0, 60, n),
            "item": (70 * rng.random(n) ** 2).astype(np.int64),
            "time": np.sort(rng.integers(0, 200 * 86_400, n)),
            "event": rng.choice(["view", "cart", "buy"], n, p=[0.7, 0.2, 0.1]),
        }
    )


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return prepare(clicks(), "temporal", events=EVENTS)


def with_weights(dataset: Dataset, weight: float | None) -> Dataset:
    """The same pairs, all with one weight, or without any."""
    splits = {}
    for name in dataset.split_names:
        frame = pairs_of(dataset, name).drop("weight", strict=False)
        if weight is not None and name in ("train", "valid"):
            frame = frame.with_columns(weight=pl.lit(weight))
        splits[name] = Interactions(frame, name)
    return Dataset.from_splits(splits, name="same", scenario="temporal")


def test_train_and_valid_have_the_weights_of_the_log_and_tests_have_none(dataset, tmp_path):
    cut, best = dataset.manifest.log["cut"], {}
    for user, item, time, event in clicks().rows():
        if time < cut:  # what comes later is not known to those who train
            best[user, item] = max(EVENTS[event], best.get((user, item), 0))
    for data in (dataset, load_dataset(dataset.save(tmp_path / "data"))):
        for name in ("train", "valid"):
            for user, item, weight in pairs_of(data, name).select("user", "item", "weight").rows():
                assert weight == best[user, item]
        assert data.split("test_iid").weights is None
        assert data.split("test_ood").weights is None
        assert data.fingerprint == dataset.fingerprint
    assert dataset.fingerprint != with_weights(dataset, None).fingerprint


def test_parts_of_a_split_keep_their_weights(dataset):
    train, valid = dataset.split("train"), dataset.split("valid")
    merged = dataset.merged().split("train")
    assert np.array_equal(merged.weights, np.concatenate([train.weights, valid.weights]))
    some = train.of_users(np.arange(10))
    assert np.array_equal(some.weights, train.weights[train.users < 10])
    part = rehearse(dataset)
    weights = {
        (u, i): w for u, i, w in zip(merged.users, merged.items, merged.weights, strict=True)
    }
    for user, item, weight in (
        pairs_of(part.dataset, "train").select("user", "item", "weight").rows()
    ):
        assert weight == weights[user, item]


def test_weights_that_are_all_1_train_what_no_weights_train(dataset):
    models = [
        Recommender("mf", seed=1, training=TRAINING).fit(with_weights(dataset, weight))
        for weight in (None, 1.0, 0.3)
    ]
    for model in models[1:]:
        assert torch.equal(model.user_embeddings_, models[0].user_embeddings_)
        assert torch.equal(model.item_embeddings_, models[0].item_embeddings_)
    weighted = Recommender("mf", seed=1, training=TRAINING).fit(dataset)
    assert not torch.equal(weighted.item_embeddings_, models[0].item_embeddings_)


def test_items_of_weight_0_are_as_they_began_where_only_the_loss_moves_them(dataset):
    """BPR that repels with no gradient and has no L2 moves an item by its positives alone."""
    frame = pairs_of(dataset, "train").drop("environment", strict=False)
    nothing = pl.col("item") % 5 == 0
    frame = frame.with_columns(weight=pl.when(nothing).then(0.0).otherwise(1.0))
    splits = {"train": Interactions(frame, "train")}
    splits["valid"] = Interactions(pairs_of(dataset, "valid"), "valid")
    weighted = Dataset.from_splits(splits, name="zeros", scenario="given")
    objective = {"loss": "bpr", "l2": 0.0, "repulsion": 0.0}

    def items(lr: float) -> torch.Tensor:
        training = {**TRAINING, "lr": lr, "dial": 0.0, "refit": False, "select_on": "valid"}
        options = {"objective": objective, "training": training}
        return Recommender("mf", "random", seed=1, **options).fit(weighted).item_embeddings_

    before, after = items(1e-12), items(0.01)
    still = torch.tensor([item % 5 == 0 for item in weighted.items])
    assert torch.equal(before[still], after[still])
    assert not torch.isclose(before[~still], after[~still]).all(dim=1).any()


def test_metrics_do_not_see_weights(dataset):
    plain = with_weights(dataset, None)
    model, mask = MostPop().fit(plain), plain.split("train").csr(plain.n_users, plain.n_items)
    values = [evaluate_split(model, data.split("valid"), mask).metrics for data in (dataset, plain)]
    assert values[0] == values[1]


def test_shares_of_a_shard_have_the_weights_of_the_whole(dataset):
    whole = Positives.of_split(dataset.split("train"), dataset.n_users, dataset.n_items)
    assert whole.weights is not None
    assert whole.weights.double().mean().item() == pytest.approx(1)
    for rank in range(2):
        own = Shard(whole, Processes(rank, 2)).positives(whole)
        kept = whole.pairs[:, 0] % 2 == rank
        assert torch.equal(own.weights, whole.weights[kept])


def test_popularity_is_a_sum_of_weights(dataset):
    train = dataset.split("train")
    weights = train.weights / train.weights.mean()
    expected = np.zeros(dataset.n_items)
    for item, weight in zip(train.items, weights, strict=True):
        expected[item] += weight
    np.testing.assert_allclose(MostPop().fit(dataset).counts_.numpy(), expected, rtol=1e-5)
    ages = (train.timestamps.max() - train.timestamps) / np.ptp(train.timestamps)
    expected = np.zeros(dataset.n_items)
    for item, weight, age in zip(train.items, train.weights, ages, strict=True):
        expected[item] += weight * 0.5 ** (age / 0.2)
    found = RecentMostPop(0.2).fit(dataset).counts_.numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_weights_are_the_confidence_of_ials(dataset):
    """At the end, every user solves the paper's equation 4 with ``c = 1 + α w``."""
    pytest.importorskip("implicit")
    model = IALS(3, regularisation=0.5, alpha=2.0, iterations=300, threads=1).fit(dataset)
    train = dataset.split("train")
    w = np.zeros((dataset.n_users, dataset.n_items))
    w[train.users, train.items] = train.weights / train.weights.mean()
    y, users = model.item_factors_.numpy().astype(float), []
    for row, known in zip(w, w > 0, strict=True):
        c = np.diag(1 + 2.0 * row)
        users.append(np.linalg.solve(y.T @ c @ y + 0.5 * np.eye(3), y.T @ c @ known))
    np.testing.assert_allclose(model.user_factors_.numpy(), np.array(users), atol=2e-2)


def test_weights_that_are_all_0_are_refused():
    frame = clicks().with_columns(event=pl.Series(["view"] * 2499 + ["buy"]))
    with pytest.raises(DataError, match="every pair to train on has the weight 0"):
        prepare(frame, "temporal", events={"view": 0, "buy": 1})


@pytest.mark.slow
def test_two_processes_train_what_one_does(dataset, tmp_path):
    """A checkpoint, and shares of the tables, have the weights as one process has."""
    path = dataset.save(tmp_path / "data")
    training = {**TRAINING, "slices": 2}
    variants = {
        name: {"sampler": "random", "training": {**training, "shard": shard, "slices": slices}}
        for name, shard, slices in (("whole", False, 2), ("shares", True, 1))
    }
    train_together(path, variants, tmp_path / "runs")
    Recommender(sampler="random", training=training).fit(load_dataset(path), run=tmp_path / "one")
    for name in variants:
        assert furthest(tmp_path / "runs" / name, tmp_path / "one") < 1e-5
