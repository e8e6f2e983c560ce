"""Scenarios that divide one log: the choice of rows is theirs, the rest is here."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from cnsdiff.base.errors import ConfigError, DataError
from cnsdiff.base.seeding import numpy_generator
from cnsdiff.base.text import parameter
from cnsdiff.data import Dataset, Interactions, Source
from cnsdiff.data.ids import Vocabulary
from cnsdiff.data.reading.times import require_one_unit
from cnsdiff.shifts.base import NO_FILTERS, Filters, Scenario, table_of
from cnsdiff.shifts.drawing import Rows, anchors, draw, others, rounded


@dataclass(frozen=True)
class Log:
    """Positive pairs, each once, with users and items numbered from 0."""

    frame: pl.DataFrame
    """A row per pair: ``user``, ``item`` (Int64) and, where the log has them, ``rating``,
    ``timestamp`` and ``period``."""
    user_ids: pl.Series
    item_ids: pl.Series
    """Whose number is which: the row is the number."""
    source: str
    """File or ``"DataFrame"``, for messages."""
    anchored: NDArray[np.bool_]
    """``(n,)`` rows that must stay in train, so that every user and item is known there."""
    features: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    """As in :class:`~cnsdiff.data.Source`."""

    @classmethod
    def of(
        cls,
        interactions: Interactions,
        features: Mapping[str, pl.DataFrame],
        rng: np.random.Generator,
    ) -> Log:
        """Number the users and items of ``given`` and choose the anchored rows."""
        frame, ids = interactions.frame, {}
        for side in ("user", "item"):
            ids[side] = frame[side].unique(maintain_order=True)
            numbers = Vocabulary(ids[side].alias("id")).encode(frame[side])
            frame = frame.with_columns(pl.Series(side, numbers))
        anchored = anchors(frame["user"].to_numpy(), frame["item"].to_numpy(), rng)
        return cls(frame, ids["user"], ids["item"], interactions.source, anchored, features)

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
        """``(n,)`` time of each row in epoch seconds; :class:`DataError` if the log has none."""
        if "timestamp" not in self.frame.columns:
            raise DataError(
                f"{self.source}: has no timestamps, which this scenario divides by; name their "
                f"column with {parameter('timestamp', 'NAME')}, or choose another "
                f"{parameter('scenario')}"
            )
        return self.frame["timestamp"].to_numpy()

    def user_features(self) -> pl.DataFrame:
        """Features of the users: a row per user number, nulls where nothing is known.

        :class:`DataError` if the source has none.
        """
        if "user_features" not in self.features:
            raise DataError(
                f"{self.source}: nothing is known of its users; give a table of their attributes "
                f"with {parameter('user_features')}"
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


@dataclass(frozen=True)
class Parts:
    """The parts of a log; rows in neither part are left out."""

    train: Rows
    ood: Rows
    """Row numbers of the training side (of which valid and the IID test are taken) and of the
    OOD test."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Choices of the scenario (a cut in time, a cluster), for the manifest."""


@dataclass(frozen=True)
class OODTest:
    """An OOD test: its pairs, counts of what was left out, and side tables that go with it."""

    pairs: Interactions
    counts: Mapping[str, int] = field(default_factory=dict)
    tables: Mapping[str, pl.DataFrame] = field(default_factory=dict)


class LogScenario(Scenario):
    """Divides the rows of one cleaned log; a subclass says how in :meth:`divide`.

    Valid and the IID test are random rows of the training side. In each step one row of each
    user and item stays behind, so that everybody held out at random is known to train.

    Attributes
    ----------
    valid_share, test_share
        Shares of the training side that become valid and test_iid; the counts are exact.
    ood_from_log
        Whether the OOD test is made of rows of the log; only such scenarios can be composed.
    """

    ood_from_log: ClassVar[bool] = True

    valid_share: float = Field(0.1, gt=0, lt=1)
    test_share: float = Field(0.2, gt=0, lt=1)

    @abstractmethod
    def divide(self, log: Log, rng: np.random.Generator) -> Parts:
        """Choose the training side and the OOD test among the rows of ``log``."""

    def observe(self, log: Log, train: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
        """The records of the training side, a frame like ``log.frame``: all of it."""
        return train

    def ood_test(self, source: Source, filters: Filters, log: Log, parts: Parts) -> OODTest:
        """The OOD test: the rows that :meth:`divide` chose for it."""
        return OODTest(log.decode(log.frame[parts.ood]))

    def side_tables(
        self, source: Source, filters: Filters, held_out: Sequence[Interactions]
    ) -> Mapping[str, pl.DataFrame]:
        """More side tables of training's side, made without the ``held_out`` pairs: none."""
        return {}

    def __call__(
        self, source: Source | Interactions, *, filters: Filters = NO_FILTERS, seed: int = 0
    ) -> Dataset:
        """Build the dataset from the source's table ``"log"`` (see :class:`Scenario`)."""
        source = Source.of(source)
        require_one_unit(source.tables)
        table = table_of(source, "log", self.name)
        kept, counts = filters.clean(table, core=True)
        log = Log.of(kept, source.features, numpy_generator(seed, "scenario/anchors"))
        _require_two(log, table)
        parts = self.divide(log, numpy_generator(seed, "scenario/divide"))
        self._check(log, parts)
        if "cut" in parts.facts and "weight" in log.frame.columns:
            known = _with_weights_before(float(parts.facts["cut"]), kept, table, filters)
            log = replace(log, frame=log.frame.with_columns(known.frame["weight"]))
        observed = self.observe(
            log, log.frame[parts.train], numpy_generator(seed, "scenario/observe")
        )
        ood = self.ood_test(source, filters, log, parts)
        held_out = self._draw_iid(log, observed, numpy_generator(seed, "scenario/iid"))
        rest = others(np.concatenate(list(held_out.values())), observed.height)
        iid = {name: log.decode(observed[rows]) for name, rows in held_out.items()}
        more = self.side_tables(source, filters, list(iid.values()))
        left_out = len(log) - len(parts.train) - len(parts.ood)
        unread = filters.threshold is None and "rating" in log.frame.columns
        return Dataset.from_splits(
            {"train": log.decode(observed[rest]), **iid, "test_ood": ood.pairs},
            name=source.name,
            scenario=self.name,
            source=source.provenance,
            settings={**filters.settings(), "seed": seed, **self.settings()},
            counts={"test_ood": ood.counts},
            log={
                "funnel": [step.to_dict() for step in kept.funnel],
                **counts,
                "ratings_ignored": len(log) if unread else 0,
                "left_out": left_out,
                **parts.facts,
            },
            tables={**source.features, **ood.tables, **more},
            logs=source.tables.values(),
        )

    def _draw_iid(self, log: Log, train: pl.DataFrame, rng: np.random.Generator) -> dict[str, Rows]:
        """Rows of valid and test_iid, among those whose user and item stay known without them."""
        n = train.height
        sizes = {
            "valid": rounded(self.valid_share, n),
            "test_iid": rounded(self.test_share, n),
        }
        for split, share in (("valid", "valid_share"), ("test_iid", "test_share")):
            if sizes[split] == 0:
                raise ConfigError(
                    f"{log.source}: {share} {getattr(self, share):g} of {n} training rows is no "
                    f"row, so the {split} split would be empty; raise it or give a larger log"
                )
        marked = anchors(train["user"].to_numpy(), train["item"].to_numpy(), rng)
        free = np.flatnonzero(~marked)
        wanted = sum(sizes.values())
        if wanted > len(free):
            raise ConfigError(
                f"{log.source}: only {len(free)} of the {n} training rows can be held out, since "
                f"each user and item keeps one, and valid_share and test_share ask for {wanted}; "
                f"lower them, or raise {parameter('user_core')} and {parameter('item_core')}"
            )
        test = draw(free, sizes["test_iid"], rng)
        valid = draw(np.setdiff1d(free, test, assume_unique=True), sizes["valid"], rng)
        return {"valid": valid, "test_iid": test}

    def _check(self, log: Log, parts: Parts) -> None:
        """No part is empty, no row is in both."""
        times = np.bincount(np.concatenate([parts.train, parts.ood]), minlength=len(log))
        if (times > 1).any():
            raise ConfigError(
                f"scenario {self.name}: divide() uses row {int(np.argmax(times > 1))} of the log "
                "twice; a row belongs to one part"
            )
        empty = "train" if len(parts.train) == 0 else "test_ood" if len(parts.ood) == 0 else None
        if empty == "train" or (empty and self.ood_from_log):
            raise ConfigError(
                f"{log.source}: the scenario {self.name} leaves none of the {len(log)} rows for "
                f"{empty}; change its settings ({', '.join(type(self).own_settings())}) or give a "
                "larger log"
            )

    @classmethod
    def own_settings(cls) -> list[str]:
        """The settings beside those that every such scenario has."""
        return [name for name in cls.model_fields if name not in LogScenario.model_fields]


def _with_weights_before(
    cut: float, pairs: Interactions, table: Interactions, filters: Filters
) -> Interactions:
    """Pairs with the greatest weight that each has by a moment: what came later is not known then.

    A pair that has no event before it keeps its own.
    """
    before = table.positives(filters.threshold).frame.filter(pl.col("timestamp") < cut)
    known = before.group_by("user", "item").agg(pl.col("weight").max().alias("known"))
    joined = pairs.frame.join(known, on=["user", "item"], how="left", maintain_order="left")
    weights = joined.select(pl.coalesce("known", "weight").alias("weight"))
    return replace(pairs, frame=pairs.frame.with_columns(weights["weight"]))


def free_rows(log: Log, wanted: int) -> NDArray[np.int64]:
    """The rows that may be held out; :class:`ConfigError` if they are fewer than ``wanted``."""
    free = log.free
    if wanted > len(free):
        raise ConfigError(
            f"{log.source}: only {len(free)} of the {len(log)} rows can be held out, since each "
            f"user and item keeps one in train, and ood_share asks for {wanted}; lower it, or "
            f"raise {parameter('user_core')} and {parameter('item_core')}"
        )
    return free


def _require_two(log: Log, table: Interactions) -> None:
    for n, before, what in (
        (log.n_users, table.n_users, "user"),
        (log.n_items, table.n_items, "item"),
    ):
        if n < 2:
            after = f" after {parameter('threshold')} and the k-core" if n < before else ""
            raise DataError(
                f"{log.source}: has {n or 'no'} {what}{'' if n else 's'}{after}, and a scenario "
                f"needs at least two; give a log of more {what}s{' or lower them' if after else ''}"
            )
