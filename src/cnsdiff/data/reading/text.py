"""Delimited lines, with or without a header, every one of which is accounted for."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv

from cnsdiff.base.errors import DataError
from cnsdiff.base.text import parameter
from cnsdiff.data.interactions import Problem, leave_out, merged, problem_of, shortened
from cnsdiff.data.reading.columns import (
    NO_COLUMN,
    RawTable,
    assign_roles,
    is_header,
    is_time,
    known_roles,
    repeated_headers,
)
from cnsdiff.data.reading.dialects import DECIMAL_COMMA, DELIMITERS, Dialect, declared, shown, sniff
from cnsdiff.data.reading.quoting import quoted_records, with_tabs

_BLANKS = " \t"
#: What the fields of a line without a header are, in this order.
_BY_POSITION = ("user", "item", "rating", "timestamp")
_BLOCK = 1 << 24  # bytes; no line may be longer
_SAMPLE = 1000  # records from which a header is told
# Stand in for "::" and its like, which are longer than a CSV parser's one character.
_UNITS = ("\x1f", "\x1e", "\x1d", "\x1c")


def read_delimited(
    lines: pl.DataFrame,
    source: str,
    *,
    choices: Mapping[str, str | None],
    delimiters: Sequence[str] = DELIMITERS,
    header: bool | None = None,
    skip_bad: bool = False,
) -> tuple[RawTable, dict[str, str]]:
    """Split delimited lines into columns and assign these to roles.

    Parameters
    ----------
    lines
        From :func:`~cnsdiff.data.reading.lines.read_lines`.
    asked
        Column named by the caller for each role, or None; by position (``"1"``) without a header.
    header
        Whether the first line names the columns; None tells it from known names.
    skip_bad
        Leave out, and count, malformed lines.

    Raises
    ------
    DataError
        A line has the wrong number of fields, two delimiters fit or none does, the header comes
        again, or a column is missing.
    """
    # How lines are divided into fields.
    lines, delimiters = declared(lines, delimiters)
    dialect = sniff(lines, source, delimiters)
    if dialect is None:
        raise DataError(
            f"{source}, line {lines['line'][0]}: has 1 field where at least a user and an item "
            f"are expected; {_separators(delimiters)}, or name the {parameter('format')}"
        )
    separator = dialect.delimiter
    # A record may be several lines, where a field is quoted.
    lines, dialect, problems = whole_records(lines, dialect, source, skip_bad)
    if skip_bad and header is not False:
        lines, above = _from_first_whole(lines, dialect)
        problems += above
    sample = [dialect.split(text) for text in lines["text"].head(_SAMPLE)]
    names = sample[0]
    # Which column plays which role: by the names of a header, or by position.
    place = f"{source}, line {lines['line'][0]}"
    has_header = is_header(sample, dialect.width, choices, place) if header is None else header
    if has_header:
        lines = lines[1:]
        if lines.height == 0 and problems:
            raise _nothing_left(source)
        if lines.height == 0:
            raise DataError(f"{source}: has a header but no interactions; add at least one row")
        if not any(len(row) == len(names) for row in sample[1:]):
            raise DataError(
                f"{source}: the header names {len(names)} column{'s' if len(names) > 1 else ''} "
                f"and the lines have {dialect.width} fields, divided by {shown(separator)}; "
                f"correct the header, or name another {parameter('delimiter')}"
            )
        dialect = replace(dialect, width=len(names))
        default = known_roles(names)
    else:
        names = [str(position + 1) for position in range(dialect.width)]
        default = _by_position(names, choices, source)
        rows = [row for row in sample if len(row) == dialect.width]
        if dialect.width == 3 and all(is_time(row[2]) for row in rows):
            default["timestamp"] = default.pop("rating")
        # Times before ratings.
        if dialect.width == 4 and all(is_time(row[2]) and not is_time(row[3]) for row in rows):
            default["timestamp"], default["rating"] = default["rating"], default["timestamp"]
    roles = assign_roles(names, choices, source, default=default)
    # The columns that have a role, and what is wrong with their rows.
    frame, numbers, bad = parse(lines, dialect, source, skip_bad)
    positions = {column: names.index(column) for column in roles.values()}
    table = frame.select(pl.nth(at).alias(column) for column, at in positions.items())
    raw = RawTable(table, source, numbers, merged((*problems, *bad)))
    raw = _without_broken_ids(raw, roles, skip_bad) if dialect.quoted else raw
    if header is not False:
        raw = _without_headers(raw, roles, has_header, skip_bad)
    raw = replace(raw, names=tuple(names))
    for role in ("rating", "timestamp"):
        if role in roles and (dialect.delimiter != "," or dialect.quoted):
            raw = _with_decimal_points(raw, roles[role])
    return raw, roles


def _separators(delimiters: Sequence[str]) -> str:
    if len(delimiters) == 1:
        return f"{shown(delimiters[0])} stands in no line: name another {parameter('delimiter')}"
    another = parameter("delimiter")
    return f"separate them by space, tab, comma, ';', '|' or '::', name another {another}"


def _from_first_whole(
    lines: pl.DataFrame, dialect: Dialect
) -> tuple[pl.DataFrame, tuple[Problem, ...]]:
    """Records without the malformed ones above the first, lest the header below be overlooked."""
    for at, text in enumerate(lines["text"].head(_SAMPLE)):
        fields = dialect.split(text)
        if len(fields) == dialect.width or {"user", "item"} <= known_roles(fields).keys():
            return lines[at:], _wrong_widths(
                lines[:at], [len(dialect.split(text)) for text in lines["text"][:at]], dialect.width
            )
    return lines, ()


def whole_records(
    lines: pl.DataFrame, dialect: Dialect, source: str, skip_bad: bool
) -> tuple[pl.DataFrame, Dialect, tuple[Problem, ...]]:
    """Lines as records, which begin and end with their fields; how these are divided; problems.

    :class:`DataError` if a quote is not closed.
    """
    if not dialect.quoted:
        return lines, dialect, ()
    if dialect.delimiter == " ":
        lines = lines.with_columns(with_tabs(lines["text"]))
        dialect = replace(dialect, delimiter="\t")
    records, broken = quoted_records(lines, dialect.delimiter, dialect.width)
    if broken.height and not skip_bad:
        raise DataError(
            f"{source}, line {broken['line'][0]}: a quote is not closed; correct the line, or "
            f"{leave_out()}"
        )
    if records.height == 0:
        raise _nothing_left(source)
    return records, dialect, problem_of("a quote that is not closed", broken)


def _nothing_left(source: str) -> DataError:
    return DataError(
        f"{source}: every line is malformed, so nothing is left after "
        f"{parameter('skip_bad', True)}; check {parameter('format')} and {parameter('delimiter')}"
    )


def _by_position(
    names: Sequence[str], choices: Mapping[str, str | None], source: str
) -> dict[str, str]:
    for role, column in choices.items():
        if column is not None and column not in names and column != NO_COLUMN:
            raise DataError(
                f"{source}: has no header line, so there is no column {column!r}; give its "
                f"position (1 to {len(names)}) with {parameter(role, 'NAME')}"
            )
    if len(names) > len(_BY_POSITION) and (
        choices.get("user") is None or choices.get("item") is None
    ):
        raise DataError(
            f"{source}: has {len(names)} fields a line and no known header; name the columns with "
            f"{parameter('user', 'NAME')} and {parameter('item', 'NAME')} (1, 2, … if there is no "
            f"header), or pass {parameter('format', 'adjacency')} if each line is a user followed "
            "by items"
        )
    if len(names) > len(_BY_POSITION):
        return {}
    return dict(zip(_BY_POSITION, names, strict=False))


def parse(
    lines: pl.DataFrame, dialect: Dialect, source: str, skip_bad: bool
) -> tuple[pl.DataFrame, pl.Series, tuple[Problem, ...]]:
    """Columns ``f0, f1, …`` of text, the line number of each row, and why some were left out.

    Lines of a quoted dialect come from :func:`whole_records`.
    """
    text = pl.col("text")
    delimiter = dialect.delimiter
    if delimiter == " ":
        lines = lines.with_columns(text.str.strip_chars(_BLANKS).str.replace_all("[ \t]+", "\t"))
        delimiter = "\t"
    elif len(delimiter) > 1:
        unit = _unit_for(lines, source)
        lines = lines.with_columns(text.str.replace_all(delimiter, unit, literal=True))
        delimiter = unit
    bad: list[tuple[int, int]] = []

    def on_bad_row(row: pacsv.InvalidRow) -> str:
        bad.append((row.number - 1, row.actual_columns))
        return "skip" if skip_bad else "error"

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
                newlines_in_values=dialect.quoted and body.count(b"\n") >= lines.height,
                invalid_row_handler=on_bad_row,
            ),
            convert_options=pacsv.ConvertOptions(
                column_types={name: pa.large_string() for name in names},
                strings_can_be_null=False,
                check_utf8=False,
            ),
        )
    except pa.ArrowInvalid as error:
        if not bad:
            raise DataError(
                f"{source}: cannot be read as delimited text: {error}; check {parameter('format')}"
            ) from error
        at, fields = bad[0]
        raise DataError(
            f"{source}, line {lines['line'][at]}: has {fields} field{'s' if fields > 1 else ''} "
            f"where {dialect.width} are expected; correct the line, or {leave_out()} and count "
            f"them ({parameter('format', 'adjacency')} if each line is a user followed by items)"
        ) from error
    frame = pl.DataFrame(pl.from_arrow(table))  # empty if all is skipped: finish() says so
    if frame.height + len(bad) != lines.height:
        raise DataError(
            f"{source}: quotes stand in its fields in a way that cannot be read; write those "
            "within a field twice"
        )
    numbers = lines["line"]
    problems: tuple[Problem, ...] = ()
    if bad:
        rows, widths = zip(*bad, strict=True)
        problems = _wrong_widths(lines[list(rows)], widths, dialect.width)
        whole = pl.repeat(True, lines.height, eager=True).scatter(list(rows), False)
        numbers = numbers.filter(whole)
    if not dialect.quoted:
        frame = frame.with_columns(pl.all().str.strip_chars(_BLANKS))
    return frame, numbers, problems


def _wrong_widths(lines: pl.DataFrame, widths: Sequence[int], width: int) -> tuple[Problem, ...]:
    few = pl.Series(widths, dtype=pl.Int64) < width
    return (
        *problem_of(f"fewer fields than {width}", lines.filter(few)),
        *problem_of(f"more fields than {width}", lines.filter(~few)),
    )


def _unit_for(lines: pl.DataFrame, source: str) -> str:
    """A character that stands nowhere in the text."""
    for unit in _UNITS:
        if not lines["text"].str.contains(unit, literal=True).any():
            return unit
    raise DataError(
        f"{source}: has all of the control characters {_UNITS!r}, so its delimiter cannot be "
        "replaced by one; separate its fields by one character"
    )


def _without_headers(
    raw: RawTable, roles: Mapping[str, str], header: bool, skip_bad: bool
) -> RawTable:
    """Without lines that name the columns again, as in files that were put together."""
    users, items = raw.frame[roles["user"]], raw.frame[roles["item"]]
    repeats = repeated_headers(users, items, header=header)
    if repeats is None or raw.lines is None:
        return raw
    at = int(repeats.arg_true()[0])
    example = f"{users[at]}, {items[at]}"
    if not skip_bad:
        raise DataError(
            f"{raw.source}, line {raw.lines[at]}: names the columns once more ({example}), as when "
            f"files are put together; remove the line, or {leave_out()}"
            + ("" if header else f" ({parameter('header', False)} if these are ids)")
        )
    return _without(raw, repeats, "names of columns once more", example)


def _without_broken_ids(raw: RawTable, roles: Mapping[str, str], skip_bad: bool) -> RawTable:
    """Without ids that go on over several lines: rather a quote was left open in one."""
    for role in ("user", "item"):
        broken = raw.frame[roles[role]].str.contains("\n", literal=True)
        if broken.any():
            at = int(broken.arg_true()[0])
            if not skip_bad:
                raise DataError(
                    f"{raw.place(at, roles[role])}: the {role} goes on over several lines, as when "
                    f"a quote is left open; correct the line, {leave_out()}, or "
                    "give such ids as Parquet"
                )
            raw = _without(raw, broken, f"a line break in the {role}", raw.frame[roles[role]][at])
    return raw


def _without(raw: RawTable, rows: pl.Series, reason: str, example: str) -> RawTable:
    at = int(rows.arg_true()[0])
    problem = Problem(reason, int(rows.sum()), raw.where(at), shortened(example))
    return replace(
        raw,
        frame=raw.frame.filter(~rows),
        lines=None if raw.lines is None else raw.lines.filter(~rows),
        problems=(*raw.problems, problem),
    )


def _with_decimal_points(raw: RawTable, column: str) -> RawTable:
    """Numbers with a decimal comma as such with a point.

    :class:`DataError` if some have a comma and some a point, or every comma may part thousands.
    """
    values = raw.frame[column]
    comma = values.str.contains(f"^{DECIMAL_COMMA.pattern}$")
    if not comma.any():
        return raw
    at = int(comma.arg_true()[0])
    point = values.str.contains(r"^[+-]?\d+(\.\d+|(\.\d{3})+,\d+)$")
    if point.any():
        other = int(point.arg_true()[0])
        raise DataError(
            f"{raw.place(at, column)}: {values[at]!r} has a decimal comma, and "
            f"{values[other]!r} in {raw.where(other)} has a point; write all numbers alike"
        )
    if values.filter(comma).str.contains(r"^[+-]?[1-9]\d{0,2},\d{3}$").all():
        raise DataError(
            f"{raw.place(at, column)}: {values[at]!r} may have a decimal comma or one that parts "
            "thousands; write such numbers with a point, or without the comma"
        )
    points = values.str.replace(r"^([+-]?\d+),(\d+)$", "${1}.${2}")
    return replace(raw, frame=raw.frame.with_columns(points))
