"""A report before it is written out: titles, words, figures and tables, in order.

What a report says is put together from these parts by one file per kind of report; how they look is
the business of :mod:`cnsdiff.report.html` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from cnsdiff.base.text import visible
from cnsdiff.display.tables import Table


@dataclass(frozen=True)
class Prose:
    """Paragraphs, with an empty line between two of them.

    Of Markdown there are ``**bold**``, `` `code` `` and ``[links](#section)`` within the report;
    everything else is shown as it stands. What comes from outside goes through :func:`verbatim`.
    """

    text: str


#: The marks of prose, and what stands for them where they are letters of a name.
MARKS, STAND_INS = "*`[", "\ufdd0\ufdd1\ufdd2"


def verbatim(value: object) -> str:
    """A value from outside, as it can stand in :class:`Prose`: nothing in it is a mark."""
    return visible(value).translate(str.maketrans(MARKS, STAND_INS))


@dataclass(frozen=True)
class Figure:
    """A figure, the words around it, and the numbers that it draws.

    Attributes
    ----------
    title, caption
        Plain text; kept out of the figure, where a narrow screen would cut it.
    figure
        A ``plotly.graph_objects.Figure`` without a fixed width and without colours of ink or
        paper: the page gives it those of its theme.
    data
        What the reader can save as CSV: one row per point drawn, with named columns.
    small
        Small figures that follow one another stand side by side where the screen is wide.
    """

    title: str
    caption: str
    figure: Any
    data: pl.DataFrame
    small: bool = False


@dataclass(frozen=True)
class Facts:
    """Short facts, a name and a value each."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Source:
    """Text in the words of a machine, shown to the letter: a configuration, a command.

    Attributes
    ----------
    name
        Of the file it would be saved as: ``config.yaml``.
    """

    name: str
    text: str


Block = Prose | Figure | Table | Facts | Source


@dataclass(frozen=True)
class Section:
    """A part that can be shown alone, under its own tab.

    Attributes
    ----------
    title
        One to three words; unique in its document.
    """

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A whole report.

    Attributes
    ----------
    title
        What was judged.
    verdict
        What came of it, in one sentence, first on the page.
    summary
        A few more sentences under the verdict (as in :class:`Prose`), or nothing.
    """

    title: str
    verdict: str
    sections: Sequence[Section]
    summary: str = ""
