"""The values of a raw table, checked and converted: ids, ratings, times."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from cnsdiff.data.columns import NO_COLUMN, OPTIONAL, RawTable
from cnsdiff.data.interactions import Interactions
from cnsdiff.data.problems import Problem, rows_of, shortened
from cnsdiff.data.times import (
    moments,
    note_odd_times,
    require_one_clock,
    since_1970,
    since_1970_of_dates,
    why_no_time,
)
from cnsdiff.errors import DataError


def finish(
    raw: RawTable, roles: Mapping[str, str], *, skip_bad: bool, time_unit: str = "auto"
) -> Interactions:
    """Check and convert the values of ``raw`` and give its columns their final names.

    Text ids in which every value reads the same as an integer become Int64, any other text
    stays as it is (environment labels alike); ratings become Float64, timestamps Int64 or Float64
    seconds since 1970.

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
            columns[role] = _times(raw, series, time_unit)
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


def _times(raw: RawTable, series: pl.Series, unit: str) -> pl.Series:
    """Times as seconds since 1970, null where they are none."""
    seconds = _seconds(raw, series, unit)
    note_odd_times(raw, series.name, seconds)
    return seconds


def _seconds(raw: RawTable, series: pl.Series, unit: str) -> pl.Series:
    numbers = series
    if series.dtype == pl.String:
        numbers = _numbers(series, raw.source, "timestamp")
        if numbers.null_count():
            text = series.str.strip_chars()
            dates = moments(text)
            # The rarer kind is the mistake.
            if dates.null_count() < numbers.null_count():
                require_one_clock(raw, series.name, text, dates)
                return since_1970_of_dates(dates)
    elif series.dtype == pl.Date or isinstance(series.dtype, pl.Datetime):
        return since_1970_of_dates(series)
    else:
        numbers = _numbers(series, raw.source, "timestamp")
    return since_1970(raw, series.name, numbers, unit)


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
        other = f"an unusable {role}"
        if role in ("rating", "timestamp"):
            other = f"a {role} that is no {'number' if role == 'rating' else 'time'}"
        for rows, reason in ((wrong & empty, f"an empty {role}"), (wrong & ~empty, other)):
            if rows.any():
                first = int(rows.arg_true()[0])
                problems.append(
                    Problem(
                        reason,
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
            wrong = why_no_time(given) if role == "timestamp" else f"{given!r} is not a number"
        return DataError(
            f"{raw.place(row, column)}: {wrong}; correct it, "
            + (f"leave the column out with --{role}-col {NO_COLUMN}, " if role in OPTIONAL else "")
            + f"or pass --skip-bad to leave such {unit}s out"
        )
    raise AssertionError("no bad value in a row marked bad")  # pragma: no cover
