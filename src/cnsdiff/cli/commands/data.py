"""``cnsdiff data``: published data sets, fetched once and read by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnsdiff.base.text import Command
from cnsdiff.cli import completion
from cnsdiff.cli.commands import describe, export
from cnsdiff.cli.commands.describe import entry_facts
from cnsdiff.cli.options import Json

if TYPE_CHECKING:
    from cnsdiff.display.tables import Table

LIST_EXAMPLE = "Example: cnsdiff data list"
FETCH_EXAMPLE = "Example: cnsdiff data fetch ml-100k"

app = typer.Typer(
    help="Data sets and prepared datasets: list, fetch, describe, export.", no_args_is_help=True
)

_HOME = "Where data sets are kept; $CNSDIFF_HOME, else the user's data folder."


@app.command("list", epilog=LIST_EXAMPLE)
def list_(
    home: Annotated[Path | None, typer.Option(help=_HOME)] = None,
    json: Json = False,
) -> None:
    """Show the data sets known by name: size, licence, the shift they show, fetched or not."""
    from cnsdiff.catalogue import ENTRIES, status
    from cnsdiff.catalogue import home as home_of
    from cnsdiff.cli.output import console, print_json, print_table

    if json:
        print_json([entry_facts(entry, home) for entry in ENTRIES.values()])
        return
    states = {name: status(entry, home) for name, entry in ENTRIES.items()}
    screen = console()
    print_table(screen, _table(states))
    categories = [name.partition("/")[2] for name in ENTRIES if "/" in name]
    screen.print(f"amazon-2023 categories: {', '.join(categories)}.", soft_wrap=True)
    screen.print(f"Kept in {home_of(home)}. Next: cnsdiff data fetch NAME", soft_wrap=True)


@app.command("fetch", epilog=FETCH_EXAMPLE)
def fetch(
    name: Annotated[
        str,
        typer.Argument(help="A name of 'cnsdiff data list'.", autocompletion=completion.data_set),
    ],
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="You have read its terms and accept them.")
    ] = False,
    local_copy: Annotated[
        Path | None,
        typer.Option("--from", help="File, archive or folder got by hand, instead of a download."),
    ] = None,
    route: Annotated[
        str,
        typer.Option(
            help="official address, pypi (ml-100k only), or auto: one, then the other.",
            autocompletion=completion.route,
        ),
    ] = "auto",
    mirror: Annotated[
        str | None,
        typer.Option(help="Web folder with copies of the publishers' files; $CNSDIFF_MIRROR."),
    ] = None,
    home: Annotated[Path | None, typer.Option(help=_HOME)] = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch it again.")] = False,
    json: Json = False,
) -> None:
    """Fetch a data set, verify it and keep it; does nothing if it is there and intact.

    Broken connections are retried and resumed; after Ctrl-C the same command goes on.
    """
    from cnsdiff import catalogue
    from cnsdiff.catalogue.progress import reporter_for_terminal
    from cnsdiff.cli.failure import interruptible
    from cnsdiff.cli.output import console, print_json, print_next
    from cnsdiff.display.wording import byte_size, count

    with (
        interruptible(f"go on with: {Command('data fetch', name)}"),
        reporter_for_terminal() as report,
    ):
        done = catalogue.fetch(
            name,
            home=home,
            accept_terms=accept_terms,
            local_copy=local_copy,
            route=route,
            mirror=mirror,
            force=force,
            report=report,
        )
    if json:
        print_json({"path": str(done.folder), "already": done.already, **done.record.model_dump()})
        return
    screen, record = console(), done.record
    if done.already:
        screen.print(f"{name} is there already and intact: {done.folder}", soft_wrap=True)
        print_next(screen, *_after_fetch(name))
        return
    size = sum(file.bytes for file in record.files.values())
    for line in (
        f"Fetched {name} ({count(len(record.files), 'file')}, {byte_size(size)}) from "
        f"{record.address}",
        f"Licence: {record.terms}",
        f"Cite: {record.citation}",
        f"Kept in {done.folder}",
    ):
        screen.print(line, soft_wrap=True)
    print_next(screen, *_after_fetch(name))


app.command("describe", epilog=describe.EXAMPLE)(describe.describe)
app.command("export", epilog=export.DATASET_EXAMPLE)(export.export_dataset)


def _after_fetch(name: str) -> tuple[Command, ...]:
    """Next commands for a published data set."""
    out = f"data/{name.rpartition('/')[2]}"
    return (
        Command("prepare", name, scenario="popularity", out=out, purpose="divide it by a shift"),
        Command("audit", name, purpose="or all at once: what each shift costs, and what to use"),
    )


def _table(states: Mapping[str, str]) -> Table:
    """A row each; the Amazon categories share one, and those fetched have their own."""
    from cnsdiff.catalogue import find
    from cnsdiff.display.tables import Table
    from cnsdiff.display.wording import byte_size

    rows: dict[str, list[str]] = {}
    for name, state in states.items():
        entry = find(name)
        family, _, category = name.partition("/")
        size = byte_size(entry.size) if entry.size else "varies"
        here = {"fetched": "yes", "absent": "-"}.get(state, state)
        what = entry.what
        if category and state == "absent":
            name, what = f"{family}/CATEGORY", what.partition(":")[0]
        rows.setdefault(name, [what, size, entry.licence, entry.shift, here])
    titles = ["name", "what", "size", "licence", "shows", "here"]
    return Table.of("", titles, [], [([name, *facts], []) for name, facts in rows.items()])
