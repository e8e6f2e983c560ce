"""Tables with a header and any columns, and features of users or items read from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import polars as pl
from narwhals.typing import IntoFrame

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
        The source cannot be read, has no such id column, an id is missing or comes twice, there
        is no feature, or one holds bytes.
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
    features = [
        _values(raw.frame[name]).alias(name.split(":")[0])
        for name in raw.frame.columns
        if name != column
    ]
    if not features:
        raise DataError(f"{raw.source}: has no column beside {column!r}; add at least one feature")
    require_distinct([side, *(feature.name for feature in features)], raw.source)
    return pl.DataFrame([ids.alias(side), *features])


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
