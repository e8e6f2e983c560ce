"""The application: all commands under one name."""

from __future__ import annotations

from importlib import import_module

import typer

from cnsdiff.cli.commands import data
from cnsdiff.cli.commands.plugins import NamesPlugins

#: What each command is for, in the order of the help; it is in the file of its own name.
COMMANDS = (
    ("quickstart", "Start here"),
    ("audit", "Start here"),
    ("prepare", "Data"),
    ("simulate", "Data"),
    ("train", "Train"),
    ("tune", "Train"),
    ("benchmark", "Train"),
    ("evaluate", "Judge"),
    ("report", "Judge"),
    ("recommend", "Use"),
    ("similar", "Use"),
    ("export", "Use"),
    ("doctor", "Help"),
    ("plugins", "Help"),
)

app = typer.Typer(
    name="cnsdiff",
    help="Recommenders that keep working when the world shifts.",
    epilog="Start with: cnsdiff quickstart",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for name, purpose in COMMANDS:
    module = import_module(f"cnsdiff.cli.commands.{name}")
    add = app.command(name, cls=NamesPlugins, epilog=module.EXAMPLE, rich_help_panel=purpose)
    add(getattr(module, name))
app.add_typer(data.app, name="data", rich_help_panel="Data")


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
