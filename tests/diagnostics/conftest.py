"""Small datasets to describe."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from cnsdiff.data import Dataset
from cnsdiff.shifts import prepare_given

DAY = 86_400


def log(seed: int, pairs: int, first_day: int, last_day: int, *, tilt: float = 2.0) -> pl.DataFrame:
    """A log of 30 users and 25 items; the larger ``tilt``, the more popular the first items."""
    random = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user": random.integers(0, 30, pairs),
            "item": (25 * random.random(pairs) ** tilt).astype(int),
            "timestamp": random.integers(first_day * DAY, last_day * DAY, pairs),
            "period": random.choice(["summer", "winter"], pairs),
        }
    ).unique(["user", "item"], maintain_order=True)


@pytest.fixture(scope="session")
def timed() -> Dataset:
    """Train in the first 100 days, an OOD test in the next 50; no pair in two splits."""
    whole = log(0, 500, 0, 100)
    later = log(1, 200, 110, 160, tilt=0.7).join(whole, on=["user", "item"], how="anti")
    train, valid, iid = whole[:-60], whole[-60:-30], whole[-30:]
    return prepare_given(train, valid=valid, test_iid=iid, test_ood=later, name="timed")


@pytest.fixture(scope="session")
def bare() -> Dataset:
    """Users and items only, and no other split than train and an OOD test."""
    whole = log(2, 300, 0, 1).select("user", "item")
    return prepare_given(whole[:-40], test_ood=whole[-40:], name="bare <b>")
