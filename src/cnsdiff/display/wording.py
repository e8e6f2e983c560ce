"""Numbers and names as text, for any page and any terminal.

Per cent stand without a space (``74%``), metrics with their zero (``0.0432``), thousands with a
comma, negative numbers with a hyphen; a number that is missing is :data:`NOTHING`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement

#: Stands for a missing number.
NOTHING = "-"

#: What the splits are called.
SPLIT_TITLES = {
    "train": "train",
    "valid": "validation",
    "test_iid": "IID test",
    "test_ood": "OOD test",
}
#: The same where space is short.
SHORT_SPLIT_TITLES = {"train": "train", "valid": "valid", "test_iid": "IID", "test_ood": "OOD"}
#: Goes on "reaches 0.0432 …"; from the split that matters most to the one that matters least.
ON_SPLIT = {"test_ood": "under the shift", "test_iid": "on the IID test", "valid": "on validation"}

_SPELLED = {"ndcg": "NDCG", "mrr": "MRR", "map": "MAP", "hitrate": "HitRate"}


def metric_title(metric: str) -> str:
    """``ndcg@20`` -> ``NDCG@20``; what follows in brackets stays."""
    name, at, rest = metric.partition("@")
    return f"{_SPELLED.get(name, name.capitalize())}{at}{rest}"


def number(value: float | None, digits: int = 4, *, signed: bool = False) -> str:
    """``0.04321`` -> ``0.0432``, or ``+0.0432`` with its sign."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:{'+' if signed else ''},.{digits}f}"


def number_span(low: float, high: float, *, signed: bool = False) -> str:
    """``0.0080 to 0.0160``."""
    return f"{number(low, signed=signed)} to {number(high, signed=signed)}"


def percent(share: float | None, digits: int | None = None, *, signed: bool = False) -> str:
    """``0.624`` -> ``62%``; without ``digits``, shares below 1% have one digit more."""
    if share is None or not math.isfinite(share):
        return NOTHING
    if digits is None:
        digits = int(0 < abs(share) < 0.01)
    return f"{100 * share:{'+' if signed else ''}.{digits}f}%"


def percent_span(low: float, high: float) -> str:
    """``55–69%``; ``-3 to 5%`` where an end is below 0."""
    return f"{100 * low:.0f}{' to ' if low < 0 else '–'}{percent(high, 0)}"


def count(n: int, noun: str) -> str:
    """``1 trial``, ``2,000 trials``."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def listed(parts: Sequence[str], word: str = "and") -> str:
    """``a``, ``a and b``, ``a, b, and c``."""
    if len(parts) < 3:
        return f" {word} ".join(parts)
    return f"{', '.join(parts[:-1])}, {word} {parts[-1]}"


def byte_size(size: float) -> str:
    """``4_924_029`` -> ``4.9 MB``."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


# --- Lengths of time


def clock(seconds: float) -> str:
    """``75.2`` -> ``1:15``, ``3723`` -> ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(seconds: float) -> str:
    """``5400`` -> ``1 h 30 min``, ``604800`` -> ``7 d``."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    days, rest = divmod(whole, 86_400) if whole >= 172_800 else (0, whole)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (0 if days else minutes, "min")]
    parts.append((0 if days or hours else left, "s"))
    return " ".join(f"{amount} {unit}" for amount, unit in parts if amount)


# --- The course of a number

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
