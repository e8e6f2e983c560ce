"""The application: all commands under one name."""

from __future__ import annotations

import typer

from cnsdiff.cli import (
    benchmark,
    data,
    doctor,
    evaluate,
    prepare,
    quickstart,
    recommend,
    simulate,
    train,
)

app = typer.Typer(
    name="cnsdiff",
    help="Recommenders that keep working when the world shifts.",
    epilog="Start with: cnsdiff quickstart",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for module in (quickstart, simulate, prepare, train, evaluate, recommend, benchmark, doctor):
    app.command(epilog=module.EXAMPLE)(getattr(module, module.__name__.rpartition(".")[2]))
app.add_typer(data.app, name="data")


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"cnsdiff {version('cnsdiff')}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    return None
