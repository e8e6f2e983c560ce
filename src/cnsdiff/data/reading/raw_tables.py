"""Tables with a header and any columns, read before anything is known of what they mean."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from cnsdiff.base.errors import CnsdiffWarning, DataError
from cnsdiff.base.storage import read_parquet
from cnsdiff.data.reading.columns import RawTable
from cnsdiff.data.reading.dialects import DECIMAL_COMMA, declared, sniff
from cnsdiff.data.reading.lines import read_lines
from cnsdiff.data.reading.readers import from_frame, is_parquet, require_file
from cnsdiff.data.reading.text import parse, whole_records

_DELIMITERS = ("\t", ",", ";", "|")


def read_raw(source: Any, what: str) -> RawTable:
    """A CSV, TSV or RecBole-like file with a header, a Parquet file, or a data frame, as it is.

    Parameters
    ----------
    source
        A path (text may be gzipped), or any data frame narwhals knows.
    what
        It holds, for messages: ``"features"``.

    Raises
    ------
    DataError
        It cannot be read, a line is malformed, or two columns have one name.
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
        warnings.warn(
            f"{source}: column {values.name!r} is read as numbers with a decimal comma "
            f"({filled.filter(decimal)[0]!r}); put another character between parts of lists",
            CnsdiffWarning,
            stacklevel=2,
        )
    return frame


def require_distinct(names: list[str], source: str) -> None:
    """:class:`DataError` if a table has two columns of one name."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{source}: has two columns called {twice!r}; rename one of them")
