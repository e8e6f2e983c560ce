"""What a sentence tells its reader to type: parameters in Python, options on the command line."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer

import cnsdiff
from cnsdiff.base.errors import InputError
from cnsdiff.base.text import Command, parameter, spelled
from cnsdiff.cli.app import app, commands_below, speller_of
from cnsdiff.data import SPLITS
from cnsdiff.data.reading.columns import ROLES

APPLICATION = typer.main.get_command(app)
PACKAGE = Path(cnsdiff.__file__).parent


def test_parameters_are_python_until_a_command_runs():
    assert parameter("skip_bad", True) == "skip_bad=True"
    assert parameter("format", "parquet") == "format='parquet'"
    assert parameter("threshold") == "threshold"
    with pytest.raises(InputError, match="--skip-bad"), spelled(speller_of(APPLICATION)):
        raise InputError(f"pass {parameter('skip_bad', True)}")
    assert parameter("skip_bad", True) == "skip_bad=True"


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [
        ("skip_bad", True, "--skip-bad"),
        ("header", False, "--no-header"),
        ("threshold", 4, "--threshold 4"),
        ("threshold", ..., "--threshold"),
        ("format", "my own", "--format 'my own'"),
        ("rating", None, "--rating-col none"),
        ("shifts", ["hybrid", "temporal"], "--shifts hybrid,temporal"),
        ("fixed", ..., "--set"),
        ("no_such_option", 1, "no_such_option=1"),
    ],
)
def test_the_command_line_writes_options(name, value, written):
    assert speller_of(APPLICATION)(name, value) == written


def test_options_of_one_name_are_written_alike():
    written: dict[str, set[str]] = {}
    for command in commands_below(APPLICATION):
        for option in command.params:
            if option.param_type_name == "option" and "--version" not in option.opts:
                written.setdefault(option.name, set()).add(option.opts[0])
    assert all(len(flags) == 1 for flags in written.values())


def calls(function: str) -> list[ast.Call]:
    return [
        node
        for file in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == function
    ]


def test_every_parameter_that_messages_name_has_its_option():
    first = [call.args[0] for call in calls("parameter")]
    named = {name.value for name in first if isinstance(name, ast.Constant)}
    named |= {*ROLES, *SPLITS}  # what the others are the name of
    spell = speller_of(APPLICATION)
    assert [name for name in named if not spell(name, ...).startswith("--")] == []


def test_every_command_that_the_code_composes_exists():
    existing = {" ".join(words): command for words, command in _all("", APPLICATION)}
    for call in calls("Command"):
        command = existing[ast.literal_eval(call.args[0])]
        flags = {flag for option in command.params for flag in option.opts}
        for key in call.keywords:
            if key.arg not in (None, "purpose"):
                assert f"--{key.arg.rstrip('_').replace('_', '-')}" in flags, ast.unparse(call)


def _all(name, command):
    below = getattr(command, "commands", None)
    if below is None:
        yield name.split(), command
        return
    for key, each in below.items():
        yield from _all(f"{name} {key}", each)


def test_a_command_can_be_pasted():
    command = Command(
        "train", Path("my data"), out="run", seed=1, resume=None, set={"a.b": "x y"}, json=True,
    )  # fmt: skip
    assert str(command) == "cnsdiff train 'my data' --out run --seed 1 --set 'a.b=x y' --json"
    assert shlex.split(str(command)) == list(command.words)
    dashed = Command("recommend", "-r un", out="-x.csv")  # the first would be read as an option
    assert str(dashed) == "cnsdiff recommend './-r un' --out -x.csv"
    assert str(Command("data fetch", "ml-100k", from_="a")) == "cnsdiff data fetch ml-100k --from a"
    assert str(Command("prepare", header=False, users=[1, 2])) == (
        "cnsdiff prepare --no-header --users 1 --users 2"
    )


#: Options of other programs, pages that show commands of ours, and where options are spelled.
SHOWN = {
    "base/text.py",
    "catalogue/pypi.py",
    "tracking/tensorboard.py",
    "training/cluster.py",
}


def test_the_library_names_no_option():
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        if (
            file.relative_to(PACKAGE).as_posix() in SHOWN
            or file.parent.name == "report"
            or "cli" in file.parts
        ):
            continue
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        prose = [node.value for node in nodes if isinstance(node, ast.Expr)]  # docstrings
        found += [
            f"{file.name}: {node.value}"
            for node in nodes
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            if re.search(r"(^|[\s`(])--[a-z]", node.value) and node not in prose
        ]
    assert not found, "name the parameter: cnsdiff.base.text.parameter"
