"""Features of users or items: any table with an id column."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl
from narwhals.typing import IntoFrame

from cnsdiff.base.errors import DataError, did_you_mean
from cnsdiff.data.ids import as_integers, doubtful, id_values, why_doubtful
from cnsdiff.data.reading.columns import RawTable, known_roles
from cnsdiff.data.reading.raw_tables import read_raw, require_distinct


def read_features(
    source: str | Path | IntoFrame,
    side: Literal["user", "item"],
    *,
    id: str | None = None,
    literal_ids: bool = False,
) -> pl.DataFrame:
    """Read what is known of users or items.

    Parameters
    ----------
    source
        A CSV, TSV or RecBole ``.user``/``.item`` file with a header (gzipped or not), a Parquet
        file, or any data frame narwhals knows.
    side
        Whose features they are.
    id
        Name of the id column, where it is not a usual one.
    literal_ids
        As for :func:`~cnsdiff.data.read_interactions`.

    Returns
    -------
    DataFrame
        A column ``user`` or ``item`` with the ids, each once, and the features: numbers where
        every value of a column is one, else text. Types after a colon (``age:token``) are
        dropped from the names.

    Raises
    ------
    DataError
        The source cannot be read, has no such id column, an id is missing or comes twice, or
        there is no feature.
    """
    raw = read_raw(source, "features")
    column = _id_column(raw, side, id)
    what = f"{raw.source}: column {column!r}"
    ids = id_values(raw.frame[column], what)
    missing = ids.is_null().arg_true()
    if len(missing):
        raise DataError(
            f"{raw.place(int(missing[0]), column)}: the {side} is empty; correct it or remove the "
            "row"
        )
    wrong = doubtful(ids)
    if wrong.any() and not literal_ids:
        row = int(wrong.arg_true()[0])
        raise DataError(
            f"{raw.place(row, column)}: {ids[row]!r} {why_doubtful(ids[row], side)}; correct it or "
            "remove the row, or pass --literal-ids if it is an id"
        )
    ids = as_integers(ids, what, literal=literal_ids)
    twice = ids.is_duplicated().arg_true()
    if len(twice):
        row = int(twice[1])
        raise DataError(
            f"{raw.place(row, column)}: {side} {ids[row]!r} has more than one row; give each "
            f"{side} one row of features"
        )
    features = [
        _values(raw.frame[name]).alias(name.split(":")[0])
        for name in raw.frame.columns
        if name != column
    ]
    if not features:
        raise DataError(f"{raw.source}: has no column beside {column!r}; add at least one feature")
    require_distinct([side, *(feature.name for feature in features)], raw.source)
    return pl.DataFrame([ids.alias(side), *features])


def _id_column(raw: RawTable, side: str, asked: str | None) -> str:
    names = raw.frame.columns
    if asked is not None:
        found = [name for name in names if asked in (name, name.split(":")[0])]
        hint = did_you_mean(asked, names)
    else:
        known = known_roles(names).get(side)
        found = [] if known is None else [known]
        hint = ""
    if not found:
        wanted = f"column {asked!r}" if asked is not None else f"column known to hold the {side}s"
        raise DataError(
            f"{raw.source}: has no {wanted}{hint}; its columns are {', '.join(map(repr, names))}: "
            f"call one of them {side!r}"
        )
    return found[0]


def _values(column: pl.Series) -> pl.Series:
    """Numbers where all values are numbers; empty text is null."""
    if column.dtype != pl.String:
        return column
    text = column.set(column == "", None)
    for dtype in (pl.Int64, pl.Float64):
        numbers = text.cast(dtype, strict=False)
        if numbers.null_count() == text.null_count() < len(text):
            return numbers
    return text
