"""The values of a raw table, checked and converted: ids, ratings, times."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from cnsdiff.base.errors import DataError, warn
from cnsdiff.base.text import parameter
from cnsdiff.data.ids import MISSING, as_integers, doubtful, id_values, why_doubtful
from cnsdiff.data.interactions import Interactions, Problem, Step, leave_out, rows_of, shortened
from cnsdiff.data.reading.columns import NO_COLUMN, OPTIONAL, RawTable
from cnsdiff.data.reading.times import (
    moments,
    note_odd_times,
    require_one_clock,
    since_1970,
    since_1970_of_dates,
    why_no_time,
)


def finish(
    raw: RawTable,
    roles: Mapping[str, str],
    *,
    skip_bad: bool,
    time_unit: str = "auto",
    literal_ids: bool = False,
    guessed: bool = True,
) -> Interactions:
    """Check and convert the values of ``raw`` and give its columns their final names.

    Text ids in which every value reads the same as an integer become Int64, any other text stays as
    it is (period labels alike); words for a missing value are no ids, unless ``literal_ids``;
    ratings become Float64, timestamps Int64 or Float64 seconds since 1970, types of events text.
    A ``guessed`` column of events is left out if it holds one value, or more than events have.

    Raises :class:`DataError` if a value is empty or not a number (unless ``skip_bad``), an id
    column is of a type that cannot hold ids, some times name a zone and some do not, or no row is
    left.
    """
    if raw.frame.height == 0:
        raise DataError(f"{raw.source}: has no interactions; give a file with at least one row")
    columns: dict[str, pl.Series] = {}
    for role, column in roles.items():
        series = raw.frame.get_column(column)
        if role == "event":
            types = _types_of_events(raw, series, guessed=guessed)
            if types is not None:
                columns[role] = types
        elif role in ("user", "item", "period"):
            ids = id_values(series, f"{raw.source}: column {column!r}")
            if role != "period" and not literal_ids:
                wrong = doubtful(ids)
                ids = ids.set(wrong, None) if wrong.any() else ids
            columns[role] = ids
        elif role == "rating":
            columns[role] = _numbers(series, raw.source, role).cast(pl.Float64)
        else:
            columns[role] = _seconds(raw, series, time_unit)
            note_odd_times(raw, column, columns[role])
    roles = {role: roles[role] for role in columns}
    frame = pl.DataFrame([series.alias(role) for role, series in columns.items()])
    bad = frame.select(
        pl.any_horizontal(
            ~pl.col(role).is_finite().fill_null(False)
            if frame.schema[role] == pl.Float64
            else pl.col(role).is_null()
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
                f"{raw.source}: every row is malformed, so nothing is left after "
                f"{parameter('skip_bad', True)}; check {parameter('format')} and the column names"
            )
    frame = frame.with_columns(
        as_integers(frame[role], f"{raw.source}: column {roles[role]!r}", literal=literal_ids)
        for role in ("user", "item", "period")
        if role in frame.columns
    )
    skipped = rows_of(problems)
    funnel = (Step("read", frame.height + skipped), Step("readable", frame.height, problems))
    return Interactions(frame, raw.source, skipped, roles, problems, funnel)


_MOST_TYPES = 50  # of events; more are ids or free text


def _types_of_events(raw: RawTable, series: pl.Series, *, guessed: bool) -> pl.Series | None:
    """Types of events as text, "" where there is none; None if a guess was wrong."""
    text = series.dtype == pl.String or series.dtype == pl.Boolean or series.dtype.is_integer()
    if not text and not isinstance(series.dtype, pl.Categorical | pl.Enum):
        if guessed:
            return None
        raise DataError(
            f"{raw.source}: column {series.name!r} holds {series.dtype}, not types of events; "
            f"convert it to text, or name another column with {parameter('event', 'NAME')}"
        )
    types = series.cast(pl.String).fill_null("").str.strip_chars()
    return types if not guessed or 2 <= types.n_unique() <= _MOST_TYPES else None


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
        # By what it prints: 0.7 of 32 bits is below 0.7 of 64, which a threshold is.
        if series.dtype == pl.Float32:
            series = series.cast(pl.String)
        elif series.dtype == pl.Float16:
            series = pl.Series(series.name, series.to_numpy().astype(str))
        return series.cast(pl.Float64)
    raise DataError(
        f"{source}: column {series.name!r} holds {series.dtype}, not numbers; convert it, or name "
        f"another column with {parameter(role, 'NAME')} ({NO_COLUMN!r} leaves it out)"
    )


def _seconds(raw: RawTable, series: pl.Series, unit: str) -> pl.Series:
    """Times as seconds since 1970, null where they are none."""
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
        if series.dtype == pl.Float32 and (series.abs() >= 2**24).any():
            warn(
                f"{raw.source}: column {series.name!r} holds Float32, which keeps times only to "
                "some minutes; give it as integers or Float64"
            )
    return since_1970(raw, series.name, numbers, unit)


def _problems_of_values(
    raw: RawTable, roles: Mapping[str, str], frame: pl.DataFrame
) -> tuple[Problem, ...]:
    """Why rows are bad: each counts for the first of its bad values."""
    problems = []
    free = pl.repeat(True, frame.height, eager=True)
    for role, column in roles.items():
        values = frame[role]
        bad = values.is_null() if values.dtype != pl.Float64 else ~values.is_finite()
        bad = bad.fill_null(True) & free
        free &= ~bad
        raw_values = raw.frame[column]
        empty = raw_values.is_null()
        if raw_values.dtype == pl.String:
            empty |= raw_values == ""
        # An id that is a word for a missing one counts as missing, too.
        is_id = role in ("user", "item")
        word = raw_values.cast(pl.String).is_in(list(MISSING)) & ~empty if is_id else ~bad
        other = {
            "rating": "a rating that is no number",
            "timestamp": "a timestamp that is no time",
        }.get(role, f"a {role} that is cut short")
        for rows, reason, missing in (
            (bad & empty, f"an empty {role}", is_id),
            (bad & word, f"a word for a missing {role}", True),
            (bad & ~empty & ~word, other, False),
        ):
            if rows.any():
                first = int(rows.arg_true()[0])
                problems.append(
                    Problem(
                        reason,
                        int(rows.sum()),
                        f"{raw.where(first)}, column {column!r}",
                        shortened(raw_values[first]),
                        missing,
                    )
                )
    return tuple(problems)


def _first_bad_value(
    raw: RawTable, roles: Mapping[str, str], frame: pl.DataFrame, row: int
) -> DataError:
    unit = "rows" if raw.lines is None else "lines"
    for role, column in roles.items():
        value = frame[role][row]
        if value is not None and (frame.schema[role] != pl.Float64 or abs(value) < float("inf")):
            continue
        raw_value = raw.frame[column][row]
        more = ""
        if raw_value is None or raw_value == "":
            wrong = f"the {role} is empty"
        elif role == "timestamp":
            wrong = why_no_time(raw_value)
        elif role == "rating":
            wrong = f"{raw_value!r} is not a number"
        else:
            others = _others_like(raw, column, raw_value)
            wrong = f"{raw_value!r} {why_doubtful(raw_value, role)}{others}"
            more = f", or {parameter('literal_ids', True)} if it is an id"
        return DataError(
            f"{raw.place(row, column)}: {wrong}; correct it, "
            + (
                f"leave the column out with {parameter(role, NO_COLUMN)}, "
                if role in OPTIONAL
                else ""
            )
            + f"or {leave_out(unit)}{more}"
        )
    raise AssertionError("no bad value in a row marked bad")  # pragma: no cover


def _others_like(raw: RawTable, column: str, value: object) -> str:
    """The count of a value and its first place; "" if it comes once."""
    same = (raw.frame[column].cast(pl.String) == str(value)).fill_null(False)
    places = same.arg_true() + 1 if raw.lines is None else raw.lines.filter(same)
    if len(places) < 2:
        return ""
    unit = "rows" if raw.lines is None else "lines"
    first = ", ".join(map(str, places.head(3)))
    return f" ({len(places):,} {unit}: {first}{', …' if len(places) > 3 else ''})"
