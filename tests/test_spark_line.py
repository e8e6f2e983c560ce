"""Spark lines: whatever the numbers, of the right length and in the right order."""

from __future__ import annotations

import io
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from cnsdiff.display.wording import ASCII, BLOCKS, SparkLine, spark_line

ANY = st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=True), max_size=60)
FINITE = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=60)


def test_a_rise_uses_every_height():
    assert spark_line(range(8)) == BLOCKS
    assert spark_line(range(8), ascii_only=True) == ASCII
    assert spark_line(range(7, -1, -1)) == BLOCKS[::-1]


def test_nothing_and_a_flat_line():
    assert spark_line([]) == ""
    assert spark_line([0.3, 0.3, 0.3]) == "▄▄▄"
    assert spark_line([1.0, None, math.nan, 2.0, math.inf]) == "▁  █ "


def test_more_values_than_width_are_averaged():
    assert spark_line([0.0, 2.0, 10.0, 12.0], 2) == "▁█"
    assert spark_line([0.0, 0.0, 0.0, 8.0, 1.0, 3.0], 3) == "▁█▅"
    assert spark_line([0.0, None, None, None, 1.0, 1.0], 3) == "▁ █"


@given(ANY, st.integers(1, 80), st.booleans())
@example([1.7976931348623157e308] * 3, 1, False)
def test_length_and_alphabet(values, width, ascii_only):
    line = spark_line(values, width, ascii_only=ascii_only)
    assert len(line) == min(len(values), width)
    assert set(line) <= set((ASCII if ascii_only else BLOCKS) + " ")


@given(ANY)
def test_gaps_are_where_no_number_is(values):
    line = spark_line(values)
    known = [value is not None and math.isfinite(value) for value in values]
    assert [mark != " " for mark in line] == known


@given(FINITE)
def test_a_higher_mark_never_for_a_lower_value(values):
    heights = [BLOCKS.index(mark) for mark in spark_line(values)]
    ranked = sorted(zip(values, heights, strict=True))
    assert [height for _, height in ranked] == sorted(heights)
    if max(values) / 2 > min(values) / 2:
        assert (min(heights), max(heights)) == (0, len(BLOCKS) - 1)


@given(FINITE, st.integers(1, 20))
def test_only_order_and_ratios_matter(values, width):
    scaled = [value / 2 for value in values]
    if all(value == 0 or abs(value) > 1e-300 for value in values):
        assert spark_line(scaled, width) == spark_line(values, width)


@pytest.mark.parametrize(
    ("encoding", "marks"), [("utf-8", set(BLOCKS)), ("ascii", set(ASCII)), ("latin-1", set(ASCII))]
)
def test_in_a_table_it_takes_the_width_there_is(encoding, marks):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=stream, width=30, force_terminal=False)
    table = Table.grid()
    table.add_row("loss  ", SparkLine([float(n) for n in range(200)]))
    console.print(table)
    stream.flush()
    line = stream.buffer.getvalue().decode(encoding).rstrip("\n")
    assert len(line) == 30
    assert set(line.removeprefix("loss  ")) == marks
