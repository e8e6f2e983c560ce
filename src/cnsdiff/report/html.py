"""A document as one HTML file: it opens offline, on a phone as on a desk, and loads nothing.

The page is ``page.html.j2`` with ``page.css`` and ``page.js``; plotly.js is in it once: the
basic build, as published, of points, lines and bars. Its content
security policy names the scripts by their hashes and allows no connection at all, so that whatever
stands in a user's file stays text.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from cnsdiff.base.errors import InputError
from cnsdiff.base.storage import write_text
from cnsdiff.base.text import json_text, visible
from cnsdiff.display.tables import MARK, Table
from cnsdiff.report.charts import DARK, SPLITS, method_styles
from cnsdiff.report.document import (
    GLOSSARY,
    MARKS,
    STAND_INS,
    Block,
    Card,
    Document,
    Facts,
    Figure,
    Fold,
    Prose,
    Source,
)

if TYPE_CHECKING:
    from markupsafe import Markup

#: Tells our files from others.
_GENERATOR = '<meta name="generator" content="cnsdiff">'
#: Pixels of a figure that does not say its own height.
HEIGHT = 400
#: The names in a part of the template, and what fills them.
Slots = dict[str, object]
#: Columns of numbers that a phone shows under one another.
STACKED = 6
#: Rows of a figure's numbers that the page shows; the CSV has them all.
ROWS_SHOWN = 50


def write_html(document: Document, path: Path) -> None:
    """Write a report; what was there before is replaced in one step."""
    write_text(Path(path), render_html(document))


def is_report(file: Path) -> bool:
    """Whether a file was written by :func:`write_html`, and may be replaced."""
    try:
        with file.open(encoding="utf-8") as opened:
            return _GENERATOR in opened.read(2_000)
    except (OSError, UnicodeDecodeError):
        return False


def render_html(document: Document) -> str:
    """A report as the text of one HTML file; the same at every call.

    Raises
    ------
    InputError
        Two sections have the same title, or a link in the prose leads to none.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    sections = _sections(document)
    anchors = frozenset(section.id for section in sections)
    environment = Environment(
        loader=PackageLoader("cnsdiff.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_seen,
    )
    words = _Words(anchors)
    environment.filters["prose"] = words.paragraphs
    environment.filters["inline"] = words.marked_up
    environment.filters["term"] = words.term
    blocks = list(_every(row for section in sections for row in section.rows))
    drawn = [block for block in blocks if block["kind"] == "figure"]
    plotly = _asset("plotly-basic.min.js") if drawn else ""
    script, style = _asset("page.js"), _asset("page.css")
    return environment.get_template("page.html.j2").render(
        document=document,
        sections=sections,
        mark=MARK,
        policy=_policy([text for text in (plotly, script) if text]),
        style=_raw(style),
        script=_raw(script),
        plotly=_raw(plotly),
        data=_raw(
            _json(
                {
                    "figures": {block["id"]: block["figure"] for block in drawn},
                    "csv": {block["id"]: block["csv"] for block in blocks if "csv" in block},
                    "dark": DARK,
                    "colours": _colours(),
                }
            )
        ),
    )


@dataclass(frozen=True)
class _Row:
    """Blocks in the order of the page; side by side if there is a ``layout``, their class."""

    layout: str | None
    blocks: list[Slots]


@dataclass(frozen=True)
class _Panel:
    """The template's view of a section."""

    id: str
    title: str
    rows: list[_Row]


def _sections(document: Document) -> list[_Panel]:
    sections: list[_Panel] = []
    numbers: dict[str, int] = {}
    for at, section in enumerate(document.sections, start=1):
        if any(section.title == other.title for other in sections):
            raise InputError(f"the report has two sections {section.title!r}; rename one of them")
        anchor = _slug(section.title) or f"section-{at}"
        if any(anchor == other.id for other in sections):  # of a title that differs in marks
            anchor = f"{anchor}-section-{at}"
        sections.append(_Panel(anchor, section.title, _laid_out(section.blocks, numbers)))
    return sections


def _every(rows: Iterable[_Row]) -> Iterator[Slots]:
    """All blocks, those in folds too."""
    for row in rows:
        for block in row.blocks:
            yield block
            if block["kind"] == "fold":
                yield from _every(cast("list[_Row]", block["rows"]))


def _laid_out(blocks: Sequence[Block], numbers: dict[str, int]) -> list[_Row]:
    return [_Row(_layout(row), [_block(block, numbers) for block in row]) for row in _rows(blocks)]


def _rows(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Small figures in a row stand side by side, and so do tables and cards."""
    row: list[Block] = []
    for block in blocks:
        if row and not (_beside(block) and _beside(block) == _beside(row[-1])):
            yield row
            row = []
        row.append(block)
    if row:
        yield row


def _beside(block: Block) -> str | None:
    """The kind of blocks that it may stand beside."""
    if isinstance(block, Table | Card):
        return "table" if isinstance(block, Table) else "card"
    return "small" if isinstance(block, Figure) and block.small else None


def _layout(row: list[Block]) -> str | None:
    """The layout of a row of blocks: the class of their container."""
    if len(row) < 2:
        return None
    if isinstance(row[0], Card):
        return "cards"
    if isinstance(row[0], Table):
        return "tables"
    return "pair" if len(row) in (2, 4) else "trio"


def _block(block: Block, numbers: dict[str, int]) -> Slots:
    """The template's view of a block; ``numbers`` counts the blocks of each kind."""
    kind = type(block).__name__.lower()
    numbers[kind] = numbers.get(kind, 0) + 1
    own: Slots = {"kind": kind, "id": f"{kind}-{numbers[kind]}"}
    if isinstance(block, Prose):
        return own | {"text": block.text}
    if isinstance(block, Facts):
        return own | {"facts": block.rows}
    if isinstance(block, Source):
        return own | {"name": block.name, "text": _lines(block.text)}
    if isinstance(block, Card):
        source = None if block.source is None else _block(block.source, numbers)
        names = ("title", "text", "facts", "badge", "level")
        return own | {name: getattr(block, name) for name in names} | {"source": source}
    if isinstance(block, Fold):
        return own | {"title": block.title, "rows": _laid_out(block.blocks, numbers)}
    own |= {"title": block.title, "name": _slug(block.title) or own["id"]}
    return own | (_figure(block) if isinstance(block, Figure) else _table(block))


def _figure(figure: Figure) -> Slots:
    from plotly.io import to_json

    drawn = _inert(json.loads(to_json(figure.figure, validate=False)))
    layout = drawn.setdefault("layout", {})
    layout.pop("template", None)  # the page has its own, one for each theme
    layout.pop("width", None)
    shown = figure.data.head(ROWS_SHOWN)
    return {
        "caption": figure.caption,
        "figure": {"data": drawn["data"], "layout": layout},
        "height": int(layout.get("height") or HEIGHT),
        "csv": _without_formulas(figure.data).write_csv(),
        "head": figure.data.columns,
        "rows": figure.data.height,
        "shown": [[_shown(value) for value in row] for row in shown.iter_rows()],
    }


#: What of a figure is text by us, in which plotly.js may read markup: it shapes what is hovered at.
_OURS = {"hovertemplate", "texttemplate"}


_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"})


def _inert(value: Any) -> Any:
    """A figure in which names, labels and values are text: plotly.js reads HTML and TeX in them."""
    if isinstance(value, str):
        return visible(value).translate(_ENTITIES)
    if isinstance(value, list):
        return [_inert(inner) for inner in value]
    if isinstance(value, dict):
        return {key: inner if key in _OURS else _inert(inner) for key, inner in value.items()}
    return value


def _shown(value: object) -> tuple[str, bool]:
    """A value as a reader sees it, and whether it is a number."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "", False
    if isinstance(value, float):
        return f"{value:.6g}", True
    return str(value), isinstance(value, int) and not isinstance(value, bool)


def _table(table: Table) -> Slots:
    groups: list[list[Slots]] = []
    for at, (begins, labels, cells) in enumerate(table.grouped()):
        if at == 0 or begins:
            groups.append([])
        shown = [
            {
                "text": cell.written(column),
                "width": cell.written_width(column),
                "place": cell.place,
                "differs": cell.differs,
            }
            for column, cell in zip(table.columns, cells, strict=True)
        ]
        groups[-1].append({"labels": labels, "cells": shown, "first": not groups[-1]})
    notes = list(table.notes)
    if table.has_place(1):
        notes.append(
            "Bold: best of its column; underlined: second."
            if table.has_place(2)
            else "Bold: best of its column."
        )
    return {
        "labels": table.labels,
        "columns": table.columns,
        "groups": groups,
        "has_groups": table.has_groups,
        # On a phone rows of a few numbers stand on end; of many, they scroll.
        "stacked": 1 < len(table.columns) <= STACKED,
        "notes": notes,
        "csv": table_csv(table),
    }


def table_csv(table: Table) -> str:
    """The numbers of a table in full, one row of CSV per row.

    A column with intervals has another beside it, ``NAME_half_width``; a number that is not there
    is empty, and no name is a formula.
    """
    wide = [
        any(cells[at].half_width is not None for _, cells in table.rows)
        for at in range(len(table.columns))
    ]
    names: list[str] = list(table.labels)
    for column, has_width in zip(table.columns, wide, strict=True):
        names += [column.name, f"{column.name}_half_width"] if has_width else [column.name]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for labels, cells in table.rows:
        values: list[str | float | None] = [_no_formula(label) for label in labels]
        for cell, has_width in zip(cells, wide, strict=True):
            values += [cell.value, cell.half_width] if has_width else [cell.value]
        writer.writerow([_finite(value) for value in values])
    return out.getvalue()


#: What a spreadsheet takes a cell for that begins so. An apostrophe before it makes it text there.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def _no_formula(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _without_formulas(data: pl.DataFrame) -> pl.DataFrame:
    """Names as text for a spreadsheet, which is where the CSV of a report goes.

    Files with ids for other programs (``recommend --out``, exports) have them to the letter.
    """
    text = pl.col(pl.String)
    formula = text.str.contains(r"^[=+\-@\t\r]")
    return data.with_columns(pl.when(formula).then(pl.lit("'") + text).otherwise(text).name.keep())


def _finite(value: str | float | None) -> str | float:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


# --- Words


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


_MARKUP = re.compile(
    r"\*\*(?P<bold>.+?)\*\*|`(?P<code>[^`]+)`"
    r"|\[(?P<text>[^\]]+)\]\((?:#(?P<to>[^)]+)|\?(?P<word>[^)]+))\)"
)


def _seen(value: object) -> object:
    """The template's view of a value: text in which nothing hides."""
    return visible(value) if type(value) is str else value


def _lines(text: str) -> Markup:
    """Text of several lines to the letter."""
    from markupsafe import escape

    return escape(visible(text, keep="\n"))


class _Words:
    """Prose as HTML, on a page with these anchors."""

    def __init__(self, anchors: frozenset[str]) -> None:
        self._anchors = anchors
        self._tips = 0

    def paragraphs(self, text: str) -> Markup:
        """Paragraphs between empty lines."""
        from markupsafe import Markup

        paragraphs = re.split(r"\n\s*\n", text.strip())
        return Markup("\n").join(
            Markup("<p>{}</p>").format(self.marked_up(paragraph)) for paragraph in paragraphs
        )

    def marked_up(self, text: str) -> Markup:
        """One paragraph: bold, code, links and words become elements; the rest is what it is."""
        from markupsafe import Markup

        parts = []
        end = 0
        for found in _MARKUP.finditer(text):
            parts.append(_plain(text[end : found.start()]))
            end = found.end()
            if found["bold"]:
                parts.append(Markup("<strong>{}</strong>").format(_plain(found["bold"])))
            elif found["code"]:
                parts.append(Markup("<code>{}</code>").format(_plain(found["code"])))
            elif found["word"]:
                parts.append(self._explained(_plain(found["text"]), GLOSSARY[found["word"]]))
            else:
                anchor = _slug(found["to"])
                if anchor not in self._anchors:
                    raise InputError(f"the report links to #{found['to']}, which does not exist")
                link = Markup('<a href="#{}">{}</a>')
                parts.append(link.format(anchor, _plain(found["text"])))
        return Markup("").join([*parts, _plain(text[end:])])

    def term(self, text: str) -> str | Markup:
        """A heading of ours, which explains itself if it is a word of the glossary."""
        meaning = GLOSSARY.get(text.lower())
        return text if meaning is None else self._explained(text, meaning)

    def _explained(self, text: str, meaning: str) -> Markup:
        from markupsafe import Markup

        self._tips += 1
        return Markup(
            '<span class="term"><button type="button" class="word" aria-describedby="tip-{n}">'
            '{text}</button><span role="tooltip" class="tip" id="tip-{n}">{meaning}</span></span>'
        ).format(n=self._tips, text=text, meaning=meaning)


def _plain(text: str) -> Markup:
    """Text of a paragraph, with the letters back that stand-ins stand for."""
    from markupsafe import escape

    back = str.maketrans(STAND_INS, MARKS)
    return escape(visible(text, keep=f"\n{STAND_INS}").translate(back))


# --- What the page is made of


def _asset(name: str) -> str:
    return files("cnsdiff.report").joinpath(name).read_text(encoding="utf-8")


def _raw(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(text)


def _json(value: object) -> str:
    """JSON that may stand inside a script element, whatever its strings hold."""
    text = json_text(value, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _policy(scripts: Sequence[str]) -> str:
    """The content security policy: these scripts and no others, and no connection anywhere.

    Styles may be inline, as plotly.js sets them; without a source they cannot load anything.
    """
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _colours() -> list[str]:
    """The colours of traces that name none: those of methods, then those of splits."""
    methods = method_styles(map(str, range(6)))
    return [style.colour for style in (*methods.values(), *SPLITS.values())]
