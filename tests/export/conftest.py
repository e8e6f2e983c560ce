"""A dataset with awkward ids, and a model trained on it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import cnsdiff
from cnsdiff import Dataset, Recommender
from cnsdiff.base.errors import CnsdiffWarning


def awkward_log() -> pl.DataFrame:
    """Ids with spaces, quotes, letters of several scripts and what CSV separates by."""
    rng = np.random.default_rng(0)
    users = [f'user "{n}" ünï 名前' for n in range(30)] + [f"O'Hara, {n};" for n in range(30)]
    items = [f'"{n}" the item' if n % 3 else f"item {n}: 007" for n in range(40)]
    return pl.DataFrame(
        {
            "user": rng.choice(users, 1500),
            "item": rng.choice(items, 1500),
            "timestamp": rng.integers(1_600_000_000, 1_700_000_000, 1500),
            "environment": rng.choice(["shop one", "shop, two"], 1500),
        }
    )


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    log = awkward_log()
    users, items = log["user"].unique(maintain_order=True), log["item"].unique(maintain_order=True)
    user_features = pl.DataFrame(
        {"user": users[:40], "country": ["NA", "DE"] * 20, "age": [None, 30] * 20}
    )
    item_features = pl.DataFrame(
        {
            "item": items[:25],
            "name": ["a\tb", 'c\n"d"', "e", None, "null"] * 5,
            "tags": [["x", "y"], [], None, ["z"], ["x"]] * 5,
            "size": [[0.5, 1.5]] * 25,
            "price": np.arange(25) / 2,
            "label": [True, False, True, None, True] * 5,
            "country": ["FR"] * 25,
        }
    )
    with pytest.warns(CnsdiffWarning, match="features of 40 of the 60 users"):
        return cnsdiff.prepare(
            log, "temporal", user_features=user_features, item_features=item_features
        )


@pytest.fixture(scope="session")
def model(dataset) -> Recommender:
    training = {"epochs": 3, "batch_size": 128, "dial": 0.7}
    return Recommender("mf", "random", training=training, threads=1).fit(dataset)
