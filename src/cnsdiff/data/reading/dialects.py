"""The dialect of delimited text: the delimiter under which all lines are alike."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from cnsdiff.base.errors import DataError
from cnsdiff.base.text import parameter
from cnsdiff.data.reading.columns import known_roles
from cnsdiff.data.reading.quoting import has_quoted_fields, quoted_records, unquoted

#: Those looked for. Where two divide the lines equally well, ``_choose`` decides.
DELIMITERS = ("::", "\t", ",", ";", "|", " ")
#: Names for those that are hard to type or to see.
NAMES = {
    "tab": "\t",
    "\\t": "\t",
    "space": " ",
    "comma": ",",
    "semicolon": ";",
    "pipe": "|",
}
_SAMPLE = 1000  # lines from which the delimiter is told
_SHARE = 0.9  # of the lines that must have the usual number of fields
_MARGIN = 0.1  # of fields that make sense, by which one delimiter must beat another

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_TIME = re.compile(r"\d{4}-\d\d-\d\d([ tT].*)?|\d{1,2}[./]\d{1,2}[./]\d{4}|\d\d:\d\d(:\d\d)?")


@dataclass(frozen=True)
class Dialect:
    """A dialect: ``delimiter``, usual number of fields, whether fields are quoted."""

    delimiter: str
    width: int
    quoted: bool

    def split(self, line: str) -> list[str]:
        """The fields of one line (for samples and headers, not for whole files)."""
        return unquoted(line, self.delimiter, self.quoted)


def delimiter_of(name: str) -> str:
    """The delimiter that a caller means by ``","``, ``"tab"`` or ``"::"``.

    :class:`DataError` if it cannot divide lines.
    """
    # Blanks around fields are never part of them.
    delimiter = NAMES.get(name.lower(), name.strip(" ") or name[:1])
    if delimiter == "" or re.search(r'["\r\n\w]', delimiter):
        raise DataError(
            f"delimiter {name!r} cannot separate fields; {parameter('delimiter')} takes a "
            f"character such as ';' or one of {', '.join(name for name in NAMES if name.isalpha())}"
        )
    return delimiter


def shown(delimiter: str) -> str:
    """As it is named to a person: ``tab``, ``';'``."""
    names = {"\t": "tab", " ": "space"}
    return names.get(delimiter, repr(delimiter))


def declared(lines: pl.DataFrame, delimiters: Sequence[str]) -> tuple[pl.DataFrame, Sequence[str]]:
    """Lines without Excel's ``sep=;`` above them, and the delimiter that it names."""
    first = re.fullmatch(r'"?sep=([^"\w])"?', lines["text"][0].strip(" "), flags=re.IGNORECASE)
    if first is None or lines.height == 1:
        return lines, delimiters
    return lines[1:], delimiters if len(delimiters) == 1 else [first[1]]


def sniff(
    lines: pl.DataFrame,
    source: str,
    delimiters: Sequence[str] = DELIMITERS,
    mend: str | None = None,
) -> Dialect | None:
    """The dialect of ``lines``, told from the first of them; None if no delimiter gives two fields.

    Raises :class:`DataError` if two delimiters divide the lines equally well, and each leaves the
    other within fields; ``mend`` says what to do then.
    """
    mend = mend or f"name the one that separates fields with {parameter('delimiter')}"
    sample = lines.head(_SAMPLE)
    divisions = [division for d in delimiters if (division := _Division.by(d, sample)) is not None]
    if not divisions:
        return None
    chosen = _choose(divisions, f"{source}, line {sample['line'][0]}", mend)
    quoted = has_quoted_fields(lines["text"], chosen.dialect.delimiter)
    return Dialect(chosen.dialect.delimiter, chosen.dialect.width, quoted)


@dataclass(frozen=True)
class _Division:
    """The sample as one delimiter divides it."""

    dialect: Dialect
    share: float  # of lines that have the usual number of fields
    rows: list[list[str]]  # those lines
    first_fits: bool  # the first of them has the usual number, too, as a header would
    has_known_header: bool

    @classmethod
    def by(cls, delimiter: str, sample: pl.DataFrame) -> _Division | None:
        quoted = has_quoted_fields(sample["text"], delimiter)
        if quoted and delimiter != " ":
            # A field may go on over several lines; a line left open counts as one alone.
            whole, broken = quoted_records(sample, delimiter)
            records = [*whole["text"], *broken["text"]]
        else:
            records = sample["text"].to_list()
        rows = [unquoted(text, delimiter, quoted) for text in records]
        widths = Counter(len(row) for row in rows if len(row) >= 2)
        if not widths:
            return None
        width, count = max(widths.items(), key=lambda pair: pair[1])
        return cls(
            Dialect(delimiter, width, quoted),
            count / len(rows),
            [row for row in rows if len(row) == width],
            len(rows[0]) == width,
            {"user", "item"} <= known_roles(rows[0]).keys(),
        )

    @property
    def sense(self) -> float:
        """Likeness of the fields to ids, numbers, times and words, from 0 to 1."""
        rows = self.rows[:200]
        scores = [_sense(field, at) for row in rows for at, field in enumerate(row)]
        return sum(scores) / len(scores)

    @property
    def cuts_decimal_commas(self) -> bool:
        """Whether the commas among these fields are all within numbers, behind user and item."""
        within = [(at, field) for row in self.rows for at, field in enumerate(row) if "," in field]
        return bool(within) and all(
            at >= 2 and DECIMAL_COMMA.fullmatch(field) is not None for at, field in within
        )


def _sense(field: str, at: int) -> float:
    if _NUMBER.fullmatch(field) or _TIME.fullmatch(field):
        return 1.0
    # An id is no number with a comma, a rating or a time may be one.
    if at >= 2 and DECIMAL_COMMA.fullmatch(field):
        return 1.0
    if re.search(r"[,;|\t]|::", field):
        return 0.3
    return 0.7 if " " in field else 0.8


def _choose(divisions: Sequence[_Division], place: str, mend: str) -> _Division:
    with_header = [
        division for division in divisions if division.has_known_header and division.share >= 0.5
    ]
    if with_header:
        return with_header[0]
    regular = [division for division in divisions if division.share >= _SHARE]
    regular = [division for division in regular if division.first_fits] or regular
    blank = next((division for division in regular if division.dialect.delimiter == " "), None)
    marks = [division for division in regular if division.dialect.delimiter != " "]
    if not marks:
        return blank or max(divisions, key=lambda division: division.share)
    if len(marks) > 1:
        marks.sort(key=lambda division: -division.sense)
        first, second = marks[:2]
        close = first.sense - second.sense < _MARGIN
        # A tab stands in hardly any text, so it needs no more to be believed.
        tab = next((division for division in marks[:2] if division.dialect.delimiter == "\t"), None)
        if close and tab is None:
            raise DataError(
                f"{place}: {shown(first.dialect.delimiter)} and "
                f"{shown(second.dialect.delimiter)} both divide every line into as many fields "
                f"(one of them may be a decimal comma or a part of the text); {mend}"
            )
        marks = [tab] if close and tab is not None else marks
    best = marks[0]
    # Words have blanks between them; only numbers cut in two tell that blanks are what divides.
    if (
        blank is not None
        and best.dialect.delimiter == ","
        and blank.dialect.width > best.dialect.width
        and blank.cuts_decimal_commas
    ):
        return blank
    return best
