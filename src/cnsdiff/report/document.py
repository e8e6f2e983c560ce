"""A report before it is written out: its parts, and the kinds of directory that have one.

One module per kind of report puts its parts together; how they look is the business of
:mod:`cnsdiff.report.html` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeAlias

import polars as pl

from cnsdiff.base.errors import InputError
from cnsdiff.base.text import Command, parameter, visible
from cnsdiff.display.progress import Reporting
from cnsdiff.display.tables import Table


@dataclass(frozen=True)
class Prose:
    """Paragraphs, with an empty line between two of them.

    Of Markdown there are ``**bold**``, `` `code` `` and ``[links](#section)`` within the report;
    ``[words](?word)`` explain themselves by :data:`GLOSSARY`. Everything else is shown as it
    stands. What comes from outside goes through :func:`verbatim`.
    """

    text: str


#: Words of the trade, in small letters, for those who do not know them.
GLOSSARY = {
    "iid": "Today: pairs held out at random, so that the test is like what was learnt from.",
    "ood": "Under the shift: pairs that differ from what was learnt from, as the shift says.",
    "lost": "The share of today's accuracy that is gone under the shift: 1 − OOD / IID, both read "
    "for people with equally many items to find.",
    "ndcg@20": "Accuracy of a list of 20 items, from 0 to 1: what a person then took counts, and "
    "more the higher up it stands.",
    "recall@20": "The share of what a person then took that is among the first 20 items.",
    "interval": "Where the number would lie with 95% certainty for another sample of people like "
    "these.",
    "dial": "How much of the popularity that was learnt the scores keep; chosen on validation.",
    "environment": "What people meet whatever they like: what is popular, new, or shown to all.",
    "rehearsal": "The latest part of the log plays the future: a model trained on the rest is "
    "chosen on it, and then learns everything.",
    "validation": "Pairs held out to choose by; the tests judge and never choose.",
    "break-even": "How sure you must be of the shift for the advice to pay, weighing what it "
    "brings then against what it costs if all stays as it is.",
    "reference": "A simple method that any other has to beat: the most popular items, or items "
    "like those a person has.",
    "coverage": "How many items of the catalogue are in anybody's list of 20.",
}

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


@dataclass(frozen=True)
class Card:
    """What matters of one thing, at a glance; cards that follow one another stand side by side.

    Attributes
    ----------
    title
        What it is of.
    text
        A sentence or two, as in :class:`Prose`.
    facts
        A name and a value each: a paragraph as in :class:`Prose`, or several as a list.
    source
        The command to go on with.
    badge, level
        How sure it is, in a word or two, and of what colour they are.
    """

    title: str
    text: str
    facts: Sequence[tuple[str, str | Sequence[str]]]
    source: Source | None = None
    badge: str = ""
    level: Literal["high", "medium", "low", "none"] = "none"


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown once they are asked for."""

    title: str
    blocks: Sequence[Block]


Block: TypeAlias = "Prose | Figure | Table | Facts | Source | Card | Fold"


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


# --- Which directories have a report


@dataclass(frozen=True)
class Kind:
    """A kind of directory that has a report.

    Attributes
    ----------
    name
        In words, with its article.
    markers
        Files that such a directory holds, all of them.
    builder
        ``module:function``; called with the path, imported when it is needed.
    made_by
        The command that writes such a directory.
    """

    name: str
    markers: tuple[str, ...]
    builder: str
    made_by: Command

    def build(self, path: Path, **options: object) -> Document:
        """The report of a directory of this kind."""
        module, _, function = self.builder.partition(":")
        build: Callable[..., Document] = getattr(import_module(module), function)
        return build(path, **options)


RUN = Kind(
    "a run",
    ("manifest.json", "config.yaml"),
    "cnsdiff.report.run:run_document",
    Command("train", "DATASET", out="RUN"),
)
#: The first kind whose markers are all there; a run is a dataset's manifest and a configuration.
KINDS = (
    Kind(
        "an audit",
        ("audit.json",),
        "cnsdiff.report.audit:audit_document",
        Command("audit", "LOG"),
    ),
    Kind("a study", ("study.json",), "cnsdiff.report.tuning:tuning_document", Command("tune")),
    Kind(
        "a benchmark",
        ("grid.yaml",),
        "cnsdiff.report.benchmark:benchmark_document",
        Command("benchmark", "GRID.yaml"),
    ),
    RUN,
    Kind(
        "a dataset",
        ("manifest.json",),
        "cnsdiff.report.dataset:dataset_document",
        Command("prepare", "LOG", out="DATASET"),
    ),
)


def kind_of(path: Path) -> Kind | None:
    """The kind of a directory, by the files in it; ``None`` if it is not one of cnsdiff."""
    return next(
        (kind for kind in KINDS if all((path / marker).is_file() for marker in kind.markers)), None
    )


def document_of(
    path: str | Path, *, dataset: str | Path | None = None, reporter: Reporting | None = None
) -> Document:
    """The report of a run, a benchmark, an audit, a study or a dataset.

    Parameters
    ----------
    path
        The directory.
    dataset
        Of a run only: the dataset directory it was trained on, if that has moved.
    reporter
        Of a run only: told what is being done.

    Raises
    ------
    InputError
        The directory is none of these; the message names what is near and could be meant.
    """
    path = Path(path)
    kind = kind_of(path) if path.is_dir() else None
    if kind is None:
        raise InputError(f"{path}: {_none_of_ours(path)}")
    if kind is RUN:
        place = None if dataset is None else Path(dataset)
        return kind.build(path, dataset=place, reporter=reporter)
    if dataset is not None:
        raise InputError(
            f"{parameter('dataset')} belongs to a run, and {path} is {kind.name}; leave it out"
        )
    return kind.build(path)


def _none_of_ours(path: Path) -> str:
    """Why there is no report of ``path``, and the nearest mend."""
    if path.is_file():
        if (kind := kind_of(path.parent)) is not None:
            return f"is a file of {kind.name}; name its directory, {path.parent}"
        if path.suffix in (".yaml", ".yml"):
            return (
                f"is a file; if it is the grid of a benchmark, run {Command('benchmark')} on it "
                "and name the directory of its results"
            )
        return f"is a file; of a log, {Command('audit')} makes a report"
    if not path.exists():
        return f"does not exist; name {_kinds()}"
    for near in (*sorted(part for part in path.iterdir() if part.is_dir()), path.absolute().parent):
        if (kind := kind_of(near)) is not None:
            return f"was not written by cnsdiff; {near} is {kind.name}"
    return f"was not written by cnsdiff; name {_kinds()}"


def _kinds() -> str:
    return "the directory of " + "; ".join(f"{kind.name} ({kind.made_by})" for kind in KINDS)
