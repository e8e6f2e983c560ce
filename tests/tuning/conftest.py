"""A small world to tune on, and a recommender that trains in no time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tuning_parts import QUICK

from cnsdiff import ConfoundedWorld, Recommender
from cnsdiff.data import Dataset


@pytest.fixture(scope="session")
def world() -> Dataset:
    return ConfoundedWorld(n_users=60, n_items=50, exposures=20, seed=0).dataset()


@pytest.fixture
def quick() -> Callable[..., Recommender]:
    """A recommender with changes to the training settings, or other arguments."""

    def made(sampler: Any = "random", seed: int = 0, **training: Any) -> Recommender:
        settings = {**QUICK, "training": {**QUICK["training"], **training}}
        return Recommender("mf", sampler, seed=seed, **settings)

    return made
