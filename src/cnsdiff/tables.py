"""Tables of numbers: what stands in them, apart from how they are written out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column of numbers: its name for machines, its title, and how its numbers are written."""

    name: str
    title: str
    digits: int = 4
    percent: bool = False


@dataclass(frozen=True)
class Cell:
    """A number; NaN where there is none.

    Attributes
    ----------
    half_width
        Of its interval, or ``None``; NaN if unknown.
    place
        1 for the best of the column, 2 for the second, else ``None``.
    differs
        Whether it differs significantly from the baseline.
    """

    value: float
    half_width: float | None = None
    place: int | None = None
    differs: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of ``(labels, cells)``; rows with the same first label stand together.

    Attributes
    ----------
    labels
        Titles of the label columns.
    columns
        The columns of numbers.
    notes
        What the reader has to know, a sentence each.
    """

    title: str
    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[Cell, ...]], ...]
    notes: tuple[str, ...] = ()
