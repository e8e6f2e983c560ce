"""Train on feedback that is partly wrong or missing, test on clean feedback."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import Field

from cnsdiff.base.errors import ConfigError
from cnsdiff.data.positives import Positives
from cnsdiff.shifts.base import register_scenario
from cnsdiff.shifts.drawing import Rows, anchors, draw, others, rank_within, rounded
from cnsdiff.shifts.log_scenario import Log, LogScenario, Parts, free_rows


@register_scenario
class Noise(LogScenario):
    """A share of the training side is falsified or lost; the OOD test is a clean random sample.

    Valid and the IID test come from the noisy side. One row of each user and item stays as it
    is, so that the OOD test is the same for every ``strength``.
    """

    name: ClassVar[str] = "noise"

    kind: Literal["flip", "drop"] = "flip"
    """``"flip"``: the item is replaced by one that the user has nowhere in the log.
    ``"drop"``: the row is removed."""
    strength: float = Field(0.2, ge=0, lt=1)
    """Share of the training side's rows that this happens to."""
    ood_share: float = Field(0.2, gt=0, lt=1)
    """Share of the log that becomes the OOD test."""

    def divide(self, log: Log, rng: np.random.Generator) -> Parts:
        """Hold out a random sample."""
        wanted = rounded(self.ood_share, len(log))
        ood = draw(free_rows(log, wanted), wanted, rng)
        return Parts(others(ood, len(log)), ood)

    def observe(self, log: Log, train: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
        """Flip or drop rows of the training side."""
        users, items = train["user"].to_numpy(), train["item"].to_numpy()
        free = np.flatnonzero(~anchors(users, items, rng))
        wanted = rounded(self.strength, len(users))
        if self.kind == "flip":
            # A user who has nearly every item cannot be given many others.
            missing = log.n_items - np.bincount(log.users, minlength=log.n_users)
            free = free[rank_within(users[free], rng) < missing[users[free]]]
        if wanted > len(free):
            raise ConfigError(
                f"{log.source}: only {len(free)} of the {len(users)} training rows can be "
                f"{'flipped' if self.kind == 'flip' else 'dropped'}, since each user and item "
                f"keeps one, and strength {self.strength:g} asks for {wanted}; lower strength"
            )
        rows = draw(free, wanted, rng)
        if self.kind == "drop":
            return train[others(rows, len(users))]
        flipped = items.copy()
        flipped[rows] = _new_items(log, users[rows], rng)
        return train.with_columns(pl.Series("item", flipped))


def _new_items(log: Log, users: Rows, rng: np.random.Generator) -> NDArray[np.int64]:
    """An item for each of ``users`` that the user does not have, none twice for the same user."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    new = np.full(len(users), -1)
    open_ = np.arange(len(users))
    # Each round settles at least one row of every user still open, in practice nearly all.
    while len(open_):
        mine = np.zeros(log.n_users, dtype=bool)
        mine[users[open_]] = True
        had, settled = mine[log.users], np.flatnonzero(mine[users] & (new >= 0))
        taken = Positives(
            np.concatenate([log.users[had], users[settled]]),
            np.concatenate([log.items[had], new[settled]]),
            log.n_users,
            log.n_items,
        )
        drawn = taken.sample_negatives(torch.from_numpy(users[open_]), 1, generator).numpy()[:, 0]
        pairs = users[open_] * log.n_items + drawn
        first = np.zeros(len(pairs), dtype=bool)
        first[np.unique(pairs, return_index=True)[1]] = True
        new[open_[first]] = drawn[first]
        open_ = open_[~first]
    return new
