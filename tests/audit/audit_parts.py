"""A small log with tastes, times and ratings, and the audit of it that several tests look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cnsdiff.audit.log import Reading
from cnsdiff.audit.splits import Options


def log_frame(n_users: int = 160, n_items: int = 90, rows: int = 24) -> pl.DataFrame:
    """Users like the items of their taste, and popular ones; ratings and times beside."""
    rng = np.random.default_rng(3)
    tastes = rng.normal(size=(n_users, 4)) @ rng.normal(size=(4, n_items))
    scores = 2.0 * tastes + rng.normal(size=n_items) + rng.gumbel(size=(n_users, n_items))
    items = np.argsort(-scores, axis=1)[:, :rows]
    users = np.repeat(np.arange(n_users), rows)
    times = 1_600_000_000 + rng.integers(0, 30_000_000, len(users))
    ratings = np.where(np.arange(rows) < rows * 3 // 4, 5, 2)
    return pl.DataFrame(
        {
            "user": users,
            "item": items.ravel(),
            "rating": np.tile(ratings, n_users),
            "timestamp": times,
        }
    )


def options(log: Path, out: Path, **changes: Any) -> Options:
    """An audit with hardly any budget."""
    reading = {key: changes.pop(key) for key in list(changes) if hasattr(Reading("x"), key)}
    given = {"budget": 6.0, "threads": 1, **changes}
    return Options(Reading(str(log), **reading), out, **given)
