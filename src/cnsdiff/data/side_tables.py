"""Tables beside the splits: features, judgements, a simulation's truth, exposures, pairs seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl
from scipy.sparse import csr_array

from cnsdiff.base.errors import DataError
from cnsdiff.data.directory import (
    SIDE_TABLES,
    SPLITS,
    ids_misfit,
    numbers_misfit,
    require_side_table,
)
from cnsdiff.data.ids import Vocabulary, as_type, id_values
from cnsdiff.data.interactions import Interactions
from cnsdiff.data.splits import Split, pair_matrix

#: The tables with a row for each user or item, and which of the two it is.
ROW_OF = {
    "user_features": "user",
    "item_features": "item",
    "truth_users": "user",
    "truth_items": "item",
    "exposures": "item",
    "target_counts": "item",
}
#: So many are written as text at a time.
_ROWS = 8192
#: Those of counts.
_COUNTS = ("exposures", "target_counts")


def encode_side_tables(
    tables: Mapping[str, pl.DataFrame], users: Vocabulary, items: Vocabulary
) -> dict[str, pl.DataFrame]:
    """Bring tables from the ids as given into internal numbers.

    ``judgements`` holds ``user``, ``item`` and ``relevant`` (Boolean), ``target_sample`` the first
    two; the others one row for each ``user`` or ``item``. The one column of ``exposures`` and of
    ``target_counts`` beside ``item`` is a count of that name.

    Returns the tables of one side without their id column, a row for each internal number (nulls
    where the id had no row, for ``exposures`` 0); ``judgements`` with Int64 numbers, without the
    pairs unknown to train. Raises :class:`DataError` if a name or column is not one of these, an id
    comes twice, or a count is none.
    """
    coded = {}
    for name, table in tables.items():
        require_side_table(name)
        if name == "judgements":
            coded[name] = _judgements(table, users, items)
        elif name == "target_sample":
            judged = table.with_columns(relevant=True)
            coded[name] = _judgements(judged, users, items).drop("relevant")
        else:
            key = ROW_OF[name]
            coded[name] = _aligned(table, name, key, users if key == "user" else items)
        if name in _COUNTS:
            coded[name] = _counts(coded[name], name)
    return {name: coded[name] for name in SIDE_TABLES if name in coded}


def new_item_tables(
    splits: Mapping[str, Interactions],
    features: pl.DataFrame,
    users: Vocabulary,
    items: Vocabulary,
    periods: pl.Series | None = None,
) -> dict[str, pl.DataFrame]:
    """Items of held-out pairs that train does not know, but of which something is known.

    Returns
    -------
    dict
        ``new_item_features``: ``id`` and the features, a row for each, in order of appearance
        (a feature called ``id`` is called ``item``).
        ``new_item_pairs``: ``user`` (internal number), ``item`` (row of the other table), ``split``
        and, where the log has them, ``timestamp`` and ``environment`` (row of ``periods``). Each
        pair of a split is there once, the earliest; valid is without the pairs of the tests. Both
        tables are left out where there are none.
    """
    parts = []
    for name, split in splits.items():
        if name == "train":
            continue
        frame = split.frame
        numbers = users.encode(frame["user"])
        fresh = (numbers >= 0) & (items.encode(frame["item"]) < 0)
        ids = as_type(id_values(frame["item"], name), items.ids.dtype)
        times = pl.col("^timestamp$")
        pairs = frame.select(pl.Series("user", numbers), ids.alias("item"), times)
        if periods is not None and "period" in frame.columns:
            labels = as_type(frame["period"], periods.dtype)
            told = Vocabulary(periods).encode(labels)
            pairs = pairs.with_columns(environment=pl.Series(told))
        pairs = pairs.filter(pl.Series(fresh)).drop_nulls("item")
        once = Interactions(pairs, split.source).deduplicated().frame
        parts.append(once.rename({"item": "id"}).with_columns(split=pl.lit(name)))
    if not parts:
        return {}
    pairs = pl.concat(parts, how="diagonal_relaxed")
    # Features of these items by the ids as written: "009" is not 9.
    asked = Vocabulary(pairs["id"].unique(maintain_order=True))
    numbers = asked.encode(features["item"])
    twice = pl.Series(numbers).filter(numbers >= 0).is_duplicated()
    if twice.any():
        first = asked.decode(numbers[numbers >= 0][twice.to_numpy()][:1])[0]
        raise DataError(
            f"item_features: item {first!r} has more than one row; give each item one row"
        )
    # No feature is called item, so one called id can be.
    known = features.filter(pl.Series(numbers >= 0)).with_columns(
        item=asked.decode(numbers[numbers >= 0])
    )
    known = known.rename({"item": "id", "id": "item"}, strict=False)
    pairs = pairs.join(known.select("id"), on="id", how="semi", maintain_order="left")
    tested = pairs.filter(pl.col("split") != "valid")
    chosen_on = pairs.filter(pl.col("split") == "valid")
    chosen_on = chosen_on.join(tested, on=["user", "id"], how="anti", maintain_order="left")
    pairs = pl.concat([chosen_on, tested])
    if not len(pairs):
        return {}
    ids = pairs["id"].unique(maintain_order=True)
    table = ids.to_frame().join(known, on="id", how="left", maintain_order="left")
    numbered = pairs.with_columns(item=pl.Series(Vocabulary(ids).encode(pairs["id"])))
    columns = [
        "user",
        "item",
        "split",
        *(c for c in ("timestamp", "environment") if c in pairs.columns),
    ]
    return {"new_item_features": table, "new_item_pairs": numbered.select(columns)}


def side_table_misfit(table: pl.DataFrame, name: str, n_users: int, n_items: int) -> str | None:
    """Why a table is none that :func:`encode_side_tables` made; ``None`` if it is.

    The items of ``new_item_pairs`` are rows of ``new_item_features``, ``n_items`` in all.
    """
    relevant = table.schema.get("relevant")
    if name == "judgements" and (relevant != pl.Boolean or table["relevant"].null_count()):
        return "has no column 'relevant' of true and false"
    if name in ("judgements", "target_sample"):
        return numbers_misfit(table, {"user": n_users, "item": n_items})
    if name == "new_item_features":
        return ids_misfit(table.select("id") if "id" in table.columns else table)
    if name == "new_item_pairs":
        if table.schema.get("split") != pl.String:
            return "has no column 'split'"
        if not table["split"].is_in(SPLITS[1:]).all():
            return "has a pair of no held-out split"
        return numbers_misfit(table, {"user": n_users, "item": n_items})
    rows = {"user": n_users, "item": n_items}[ROW_OF[name]]
    if table.height != rows:
        return f"has {table.height} rows and not {rows}"
    if name in _COUNTS:
        counts = table.to_series() if table.columns == [name] else None
        if counts is None or counts.dtype != pl.Int64 or counts.null_count() or (counts < 0).any():
            return f"has no column {name!r} of counts"
    return None


def _aligned(table: pl.DataFrame, name: str, key: str, ids: Vocabulary) -> pl.DataFrame:
    _require(table, name, key)
    numbered = table.with_columns(pl.Series(key, ids.encode(table[key])))
    known = numbered.filter(pl.col(key) >= 0)
    twice = known[key].is_duplicated()
    if twice.any():
        first = ids.decode([known.filter(twice)[key][0]])[0]
        raise DataError(f"{name}: {key} {first!r} has more than one row; give each {key} one row")
    every = pl.DataFrame({key: pl.int_range(len(ids), dtype=pl.Int64, eager=True)})
    return every.join(known, on=key, how="left", maintain_order="left").drop(key)


def _counts(aligned: pl.DataFrame, name: str) -> pl.DataFrame:
    _require(aligned, name, name)
    counts = aligned[name]
    if not counts.dtype.is_integer() or (counts < 0).any():
        raise DataError(f"{name}: holds what is no count; give whole numbers of 0 or more")
    return counts.cast(pl.Int64).fill_null(0).to_frame()


def _judgements(table: pl.DataFrame, users: Vocabulary, items: Vocabulary) -> pl.DataFrame:
    _require(table, "judgements", "user", "item", "relevant")
    numbered = pl.DataFrame(
        {
            "user": users.encode(table["user"]),
            "item": items.encode(table["item"]),
            "relevant": table["relevant"].cast(pl.Boolean),
        }
    )
    known = numbered.filter((pl.col("user") >= 0) & (pl.col("item") >= 0))
    return known.unique(["user", "item"], keep="first", maintain_order=True)


def _require(table: pl.DataFrame, name: str, *columns: str) -> None:
    for column in columns:
        if column not in table.columns:
            raise DataError(
                f"{name}: has no column {column!r}; its columns are {', '.join(table.columns)}"
            )


def add_to_hash(fingerprint: str, tables: Mapping[str, pl.DataFrame]) -> str:
    """The fingerprint of a dataset with side tables; without any it stays as it is."""
    if not tables:
        return fingerprint
    digest = hashlib.sha256(fingerprint.encode())
    for name, table in tables.items():
        digest.update(f"{name} {table.height} ".encode())
        # JSON writes each float so that it reads back the same, lists too; some rows at a time, as
        # long vectors are several times as large as text.
        for rows in table.iter_slices(_ROWS):
            digest.update(rows.write_ndjson().encode())
    return digest.hexdigest()


def seen_table(
    logs: Iterable[Interactions], users: Vocabulary, items: Vocabulary, train: Split
) -> pl.DataFrame:
    """The pairs of some logs whose item is known to train and that are not in train.

    The logs hold everything known of the users: held-out splits, and what the threshold or a
    scenario left out. A row per pair: ``user`` (internal number; null for users who are not in
    train), ``id`` (of those users, else null), ``item`` (internal number) and, where a log has
    times, ``timestamp`` (the earliest).
    """
    n_users, n_items = len(users), len(items)
    parts = [_numbered(log.frame, users, items) for log in logs]
    if not parts:
        return pl.DataFrame(schema={"user": pl.Int64, "id": users.ids.dtype, "item": pl.Int64})
    pairs = pl.concat(parts, how="diagonal_relaxed")
    # Users who are not in train are numbered after those who are.
    others = pairs["id"].drop_nulls().unique(maintain_order=True)
    if len(others):
        rows = n_users + Vocabulary(others.alias("id")).encode(pairs["id"])
        is_other = pl.col("id").is_not_null()
        pairs = pairs.with_columns(
            pl.when(is_other).then(pl.Series(rows)).otherwise("user").alias("user")
        )
    # One number for each pair: far quicker to bring together than two.
    key = (pl.col("user") * n_items + pl.col("item")).alias("key")
    keyed = pairs.filter(pl.col("user") >= 0).select(key, pl.col("^timestamp$"))
    known = pl.DataFrame({"key": train.users * n_items + train.items})
    fresh = keyed.join(known, on="key", how="anti")
    once = fresh.group_by("key").agg(pl.col("^timestamp$").min()).sort("key")
    user, mine = pl.col("key") // n_items, pl.col("key") // n_items < n_users
    table = once.select(
        pl.when(mine).then(user).alias("user"),
        pl.when(~mine).then(user - n_users).alias("id"),
        (pl.col("key") % n_items).alias("item"),
        pl.col("^timestamp$"),
    )
    return table.with_columns(id=others.gather(table["id"]))


def _numbered(frame: pl.DataFrame, users: Vocabulary, items: Vocabulary) -> pl.DataFrame:
    """Rows under the numbers of train, ``user`` -1 and ``id`` where train has no such user.

    Rows of items unknown to it are left out.
    """
    user, item = users.encode(frame["user"]), items.encode(frame["item"])
    times = [frame["timestamp"]] if "timestamp" in frame.columns else []
    # An id that cannot be one of train's type is nobody's that a model could be asked for.
    ids = frame["user"].cast(users.ids.dtype, strict=False).alias("id")
    table = pl.DataFrame([pl.Series("user", user), ids, pl.Series("item", item), *times])
    is_other = pl.col("user") < 0
    return table.filter(pl.col("item") >= 0).with_columns(pl.when(is_other).then("id").alias("id"))


def seen_misfit(table: pl.DataFrame, n_users: int, n_items: int) -> str | None:
    """Why a table is none that :func:`seen_table` made; ``None`` if it is."""
    if "user" not in table.columns or "id" not in table.columns:
        return "has no columns 'user' and 'id'"
    if table["id"].dtype not in (pl.String, pl.Int64, pl.UInt64):
        return f"has ids of type {table['id'].dtype}"
    if "timestamp" in table.columns and not table["timestamp"].dtype.is_numeric():
        return f"has timestamps of type {table['timestamp'].dtype}"
    if not table["user"].dtype.is_integer():
        return "has no column 'user' of whole numbers"
    of_train = table.filter(pl.col("user").is_not_null())
    problem = numbers_misfit(of_train, {"user": n_users})
    if problem is None and (table["user"].is_null() & table["id"].is_null()).any():
        return "holds a pair of nobody"
    return problem or numbers_misfit(table, {"item": n_items})


@dataclass(frozen=True)
class Seen:
    """A table of :func:`seen_table` as matrices."""

    pairs: csr_array
    """``(U, I)`` the pairs of users of train."""
    others: pl.Series
    """Ids of users of the log who are not in train."""
    others_pairs: csr_array
    """``(len(others), I)`` their pairs."""

    @classmethod
    def of_table(cls, table: pl.DataFrame, n_users: int, n_items: int) -> Self:
        """From the columns ``user``, ``id`` and ``item``."""
        of_train = table.filter(pl.col("user").is_not_null())
        other = table.filter(pl.col("user").is_null())
        ids = other["id"].unique(maintain_order=True)
        rows = Vocabulary(ids.alias("id")).encode(other["id"])
        return cls(
            pair_matrix(
                of_train["user"].to_numpy(), of_train["item"].to_numpy(), (n_users, n_items)
            ),
            ids,
            pair_matrix(rows, other["item"].to_numpy(), (len(ids), n_items)),
        )

    def table(self) -> pl.DataFrame:
        """The table again, without times."""
        users, items = self.pairs.nonzero()
        rows, theirs = self.others_pairs.nonzero()
        nobody = pl.lit(None)
        return pl.concat(
            [
                pl.DataFrame({"user": users.astype(np.int64)}).select(
                    "user",
                    nobody.cast(self.others.dtype).alias("id"),
                    pl.Series("item", items.astype(np.int64)),
                ),
                pl.DataFrame({"id": self.others.gather(rows)}).select(
                    nobody.cast(pl.Int64).alias("user"),
                    "id",
                    pl.Series("item", theirs.astype(np.int64)),
                ),
            ]
        )
