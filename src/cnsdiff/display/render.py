"""Tables as text for a terminal, Markdown, LaTeX or JSON."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from rich.table import Table as RichTable
from rich.text import Text

from cnsdiff.base.errors import InputError, did_you_mean
from cnsdiff.base.text import json_text, visible
from cnsdiff.display.screen import Screen
from cnsdiff.display.tables import MARK, Cell, Column, Table

Form = Literal["text", "markdown", "latex", "json"]


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
        content = [table.to_dict() for table in tables]
        return json_text(content, indent=2, allow_nan=False)
    if form == "markdown":
        return "\n\n".join(_markdown(table) for table in tables)
    if form == "latex":
        return "\n\n".join(_latex(table) for table in tables)
    return "\n\n".join(_text(table, styled) for table in tables)


# --- text


def rich_table(table: Table, *, narrow: bool = False) -> RichTable:
    """A table for the terminal; ``narrow`` breaks the titles of its numbers at every space.

    Where the terminal is too narrow, labels are folded and numbers stay whole.
    """
    drawn = RichTable(title=table.title or None, title_justify="left", header_style="bold")
    for label in table.labels:
        drawn.add_column(label, overflow="fold")
    for column in table.columns:
        title = "\n".join(map(visible, column.title.split(" ") if narrow else [column.title]))
        drawn.add_column(Text(title), justify="right", no_wrap=True)
    for begins, labels, cells in table.grouped():
        if begins:
            drawn.add_section()
        numbers = (_text_cell(*each) for each in zip(cells, table.columns, strict=True))
        drawn.add_row(*labels, *numbers)
    return drawn


def _text(table: Table, styled: bool) -> str:
    out = io.StringIO()
    # So wide that nothing is cut: what is too wide for a terminal can still be read in a file.
    console = Screen(
        file=out,
        width=10_000,
        force_terminal=styled,
        color_system="standard" if styled else None,
        legacy_windows=False,
    )
    console.print(rich_table(table))
    notes = [visible(note) for note in table.notes]
    if styled and table.has_place(1):
        notes.append("bold: best of its column; underlined: second")
    return "\n".join([*(line.rstrip() for line in out.getvalue().splitlines()), *notes])


def _text_cell(cell: Cell, column: Column) -> Text:
    style = {1: "bold", 2: "underline"}.get(cell.place or 0, "")
    text = Text(visible(cell.written(column)), style=style)
    if not math.isfinite(cell.value):
        return text
    text = Text.assemble(text, MARK if cell.differs else "")
    if (width := cell.written_width(column)) is not None:
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
    for _, labels, cells in table.grouped():
        numbers = (_markdown_cell(*each) for each in zip(cells, table.columns, strict=True))
        lines.append(line([*map(_escape_markdown, labels), *numbers]))
    notes = [_escape_markdown(note) for note in table.notes]
    if table.has_place(1):
        notes.append("bold: best of its column")
    if notes:
        lines += ["", "; ".join(notes)]
    return "\n".join(lines)


def _markdown_cell(cell: Cell, column: Column) -> str:
    number = cell.written(column)
    if not math.isfinite(cell.value):
        return _escape_markdown(number)
    text = f"**{number}**" if cell.place == 1 else number
    text += MARK if cell.differs else ""
    width = cell.written_width(column)
    return text if width is None else f"{text} ± {width}"


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|~&#$])", r"\\\1", visible(text))


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
    for begins, labels, cells in table.grouped():
        if begins:
            lines.append("    \\midrule")
        numbers = (_latex_cell(*each) for each in zip(cells, table.columns, strict=True))
        lines.append(line([*map(_escape_latex, labels), *numbers]))
    lines += ["    \\bottomrule", "  \\end{tabular}"]
    notes = [_escape_latex(note) for note in table.notes]
    if table.has_place(1):
        notes.append("bold: best of its column, underlined: second")
    if notes:
        lines.append(f"  \\par\\smallskip{{\\footnotesize {'; '.join(notes)}}}")
    return "\n".join([*lines, "\\end{table}"])


def _latex_cell(cell: Cell, column: Column) -> str:
    if not math.isfinite(cell.value):
        return _escape_latex(cell.written(column))
    number = cell.written(column).replace("%", r"\%")
    style: Callable[[str], str] = {
        1: r"\mathbf{{{}}}".format,
        2: r"\underline{{{}}}".format,
    }.get(cell.place or 0, str)
    text = style(number) + (r"^{\dagger}" if cell.differs else "")
    if (width := cell.written_width(column)) is not None:
        text += rf" \pm {width}".replace("%", r"\%")
    return f"${text}$"


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in visible(text))
