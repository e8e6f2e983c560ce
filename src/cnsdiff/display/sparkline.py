"""Spark lines: the course of a number in a few characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement

#: From low to high; the second for terminals that have no block characters.
BLOCKS, ASCII = "▁▂▃▄▅▆▇█", ".:-=+*#@"


def spark_line(
    values: Sequence[float | None], width: int | None = None, *, ascii_only: bool = False
) -> str:
    """A character per value, the lowest for the least of them and the highest for the greatest.

    Parameters
    ----------
    values
        In order; ``None``, NaN and infinities leave a gap.
    width
        At most so many characters: of more values, neighbours are averaged.
    ascii_only
        Without block characters.

    Returns
    -------
    str
        Empty without values; on half height where all are equal.
    """
    marks = ASCII if ascii_only else BLOCKS
    shown = [value if value is not None and math.isfinite(value) else None for value in values]
    if width is not None and len(shown) > width:
        shown = _averaged(shown, width)
    known = [value for value in shown if value is not None]
    if not known:
        return " " * len(shown)
    low, high = min(known), max(known)
    # Halves, because the span of two large numbers may be infinite.
    span = high / 2 - low / 2
    middle = (len(marks) - 1) // 2

    def mark(value: float | None) -> str:
        if value is None:
            return " "
        if span <= 0:
            return marks[middle]
        return marks[min(int((value / 2 - low / 2) / span * len(marks)), len(marks) - 1)]

    return "".join(map(mark, shown))


def _averaged(values: Sequence[float | None], width: int) -> list[float | None]:
    """``width`` means of neighbours, gaps left out."""
    n = len(values)
    means: list[float | None] = []
    for at in range(width):
        known = [v for v in values[at * n // width : (at + 1) * n // width] if v is not None]
        mean = sum(value / len(known) for value in known)
        # Rounding alone could make the mean of the largest numbers infinite.
        means.append(min(max(mean, min(known)), max(known)) if known else None)
    return means


class SparkLine:
    """A spark line that takes the width it is given, and the characters that the terminal has.

    For rich, as a cell of a table.
    """

    def __init__(self, values: Sequence[float | None], style: str = "") -> None:
        self.values = values
        self.style = style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        plain = options.ascii_only or options.legacy_windows
        line = spark_line(self.values, options.max_width, ascii_only=plain)
        yield Text(line, style=self.style, no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.measure import Measurement

        widest = min(max(len(self.values), 1), options.max_width)
        return Measurement(min(8, widest), widest)
