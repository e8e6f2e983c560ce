"""Tables as text for a terminal, Markdown, LaTeX or JSON."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from cnsdiff.benchmark.tables import MARK
from cnsdiff.errors import InputError, did_you_mean
from cnsdiff.tables import Cell, Column, Table

Form = Literal["text", "markdown", "latex", "json"]

#: Stands for a number that is not there.
NOTHING = "-"


def render(tables: Sequence[Table], form: str, *, styled: bool = False) -> str:
    """Write tables out, one below the other, without a line break at the end.

    Parameters
    ----------
    tables
        See :mod:`cnsdiff.benchmark.tables`.
    form
        ``"text"``, ``"markdown"``, ``"latex"`` (with the package booktabs) or ``"json"`` (numbers
        in full, null where there is none).
    styled
        Text only: the best of a column in bold and the second underlined, by the control
        sequences of a terminal.

    Raises
    ------
    InputError
        The form is unknown.
    """
    if form not in get_args(Form):
        raise InputError(
            f"tables cannot be written as {form!r}{did_you_mean(form, get_args(Form))}; choose "
            f"one of {', '.join(get_args(Form))}"
        )
    if form == "json":
        content = [_json(table) for table in tables]
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    if form == "markdown":
        return "\n\n".join(_markdown(table) for table in tables)
    if form == "latex":
        return "\n\n".join(_latex(table) for table in tables)
    return "\n\n".join(_text(table, styled) for table in tables)


def _rows(table: Table) -> Iterator[tuple[bool, tuple[str, ...], tuple[Cell, ...]]]:
    """Whether a row begins a group other than the first; its labels, repeated ones empty."""
    before: str | None = None
    for labels, cells in table.rows:
        same = labels[0] == before
        shown = ("", *labels[1:]) if same else labels
        yield before is not None and not same, shown, cells
        before = labels[0]


def _number(value: float, column: Column) -> str:
    if column.percent:
        return f"{100 * value:+.{column.digits}f}%"
    return f"{value:.{column.digits}f}"


def _width(cell: Cell, column: Column) -> str | None:
    """Half the interval as it is written, or ``None`` if it is unknown."""
    if cell.half_width is None or not math.isfinite(cell.half_width):
        return None
    return _number(cell.half_width, column).lstrip("+")


def _has(table: Table, place: int) -> bool:
    return any(cell.place == place for _, cells in table.rows for cell in cells)


# --- text


def _text(table: Table, styled: bool) -> str:
    drawn = RichTable(title=Text(table.title), title_justify="left", header_style="bold")
    for label in table.labels:
        drawn.add_column(Text(label), no_wrap=True)
    for column in table.columns:
        drawn.add_column(Text(column.title), justify="right", no_wrap=True)
    for begins, labels, cells in _rows(table):
        if begins:
            drawn.add_section()
        numbers = (_text_cell(*each) for each in zip(cells, table.columns, strict=True))
        drawn.add_row(*map(Text, labels), *numbers)
    out = io.StringIO()
    # So wide that nothing is cut: what is too wide for a terminal can still be read in a file.
    console = Console(
        file=out,
        width=10_000,
        force_terminal=styled,
        color_system="standard" if styled else None,
        legacy_windows=False,
    )
    console.print(drawn)
    notes = list(table.notes)
    if styled and _has(table, 1):
        notes.append("bold: best of its column; underlined: second")
    return "\n".join([*(line.rstrip() for line in out.getvalue().splitlines()), *notes])


def _text_cell(cell: Cell, column: Column) -> Text:
    if not math.isfinite(cell.value):
        return Text(NOTHING)
    style = {1: "bold", 2: "underline"}.get(cell.place or 0, "")
    found = Text(_number(cell.value, column), style=style)
    text = Text.assemble(found, MARK if cell.differs else "")
    if (width := _width(cell, column)) is not None:
        text.append(f" ± {width}")
    return text


# --- Markdown


def _markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    titles = [*table.labels, *(column.title for column in table.columns)]
    rule = [*(":--" for _ in table.labels), *("--:" for _ in table.columns)]
    lines = [f"**{_escape_markdown(table.title)}**", ""]
    lines += [line([_escape_markdown(title) for title in titles]), line(rule)]
    for _, labels, cells in _rows(table):
        numbers = (_markdown_cell(*each) for each in zip(cells, table.columns, strict=True))
        lines.append(line([*map(_escape_markdown, labels), *numbers]))
    notes = [_escape_markdown(note) for note in table.notes]
    if _has(table, 1):
        notes.append("bold: best of its column")
    if notes:
        lines += ["", "; ".join(notes)]
    return "\n".join(lines)


def _markdown_cell(cell: Cell, column: Column) -> str:
    if not math.isfinite(cell.value):
        return NOTHING
    number = _number(cell.value, column)
    text = f"**{number}**" if cell.place == 1 else number
    text += MARK if cell.differs else ""
    width = _width(cell, column)
    return text if width is None else f"{text} ± {width}"


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|~&#$])", r"\\\1", text)


# --- LaTeX

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # After the end of a row these would be read as its arguments.
    "[": "{[}",
    "*": "{*}",
    "±": r"$\pm$",
    MARK: r"$\dagger$",
}


def _latex(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"    {' & '.join(cells)} \\\\"

    titles = [*table.labels, *(column.title for column in table.columns)]
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering",
        f"  \\caption{{{_escape_latex(table.title)}}}",
        f"  \\begin{{tabular}}{{{'l' * len(table.labels)}{'r' * len(table.columns)}}}",
        "    \\toprule",
        line([_escape_latex(title) for title in titles]),
        "    \\midrule",
    ]
    for begins, labels, cells in _rows(table):
        if begins:
            lines.append("    \\midrule")
        numbers = (_latex_cell(*each) for each in zip(cells, table.columns, strict=True))
        lines.append(line([*map(_escape_latex, labels), *numbers]))
    lines += ["    \\bottomrule", "  \\end{tabular}"]
    notes = [_escape_latex(note) for note in table.notes]
    if _has(table, 1):
        notes.append("bold: best of its column, underlined: second")
    if notes:
        lines.append(f"  \\par\\smallskip{{\\footnotesize {'; '.join(notes)}}}")
    return "\n".join([*lines, "\\end{table}"])


def _latex_cell(cell: Cell, column: Column) -> str:
    if not math.isfinite(cell.value):
        return NOTHING
    number = _number(cell.value, column).replace("%", r"\%")
    style: Callable[[str], str] = {
        1: r"\mathbf{{{}}}".format,
        2: r"\underline{{{}}}".format,
    }.get(cell.place or 0, str)
    text = style(number) + (r"^{\dagger}" if cell.differs else "")
    if (width := _width(cell, column)) is not None:
        text += rf" \pm {width}".replace("%", r"\%")
    return f"${text}$"


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


# --- JSON


def _json(table: Table) -> dict[str, Any]:
    return {
        "title": table.title,
        "rows": [
            {
                **dict(zip((t.replace(" ", "_") for t in table.labels), labels, strict=True)),
                "values": {
                    column.name: _json_cell(cell)
                    for column, cell in zip(table.columns, cells, strict=True)
                },
            }
            for labels, cells in table.rows
        ],
        "notes": list(table.notes),
    }


def _json_cell(cell: Cell) -> dict[str, Any]:
    def finite(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    return {
        "value": finite(cell.value),
        "half_width": finite(cell.half_width),
        "place": cell.place,
        "differs": cell.differs,
    }
