"""LightGCN's adjacency text: one line per user, ``user item item …``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import polars as pl

from cnsdiff.base.errors import DataError
from cnsdiff.base.text import parameter
from cnsdiff.data.interactions import leave_out, problem_of, shortened
from cnsdiff.data.reading.columns import RawTable

_SEPARATORS = " \t,;|"
_SAMPLE = 1000  # lines by which files are told apart
_ENOUGH = 10  # lines that cannot be alike by chance
_HIGHEST_RATING = 10
_RECENT = 100_000_000  # seconds; 1973 as a time, and nobody's rating


Layout = Literal["adjacency", "unclear", "log", "other"]


def layout_of(sample: Sequence[str]) -> Layout:
    """Features of lines, taken by themselves.

    ``"adjacency"``: whole numbers on lines that each start with another user, and that are of
    clearly uneven length or go on with what can only be items. ``"log"``: such lines of three
    fields or more where a user comes twice, or what follows the item looks like ratings or times.
    ``"unclear"``: both may be. ``"other"``: not whole numbers between blanks, or lines that both
    would read alike.
    """
    rows = [line.split() for line in sample]
    if not rows or not all(field.isdecimal() for row in rows for field in row):
        return "other"
    widths = Counter(len(row) for row in rows)
    if max(widths) <= 2:
        return "other"
    if len({row[0] for row in rows}) < len(rows):
        return "log"
    usual, n_usual = widths.most_common(1)[0]
    if n_usual < 0.9 * len(rows):
        return "adjacency" if max(widths) > 4 or len(rows) >= _ENOUGH else "unclear"
    if len(rows) < 2:
        return "log"
    if usual == 1:
        return "other"
    # Pairs with a longer line among them; or more fields than a log without a header has.
    if usual == 2 or usual > 4:
        return "unclear"
    numbers = [[int(field) for field in row[1:]] for row in rows if len(row) == usual]
    third = [row[1] for row in numbers]
    if max(third) <= _HIGHEST_RATING or min(row[-1] for row in numbers) >= _RECENT:
        return "log"
    # Ratings know nothing of the item before them: they are not always larger than its id, and
    # hardly ever ids of other lines' items.
    ascending = all(row == sorted(set(row)) for row in numbers)
    first = {row[0] for row in numbers}
    shared = sum(value in first for value in third) / len(third)
    if len(rows) >= _ENOUGH and (ascending or shared >= 0.5):
        return "adjacency"
    return "unclear"


def told_format(lines: pl.DataFrame, source: str) -> Literal["adjacency", "auto"]:
    """``"adjacency"`` where these lines can be nothing else.

    :class:`DataError` if they may be LightGCN's or a log's, and nobody can tell.
    """
    layout = layout_of(lines["text"].head(_SAMPLE).to_list())
    if layout == "unclear":
        fields = lines["text"][0].split()
        if len(fields) > 4:
            return "auto"  # which asks for the columns
        raise DataError(
            f"{source}, line {lines['line'][0]}: may be a user and items, as in LightGCN's files, "
            "or a user, an item and more, since every line has whole numbers and another user; "
            f"pass {parameter('format', 'adjacency')} or {parameter('format', 'text')}"
        )
    return "adjacency" if layout == "adjacency" else "auto"


def read_adjacency(lines: pl.DataFrame, source: str, *, skip_bad: bool) -> RawTable:
    """One row per (user, item) of adjacency lines.

    Raises :class:`DataError` if a user has no items, or a line is a comment or a header;
    ``skip_bad`` leaves these out, and counts them.
    """
    numbers = lines["text"].str.contains(rf"^[\d{_SEPARATORS}]+$")
    words = lines.filter(~numbers)
    if not 0 < words.height < 0.1 * lines.height:  # ids of text are on most lines
        words = words.clear()
    if words.height and not skip_bad:
        raise DataError(
            f"{source}, line {words['line'][0]}: {shortened(words['text'][0])!r} is no line of "
            f"numbers as the others are; remove it, or {leave_out()}"
        )
    lines = lines.filter(numbers) if words.height else lines
    split = lines.select(
        "line",
        pl.col("text")
        .str.replace_all(f"[{_SEPARATORS}]+", " ")
        .str.strip_chars(" ")
        .str.split(" ")
        .alias("fields"),
    )
    alone = split.filter(pl.col("fields").list.len() < 2)
    if alone.height and not skip_bad:
        raise DataError(
            f"{source}, line {alone['line'][0]}: user {alone['fields'][0][0]!r} has no items; "
            f"remove the line, or {leave_out()}"
        )
    pairs = (
        split.filter(pl.col("fields").list.len() >= 2)
        .select(
            "line",
            pl.col("fields").list.first().alias("user"),
            pl.col("fields").list.slice(1).alias("item"),
        )
        .explode("item")
    )
    left_out = lines.filter(split["fields"].list.len() < 2)
    return RawTable(
        pairs.select("user", "item"),
        source,
        lines=pairs["line"],
        problems=(
            *problem_of("words among lines of numbers", words),
            *problem_of("a user without items", left_out),
        ),
    )
