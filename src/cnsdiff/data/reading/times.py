"""Times in any usual unit or form, as seconds since 1970."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cnsdiff.base.errors import DataError, did_you_mean, warn
from cnsdiff.base.text import parameter
from cnsdiff.data.interactions import Interactions
from cnsdiff.data.reading.columns import NO_COLUMN, RawTable

#: Units of a number that is a time since 1970; "auto" tells them apart by its size.
TIME_UNITS = ("auto", "s", "ms", "us", "ns", "days")
#: Forms of a date or time that are read, as examples.
ACCEPTED = "2020-01-31, 2020-01-31T12:00:00, 2020-01-31 12:00:00Z, …+02:00 or … UTC"

_DAY = 86_400
_LENGTHS = {"s": 1, "m": 60, "h": 3600, "d": _DAY, "w": 7 * _DAY}
_FINER = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_NAMES = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "days": "days",
    "date": "dates written YYYYMMDD",
}
#: 1973 and 2100 in seconds: what lies between, in a unit, is taken for a time in that unit.
_FIRST, _LAST = 100_000_000, 4_102_444_800
#: 1980 and 2100 in days. A column that merely counts begins before.
_FIRST_DAY, _LAST_DAY = 3652, 47_482
#: The years 1 to 9999, beyond which no calendar here goes.
_LEAST, _MOST = -62_135_596_800, 253_402_300_799


def require_time_unit(unit: str) -> None:
    """:class:`DataError` unless ``unit`` is one of :data:`TIME_UNITS`."""
    if unit not in TIME_UNITS:
        raise DataError(
            f"unknown time unit {unit!r}{did_you_mean(str(unit), TIME_UNITS)}; "
            f"{parameter('time_unit')} takes {', '.join(TIME_UNITS)}"
        )


def since_1970(raw: RawTable, column: str, numbers: pl.Series, unit: str) -> pl.Series:
    """Numbers of any unit as seconds, null where they are none of this unit.

    ``"auto"`` takes the unit that puts the median between 1973 and 2100, and says so where that
    is not seconds; numbers that fit none, such as a count, stay as they are. A number that only
    another unit would put there is null, and so is one beyond the year 9999.
    """
    if numbers.dtype.is_float():
        numbers = numbers.set(~numbers.is_finite(), None)
    if numbers.null_count() == len(numbers):
        return numbers
    explicit = unit != "auto"
    actual: str | None = unit if explicit else _unit_of(numbers)
    seconds = _in_seconds(numbers, actual or "s")
    beyond = ~seconds.is_between(_LEAST, _MOST)
    if not explicit and actual in _FINER:
        size = numbers.abs()
        for other, finer in _FINER.items():
            if other != actual:
                beyond = beyond | size.is_between(_FIRST * finer, _LAST * finer)
    seconds = seconds.set(beyond.fill_null(False), None)
    if not explicit and actual not in (None, "s"):
        warn(
            f"{raw.source}: the times in column {column!r} are taken for {_what(actual)}, "
            f"{_day(seconds.min())} to {_day(seconds.max())}, and turned into seconds; "
            f"{parameter('time_unit')} says otherwise"
        )
    return seconds


def _unit_of(numbers: pl.Series) -> str | None:
    """The unit in which these are times of plausible years; None if there is none."""
    middle = _number(numbers.median())
    for unit, finer in _FINER.items():
        if _FIRST * finer <= middle < _LAST * finer:
            return unit
    if _number(numbers.min()) >= _FIRST_DAY and _number(numbers.max()) <= _LAST_DAY:
        return "days"
    if 19_800_101 <= middle <= 21_001_231 and _dates_of(numbers).null_count() < len(numbers) / 2:
        return "date"
    return None


def _in_seconds(numbers: pl.Series, unit: str) -> pl.Series:
    if unit == "days":
        # Beyond the calendar anyway, and its seconds might not fit 64 bits.
        far = ~numbers.is_between(-4_000_000, 4_000_000)
        return numbers.set(far.fill_null(False), None) * _DAY
    if unit == "date":
        return _dates_of(numbers).dt.timestamp("us") // 1_000_000
    finer = _FINER[unit]
    if finer == 1:
        return numbers
    if numbers.dtype.is_integer() and bool((numbers % finer == 0).all()):
        return numbers // finer
    return numbers / finer


def _dates_of(numbers: pl.Series) -> pl.Series:
    whole = numbers.cast(pl.Int64, strict=False)
    text = whole.set((whole != numbers).fill_null(False), None).cast(pl.String)
    return text.str.to_datetime("%Y%m%d", time_unit="us", strict=False)


def since_1970_of_dates(moments: pl.Series) -> pl.Series:
    """Dates and date-times as seconds (UTC unless they say otherwise), null beyond year 9999."""
    if moments.dtype == pl.Date:
        moments = moments.cast(pl.Datetime("us"))
    micro = moments.dt.timestamp("us")
    whole = bool((micro % 1_000_000 == 0).fill_null(True).all())
    seconds = micro // 1_000_000 if whole else micro / 1e6
    return seconds.set((~seconds.is_between(_LEAST, _MOST)).fill_null(False), None)


def note_odd_times(raw: RawTable, column: str, seconds: pl.Series) -> None:
    """Say where a few times stand far from the rest, as made-up dates for missing times do."""
    times = seconds.drop_nulls()
    if not len(times):
        return
    least, most = _number(times.min()), _number(times.max())
    if (least >= _FIRST and most < _LAST) or not _FIRST <= _number(times.median()) < _LAST:
        return
    for odd, where in (
        (seconds < _FIRST, "before 1973"),
        (seconds >= _LAST, "after the year 2099"),
    ):
        rows = odd.fill_null(False).arg_true()
        if len(rows):
            row = int(rows[0])
            warn(
                f"{raw.place(row, column)}: {raw.frame[column][row]!r} lies {where} and most times "
                f"do not ({len(rows):,} of {len(times):,}); if it stands for a missing time, "
                f"remove such rows or leave the column out with {parameter('timestamp', NO_COLUMN)}"
            )


def why_no_time(value: Any) -> str:
    """The fault of a value that could not be read as a time."""
    try:
        number = math.isfinite(float(value))
    except (TypeError, ValueError):
        number = False
    if number:
        return (
            f"{value!r} is not a number or date like the other times: it counts in another unit, "
            f"or is no time of the years 1 to 9999 ({parameter('time_unit')} names a unit)"
        )
    return f"{value!r} is not a number or date (write {ACCEPTED}, or seconds since 1970)"


def require_one_unit(tables: Mapping[str, Interactions]) -> None:
    """Stop where the times of one table are times of our days and those of another are not.

    The :class:`DataError` says that they cannot be put in order.
    """
    middles = {
        name: _number(table.frame["timestamp"].median())
        for name, table in tables.items()
        if "timestamp" in table.frame.columns and table.frame.height
    }
    ours = [name for name, middle in middles.items() if middle >= _FIRST]
    others = [name for name, middle in middles.items() if middle < _FIRST]
    if ours and others:
        one, other = ours[0], others[0]
        raise DataError(
            f"{tables[other].source}: as seconds since 1970, the times of {other} are about "
            f"{_day(middles[other])} and those of {one} about {_day(middles[one])}; give both in "
            f"one unit, or leave the column out with {parameter('timestamp', NO_COLUMN)}"
        )


def looks_unlike_seconds(timestamps: NDArray[Any]) -> str | None:
    """A warning about times that do not look like seconds since 1970, else None.

    Datasets of earlier versions hold times as they were given.
    """
    if not timestamps.size or not np.isfinite(timestamps).all():
        return None
    unit = _unit_of(pl.Series(timestamps))
    if unit in (None, "s"):
        return None
    return f"look like {_what(unit)}, and are taken for seconds"


def _what(unit: str | None) -> str:
    name = _NAMES[unit or "s"]
    return name if unit == "date" else f"{name} since 1970"


def _day(seconds: Any) -> str:
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=_number(seconds))
    return moment.date().isoformat()


def _number(value: Any) -> float:
    return float(value)


# -- text ----------------------------------------------------------------------------------------

_CLOCKS = ("%H:%M:%S%.f", "%H:%M")
#: With "%#z" any offset and "Z"; a time of universal time by name is as good without it.
_ZONES = ("", "%#z", " UTC", "UTC", " GMT")
_FORMS = (
    "%Y-%m-%d",
    *(f"%Y-%m-%d{gap}{clock}{zone}" for gap in "T t" for clock in _CLOCKS for zone in _ZONES),
    *(f"%Y%m%dT{clock}{zone}" for clock in ("%H%M%S%.f", "%H%M") for zone in ("", "%#z")),
)
_SAMPLE = 1000


def moments(text: pl.Series) -> pl.Series:
    """ISO 8601 dates and date-times, and near relatives, as UTC; null where the text is none."""
    plain = text.str.strip_chars()
    if plain.str.contains(",", literal=True).any():
        plain = plain.str.replace(",", ".", literal=True)
    # Nearly always all rows have one form, so the one that fits a sample comes first.
    sample = plain.head(_SAMPLE)
    forms = sorted(_FORMS, key=lambda form: _parsed(sample, form).null_count())
    instants = _parsed(plain, forms[0])
    for form in forms[1:]:
        left = instants.is_null().arg_true()
        if not len(left):
            break
        instants = instants.scatter(left, _parsed(plain.gather(left), form))
    return instants


def _parsed(text: pl.Series, form: str) -> pl.Series:
    zone = "UTC" if "%#z" in form else None
    read = text.str.to_datetime(form, time_unit="us", time_zone=zone, strict=False)
    return read.dt.replace_time_zone(None) if zone else read


def require_one_clock(raw: RawTable, column: str, text: pl.Series, read: pl.Series) -> None:
    """Stop where some times name a zone and some do not: nobody can put them in order."""
    # A bare date names no clock, so it fits either.
    timed = read.is_not_null() & text.str.contains(r"\d[Tt ]\d\d:?\d\d")
    zoned = text.str.contains(r"\d[Tt ]?\d\d:?\d\d.*([zZ]|UTC|GMT|[+-]\d\d(:?\d\d)?)$")
    with_zone, without = timed & zoned, timed & ~zoned
    if with_zone.any() and without.any():
        rare = with_zone if with_zone.sum() < without.sum() else without
        row = int(rare.arg_true()[0])
        says = "names a time zone and most do not" if rare is with_zone else "names no time zone"
        raise DataError(
            f"{raw.place(row, column)}: {text[row]!r} {says}, so the times cannot be put in order; "
            "write all of them with a zone (…+00:00) or all without"
        )


def seconds_of(text: str) -> float:
    """A length of time in seconds: ``"90"``, ``"90s"``, ``"30m"``, ``"12h"``, ``"7d"``, ``"2w"``.

    Raises
    ------
    ValueError
        It is written in another way.
    """
    parts = re.fullmatch(r"(\d+(?:\.\d*)?)([smhdw]?)", text.strip())
    if parts is None:
        raise ValueError("write it in seconds, or as 30m, 12h, 7d or 2w")
    return float(parts[1]) * _LENGTHS[parts[2] or "s"]


def date_of(seconds: float) -> str:
    """A moment in seconds since 1970 as text: ``2020-01-31 12:00:00``."""
    try:
        return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return "beyond the year 9999" if seconds > 0 else "before the year 1"
