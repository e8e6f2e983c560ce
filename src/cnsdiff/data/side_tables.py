"""Tables beside the splits: features, what an experiment, a simulation or the log found out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import polars as pl

from cnsdiff.base.errors import DataError
from cnsdiff.data.directory import SIDE_TABLES, numbers_misfit, require_side_table
from cnsdiff.data.ids import Vocabulary

#: The tables with a row for each user or item, and which of the two it is.
ROW_OF = {
    "user_features": "user",
    "item_features": "item",
    "truth_users": "user",
    "truth_items": "item",
    "exposures": "item",
}


def encode_side_tables(
    given: Mapping[str, pl.DataFrame], users: Vocabulary, items: Vocabulary
) -> dict[str, pl.DataFrame]:
    """Bring tables in the ids as given into internal numbers.

    Parameters
    ----------
    given
        By name, one of :data:`~cnsdiff.data.directory.SIDE_TABLES`. ``judgements`` holds
        ``user``, ``item`` and ``relevant`` (Boolean); the others one row for each ``user`` or
        ``item``. The one column of ``exposures`` beside ``item`` is a count of that name.
    users, items
        Those of train.

    Returns
    -------
    dict
        Tables of one side without their id column, a row for each internal number (nulls where
        the id had no row); ``judgements`` with Int64 numbers, pairs unknown to train left out;
        ``exposures`` as Int64, 0 where the id had no row.

    Raises
    ------
    DataError
        A name or column is not one of these, an id comes twice, or a count is none.
    """
    coded = {}
    for name, table in given.items():
        require_side_table(name)
        if name == "judgements":
            coded[name] = _judgements(table, users, items)
        else:
            key = ROW_OF[name]
            coded[name] = _aligned(table, name, key, users if key == "user" else items)
        if name == "exposures":
            coded[name] = _counts(coded[name])
    return {name: coded[name] for name in SIDE_TABLES if name in coded}


def side_table_misfit(table: pl.DataFrame, name: str, n_users: int, n_items: int) -> str | None:
    """Why a table is none that :func:`encode_side_tables` made; ``None`` if it is."""
    if name == "judgements":
        if table.schema.get("relevant") != pl.Boolean or table["relevant"].null_count():
            return "has no column 'relevant' of true and false"
        return numbers_misfit(table, {"user": n_users, "item": n_items})
    rows = {"user": n_users, "item": n_items}[ROW_OF[name]]
    if table.height != rows:
        return f"has {table.height} rows and not {rows}"
    if name == "exposures":
        counts = table.to_series() if table.columns == ["exposures"] else None
        if counts is None or counts.dtype != pl.Int64 or counts.null_count() or (counts < 0).any():
            return "has no column 'exposures' of counts"
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


def _counts(aligned: pl.DataFrame) -> pl.DataFrame:
    _require(aligned, "exposures", "exposures")
    counts = aligned["exposures"]
    if not counts.dtype.is_integer() or (counts < 0).any():
        raise DataError("exposures: holds what is no count; give whole numbers of 0 or more")
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
        # JSON writes each float so that it reads back the same, lists too.
        digest.update(f"{name} {table.height} ".encode())
        digest.update(table.write_ndjson().encode())
    return digest.hexdigest()
