"""Logs for scenarios, and their splits by id."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from cnsdiff.data import Dataset, Interactions, Source
from cnsdiff.testing import tiny_source


@pytest.fixture(scope="session")
def tiny() -> Source:
    return tiny_source()


@pytest.fixture(scope="session")
def long_tail() -> Interactions:
    """A log whose 100 items have from a few to hundreds of distinct users, with timestamps."""
    rng = np.random.default_rng(0)
    sizes = np.round(400 / np.sqrt(1 + np.arange(100))).astype(int)
    items = np.repeat(np.arange(100), sizes)
    users = np.concatenate([rng.choice(500, size, replace=False) for size in sizes])
    frame = pl.DataFrame({"user": users, "item": items})
    frame = frame.with_columns(timestamp=pl.Series(rng.permutation(frame.height) + 10**9))
    return Interactions(frame.sample(fraction=1, shuffle=True, seed=1), "shop.csv")


@pytest.fixture(scope="session")
def named() -> Callable[..., pl.DataFrame]:
    """``named(dataset, "train", …)``: the pairs of these splits by id, with their times."""

    def pairs(dataset: Dataset, *names: str) -> pl.DataFrame:
        frames = []
        for name in names:
            split = dataset.split(name)
            columns = {
                "user": dataset.decode_users(split.users),
                "item": dataset.decode_items(split.items),
            }
            if split.timestamps is not None:
                columns["timestamp"] = pl.Series(split.timestamps)
            frames.append(pl.DataFrame(columns))
        return pl.concat(frames)

    return pairs
