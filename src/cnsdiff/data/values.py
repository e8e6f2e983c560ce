"""The values of a raw table, checked and converted: ids, ratings, times."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from cnsdiff.data.columns import NO_COLUMN, RawTable
from cnsdiff.data.interactions import Interactions
from cnsdiff.data.problems import Problem, rows_of, shortened
from cnsdiff.errors import DataError


def finish(raw: RawTable, roles: Mapping[str, str], *, skip_bad: bool) -> Interactions:
    """Check and convert the values of ``raw`` and give its columns their final names.

    Text ids in which every value reads the same as an integer become Int64, any other text
    stays as it is (environment labels alike); ratings become Float64, timestamps Int64 or Float64
    (dates: epoch seconds).

    Raises
    ------
    DataError
        A value is empty or not a number (unless ``skip_bad``), an id column is of a type that
        cannot hold ids, some times name a zone and some do not, or no row is left.
    """
    if raw.frame.height == 0:
        raise DataError(f"{raw.source}: has no interactions; give a file with at least one row")
    columns: dict[str, pl.Series] = {}
    for role, column in roles.items():
        series = raw.frame.get_column(column)
        if role in ("user", "item", "environment"):
            columns[role] = id_values(series, f"{raw.source}: column {column!r}")
        elif role == "rating":
            columns[role] = _numbers(series, raw.source, role).cast(pl.Float64)
        else:
            columns[role] = _times(raw, series)
    frame = pl.DataFrame([series.alias(role) for role, series in columns.items()])
    bad = frame.select(
        pl.any_horizontal(
            pl.col(role).is_null() if frame.schema[role] != pl.Float64 else _not_finite(role)
            for role in columns
        )
    ).to_series()
    count = int(bad.sum())
    if count and not skip_bad:
        raise _first_bad_value(raw, roles, frame, int(bad.arg_true()[0]))
    problems = raw.problems
    if count:
        problems += _problems_of_values(raw, roles, frame)
        frame = frame.filter(~bad)
        if frame.height == 0:
            raise DataError(
                f"{raw.source}: every row is malformed, so nothing is left after --skip-bad; "
                "check --format and the column names"
            )
    labels = [role for role in ("user", "item", "environment") if role in frame.columns]
    frame = frame.with_columns(as_integers(frame[role]) for role in labels)
    return Interactions(frame, raw.source, rows_of(problems), dict(roles), problems)


def as_integers(ids: pl.Series) -> pl.Series:
    """Text ids as Int64 when not one of them loses a character by it, else unchanged.

    ``"007"``, ``"+7"`` and numbers beyond 64 bits therefore stay text.
    """
    if ids.dtype != pl.String:
        return ids
    whole = ids.cast(pl.Int64, strict=False)
    if whole.null_count() == ids.null_count() and bool((whole.cast(pl.String) == ids).all()):
        return whole
    return ids


def id_values(series: pl.Series, what: str) -> pl.Series:
    """Ids as Int64, UInt64 or String, null where they are missing or empty text.

    Raises
    ------
    DataError
        The type cannot hold ids; ``what`` opens the sentence.
    """
    dtype = series.dtype
    if isinstance(dtype, pl.Categorical | pl.Enum):
        series = series.cast(pl.String)
    if series.dtype == pl.String:
        return series.set(series == "", None)
    if dtype.is_integer():
        return _whole(series)
    if dtype == pl.Null:
        return series.cast(pl.String)
    if dtype.is_float():
        # A missing value turns pandas integers into floats; the ids themselves are still whole.
        series = series.fill_nan(None)
        whole = series.cast(pl.Int64, strict=False)
        if bool((whole.cast(dtype) == series).fill_null(series.is_null()).all()):
            return whole
    raise DataError(
        f"{what} holds {dtype}, which cannot serve as ids; turn it into integers or "
        "strings, or name another column with --user-col or --item-col"
    )


def _whole(series: pl.Series) -> pl.Series:
    for dtype in (pl.Int64, pl.UInt64):
        cast = series.cast(dtype, strict=False)
        if cast.null_count() == series.null_count():
            return cast
    return series.cast(pl.String)


def _numbers(series: pl.Series, source: str, role: str) -> pl.Series:
    """Numbers, null where the text is not one."""
    if series.dtype == pl.String:
        text = series.str.strip_chars()
        whole = text.cast(pl.Int64, strict=False)
        return whole if whole.null_count() == 0 else text.cast(pl.Float64, strict=False)
    if series.dtype == pl.Boolean:
        return series.cast(pl.Int64)
    if series.dtype.is_numeric() or series.dtype == pl.Null:
        if series.dtype.is_integer():
            return series.cast(pl.Int64, strict=False)
        return series.cast(pl.Float64)
    raise DataError(
        f"{source}: column {series.name!r} holds {series.dtype}, not numbers; convert it, or name "
        f"another column with --{role}-col ({NO_COLUMN!r} leaves it out)"
    )


def _times(raw: RawTable, series: pl.Series) -> pl.Series:
    """Times as numbers; dates and date-times as epoch seconds (UTC unless they say otherwise)."""
    if series.dtype == pl.String:
        numbers = _numbers(series, raw.source, "timestamp")
        if numbers.null_count() == 0:
            return numbers
        text = series.str.strip_chars()
        dates = _dates(text)
        # The rarer kind is the mistake.
        if dates.null_count() >= numbers.null_count():
            return numbers
        _require_one_clock(raw, series.name, text, dates)
        series = dates
    if series.dtype == pl.Date:
        series = series.cast(pl.Datetime("us"))
    if isinstance(series.dtype, pl.Datetime):
        micro = series.dt.timestamp("us")
        if bool((micro % 1_000_000 == 0).fill_null(True).all()):
            return micro // 1_000_000
        return micro / 1e6
    return _numbers(series, raw.source, "timestamp")


def _require_one_clock(raw: RawTable, column: str, text: pl.Series, dates: pl.Series) -> None:
    """Stop where some times name a zone and some do not: nobody can put them in order."""
    zoned = text.str.contains(r"\d[T ]?\d\d:\d\d.*([zZ]|[+-]\d\d:?\d\d)$")
    read = dates.is_not_null()
    # A bare date names no clock, so it fits either.
    timed = read & text.str.contains(":")
    with_zone, without = timed & zoned, timed & ~zoned
    if with_zone.any() and without.any():
        rare = with_zone if with_zone.sum() < without.sum() else without
        row = int(rare.arg_true()[0])
        says = "names a time zone and most do not" if rare is with_zone else "names no time zone"
        raise DataError(
            f"{raw.place(row, column)}: {text[row]!r} {says}, so the times cannot be put in order; "
            "write all of them with a zone (…+00:00) or all without"
        )


def _dates(text: pl.Series) -> pl.Series:
    """ISO 8601 dates and date-times as UTC, null where the text is not one."""
    # One shape for all: a "T" or space between, optional fraction, optional zone.
    plain = text.str.replace(r"^(\d{4}-\d\d-\d\d)[ t](\d)", "${1}T${2}").str.replace(
        r"[zZ]$", "+00:00"
    )
    day = plain.str.to_datetime("%Y-%m-%d", time_unit="us", strict=False)
    naive = plain.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False)
    short = plain.str.to_datetime("%Y-%m-%dT%H:%M", time_unit="us", strict=False)
    zoned = plain.str.to_datetime(
        "%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", time_zone="UTC", strict=False
    ).dt.replace_time_zone(None)
    return pl.select(pl.coalesce(day, naive, short, zoned)).to_series()


def _not_finite(role: str) -> pl.Expr:
    return ~pl.col(role).is_finite().fill_null(False)


def _problems_of_values(
    raw: RawTable, roles: Mapping[str, str], frame: pl.DataFrame
) -> tuple[Problem, ...]:
    """Why rows are bad: each counts for the first of its bad values."""
    problems = []
    free = pl.repeat(True, frame.height, eager=True)
    for role, column in roles.items():
        values = frame[role]
        wrong = values.is_null() if values.dtype != pl.Float64 else ~values.is_finite()
        wrong = wrong.fill_null(True) & free
        free &= ~wrong
        given = raw.frame[column]
        empty = given.is_null()
        if given.dtype == pl.String:
            empty |= given == ""
        other = "no number" if role == "rating" else "no time" if role == "timestamp" else "no id"
        for rows, reason in ((wrong & empty, "is empty"), (wrong & ~empty, f"is {other}")):
            if rows.any():
                first = int(rows.arg_true()[0])
                problems.append(
                    Problem(
                        f"a {role} that {reason}",
                        int(rows.sum()),
                        f"{raw.where(first)}, column {column!r}",
                        shortened(given[first]),
                    )
                )
    return tuple(problems)


def _first_bad_value(
    raw: RawTable, roles: Mapping[str, str], frame: pl.DataFrame, row: int
) -> DataError:
    unit = "row" if raw.lines is None else "line"
    for role, column in roles.items():
        value = frame[role][row]
        if value is not None and (frame.schema[role] != pl.Float64 or abs(value) < float("inf")):
            continue
        given = raw.frame[column][row]
        if given is None or given == "":
            wrong = f"the {role} is empty"
        else:
            wrong = f"{given!r} is not a number" + (" or date" if role == "timestamp" else "")
        return DataError(
            f"{raw.place(row, column)}: {wrong}; correct it, or pass --skip-bad to leave such "
            f"{unit}s out"
        )
    raise AssertionError("no bad value in a row marked bad")  # pragma: no cover
