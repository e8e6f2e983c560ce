"""Splits in internal numbers: made from interactions, and to and from tables."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

from cnsdiff.base.errors import DataError, warn
from cnsdiff.base.seeding import numpy_generator
from cnsdiff.data.directory import SPLITS, numbers_misfit
from cnsdiff.data.ids import Vocabulary, unify
from cnsdiff.data.interactions import Interactions

_PAIR = ["user", "item"]
#: Splits that a model may learn from in the end.
_TRAINED = ("train", "valid")


def pair_matrix(
    rows: NDArray[np.integer[Any]], columns: NDArray[np.integer[Any]], shape: tuple[int, int]
) -> csr_array:
    """Pairs as a CSR matrix of ones with sorted indices."""
    matrix = csr_array((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)
    matrix.sort_indices()
    return matrix


@dataclass(frozen=True)
class Split:
    """The positive pairs of one split, in internal numbers."""

    name: str
    """One of :data:`SPLITS`."""
    users: NDArray[np.int64]
    items: NDArray[np.int64]
    """``(n,)`` int64 each; every pair occurs once."""
    timestamps: NDArray[np.int64] | NDArray[np.float64] | None = None
    """``(n,)`` int64 or float64 (usually epoch seconds), or None."""
    periods: NDArray[np.int64] | None = None
    """``(n,)`` int64, the period each pair was observed in as a number of
    ``Dataset.periods``, or None."""
    weights: NDArray[np.float64] | None = None
    """``(n,)`` float64 of 0 or more, what each pair counts for in training, or None: all alike.
    No metric reads them."""

    def __len__(self) -> int:
        return self.users.size

    def csr(self, n_users: int, n_items: int) -> csr_array:
        """The pairs as an ``(n_users, n_items)`` float32 matrix of ones, indices sorted."""
        return pair_matrix(self.users, self.items, (n_users, n_items))

    def of_users(self, users: NDArray[np.int64]) -> Split:
        """The pairs of some users, in the order they have."""
        mask = np.isin(self.users, users)
        return Split(
            self.name,
            self.users[mask],
            self.items[mask],
            None if self.timestamps is None else self.timestamps[mask],
            None if self.periods is None else self.periods[mask],
            None if self.weights is None else self.weights[mask],
        )

    @property
    def sizes(self) -> dict[str, int]:
        """How many ``rows``, and of how many ``users`` and ``items``."""
        n_users, n_items = (len(np.unique(ids)) for ids in (self.users, self.items))
        return {"rows": len(self), "users": n_users, "items": n_items}

    def of_some_users(self, n: int) -> Split:
        """The pairs of ``n`` users, the same ones at every call; of all if there are no more."""
        users = np.unique(self.users)
        if len(users) <= n:
            return self
        return self.of_users(numpy_generator(0, "dial users").choice(users, n, replace=False))


def joined(splits: Sequence[Split], name: str) -> Split:
    """The pairs of several splits as one; times and periods where all of them have them.

    Where some have weights, pairs of the others have the weight 1.
    """

    def column(field: str) -> NDArray[Any] | None:
        parts = [getattr(split, field) for split in splits]
        return None if any(part is None for part in parts) else np.concatenate(parts)

    users, items = (
        np.concatenate([getattr(s, side) for s in splits]) for side in ("users", "items")
    )
    weights = None
    if any(split.weights is not None for split in splits):
        parts = [np.ones(len(s)) if s.weights is None else s.weights for s in splits]
        weights = np.concatenate(parts)
    return Split(name, users, items, column("timestamps"), column("periods"), weights)


class Encoded(NamedTuple):
    """Splits in internal numbers, the ids behind the numbers, and what was dropped."""

    splits: dict[str, Split]
    users: pl.Series
    items: pl.Series
    periods: pl.Series | None
    counts: dict[str, dict[str, int]]
    empty: Mapping[str, str] = MappingProxyType({})
    """Splits of which no pair is left, and why; they are in none of the others."""


def encode_splits(splits: Mapping[str, Interactions]) -> Encoded:
    """Number the ids of train and bring all splits into those numbers.

    Periods are numbered in order of first appearance, train's first. Held-out splits may end up
    empty.
    """
    users = unify(splits, "user")
    items = unify(splits, "item")
    present = [name for name in SPLITS if name in splits]
    labelled = [name for name in present if "period" in splits[name].frame.columns]
    labels = unify({name: splits[name] for name in labelled}, "period")
    periods = (
        pl.concat([labels[name] for name in labelled]).unique(maintain_order=True).alias("id")
        if labelled
        else None
    )
    user_ids = users["train"].unique(maintain_order=True).alias("id")
    item_ids = items["train"].unique(maintain_order=True).alias("id")
    user_numbers, item_numbers = Vocabulary(user_ids), Vocabulary(item_ids)
    tables: dict[str, pl.DataFrame] = {}
    counts: dict[str, dict[str, int]] = {}
    empty: dict[str, str] = {}
    for name in present:
        split = splits[name]
        unified = [users[name].alias("user"), items[name].alias("item")]
        if periods is not None and name in labels:
            numbers = Vocabulary(periods).encode(labels[name])
            unified.append(pl.Series("period", numbers))
        once = Interactions(split.frame.with_columns(unified), split.source).deduplicated()
        frame = once.frame.with_columns(
            user=pl.Series(user_numbers.encode(once.frame["user"])),
            item=pl.Series(item_numbers.encode(once.frame["item"])),
        )
        known = frame.filter((pl.col("user") >= 0) & (pl.col("item") >= 0))
        fresh = known
        if name != "train":
            fresh = known.join(tables["train"], on=_PAIR, how="anti", maintain_order="left")
        if fresh.height == 0:
            empty[name] = _nothing_left(split, name, frame.height, known.height)
            continue
        # Tests judge; weights are for those that may train.
        tables[name] = fresh if name in _TRAINED else fresh.drop("weight", strict=False)
        counts[name] = {
            "duplicates": split.frame.height - frame.height,
            "dropped_unknown": frame.height - known.height,
            "overlap_train": known.height - fresh.height,
        }
    _part_from_tests(tables, counts, splits)
    for name, table in tables.items():
        sizes = {"users": table["user"].n_unique(), "items": table["item"].n_unique()}
        counts[name] = {"rows": table.height, **sizes, **counts[name]}
    coded = {name: split_of(table, name) for name, table in tables.items()}
    return Encoded(coded, user_ids, item_ids, periods, counts, empty)


def _part_from_tests(
    tables: dict[str, pl.DataFrame],
    counts: dict[str, dict[str, int]],
    splits: Mapping[str, Interactions],
) -> None:
    """Leave out of valid what a test holds, and count what both tests hold.

    Validation picks epoch and dial, so a pair that it shares with a test would pick on the test.
    Two tests may share pairs; their difference is then smaller than it should be.
    """
    tests = [name for name in ("test_iid", "test_ood") if name in tables]
    if "valid" in tables and tests:
        valid, source = tables["valid"], splits["valid"].source
        held = pl.concat([tables[name].select(_PAIR) for name in tests])
        fresh = valid.join(held, on=_PAIR, how="anti", maintain_order="left")
        shared = valid.height - fresh.height
        if fresh.height == 0:
            raise DataError(
                f"{source}: all {shared} pairs of the valid split are in a test too, so epoch and "
                "dial would be chosen on the test; give another file, or leave valid out"
            )
        if shared:
            warn(
                f"{source}: {shared:,} of {valid.height:,} pairs of the valid split are in a test "
                "too; they are left out of valid, so that nothing is chosen on the test"
            )
        tables["valid"] = fresh
        counts["valid"]["overlap_test"] = shared
    if len(tests) == 2:
        shared = tables["test_ood"].join(tables["test_iid"], on=_PAIR, how="semi").height
        counts["test_ood"]["overlap_test_iid"] = shared
        if shared:
            warn(
                f"{splits['test_ood'].source}: {shared:,} of {tables['test_ood'].height:,} pairs "
                "of the test_ood split are in test_iid too and stay in both, so the two tests "
                "differ less than they seem to"
            )


def _nothing_left(table: Interactions, name: str, pairs: int, known: int) -> str:
    if pairs == 0:
        return f"{table.source}: the {name} split has no pairs; leave it out or give another file"
    if known == 0:
        return (
            f"{table.source}: none of its {pairs} pairs has a user and an item that occur in "
            f"train, so the {name} split would be empty; check that both use the same ids"
        )
    return (
        f"{table.source}: all {known} known pairs are in train too, so the {name} split would be "
        "empty; give another file"
    )


def table_of(split: Split) -> pl.DataFrame:
    """The Parquet form of a split, in the narrowest integers that hold it.

    Periods are in the column ``environment``, as they have always been.
    """

    def narrow(numbers: NDArray[np.int64]) -> pl.Series:
        small = numbers.size == 0 or int(numbers.max()) < 2**31
        return pl.Series(numbers, dtype=pl.Int32 if small else pl.Int64)

    table = pl.DataFrame({"user": narrow(split.users), "item": narrow(split.items)})
    if split.timestamps is not None:
        table = table.with_columns(timestamp=pl.Series(split.timestamps))
    if split.periods is not None:
        table = table.with_columns(environment=narrow(split.periods))
    if split.weights is not None:
        table = table.with_columns(weight=pl.Series(split.weights))
    return table


def split_misfit(table: pl.DataFrame, n_users: int, n_items: int, n_periods: int) -> str | None:
    """Why a table is none that :func:`table_of` wrote; ``None`` if it is."""
    limits = {"user": n_users, "item": n_items}
    if "environment" in table.columns:
        limits["environment"] = n_periods
    problem = numbers_misfit(table, limits)
    if problem is None and "timestamp" in table.columns:
        times = table["timestamp"]
        if times.dtype not in (pl.Int64, pl.Float64):
            return f"has timestamps of type {times.dtype}"
        # Nanoseconds reach so far, too; of larger numbers not even the difference is one.
        if times.null_count() or not times.is_between(-(2**62), 2**62).all():
            return "has a timestamp that is no time"
    if problem is None and "weight" in table.columns:
        weights = table["weight"]
        # Null, NaN and infinity are not between them.
        if weights.dtype != pl.Float64 or not (weights >= 0).fill_null(False).all():
            return "has a weight that is no number of 0 or more"
        if not weights.is_finite().all():
            return "has a weight that is infinite"
    return problem


def split_of(table: pl.DataFrame, name: str) -> Split:
    """The split that :func:`table_of` wrote, or one of a table in internal numbers."""
    table = table.rename({"environment": "period"}, strict=False).cast({pl.Int32: pl.Int64})
    columns = {column: table[column].to_numpy(writable=True) for column in table.columns}
    return Split(
        name,
        columns["user"],
        columns["item"],
        columns.get("timestamp"),
        columns.get("period"),
        columns.get("weight"),
    )


def content_hash(encoded: Encoded) -> str:
    """Hex SHA-256 of ids and pairs, the same on every machine."""
    digest = hashlib.sha256()
    for ids in (encoded.users, encoded.items):
        # Lengths keep ["ab", "c"] and ["a", "bc"] apart.
        text = ids.cast(pl.String)
        digest.update(f"{ids.dtype} {len(ids)} ".encode())
        digest.update(text.str.len_bytes().to_numpy().astype("<u8").tobytes())
        digest.update((text.str.join("").item() or "").encode())
    for name, split in encoded.splits.items():
        digest.update(f"{name} {len(split)} ".encode())
        digest.update(split.users.astype("<i8").tobytes())
        digest.update(split.items.astype("<i8").tobytes())
        if split.timestamps is not None:
            digest.update(split.timestamps.astype("<f8").tobytes())
        if split.periods is not None:
            digest.update(b"environments " + split.periods.astype("<i8").tobytes())
        if split.weights is not None:
            digest.update(b"weights " + split.weights.astype("<f8").tobytes())
    return digest.hexdigest()
