"""One way in for interactions of any format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl
from narwhals.typing import IntoFrame

from cnsdiff.base.errors import DataError, did_you_mean
from cnsdiff.base.storage import read_parquet, read_parquet_schema
from cnsdiff.base.text import parameter
from cnsdiff.data.interactions import Interactions, checked_events
from cnsdiff.data.reading.adjacency import read_adjacency, told_format
from cnsdiff.data.reading.columns import RawTable, assign_roles, known_roles
from cnsdiff.data.reading.dialects import DELIMITERS, delimiter_of
from cnsdiff.data.reading.lines import read_lines, reject_markup
from cnsdiff.data.reading.text import read_delimited
from cnsdiff.data.reading.times import require_time_unit
from cnsdiff.data.reading.values import finish

FORMATS = ("auto", "text", "csv", "tsv", "inter", "adjacency", "parquet")
_DELIMITERS = {"csv": (",", ";"), "tsv": ("\t",), "inter": ("\t",)}


def read_interactions(
    source: str | Path | IntoFrame,
    *,
    format: str = "auto",
    user: str | None = None,
    item: str | None = None,
    rating: str | None = None,
    timestamp: str | None = None,
    period: str | None = None,
    event: str | None = None,
    events: Mapping[str, float] | Iterable[str] | None = None,
    header: bool | None = None,
    delimiter: str | None = None,
    skip_bad: bool = False,
    time_unit: str = "auto",
    literal_ids: bool = False,
) -> Interactions:
    """Read interactions from a file or a data frame.

    Parameters
    ----------
    source
        Path of a text file (gzipped or not) or a Parquet file, or any data frame narwhals knows
        (pandas, polars, pyarrow, …).
    format
        ``"auto"`` tells it from the name and the content. ``"text"`` is ``user item [rating]
        [timestamp]`` separated by space, tab, comma, ``;``, ``|`` or ``::`` (without a header,
        a third field of dates or of nine digits and more is the timestamp); ``"csv"`` and
        ``"tsv"`` fix the separator; ``"inter"`` is RecBole's; ``"adjacency"`` is LightGCN's
        ``user item item …``; ``"parquet"``.
    user, item, rating, timestamp, period, event
        Column names, where they are not the usual ones; positions from ``"1"`` for text without
        a header. ``"none"`` leaves an optional one out. ``period`` labels what an
        interaction was observed under (a campaign, a season, a version of the site); ``event``
        says what it was (a view, a purchase).
    events
        Types of events to read, ``["purchase", "cart"]``, or their weights in training,
        ``{"purchase": 1, "cart": 0.5}``: 0, or from 1e-6 to 1e6, in the column ``weight`` of
        what is read. By default all count alike.
    header
        Whether the first line of text names the columns; None tells it from the names.
    delimiter
        What separates the fields of text, where it is not to be told from the lines: ``";"``,
        ``"tab"``, ``"space"`` (or a run of blanks), ``"^"``, …
    skip_bad
        Leave malformed rows out, and count them in ``skipped`` (``problems`` says why), in place
        of an error.
    time_unit
        What times that are numbers count since 1970: ``"s"``, ``"ms"``, ``"us"``, ``"ns"`` or
        ``"days"``. ``"auto"`` tells it from their size, and a warning says so where they are not
        seconds. They become seconds.
    literal_ids
        Take every id as it is written. Otherwise words for a missing one (``"nan"``, ``"NULL"``,
        ``"NA"``, …) and numbers cut short (``"1.2E+17"``) are malformed, and text ids that are
        all whole numbers may be written as floats: ``"7.0"`` is 7.

    Returns
    -------
    Interactions
        Ids as given: whole numbers as Int64, anything else (``"007"`` too) as text.

    Raises
    ------
    DataError
        The source cannot be read; the message names file, line or column, and the mend.
    """
    if format not in FORMATS:
        raise DataError(
            f"unknown format {format!r}{did_you_mean(format, FORMATS)}; {parameter('format')} "
            f"takes {', '.join(FORMATS)}"
        )
    require_time_unit(time_unit)
    choices = {
        "user": user,
        "item": item,
        "rating": rating,
        "timestamp": timestamp,
        "period": period,
        "event": event,
    }
    if events is not None:
        events = checked_events(events)
    if not isinstance(source, str | Path):
        table = from_frame(source)
        roles = assign_roles(
            table.frame.columns, choices, table.source, default=known_roles(table.frame.columns)
        )
    else:
        path = Path(source)
        try:
            table, roles = _read_file(path, format, choices, header, delimiter, skip_bad)
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read: {error.strerror or error}; check the file"
            ) from error
    if events is not None and "event" not in roles:
        listed = ", ".join(map(repr, table.names or table.frame.columns))
        raise DataError(
            f"{table.source}: no column is known to hold types of events; its columns are "
            f"{listed}: name one of them with {parameter('event', 'NAME')}, or leave "
            f"{parameter('events')} out"
        )
    # A column that is only known by its name counts where it looks like one of events.
    read = finish(
        table,
        roles,
        skip_bad=skip_bad,
        time_unit=time_unit,
        literal_ids=literal_ids,
        guessed=event is None and events is None,
    )
    return read if events is None else read.of_events(events)


def _read_file(
    path: Path,
    format: str,
    choices: Mapping[str, str | None],
    header: bool | None,
    delimiter: str | None,
    skip_bad: bool,
) -> tuple[RawTable, dict[str, str]]:
    require_file(path, "interactions")
    name = str(path)
    separator = None if delimiter is None else delimiter_of(delimiter)
    if format == "parquet" or (format == "auto" and is_parquet(path)):
        return _read_parquet(path, choices)
    lines = read_lines(path)
    if format == "auto":
        reject_markup(lines, name)
    by_place = not any(choices.values()) and header is None and separator in (None, " ")
    if format == "auto" and by_place:
        format = told_format(lines, name)
    if format == "adjacency":
        table = read_adjacency(lines, name, skip_bad=skip_bad)
        return table, {"user": "user", "item": "item"}
    if format == "auto" and path.name.removesuffix(".gz").endswith(".inter"):
        format = "inter"
    return read_delimited(
        lines,
        name,
        choices=choices,
        delimiters=[separator] if separator else _DELIMITERS.get(format, DELIMITERS),
        header=True if format == "inter" else header,
        skip_bad=skip_bad,
    )


def require_file(path: Path, what: str) -> None:
    """:class:`DataError` unless there is a file at ``path``, which should hold ``what``."""
    if not path.exists():
        beside = path.parent.iterdir() if path.parent.is_dir() else ()
        near = did_you_mean(path.name, sorted(entry.name for entry in beside))
        raise DataError(f"{path}: no such file{near}; check the path")
    if path.is_dir():
        raise DataError(f"{path}: is a directory; give the file of {what} in it")


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet by its first bytes, or says so by its name."""
    with path.open("rb") as file:
        start = file.read(4)
    return start == b"PAR1" or (path.suffix in (".parquet", ".pq") and start != b"")


def _read_parquet(path: Path, choices: Mapping[str, str | None]) -> tuple[RawTable, dict[str, str]]:
    try:
        columns = list(read_parquet_schema(path))
        roles = assign_roles(columns, choices, str(path), default=known_roles(columns))
        frame = read_parquet(path, list(roles.values()))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: is not a readable Parquet file (damaged or of another format); write it "
            f"again, or name its {parameter('format')}"
        ) from error
    return RawTable(frame, str(path), names=tuple(columns)), roles


def from_frame(source: Any) -> RawTable:
    """A data frame of any library as a raw table; :class:`DataError` if it is none."""
    try:
        wrapped = nw.from_native(source)
    except nw.exceptions.DuplicateError as error:
        raise _twice(source) from error
    except TypeError as error:
        raise DataError(
            f"cannot read interactions from a {type(source).__name__}; give a path or a data "
            "frame (pandas, polars, pyarrow)"
        ) from error
    try:
        frame: pl.DataFrame = wrapped.lazy().collect("polars").to_polars()
    except nw.exceptions.DuplicateError as error:
        raise _twice(source) from error
    except Exception as error:  # each library raises its own kind for a mixed-type column
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"DataFrame: cannot be converted ({reason}); make each column of one type"
        ) from error
    if not frame.columns:
        raise DataError("DataFrame: has no columns; give one with a user and an item in each row")
    return RawTable(frame, "DataFrame")


def _twice(source: Any) -> DataError:
    names = getattr(source, "column_names", None) or list(getattr(source, "columns", ()))
    twice = next((name for name in names if list(names).count(name) > 1), names)
    return DataError(f"DataFrame: has two columns called {twice!r}; rename or drop one of them")
