"""Quoted fields: blanks around them, and those that go on over several lines."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

_LONGEST = 1000  # lines of one field; what is open for longer was never closed
_FIELDS = 50  # of a record that go on over lines, at most
_ROWS = 20  # lines within a field that all look like rows, and are then taken for such
_INSIDE = r'[^"]*(?:""[^"]*)*'


class _Patterns(NamedTuple):
    """Regular expressions of a delimiter, for polars and Python alike."""

    tidy: str  # a line without blanks around its fields
    closed: str  # one whose quoted fields all end in it
    strict: str  # the same, and nothing stands between a closing quote and the next delimiter
    open: str  # one that ends within a quoted field
    around: str  # a quoted field, which stays, or a delimiter with the blanks around it
    begins: str  # a quoted field begins


@lru_cache
def _patterns(delimiter: str) -> _Patterns:
    d = r"\t" if delimiter == "\t" else re.escape(delimiter)
    blank = " " if delimiter == "\t" else r" \t"
    blanks = f"[{blank}]*"
    inner = f"[^{d}\\n]"
    quoted = f'"{_INSIDE}"'
    plain = f'[^"{blank}{d}\\n]{inner}*'
    field = f'{blanks}(?:{quoted}(?:[^"{d}\\n]{inner}*)?|{plain})?'
    strict = f"{blanks}(?:{quoted}{blanks}|{plain})?"
    neat = f'(?:{quoted}|[^"{blank}{d}\\n](?:{inner}*[^{blank}{d}\\n])?)?'
    return _Patterns(
        tidy=f"^{neat}(?:{d}{neat})*$",
        closed=f"^{field}(?:{d}{field})*$",
        strict=f"^{strict}(?:{d}{strict})*$",
        open=f'^(?:{field}{d})*{blanks}"{_INSIDE}$',
        around=f"({quoted})|{blanks}({d}){blanks}",
        begins=f'(?:^|{d}){blanks}"',
    )


def has_quoted_fields(text: pl.Series, delimiter: str) -> bool:
    """Whether any field begins with a quote.

    Only then does a quote mean anything; elsewhere it is a character of an id.
    """
    if len(delimiter) > 1 or not text.str.contains('"', literal=True).any():
        return False
    begins = r'(?:^|[ \t])"' if delimiter == " " else _patterns(delimiter).begins
    return bool(text.str.contains(begins).any())


# A quoted field with the blanks behind it, or blanks: what a tab stands for afterwards.
_BLANKS = r'("[^"\t]*(?:""[^"\t]*)*")[ \t]+|[ \t]+'


def with_tabs(text: pl.Series) -> pl.Series:
    """Lines divided by blanks as lines divided by tabs; quoted fields keep their blanks."""
    ended = pl.concat_str(pl.col("text").str.strip_chars(" \t"), pl.lit(" "))
    tabbed = ended.str.replace_all(_BLANKS, "${1}\t").str.strip_suffix("\t")
    return text.alias("text").to_frame().select(tabbed.alias("text")).to_series()


def unquoted(line: str, delimiter: str, quoted: bool) -> list[str]:
    """The fields of a record, without quotes and the blanks around them."""
    if delimiter == " ":
        line = re.sub(_BLANKS, r"\1\t", line.strip(" \t") + " ").removesuffix("\t")
        return unquoted(line, "\t", quoted)
    if not quoted or len(delimiter) > 1:
        return [field.strip(" \t") for field in line.split(delimiter)]
    try:
        return next(csv.reader([_tidy(line, delimiter)], delimiter=delimiter))
    except (csv.Error, StopIteration):
        return line.split(delimiter)


def _tidy(text: str, delimiter: str) -> str:
    tidy = re.sub(_patterns(delimiter).around, r"\1\2", text)
    return tidy.strip(" " if delimiter == "\t" else " \t")


def quoted_records(
    lines: pl.DataFrame, delimiter: str, width: int | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Lines whose fields may be quoted as records, one for each row of the table.

    ``lines`` has the columns ``line`` (1-based number) and ``text``; ``delimiter`` is one
    character, and no space. A long field all of whose lines have ``width`` fields was left open.

    Returns ``records, broken`` with the columns of ``lines``. Records are numbered by their first
    line, and have no blanks around fields. Broken lines have a quote that is not closed; they are
    left out alone, so that they never swallow the lines after them.
    """
    pattern = _patterns(delimiter)
    tidy = lines["text"].str.contains(pattern.tidy)
    if tidy.all():
        return lines, lines.clear()
    untidy = lines.with_row_index("_at").filter(~tidy)
    closed = untidy["text"].str.contains(pattern.closed)
    openers = untidy.filter(~closed)["_at"].to_list()
    joined, inside, broken = _joined(lines, openers, delimiter, width)
    # What is neat already stays as it is: replacing costs more than all the rest.
    changed = pl.concat([untidy.filter(closed).select("_at", "text"), joined]).select(
        "_at",
        pl.col("text")
        .str.replace_all(pattern.around, "${1}${2}")
        .str.strip_chars(" " if delimiter == "\t" else " \t")
        .alias("_text"),
    )
    kept_rows = np.ones(lines.height, dtype=bool)
    kept_rows[[*inside, *broken]] = False
    records = lines.with_row_index("_at")
    tidied = records.join(changed, on="_at", how="left", maintain_order="left").with_columns(
        pl.coalesce("_text", "text").alias("text")
    )
    return tidied.filter(kept_rows).select("line", "text"), lines[broken]


def _joined(
    lines: pl.DataFrame, openers: list[int], delimiter: str, width: int | None
) -> tuple[pl.DataFrame, list[int], list[int]]:
    """Fields that go on over lines: the records, the rows that are within one, and the rest.

    A loop over these records alone: a file without such fields has no turn of it.
    """
    pattern = _patterns(delimiter)
    strict, opened = re.compile(pattern.strict[1:-1]), re.compile(pattern.open[1:-1])
    schema = {"_at": pl.UInt32, "text": pl.String}
    records: dict[int, str] = {}
    inside: list[int] = []
    broken: list[int] = []
    if not openers:
        return pl.DataFrame(schema=schema), inside, broken
    text = lines["text"]
    # A line that only has doubled quotes, or none, ends nothing.
    ends = (text.str.contains('"', literal=True) & ~text.str.contains(f"^{_INSIDE}$")).arg_true()
    marks = ends.to_numpy()
    after = np.searchsorted(marks, openers, side="right")
    pieces = _Pieces(lines, np.asarray(openers), np.append(marks, -1)[after])
    free = 0
    for turn, start in enumerate(openers):
        if start < free:
            continue
        record = None
        end = start
        for mark in marks[after[turn] : after[turn] + _FIELDS].tolist():
            if mark - start > _LONGEST:
                break
            piece, candidate = pieces.between(turn, mark)
            if strict.fullmatch(candidate) and not _looks_like_rows(piece, delimiter, width):
                record, end = candidate, mark
                break
            if not opened.fullmatch(candidate):
                break
        if record is None:
            broken.append(start)
        else:
            records[start] = record
            inside.extend(range(start + 1, end + 1))
        free = end + 1
    table = pl.DataFrame({"_at": list(records), "text": list(records.values())}, schema=schema)
    return table, inside, broken


class _Pieces:
    """Lines from each of some starts to an end, brought over from the table at once."""

    def __init__(
        self, lines: pl.DataFrame, starts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> None:
        self.lines, self.starts, self.ends = lines, starts, ends
        lengths = np.where((ends > starts) & (ends - starts <= _LONGEST), ends - starts + 1, 0)
        self.offsets = np.cumsum(lengths) - lengths
        rows = np.repeat(starts - self.offsets, lengths) + np.arange(lengths.sum())
        self.numbers = lines["line"].gather(rows).to_list()
        self.texts = lines["text"].gather(rows).to_list()

    def between(self, turn: int, end: int) -> tuple[list[str], str]:
        """The lines up to ``end``, and the same as one text, blank lines included."""
        start = int(self.starts[turn])
        if end == self.ends[turn]:
            span = slice(int(self.offsets[turn]), int(self.offsets[turn]) + end - start + 1)
            numbers, texts = self.numbers[span], self.texts[span]
        else:
            piece = self.lines[start : end + 1]
            numbers, texts = piece["line"].to_list(), piece["text"].to_list()
        if numbers[-1] - numbers[0] == len(numbers) - 1:
            return texts, "\n".join(texts)
        # Blank lines are not in the table, and come back by the numbers of the others.
        parts = [texts[0]]
        for before, number, text in zip(numbers, numbers[1:], texts[1:], strict=False):
            parts += ["\n" * (number - before), text]
        return texts, "".join(parts)


def _looks_like_rows(piece: Sequence[str], delimiter: str, width: int | None) -> bool:
    """Whether so many lines within a field all have as many fields as a row."""
    within = piece[1:-1]
    if width is None or len(within) < _ROWS:
        return False
    return all(line.count(delimiter) == width - 1 for line in within)
