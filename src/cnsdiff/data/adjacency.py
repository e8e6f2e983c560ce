"""LightGCN's adjacency text: one line per user, ``user item item …``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import polars as pl

from cnsdiff.data.columns import RawTable
from cnsdiff.errors import DataError

_SEPARATORS = " \t,;|"


def looks_like_adjacency(sample: Sequence[str]) -> bool:
    """Whether these lines can be nothing but adjacency lists.

    True only for whole numbers on lines of clearly uneven length (some longer than the four
    fields of a log) that each start with another user; anything short of that must be asked for.
    """
    rows = [line.split() for line in sample]
    widths = Counter(len(row) for row in rows)
    if max(widths) <= 4 or max(widths.values()) >= 0.9 * len(rows):
        return False
    if len({row[0] for row in rows}) < len(rows):
        return False
    return all(field.isdecimal() for row in rows for field in row)


def read_adjacency(lines: pl.DataFrame, source: str, *, skip_bad: bool) -> RawTable:
    """One row per (user, item) of adjacency lines.

    Parameters
    ----------
    lines
        Non-blank lines: columns ``line`` (1-based number) and ``text``.
    source
        For messages.
    skip_bad
        Leave out, and count, users without items.

    Raises
    ------
    DataError
        A user has no items.
    """
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
            "remove the line, or pass --skip-bad to leave such lines out"
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
    return RawTable(pairs.select("user", "item"), source, lines=pairs["line"], skipped=alone.height)
