"""``cnsdiff store``: the store of a service, backed up and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cnsdiff.cli.options import Json

BACKUP_EXAMPLE = "Example: cnsdiff store backup events.db events-backup.db"
CHECK_EXAMPLE = "Example: cnsdiff store check events.db"

app = typer.Typer(
    help="The events, answers and versions of a service: backup, check.", no_args_is_help=True
)

Address = Annotated[
    str,
    typer.Argument(
        metavar="STORE",
        help="Where it is: a SQLite file, or postgresql+psycopg://USER@HOST/DATABASE.",
    ),
]


@app.command("backup", epilog=BACKUP_EXAMPLE)
def backup(
    url: Address,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the copy.")],
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    json: Json = False,
) -> None:
    """Copy a store that is in use to a file, of one moment, in one step.

    The copy is a store of its own: serve from it, or put it in the place of a lost one while
    nothing runs. PostgreSQL has pg_dump for that.
    """
    from cnsdiff.cli.output import console, print_json
    from cnsdiff.display.wording import byte_size
    from cnsdiff.serving.store import Store

    with Store.open(url, create=False) as store:
        store.backup(out, overwrite=overwrite)
    size = out.stat().st_size
    if json:
        print_json({"path": str(out), "bytes": size})
        return
    console().print(f"Backup written: {out} ({byte_size(size)})", soft_wrap=True)


@app.command("check", epilog=CHECK_EXAMPLE)
def check(url: Address, json: Json = False) -> None:
    """Read every row of a store, and say what is wrong; ends with 1 if anything is."""
    from cnsdiff.cli.output import console, print_json
    from cnsdiff.display.wording import count
    from cnsdiff.serving.store import Store

    with Store.open(url, create=False) as store:
        problems = store.check()
        rows = None if problems else store.counts()
        place = store.database.place
    if json:
        print_json({"store": place, "problems": problems, "rows": rows})
    elif rows is not None:
        held = ", ".join(f"{number:,} {table}" for table, number in rows.items())
        console().print(f"{place} is sound: {held}", soft_wrap=True)
    else:
        screen = console()
        screen.print(f"{place} has {count(len(problems), 'problem')}:", soft_wrap=True)
        for problem in problems:
            screen.print(f"  {problem}", soft_wrap=True)
    if problems:
        raise typer.Exit(1)
