"""Random scores: what they depend on, and that they are chance."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from scipy import stats

from cnsdiff.base.errors import ConfigError
from cnsdiff.base.seeding import derive_seed
from cnsdiff.data import Dataset, read_interactions
from cnsdiff.references import RandomScores


def dataset(n_users: int = 400, n_items: int = 50) -> Dataset:
    """Every user has one item, so that all of both are known."""
    users = np.arange(max(n_users, n_items))
    pairs = pl.DataFrame({"user": users % n_users, "item": users % n_items})
    return Dataset.from_splits({"train": read_interactions(pairs)}, name="tiny", scenario="given")


def scores(model: RandomScores) -> np.ndarray:
    return model.score_block(torch.arange(model.n_users), 0, model.n_items).numpy()


@pytest.fixture(scope="module")
def whole() -> np.ndarray:
    return scores(RandomScores(seed=3).fit(dataset()))


def split_mix(state: int) -> int:
    """One output of SplitMix64 in Python's integers."""
    mask = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_each_score_is_the_pairs_output_of_splitmix(whole: np.ndarray) -> None:
    key, step = derive_seed(3, "random scores"), 0x9E3779B97F4A7C15
    for user in (0, 1, 17, 399):
        for item in (0, 1, 49):
            number = user * 2**32 + item
            output = split_mix((key + number * step) % 2**64)
            assert whole[user, item] == np.float32((output >> 11) / 2**53)


def test_batch_chunk_and_catalogue_change_nothing(whole: np.ndarray) -> None:
    model = RandomScores(seed=3).fit(dataset(n_users=700, n_items=90))
    users = torch.tensor([7, 0, 399, 7])
    np.testing.assert_array_equal(model.score_block(users, 13, 50).numpy(), whole[users, 13:])
    for user in (0, 399):
        for item in (0, 49):
            one = model.score_block(torch.tensor([user]), item, item + 1)
            assert one.item() == whole[user, item]


def test_the_seed_decides(whole: np.ndarray) -> None:
    np.testing.assert_array_equal(scores(RandomScores(seed=3).fit(dataset())), whole)
    other = scores(RandomScores(seed=4).fit(dataset()))
    assert abs(np.corrcoef(other.ravel(), whole.ravel())[0, 1]) < 4 / np.sqrt(whole.size)
    assert RandomScores.deterministic is False
    with pytest.raises(ConfigError, match="seed is -1"):
        RandomScores(seed=-1).fit(dataset())


def test_scores_are_uniform_and_pairs_know_nothing_of_one_another(whole: np.ndarray) -> None:
    assert len(np.unique(whole)) > 0.99 * whole.size
    assert stats.kstest(whole.ravel(), "uniform").pvalue > 1e-3
    neighbours = ((whole[1:], whole[:-1]), (whole[:, 1:], whole[:, :-1]))
    for one, other in neighbours:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(one.size)


def test_every_item_is_as_often_on_top() -> None:
    model = RandomScores(seed=0).fit(dataset(n_users=20_000, n_items=20))
    tops = np.bincount(scores(model).argmax(axis=1), minlength=20)
    assert stats.chisquare(tops).pvalue > 1e-3
