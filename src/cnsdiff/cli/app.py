"""The application: all commands under one name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from cnsdiff.base.text import NAMED, Speller, in_python, shell_word, spelled, visible
from cnsdiff.cli.commands import data, store

#: What each command is for, in the order of the help; it is in the file of its own name.
COMMANDS = (
    ("quickstart", "Start here"),
    ("audit", "Start here"),
    ("prepare", "Data"),
    ("simulate", "Data"),
    ("train", "Train"),
    ("update", "Train"),
    ("tune", "Train"),
    ("benchmark", "Train"),
    ("evaluate", "Judge"),
    ("report", "Judge"),
    ("recommend", "Use"),
    ("similar", "Use"),
    ("export", "Use"),
    ("serve", "Use"),
    ("doctor", "Help"),
    ("plugins", "Help"),
)

#: Parameters of the library whose options are called otherwise.
_OPTIONS = {
    **{role: f"{role}_col" for role in ("user", "item", "rating", "timestamp", "period", "event")},
    "splits": "split",
    "add_items": "new_items",
    "fixed": "set",
}


# Typer brings its own click, whose classes are not named in public.
class _Command(TyperCommand):
    """A command whose help names the samplers, backbones and scenarios of plugins, too."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        for option in self.params:
            if option.name in ("sampler", "backbone", "scenario"):
                # Here and not at the top: looking through the installed packages takes a while.
                from cnsdiff.base.registry import installed

                names = sorted({point.name for point in installed(f"cnsdiff.{option.name}s")})
                if names:
                    from rich.markup import escape

                    hint = escape(visible(f" Of plugins: {', '.join(names)}."))
                    option.help += hint  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


class _Application(TyperGroup):
    """All commands; while one runs, messages of the library name options, not parameters."""

    def invoke(self, ctx: Any) -> Any:
        with spelled(speller_of(self)):
            try:
                return super().invoke(ctx)
            except typer.BadParameter as error:
                error.message = _choice(error.message)
                raise


def _choice(message: str) -> str:
    """Typer's "'x' is not one of 'a', 'b'." as ``must be 'a' or 'b', not 'x'``."""
    refusal = re.fullmatch(r"(?:Value error, )?(.+) is not one of (.+?)\.?", message, re.DOTALL)
    if refusal is None:
        return message
    value, choices = refusal.groups()
    return f"must be {' or '.join(choices.rsplit(', ', 1))}, not {value}"


def speller_of(application: Any) -> Speller:
    """Writes the parameters of the library as the options of the commands."""
    options = {
        option.name.rstrip("_"): option
        for command in commands_below(application)
        for option in command.params
        if option.param_type_name == "option"
    }

    def spell(name: str, value: object) -> str:
        option = options.get(_OPTIONS.get(name, name))
        if option is None:
            return in_python(name, value)
        if value is False and option.secondary_opts:
            return str(option.secondary_opts[0])
        flag = str(option.opts[0])
        if value is NAMED or value is ... or value is True:
            return flag
        if isinstance(value, Mapping):
            value = [f"{key}={setting}" for key, setting in value.items()]
        if isinstance(value, list | tuple):
            value = ",".join(map(str, value))
        return f"{flag} {'none' if value is None else shell_word(value)}"

    return spell


def commands_below(command: Any) -> Iterator[Any]:
    """The command itself, or those of a group."""
    below = getattr(command, "commands", None)
    if below is None:
        yield command
        return
    for each in below.values():
        yield from commands_below(each)


app = typer.Typer(
    name="cnsdiff",
    cls=_Application,
    help="Recommenders that keep working when the world shifts.",
    epilog="Start with: cnsdiff quickstart",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for name, purpose in COMMANDS:
    module = import_module(f"cnsdiff.cli.commands.{name}")
    add = app.command(name, cls=_Command, epilog=module.EXAMPLE, rich_help_panel=purpose)
    add(getattr(module, name))
app.add_typer(data.app, name="data", rich_help_panel="Data")
app.add_typer(store.app, name="store", rich_help_panel="Use")


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
