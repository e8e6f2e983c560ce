"""Whether the first line names the columns, and whether it comes again further down."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import polars as pl

from cnsdiff.base.errors import DataError
from cnsdiff.data.reading.columns import ALIASES, NO_COLUMN, known_roles, plain_name
from cnsdiff.data.reading.dialects import Dialect
from cnsdiff.data.reading.problems import shortened

_RECENT = 100_000_000  # seconds; 1973 as a time, and nobody's rating


def is_header(
    sample: Sequence[str], dialect: Dialect, asked: Mapping[str, str | None], place: str
) -> bool:
    """Whether the first of some records names the columns, where nobody has said so.

    Parameters
    ----------
    sample
        Records from the first on.
    dialect
        How they are divided.
    asked
        Column named by the caller for each role, or None.
    place
        Of the first record, for messages.

    Raises
    ------
    DataError
        It looks unlike the rest, but like no header that is known.
    """
    names = dialect.split(sample[0])
    if {"user", "item"} <= known_roles(names).keys():
        return True
    wanted = [column for column in asked.values() if column not in (None, NO_COLUMN)]
    if wanted:
        return not all(column.isdecimal() for column in wanted if column)
    # Words above columns of numbers or times are a header whose names we do not know.
    rows = [row for row in map(dialect.split, sample[1:]) if len(row) == len(names)]
    if len(names) != dialect.width or not rows or not all(map(_is_word, names)):
        return False
    told = [all(is_number(row[at]) or is_time(row[at]) for row in rows) for at in range(len(names))]
    if all(told[:2]) or (len(told) > 2 and all(told[2:])):
        return True
    if _is_unlike(names, rows):
        shown = [shortened(name) for name in names[:6]]
        raise DataError(
            f"{place}: {', '.join(map(repr, shown))} looks like a header, but not both the users "
            "and the items have a known name in it; pass --header and name their columns with "
            "--user-col and --item-col, or --no-header if the line is an interaction"
        )
    return False


def _is_unlike(names: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first line has another shape than the ids below it, or a known name.

    Ids of a shop or a site nearly always have digits in them, names of columns hardly ever.
    """
    known = {alias for role in ("user", "item") for alias in ALIASES[role] if len(alias) > 1}
    if any(plain_name(name) in known for name in names):
        return True
    if len(rows) < 2 or any(re.search(r"\d", name) for name in names[:2]):
        return False
    digits = [sum(bool(re.search(r"\d", row[at])) for row in rows) for at in (0, 1)]
    return min(digits) >= 0.95 * len(rows)


def _is_word(field: str) -> bool:
    """Whether a field can name a column: neither a value nor a mark for a missing one."""
    missing = field.strip().lower() in ("", "-", "?", "na", "n/a", "null", "none")
    return not (missing or is_number(field) or is_time(field))


def is_number(field: str) -> bool:
    """Whether a field is a number, with a point or a comma."""
    try:
        float(field.replace(",", ".", 1))
    except ValueError:
        return False
    return True


def is_time(field: str) -> bool:
    """Whether a third field cannot be a rating."""
    if re.match(r"\d{4}-\d\d-\d\d", field):
        return True
    return is_number(field) and float(field.replace(",", ".", 1)) >= _RECENT


def repeated_headers(users: pl.Series, items: pl.Series, *, header: bool) -> pl.Series | None:
    """Rows that name the columns once more, as concatenated files have them; None if none does.

    Parameters
    ----------
    users, items
        Columns as read, named as in the file.
    header
        Whether these are names of the file; then other names count only where they end in "id",
        since nobody could say that a customer likes a book.
    """
    # Where ids are whole numbers, only what is none is looked at; else each different id once.
    suspects = items.filter(items.cast(pl.Int64, strict=False).is_null()).unique()
    named = _names_among(suspects, items.name, header=header)
    if len(named) == 0:
        return None
    rows = items.is_in(named.implode())
    who = users.filter(rows).unique()
    found = rows & users.is_in(_names_among(who, users.name, header=header).implode())
    return found if found.any() else None


def _names_among(values: pl.Series, own: str, *, header: bool) -> pl.Series:
    """Those that are the column's own name or one known for a user or an item."""
    known = [*ALIASES["user"], *ALIASES["item"]]
    if header:
        known = [plain_name(own), *(name for name in known if name.endswith("id"))]
    plain = values.str.replace(":.*$", "").str.replace_all(r"[\s_\-.]", "").str.to_lowercase()
    # A single letter is a name of a column in a first line, and an id anywhere else.
    long = [name for name in known if len(name) > 1 or (header and name == plain_name(own))]
    return values.filter(plain.is_in(long))
