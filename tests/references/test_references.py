"""The references against dense twins written from their definitions."""

from __future__ import annotations

import tracemalloc

import numpy as np
import polars as pl
import pytest
import torch

from cnsdiff.base.errors import CnsdiffWarning, ConfigError, InputError, NotFittedError
from cnsdiff.data import Dataset, read_interactions
from cnsdiff.evaluation import Scorer, evaluate
from cnsdiff.references import EASE, REFERENCES, ItemKNN, MostPop, Reference
from cnsdiff.references.item_knn import _nearest


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    where = rng.choice(5, (25, 18))
    where[np.arange(18), np.arange(18)] = 0
    frames = {}
    for n, name in enumerate(("train", "valid", "test_ood")):
        pairs = pl.DataFrame(np.argwhere(where == n), schema=["user", "item"])
        times = rng.permutation(1000)[: len(pairs)] + 1000 * n
        frames[name] = read_interactions(pairs.with_columns(timestamp=times))
    return Dataset.from_splits(frames, name="tiny", scenario="given")


@pytest.fixture(scope="module")
def x(dataset: Dataset) -> np.ndarray:
    """Training positives, dense."""
    return dataset.split("train").csr(dataset.n_users, dataset.n_items).toarray().astype(float)


def scores(model: Reference) -> np.ndarray:
    return model.score_block(torch.arange(model.n_users), 0, model.n_items).numpy()


@pytest.mark.parametrize("name", REFERENCES)
def test_is_a_scorer_whose_blocks_fit_together(dataset: Dataset, name: str) -> None:
    model = REFERENCES[name]()
    with pytest.raises(NotFittedError, match="fit"):
        model.score_block(torch.arange(2), 0, 1)
    assert model.fit(dataset) is model
    assert isinstance(model, Scorer)
    assert (model.n_users, model.n_items) == (dataset.n_users, dataset.n_items)
    whole = scores(model)
    users = torch.tensor([7, 0, 7])
    block = model.score_block(users, 3, 11)
    assert block.dtype == torch.float32
    np.testing.assert_allclose(block.numpy(), whole[[7, 0, 7], 3:11], rtol=1e-6, atol=1e-7)
    block.fill_(0)
    np.testing.assert_array_equal(scores(model), whole)
    assert evaluate(model, dataset, item_chunk=5).metrics == evaluate(model, dataset).metrics


def test_most_popular_counts_users(dataset: Dataset, x: np.ndarray) -> None:
    np.testing.assert_array_equal(scores(MostPop().fit(dataset)), np.tile(x.sum(0), (len(x), 1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ease_is_the_constrained_ridge_solution(
    dataset: Dataset, x: np.ndarray, dtype: torch.dtype
) -> None:
    model = EASE(l2=3.0, dtype=dtype).fit(dataset)
    p = np.linalg.inv(x.T @ x + 3.0 * np.eye(x.shape[1]))
    expected = -p / np.diag(p)
    np.fill_diagonal(expected, 0.0)
    np.testing.assert_allclose(model.weights_.numpy(), expected, atol=2e-6)
    np.testing.assert_allclose(scores(model), x @ expected, atol=1e-5)
    # Column by column, the same as ridge regression on all the other items.
    rest = np.delete(x, 4, axis=1)
    ridge = np.linalg.solve(rest.T @ rest + 3.0 * np.eye(rest.shape[1]), rest.T @ x[:, 4])
    np.testing.assert_allclose(np.delete(model.weights_.numpy()[:, 4], 4), ridge, atol=2e-6)


def test_ease_refuses_a_catalogue_too_large_for_memory(dataset: Dataset) -> None:
    with pytest.raises(InputError, match=r"18 × 18 items.*limit of 17 items.*max_items"):
        EASE(max_items=17).fit(dataset)
    with pytest.raises(ConfigError, match="above 0"):
        EASE(l2=0.0).fit(dataset)


@pytest.mark.parametrize("neighbours", [None, 1, 3, 100])
@pytest.mark.parametrize("shrink", [0.0, 2.0])
def test_item_knn_by_definition(
    dataset: Dataset,
    x: np.ndarray,
    neighbours: int | None,
    shrink: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cnsdiff.references.item_knn._BLOCK", 40)  # two or three items
    model = ItemKNN(neighbours, shrink=shrink).fit(dataset)
    norms = np.sqrt(x.sum(0))
    expected = (x.T @ x) / (np.outer(norms, norms) + shrink)
    np.fill_diagonal(expected, 0.0)
    for row in expected:
        order = np.lexsort((np.arange(len(row)), -row))
        row[order[neighbours or len(row) :]] = 0.0
    np.testing.assert_allclose(model.similarity_.toarray(), expected, atol=1e-7)
    np.testing.assert_allclose(scores(model), x @ expected, rtol=1e-5, atol=1e-6)


def test_item_knn_settings_are_checked(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="neighbours is 0"):
        ItemKNN(0).fit(dataset)
    with pytest.raises(ConfigError, match="shrink"):
        ItemKNN(shrink=-1.0).fit(dataset)
    with pytest.raises(ConfigError, match="max_pairs is 17; give at least one for each of 18"):
        ItemKNN(max_pairs=17).fit(dataset)


@pytest.mark.parametrize("neighbours", [None, 11])
def test_item_knn_keeps_no_more_than_max_pairs(dataset: Dataset, neighbours: int | None) -> None:
    with pytest.warns(CnsdiffWarning, match="keeps the 4 most similar of the 18 items"):
        model = ItemKNN(neighbours, max_pairs=18 * 4 + 3).fit(dataset)
    expected = ItemKNN(4).fit(dataset).similarity_
    assert model.similarity_.nnz == expected.nnz == 18 * 4
    np.testing.assert_array_equal(model.similarity_.toarray(), expected.toarray())


@pytest.mark.parametrize("density", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("k", [1, 3, 20, 100])
def test_the_nearest_whether_they_are_sorted_or_selected(density: float, k: int) -> None:
    rng = np.random.default_rng(k)
    dense = rng.integers(1, 4, (12, 60)) * (rng.random((12, 60)) < density)
    dense[[0, 5, 11]] = 0
    rows, columns = np.nonzero(dense)
    kept = _nearest(rows, columns, dense[rows, columns].astype(float), dense.shape, k)
    for row in range(12):
        own = np.flatnonzero(dense[row])
        best = own[np.lexsort((own, -dense[row, own]))][:k]
        assert columns[kept & (rows == row)].tolist() == sorted(best)


def test_fitting_a_catalogue_with_a_crawler_takes_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One user with 1,500 items makes all of them similar: 2.2 million pairs, 18 MB as kept.
    rng = np.random.default_rng(0)
    users = np.r_[rng.integers(1, 50, 500), np.zeros(1500, dtype=int)]
    items = np.r_[rng.integers(0, 1500, 500), np.arange(1500)]
    pairs = pl.DataFrame({"user": users, "item": items}).unique(maintain_order=True)
    dataset = Dataset.from_splits({"train": read_interactions(pairs)}, name="bot", scenario="given")
    monkeypatch.setattr("cnsdiff.references.item_knn._BLOCK", 2**15)
    tracemalloc.start()
    try:
        with pytest.warns(CnsdiffWarning, match="does one user have most of the catalogue"):
            ItemKNN(max_pairs=100_000).fit(dataset)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 80 * 2**15 + 12 * 100_000 + 1_000_000


@pytest.mark.parametrize("name", ["itemknn", "ease", "ials"])
def test_what_there_is_no_memory_for_is_not_begun(
    dataset: Dataset, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnsdiff.kernels.memory.free_memory", lambda: 1_000_000)
    REFERENCES[name]().fit(dataset)  # 18 items take little
    monkeypatch.setattr("cnsdiff.kernels.memory.free_memory", lambda: 100)
    with pytest.raises(InputError, match=r"needs about [\d.]+ GB of memory, and 0.0 GB are free"):
        REFERENCES[name]().fit(dataset)
