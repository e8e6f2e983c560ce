"""Delimited lines, with or without a header, every one of which is accounted for."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv

from cnsdiff.data.columns import NO_COLUMN, RawTable, assign_roles, known_roles
from cnsdiff.data.lines import sample_of
from cnsdiff.errors import DataError

#: Tried in this order; the first that gives nine lines of ten the same width wins.
DELIMITERS = ("::", "\t", ",", ";", "|", " ")
_BLANKS = " \t"
#: What the fields of a line without a header are, in this order.
_BY_POSITION = ("user", "item", "rating", "timestamp")
_BLOCK = 1 << 24  # bytes; no line may be longer
_RECENT = 100_000_000  # seconds; 1973 as a time, and nobody's rating
_UNIT = "\x1f"  # stands in for "::", which is longer than a CSV parser's one character


@dataclass(frozen=True)
class Dialect:
    """How lines are divided: ``delimiter``, usual number of fields, whether fields are quoted."""

    delimiter: str
    width: int
    quoted: bool

    def split(self, line: str) -> list[str]:
        """The fields of one line (for samples and headers, not for whole files)."""
        return [field.strip(_BLANKS) for field in _split(self.delimiter, line, self.quoted)]


def _split(delimiter: str, line: str, quoted: bool) -> list[str]:
    if delimiter == " ":
        return re.split(r"[ \t]+", line.strip(_BLANKS))
    if not quoted or len(delimiter) > 1:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except (csv.Error, StopIteration):
        return line.split(delimiter)


def sniff(sample: Sequence[str], delimiters: Sequence[str] = DELIMITERS) -> Dialect | None:
    """The dialect of ``sample``, or None if no delimiter gives two fields."""
    best: tuple[float, Dialect] | None = None
    for delimiter in delimiters:
        quoted = len(delimiter) == 1 and any(
            f'{delimiter}"' in f"{delimiter}{line}" for line in sample
        )
        widths = Counter(len(_split(delimiter, line, quoted)) for line in sample)
        width, count = max(
            ((w, n) for w, n in widths.items() if w >= 2), key=lambda pair: pair[1], default=(0, 0)
        )
        share = count / len(sample)
        if width and (best is None or share > best[0]):
            best = (share, Dialect(delimiter, width, quoted))
        if share >= 0.9:
            break
    return best[1] if best else None


def read_delimited(
    lines: pl.DataFrame,
    source: str,
    *,
    asked: Mapping[str, str | None],
    delimiters: Sequence[str] = DELIMITERS,
    header: bool | None = None,
    skip_bad: bool = False,
) -> tuple[RawTable, dict[str, str]]:
    """Split delimited lines into columns and tell which column plays which role.

    Parameters
    ----------
    lines
        From :func:`~cnsdiff.data.lines.read_lines`.
    source
        For messages.
    asked
        Column named by the caller for each role, or None. Without a header, columns are called
        by their position: ``"1"``, ``"2"``, …
    delimiters
        Those to choose from.
    header
        Whether the first line names the columns; None tells it from known names.
    skip_bad
        Leave out, and count, lines with another number of fields than the rest.

    Raises
    ------
    DataError
        A line has the wrong number of fields, or a column is missing.
    """
    sample = sample_of(lines)
    dialect = sniff(sample, delimiters)
    if dialect is None:
        raise DataError(
            f"{source}, line {lines['line'][0]}: has 1 field where at least a user and an item "
            "are expected; separate them by space, tab, comma, ';', '|' or '::', or name the "
            "--format"
        )
    dialect = replace(dialect, quoted=_is_quoted(lines, dialect.delimiter))
    names = dialect.split(sample[0])
    if header is None:
        header = _is_header(names, sample[1:], dialect, asked)
    if header:
        lines = lines[1:]
        if lines.height == 0:
            raise DataError(f"{source}: has a header but no interactions; add at least one row")
        dialect = replace(dialect, width=len(names))
        default = known_roles(names)
    else:
        names = [str(position + 1) for position in range(dialect.width)]
        default = _by_position(names, asked, source)
        rows = [row for row in map(dialect.split, sample) if len(row) == dialect.width]
        if dialect.width == 3 and all(map(_is_time, (row[2] for row in rows))):
            default["timestamp"] = default.pop("rating")
    roles = assign_roles(names, asked, source, default=default)
    frame, numbers, skipped = parse(lines, dialect, source, skip_bad)
    positions = {column: names.index(column) for column in roles.values()}
    table = frame.select(pl.nth(at).alias(column) for column, at in positions.items())
    return RawTable(table, source, lines=numbers, skipped=skipped), roles


def _is_quoted(lines: pl.DataFrame, delimiter: str) -> bool:
    """Whether any field of the file begins with a quote.

    Only then does a quote mean anything; elsewhere it is a character of an id.
    """
    if len(delimiter) > 1 or delimiter == " ":
        return False
    text = lines["text"]
    inside = text.str.contains(f'{delimiter}"', literal=True)
    return bool((inside | text.str.starts_with('"')).any())


def _is_header(
    names: Sequence[str],
    rest: Sequence[str],
    dialect: Dialect,
    asked: Mapping[str, str | None],
) -> bool:
    if {"user", "item"} <= known_roles(names).keys():
        return True
    wanted = [column for column in asked.values() if column not in (None, NO_COLUMN)]
    if wanted:
        return not all(column.isdecimal() for column in wanted if column)
    # Words above columns of numbers or times are a header whose names we do not know.
    rows = [row for row in map(dialect.split, rest) if len(row) == len(names)]
    if len(names) != dialect.width or not rows or not all(map(_is_word, names)):
        return False
    told = [
        all(_is_number(row[at]) or _is_time(row[at]) for row in rows) for at in range(len(names))
    ]
    return all(told[:2]) or (len(told) > 2 and all(told[2:]))


def _is_word(field: str) -> bool:
    """Whether a field can name a column: neither a value nor a mark for a missing one."""
    missing = field.strip().lower() in ("", "-", "?", "na", "n/a", "null", "none")
    return not (missing or _is_number(field) or _is_time(field))


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _is_time(field: str) -> bool:
    """Whether a third field cannot be a rating."""
    if re.match(r"\d{4}-\d\d-\d\d", field):
        return True
    return _is_number(field) and float(field) >= _RECENT


def _by_position(
    names: Sequence[str], asked: Mapping[str, str | None], source: str
) -> dict[str, str]:
    for role, column in asked.items():
        if column is not None and column not in names and column != NO_COLUMN:
            raise DataError(
                f"{source}: has no header line, so there is no column {column!r}; give its "
                f"position (1 to {len(names)}) with --{role}-col"
            )
    if len(names) > len(_BY_POSITION) and (asked.get("user") is None or asked.get("item") is None):
        raise DataError(
            f"{source}: has {len(names)} fields a line and no known header; name the columns with "
            "--user-col and --item-col (1, 2, … if there is no header), or pass --format "
            "adjacency if each line is a user followed by items"
        )
    if len(names) > len(_BY_POSITION):
        return {}
    return dict(zip(_BY_POSITION, names, strict=False))


def parse(
    lines: pl.DataFrame, dialect: Dialect, source: str, skip_bad: bool
) -> tuple[pl.DataFrame, pl.Series, int]:
    """Columns ``f0, f1, …`` of text, the line number of each row, and how many were left out."""
    text = pl.col("text")
    delimiter = dialect.delimiter
    if delimiter == " ":
        lines = lines.with_columns(text.str.strip_chars(_BLANKS).str.replace_all("[ \t]+", "\t"))
        delimiter = "\t"
    elif delimiter == "::":
        lines = lines.with_columns(text.str.replace_all("::", _UNIT, literal=True))
        delimiter = _UNIT
    skipped = 0
    if dialect.quoted:
        # A quote left open would swallow the lines after it, so such lines never get there.
        closed = lines.select(text.str.count_matches('"', literal=True) % 2 == 0).to_series()
        if not closed.all() and not skip_bad:
            raise DataError(
                f"{source}, line {lines.filter(~closed)['line'][0]}: a quote is not closed; "
                "correct the line, or pass --skip-bad to leave such lines out"
            )
        skipped = int((~closed).sum())
        lines = lines.filter(closed)
        if lines.height == 0:
            raise DataError(
                f"{source}: every line is malformed, so nothing is left after --skip-bad; check "
                "--format"
            )
    bad: list[int] = []

    def on_bad_row(row: pacsv.InvalidRow) -> str:
        bad.append(row.number - 1)
        if skip_bad:
            return "skip"
        return "error"

    names = [f"f{position}" for position in range(dialect.width)]
    body = lines["text"].str.join("\n").item().encode()
    try:
        table = pacsv.read_csv(
            io.BytesIO(body),
            # Row numbers reach the handler on one thread only.
            read_options=pacsv.ReadOptions(
                column_names=names, use_threads=False, block_size=_BLOCK
            ),
            parse_options=pacsv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if dialect.quoted else False,
                ignore_empty_lines=False,
                invalid_row_handler=on_bad_row,
            ),
            convert_options=pacsv.ConvertOptions(
                column_types={name: pa.large_string() for name in names},
                strings_can_be_null=False,
                check_utf8=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise _malformed(lines, bad, dialect, source, error) from error
    frame = pl.DataFrame(pl.from_arrow(table))  # empty if all is skipped: finish() says so
    numbers = lines["line"]
    if bad:
        numbers = (
            pl.DataFrame({"line": numbers})
            .with_row_index()
            .filter(~pl.col("index").is_in(bad))["line"]
        )
    if not dialect.quoted:
        frame = frame.with_columns(pl.all().str.strip_chars(_BLANKS))
    return frame, numbers, skipped + len(bad)


def _malformed(
    lines: pl.DataFrame, bad: Sequence[int], dialect: Dialect, source: str, error: Exception
) -> DataError:
    if not bad:
        return DataError(f"{source}: cannot be read as delimited text: {error}; check --format")
    number, line = lines["line"][bad[0]], lines["text"][bad[0]]
    shown = Dialect("\t", 0, False) if dialect.delimiter == " " else dialect
    if dialect.delimiter == "::":
        shown = Dialect(_UNIT, 0, False)
    fields = len(shown.split(line))
    return DataError(
        f"{source}, line {number}: has {fields} field{'s' if fields > 1 else ''} where "
        f"{dialect.width} are expected; correct the line, or pass --skip-bad to leave such lines "
        "out and count them (--format adjacency if each line is a user followed by items)"
    )
