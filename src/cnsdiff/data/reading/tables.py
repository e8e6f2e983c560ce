"""Tables with a header and any columns, and features of users or items read from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import polars as pl
from narwhals.typing import IntoFrame
from numpy.typing import NDArray

from cnsdiff.base.errors import DataError, did_you_mean, warn
from cnsdiff.base.storage import read_parquet
from cnsdiff.base.text import parameter
from cnsdiff.data.ids import as_integers, doubtful, id_values, why_doubtful
from cnsdiff.data.reading.columns import RawTable, known_roles
from cnsdiff.data.reading.dialects import DECIMAL_COMMA, declared, sniff
from cnsdiff.data.reading.lines import read_lines
from cnsdiff.data.reading.readers import from_frame, is_parquet, require_file
from cnsdiff.data.reading.text import parse, whole_records

_DELIMITERS = ("\t", ",", ";", "|")
#: Share of the values of a column that are no numbers by a slip, at most.
_SLIPS = 0.05

#: A table of features, or an array of vectors beside one.
FeatureTable: TypeAlias = str | Path | IntoFrame | NDArray[Any]
#: What is known of users or items: a table, or several tables and arrays by name.
Features: TypeAlias = FeatureTable | Mapping[str, FeatureTable]


def read_raw(source: Any, what: str) -> RawTable:
    """A CSV, TSV or RecBole-like file with a header, a Parquet file, or a data frame, as it is.

    ``what`` it holds is for messages: ``"features"``. Raises :class:`DataError` if it cannot be
    read, a line is malformed, or two columns have one name.
    """
    if not isinstance(source, str | Path):
        return from_frame(source)
    path = Path(source)
    require_file(path, what)
    try:
        if is_parquet(path):
            return RawTable(read_parquet(path), str(path))
        lines = read_lines(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); check the file") from error
    mend = "quote the fields that hold one, or give the table as Parquet"
    lines, delimiters = declared(lines, _DELIMITERS)
    dialect = sniff(lines, str(path), delimiters, mend)
    if dialect is None or lines.height < 2:
        raise DataError(
            f"{path}: expected a header and rows of {what}, separated by tab, comma, ';' or '|'; "
            "convert it to CSV or Parquet"
        )
    lines, dialect, _ = whole_records(lines, dialect, str(path), skip_bad=False)
    names = dialect.split(lines["text"][0])
    require_distinct(names, str(path))
    frame, numbers, _ = parse(
        lines[1:], replace(dialect, width=len(names)), str(path), skip_bad=False
    )
    frame.columns = names
    if dialect.delimiter != ",":
        frame = _with_decimal_points(frame, str(path))
    return RawTable(frame, str(path), lines=numbers)


def _with_decimal_points(frame: pl.DataFrame, source: str) -> pl.DataFrame:
    """Columns of numbers with a decimal comma as such with a point, which is told."""
    for values in frame.iter_columns():
        filled = values.filter(values != "")
        comma = filled.str.contains(f"^{DECIMAL_COMMA.pattern}$")
        # A comma before three digits may part thousands as well, and then nothing is changed.
        decimal = comma & ~filled.str.contains(r",\d{3}$")
        if not decimal.any() or not (comma | filled.str.contains(r"^[+-]?\d+$")).all():
            continue
        frame = frame.with_columns(values.str.replace(",", ".", literal=True))
        warn(
            f"{source}: column {values.name!r} is read as numbers with a decimal comma "
            f"({filled.filter(decimal)[0]!r}); put another character between parts of lists"
        )
    return frame


def require_distinct(names: list[str], source: str) -> None:
    """:class:`DataError` if a table has two columns of one name."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{source}: has two columns called {twice!r}; rename one of them")


def read_features(
    source: Features,
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
        file, or any data frame narwhals knows; or several of these by name, as
        :func:`read_modalities` takes them, which are joined on their ids.
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
        every value of a column is one, else text; vectors as lists of Float32. Types after a
        colon (``age:token``) are dropped from the names.

    Raises
    ------
    DataError
        The source cannot be read, has no such id column, an id is missing or comes twice, there
        is no feature, or one holds bytes, NaN, an infinite number, or a word among fractions.
    """
    if isinstance(source, Mapping):
        return joined(read_modalities(source, side, id=id, literal_ids=literal_ids), side)
    if _is_array(source):
        raise _without_ids(source, side)
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
            f"remove the row, or pass {parameter('literal_ids', True)} if it is an id"
        )
    ids = as_integers(ids, what, literal=literal_ids)
    twice = ids.is_duplicated().arg_true()
    if len(twice):
        row = int(twice[1])
        raise DataError(
            f"{raw.place(row, column)}: {side} {ids[row]!r} has more than one row; give each "
            f"{side} one row of features"
        )
    for name, dtype in raw.frame.schema.items():
        if name != column and _holds_bytes(dtype):
            raise DataError(
                f"{raw.source}: column {name!r} holds bytes or Python objects, which are no "
                "feature; leave it out, or write it as text or numbers"
            )
    named = [name for name in raw.frame.columns if name != column]
    features = [_values(raw.frame[name]).alias(name.split(":")[0]) for name in named]
    for name, feature in zip(named, features, strict=True):
        if not name.endswith((":token", ":token_seq")):  # such are words, as RecBole's files say
            _require_no_slips(feature, ids, side, raw)
    if not features:
        raise DataError(f"{raw.source}: has no column beside {column!r}; add at least one feature")
    require_distinct([side, *(feature.name for feature in features)], raw.source)
    for feature in features:
        wrong = _not_finite(feature).arg_true()
        if len(wrong):
            row = int(wrong[0])
            raise DataError(
                f"{raw.place(row, feature.name)}: the feature of {side} {ids[row]!r} is NaN or "
                "infinite; correct it, or leave it empty where it is not known"
            )
    return pl.DataFrame([ids.alias(side), *map(_with_short_floats, features)])


def read_modalities(
    sources: Mapping[str, FeatureTable],
    side: Literal["user", "item"],
    *,
    id: str | None = None,
    literal_ids: bool = False,
) -> dict[str, pl.DataFrame]:
    """Read several tables of features, each with its name before those of its columns.

    Parameters
    ----------
    sources
        By name: tables as :func:`read_features` takes them, and after the first of these arrays
        ``(n, d)``, NumPy's or in a ``.npy`` file, with a vector for each row of the first table. A
        row of NaN says nothing. The name ``""`` leaves those of the columns as they are.
    side, id, literal_ids
        As of :func:`read_features`.

    Returns
    -------
    dict of DataFrame
        A table for each, with its ids. Features are called ``NAME.column``, the only column of a
        table ``NAME`` if it holds vectors.

    Raises
    ------
    DataError
        A table cannot be read, an array has another number of rows than the first table, or
        values that are no numbers; or two features have one name.
    """
    tables: dict[str, pl.DataFrame] = {}
    first: FeatureTable | None = None
    for name, source in sources.items():
        if name == side:
            raise DataError(
                f"a table of {side} features cannot be called {name!r}, as the ids are; give it "
                "another name"
            )
        if not _is_array(source):
            table = read_features(source, side, id=id, literal_ids=literal_ids)
            features = table.drop(side)
            alone = features.width == 1 and isinstance(features.dtypes[0], pl.List)
            if name:
                full = {old: name if alone else f"{name}.{old}" for old in features.columns}
                table = table.rename(full)
            first = source if first is None else first
        elif first is None:
            raise _without_ids(source, side)
        else:
            ids = next(iter(tables.values()))[side]
            table = pl.DataFrame([ids, _vectors(source, name, side, ids, file_name(first))])
        tables[name] = table
    if not tables:
        raise DataError(f"there are no tables of {side} features; give one")
    names = [side, *(name for table in tables.values() for name in table.columns if name != side)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(
            f"two of the tables of {side} features have a column {twice!r}; give one of them "
            "another name"
        )
    return tables


def joined(tables: Mapping[str, pl.DataFrame], side: str) -> pl.DataFrame:
    """One table of all ids, in the order in which they come first; nulls where one has no row."""
    parts = list(tables.values())
    if len({part[side].dtype for part in parts}) > 1:
        parts = [part.with_columns(pl.col(side).cast(pl.String)) for part in parts]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.join(part, on=side, how="full", coalesce=True, maintain_order="left_right")
    return whole


def file_name(source: Features) -> str:
    """What a table of features is called in a message: a file's own name, without its folders."""
    if isinstance(source, Mapping):
        names = {name: file_name(table) for name, table in source.items()}
        return ", ".join(f"{name}={file}" if name else file for name, file in names.items())
    if isinstance(source, np.ndarray):
        return "array"
    return Path(source).name if isinstance(source, str | Path) else "DataFrame"


def _is_array(source: FeatureTable) -> bool:
    path = isinstance(source, str | Path) and Path(source).suffix == ".npy"
    return path or isinstance(source, np.ndarray)


def _without_ids(source: FeatureTable, side: str) -> DataError:
    what = str(source) if isinstance(source, str | Path) else "array"
    return DataError(
        f"{what}: has vectors without ids; give a table with the ids of the {side}s first, and "
        "the vectors beside it, in the order of its rows"
    )


def _vectors(source: Any, name: str, side: str, ids: pl.Series, first: str) -> pl.Series:
    """The rows of an array as lists, null where all of a row is NaN."""
    what = "array" if isinstance(source, np.ndarray) else str(source)
    array = source
    if not isinstance(source, np.ndarray):
        require_file(Path(source), "vectors")
        try:
            array = np.load(source, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{source}: is not a readable .npy file of numbers (damaged or of another "
                "format); write it again with numpy.save"
            ) from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiub":
        shape = f"{array.dtype}{array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise DataError(
            f"{what}: expected an array of numbers with a row for each {side}, and it is {shape}; "
            "give it two dimensions"
        )
    if not name:
        raise DataError(f"{what}: the vectors have no name; give them one")
    if len(array) != len(ids):
        raise DataError(
            f"{what}: has {len(array):,} rows, and {first} {len(ids):,}; give a vector for each "
            "of its rows, in their order"
        )
    with np.errstate(over="ignore"):
        dense = np.ascontiguousarray(array, dtype=np.float32)
    missing = np.isnan(dense).all(axis=1)
    wrong = np.flatnonzero(~np.isfinite(dense).all(axis=1) & ~missing)
    if wrong.size:
        raise DataError(
            f"{what}, row {wrong[0] + 1}: the vector of {side} {ids[int(wrong[0])]!r} has a number "
            "that is NaN or infinite; correct it, or let the whole row be NaN where it is not known"
        )
    if missing.any():
        n = int(missing.sum())
        warn(f"{what}: rows of NaN, which say nothing, are {n:,} of its {len(array):,}")
    vectors = pl.Series(name, dense).cast(pl.List(pl.Float32))
    return pl.select(pl.when(~pl.Series(missing)).then(vectors).alias(name)).to_series()


def _not_finite(feature: pl.Series) -> pl.Series:
    """Of each value whether it is, or holds, NaN or an infinite number."""
    if feature.dtype.is_float():
        return ~feature.is_finite().fill_null(True)
    if not isinstance(feature.dtype, pl.List | pl.Array) or not feature.dtype.inner.is_float():
        return pl.repeat(False, len(feature), dtype=pl.Boolean, eager=True)
    lists = feature.cast(pl.List(feature.dtype.inner))
    return ~lists.list.eval(pl.element().is_finite()).list.all().fill_null(True)


def _with_short_floats(feature: pl.Series) -> pl.Series:
    """Vectors as lists of Float32, as models read them."""
    if isinstance(feature.dtype, pl.List | pl.Array) and feature.dtype.inner.is_float():
        return feature.cast(pl.List(pl.Float32))
    return feature


def _id_column(raw: RawTable, side: str, column: str | None) -> str:
    names = raw.frame.columns
    if column is not None:
        matches = [name for name in names if column in (name, name.split(":")[0])]
        hint = did_you_mean(column, names)
    else:
        known = known_roles(names).get(side)
        matches = [] if known is None else [known]
        hint = ""
    if not matches:
        wanted = f"column {column!r}" if column is not None else f"column known to hold the {side}s"
        raise DataError(
            f"{raw.source}: has no {wanted}{hint}; its columns are {', '.join(map(repr, names))}: "
            f"call one of them {side!r}"
        )
    return matches[0]


def _holds_bytes(dtype: object) -> bool:
    """Whether values, or parts of them, are of a type that no dataset can keep."""
    if isinstance(dtype, pl.Struct):
        return any(_holds_bytes(field) for field in dtype.to_schema().values())
    if isinstance(dtype, pl.List | pl.Array):
        return _holds_bytes(dtype.inner)
    return dtype in (pl.Binary, pl.Object)


def _require_no_slips(feature: pl.Series, ids: pl.Series, side: str, raw: RawTable) -> None:
    """Refuse text among fractions; of a word without a digit among whole numbers tell.

    Codes may be of digits and letters: a postcode ``V3N4P`` among ``94043``.
    """
    if feature.dtype != pl.String:
        return
    numbers = feature.cast(pl.Float64, strict=False)
    wrong = (numbers.is_null() & feature.is_not_null()).arg_true()
    n_told = len(feature) - feature.null_count()
    if not len(wrong) or len(wrong) > _SLIPS * n_told:
        return
    row = int(wrong[0])
    place = raw.place(row, feature.name)
    told = numbers.drop_nulls()
    if (told.filter(told.is_finite()) % 1 != 0).any():
        raise DataError(
            f"{place}: the feature of {side} {ids[row]!r} is {feature[row]!r}, and "
            f"{n_told - len(wrong):,} others are numbers; correct it, or leave it empty where it "
            "is not known"
        )
    words = wrong.filter(~feature.gather(wrong).str.contains(r"\d"))
    if not len(words):
        return
    row = int(words[0])
    place = raw.place(row, feature.name)
    warn(
        f"{place}: {feature[row]!r} is no number, as {n_told - len(wrong):,} others are, so all of "
        "the column are read as words; where numbers are meant, leave it empty"
    )


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
