"""``cnsdiff report``: what was found, as one HTML file that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cnsdiff.display.progress import Reporting
    from cnsdiff.report.document import Document

EXAMPLE = "Example: cnsdiff report runs/food --open"


def report(
    path: Annotated[
        Path,
        typer.Argument(
            help="Directory of a run, a benchmark's results, an audit, a study or a dataset."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write (default: PATH/report.html).")
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="Where a run's dataset is now, if it has moved.")
    ] = None,
    open_it: Annotated[
        bool, typer.Option("--open", help="Open it in the browser when it is written.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the verdict and the numbers of the tables.")
    ] = False,
) -> None:
    """Write a report: the verdict first, then figures and tables, offline, in one file.

    Of a run, this opens the test splits: they describe what was chosen before, and choose nothing.
    """
    from cnsdiff.base.errors import InputError
    from cnsdiff.base.text import say
    from cnsdiff.cli.output import print_json
    from cnsdiff.report.document import document_of
    from cnsdiff.report.html import is_report, write_html

    file = out or path / "report.html"
    if file.is_dir():
        raise InputError(f"--out {file}: is a directory; name a file in it")
    if file.exists() and not is_report(file):
        raise InputError(f"{file}: exists and is not a report of cnsdiff; choose another --out")
    with _reporter() as reporter:
        document = document_of(path, dataset=dataset, reporter=reporter)
        write_html(document, file)
    if json:
        print_json({"report": str(file), **_numbers(document)})
    else:
        say(document.verdict)
        say(f"Wrote {file}.{'' if open_it else ' Open it in any browser.'}")
    if open_it:
        import webbrowser

        webbrowser.open(file.resolve().as_uri())


def _reporter() -> Reporting:
    """A line that changes on a terminal, a line per step elsewhere."""
    from cnsdiff.display.progress import LiveBar, PlainLines, is_live

    if not is_live():
        return PlainLines("report")
    from rich.progress import SpinnerColumn, TextColumn

    from cnsdiff.base.text import visible

    class Steps(LiveBar):
        def __init__(self) -> None:
            super().__init__(SpinnerColumn(), TextColumn("{task.description}", markup=False))
            self._step = self._progress.add_task("reading", total=None)

        def note(self, message: str) -> None:
            self._progress.update(self._step, description=visible(message))

    return Steps()


def _numbers(document: Document) -> dict[str, object]:
    from cnsdiff.display.tables import Table

    return {
        "title": document.title,
        "verdict": document.verdict,
        "sections": {
            section.title: [block.to_dict() for block in section.blocks if isinstance(block, Table)]
            for section in document.sections
        },
    }
