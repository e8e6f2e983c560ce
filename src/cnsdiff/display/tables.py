"""Tables of numbers: what stands in them, apart from how they are written out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cnsdiff.display.wording import number, percent

#: Marks a significant difference from the baseline.
MARK = "†"
#: What stands behind the ± of a cell.
HALF_WIDTH = "± half the width of the 95% interval over users"
HALF_WIDTH_OVER_SEEDS = "± half the width of the interval of the mean over seeds"


@dataclass(frozen=True)
class Column:
    """A column of numbers: its name for machines, its title, and how its numbers are written.

    Attributes
    ----------
    percent
        Written as per cent.
    signed
        Whether per cent carry their sign: those of a gain do, those of a share do not.
    """

    name: str
    title: str
    digits: int = 4
    percent: bool = False
    signed: bool = True

    def written(self, value: float) -> str:
        """A number of this column as text; a hyphen if it is missing."""
        if self.percent:
            return percent(value, self.digits, signed=self.signed)
        return number(value, self.digits)


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
    text
        Shown in place of the number, where its row is not written as its column is.
    """

    value: float
    half_width: float | None = None
    place: int | None = None
    differs: bool = False
    text: str | None = None

    def written(self, column: Column) -> str:
        """The number as it is shown."""
        return column.written(self.value) if self.text is None else self.text

    def written_width(self, column: Column) -> str | None:
        """Half the interval as it is written, or ``None`` if it is unknown."""
        if self.half_width is None or not math.isfinite(self.half_width):
            return None
        return column.written(self.half_width).lstrip("+")


def as_cell(value: Cell | float | None) -> Cell:
    """A plain number as a cell; ``None`` is a missing one."""
    if isinstance(value, Cell):
        return value
    if value is None:
        return Cell(math.nan)
    return Cell(value if isinstance(value, int) else float(value))


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

    @classmethod
    def of(
        cls,
        title: str,
        labels: Iterable[str],
        columns: Iterable[Column],
        rows: Iterable[tuple[Iterable[str], Iterable[Cell | float | None]]],
        *notes: str,
    ) -> Table:
        """A table of cells and of plain numbers, where ``None`` is a missing one."""
        return cls(
            title,
            tuple(labels),
            tuple(columns),
            tuple((tuple(names), tuple(map(as_cell, values))) for names, values in rows),
            notes,
        )

    @property
    def has_groups(self) -> bool:
        """Whether rows share their first label and are told apart by another."""
        firsts = {labels[0] for labels, _ in self.rows}
        return len(self.labels) > 1 and len(firsts) < len(self.rows)

    def grouped(self) -> Iterator[tuple[bool, tuple[str, ...], tuple[Cell, ...]]]:
        """Whether a row begins a group other than the first; its labels, repeated ones empty."""
        before: str | None = None
        for labels, cells in self.rows:
            same = self.has_groups and labels[0] == before
            shown = ("", *labels[1:]) if same else labels
            yield self.has_groups and before is not None and not same, shown, cells
            before = labels[0]

    def has_place(self, place: int) -> bool:
        """Whether a cell has this place in its column."""
        return any(cell.place == place for _, cells in self.rows for cell in cells)

    def to_dict(self) -> dict[str, object]:
        """For JSON: numbers in full, ``None`` where there is none."""
        names = [title.replace(" ", "_") for title in self.labels]
        return {
            "title": self.title,
            "rows": [
                {
                    **dict(zip(names, labels, strict=True)),
                    "values": {
                        column.name: _plain(cell)
                        for column, cell in zip(self.columns, cells, strict=True)
                    },
                }
                for labels, cells in self.rows
            ],
            "notes": list(self.notes),
        }


def _plain(cell: Cell) -> dict[str, object]:
    def finite(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    return {
        "value": finite(cell.value),
        "half_width": finite(cell.half_width),
        "place": cell.place,
        "differs": cell.differs,
    }
