"""The cleaned log as a scenario sees it: dense numbers, no ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cnsdiff.base.errors import DataError
from cnsdiff.data import Interactions
from cnsdiff.data.ids import Vocabulary
from cnsdiff.shifts.drawing import Rows, anchors


@dataclass(frozen=True)
class Log:
    """Positive pairs, each once, with users and items numbered from 0.

    Attributes
    ----------
    frame
        A row per pair: ``user``, ``item`` (Int64) and, where the log has them, ``rating``,
        ``timestamp`` and ``environment``.
    user_ids, item_ids
        Whose number is which: the row is the number.
    source
        File or ``"DataFrame"``, for messages.
    anchored
        ``(n,)`` rows that must stay in train, so that every user and item is known there.
    features
        As in :class:`~cnsdiff.data.Source`.
    """

    frame: pl.DataFrame
    user_ids: pl.Series
    item_ids: pl.Series
    source: str
    anchored: NDArray[np.bool_]
    features: Mapping[str, pl.DataFrame] = field(default_factory=dict)

    @classmethod
    def of(
        cls, given: Interactions, features: Mapping[str, pl.DataFrame], rng: np.random.Generator
    ) -> Log:
        """Number the users and items of ``given`` and choose the anchored rows."""
        frame, ids = given.frame, {}
        for side in ("user", "item"):
            ids[side] = frame[side].unique(maintain_order=True)
            numbers = Vocabulary(ids[side].alias("id")).encode(frame[side])
            frame = frame.with_columns(pl.Series(side, numbers))
        anchored = anchors(frame["user"].to_numpy(), frame["item"].to_numpy(), rng)
        return cls(frame, ids["user"], ids["item"], given.source, anchored, features)

    def __len__(self) -> int:
        return self.frame.height

    @property
    def users(self) -> NDArray[np.int64]:
        """``(n,)`` user of each row."""
        return self.frame["user"].to_numpy()

    @property
    def items(self) -> NDArray[np.int64]:
        """``(n,)`` item of each row."""
        return self.frame["item"].to_numpy()

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    @property
    def free(self) -> Rows:
        """The rows that may be held out: those not anchored."""
        return np.flatnonzero(~self.anchored)

    @property
    def timestamps(self) -> NDArray[Any]:
        """``(n,)`` time of each row in epoch seconds.

        Raises
        ------
        DataError
            The log has none.
        """
        if "timestamp" not in self.frame.columns:
            raise DataError(
                f"{self.source}: has no timestamps, which this scenario divides by; name their "
                "column with --timestamp-col, or choose another --scenario"
            )
        return self.frame["timestamp"].to_numpy()

    def user_features(self) -> pl.DataFrame:
        """What is known of the users: a row per user number, nulls where nothing is.

        Raises
        ------
        DataError
            The source has none.
        """
        if "user_features" not in self.features:
            raise DataError(
                f"{self.source}: nothing is known of its users; give a table of their attributes "
                "with --user-features"
            )
        table = self.features["user_features"]
        known = table.with_columns(
            pl.Series("user", Vocabulary(self.user_ids.alias("id")).encode(table["user"]))
        )
        every = pl.DataFrame({"user": np.arange(self.n_users)})
        return every.join(known, on="user", how="left", maintain_order="left").drop("user")

    def part(self, rows: Rows) -> Log:
        """Some of the rows under the same numbers, none of them anchored."""
        return replace(self, frame=self.frame[rows], anchored=np.zeros(len(rows), dtype=bool))

    def decode(self, frame: pl.DataFrame) -> Interactions:
        """Rows in numbers as interactions under the ids."""
        ids = frame.with_columns(
            self.user_ids.gather(frame["user"]).alias("user"),
            self.item_ids.gather(frame["item"]).alias("item"),
        )
        return Interactions(ids, self.source)
