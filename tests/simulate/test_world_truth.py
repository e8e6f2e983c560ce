"""The truth beside a dataset is that of the world that made it, also after it was saved."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from cnsdiff import ConfoundedWorld, Dataset, Interactions, load_dataset
from cnsdiff.base.errors import DataError
from cnsdiff.evaluation import EmbeddingScorer, evaluate_split
from cnsdiff.references import MostPop
from cnsdiff.simulate import WorldTruth

SHIFTS = ("popularity", "temporal", "exposure", "hybrid")


@pytest.fixture(scope="module")
def world() -> ConfoundedWorld:
    # So few exposures leave users and items without a click, so numbers differ from the world's.
    return ConfoundedWorld(n_users=150, n_items=90, exposures=12, seed=1)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("shift", SHIFTS)
def test_the_truth_is_the_worlds(world, shift, saved, tmp_path):
    dataset = world.dataset(shift)
    if saved:
        dataset = load_dataset(dataset.save(tmp_path / "world"))
    assert dataset.n_items < world.n_items
    truth = WorldTruth.of(dataset)
    ids = dataset.users.to_numpy()[:, None], dataset.items.to_numpy()[None, :]
    numbers = np.arange(dataset.n_users)[:, None], np.arange(dataset.n_items)[None, :]
    assert np.array_equal(truth.relevant(*numbers), world.relevant(*ids))
    assert np.array_equal(truth.relevance_probability(*numbers), world.relevance_probability(*ids))
    plan = world.intervene(shift)
    assert truth.environments == {
        "logged": tuple(environment.label for environment in plan.logged),
        "test_ood": tuple(environment.label for environment in plan.shifted),
    }
    for environment in (*plan.logged, *plan.shifted):
        law = world.exposure_law(environment)[dataset.items.to_numpy()]
        assert np.array_equal(truth.log_laws[environment.label], np.log(law))
        np.testing.assert_allclose(truth.exposure_law(environment.label), law, rtol=1e-14)
        salience = environment.salience[dataset.items.to_numpy()]
        assert np.array_equal(truth.salience[environment.label], salience)
    mean = np.mean([world.exposure_law(one) for one in plan.shifted], axis=0)
    np.testing.assert_allclose(
        truth.exposure_law("test_ood"), mean[dataset.items.to_numpy()], rtol=1e-13
    )


def test_every_click_is_relevant_and_users_go_with_rows_of_items(world):
    dataset = world.dataset()
    truth = WorldTruth.of(dataset)
    for name in dataset.split_names:
        split = dataset.split(name)
        assert truth.relevant(split.users, split.items).all()
    users = np.array([3, 0, 3])
    items = np.array([[1, 2, 5, 0], [4, 4, 1, 2], [7, 8, 9, 1]])
    assert truth.relevant(users, items).shape == (3, 4)
    for row, column in np.ndindex(3, 4):
        one = truth.relevant(users[row : row + 1], items[row, column : column + 1])
        assert truth.relevant(users, items)[row, column] == one[0]


def test_preferences_are_all_that_is_liked_and_not_in_train(world, monkeypatch):
    dataset = world.dataset()
    truth, train = WorldTruth.of(dataset), dataset.split("train")
    everyone = np.arange(dataset.n_users)[:, None], np.arange(dataset.n_items)[None, :]
    expected = {(u, i) for u, i in np.argwhere(truth.relevant(*everyone)).tolist()}
    expected -= set(zip(train.users.tolist(), train.items.tolist(), strict=True))
    for pairs_at_once in (1 << 20, 700):
        monkeypatch.setattr("cnsdiff.simulate.clicks.PAIRS_AT_ONCE", pairs_at_once)
        found = truth.preferences(train)
        assert len(found) == len(expected)
        assert set(zip(found.users.tolist(), found.items.tolist(), strict=True)) == expected
    # Who knows the tastes ranks by them best of all.
    csr = train.csr(dataset.n_users, dataset.n_items)
    taste, attribute = (
        torch.from_numpy(table.copy())
        for table in (truth.relevance.tastes, truth.relevance.attributes)
    )
    oracle = evaluate_split(EmbeddingScorer(taste, attribute), found, csr).metrics
    popular = evaluate_split(MostPop().fit(dataset), found, csr).metrics
    assert oracle["precision@10"] > 0.8 > popular["precision@10"]


def test_groups_of_items_are_known(world):
    dataset = world.dataset()
    table = dataset.table("truth_items")
    for name in ("season_group", "promotion_group"):
        theirs = getattr(world.surroundings, name)[dataset.items.to_numpy()]
        assert table[name].to_list() == theirs.tolist()


def test_unknown_environment(world):
    truth = WorldTruth.of(world.dataset())
    with pytest.raises(DataError, match=r"no environment 'period-9' \(did you mean 'period-"):
        truth.exposure_law("period-9")


def plain(world: ConfoundedWorld, **changes) -> Dataset:
    """The splits of a world's dataset with other settings and tables."""
    made = world.dataset()
    clicks = pl.DataFrame({"user": made.users.head(5), "item": made.items.head(5)})
    given = {"settings": made.manifest.settings, **changes}
    return Dataset.from_splits(
        {"train": Interactions(clicks, "log")}, name="mine", scenario="given", **given
    )


def truth_of(world: ConfoundedWorld) -> dict[str, pl.DataFrame]:
    made = world.dataset()
    return {
        name: made.table(name).with_columns(ids.alias(key))
        for name, key, ids in (
            ("truth_users", "user", made.users), ("truth_items", "item", made.items)
        )
    }  # fmt: skip


def test_a_dataset_without_truth(world):
    with pytest.raises(DataError, match=r"^mine: its truth is not known.*cnsdiff simulate$"):
        WorldTruth.of(plain(world))


def test_a_truth_that_does_not_fit(world):
    tables = truth_of(world)
    assert WorldTruth.of(plain(world, tables=tables)).relevant([0], [0]).all()
    settings = world.dataset().manifest.settings
    damaged = [
        {"settings": {}},
        {"settings": {**settings, "world": {**settings["world"], "dim": 3}}},
        {"settings": {**settings, "world": {"n_userz": 3}}},
        {"settings": {**settings, "environments": {"logged": ["a"]}}},
        {"settings": {**settings, "environments": 3}},
        {"tables": {**tables, "truth_users": tables["truth_users"].drop("taste")}},
        {"tables": {**tables, "truth_users": tables["truth_users"].head(2)}},
        {"tables": {**tables, "truth_items": tables["truth_items"].drop("salience")}},
    ]
    for change in damaged:
        with pytest.raises(DataError, match=r"^mine: its truth does not fit") as caught:
            WorldTruth.of(plain(world, **{"tables": tables, **change}))
        assert "\n" not in str(caught.value), change
