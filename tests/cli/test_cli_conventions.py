"""What all commands have alike: help, examples that parse, JSON, failures for machines."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from cnsdiff.cli.app import COMMANDS, app

ROOT = Path(__file__).parents[2]


def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command below, by its full name."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
        return
    for key, one in below.items():
        yield from walk(one, f"{name} {key}".strip())


EVERY = dict(walk(typer.main.get_command(app), ""))


@pytest.mark.parametrize("name", EVERY)
def test_a_command_explains_itself(name):
    command = EVERY[name]
    assert command.help and command.help.strip()
    assert command.epilog.startswith(f"Example: cnsdiff {name}")
    options = {text for p in command.params for text in p.opts}
    assert "--json" in options
    silent = [p.name for p in command.params if not getattr(p, "help", None)]
    assert not silent, "say what each is for"


@pytest.mark.parametrize("name", EVERY)
def test_its_examples_parse(name):
    # With a sentence around it, a command is none to be typed as it stands.
    typed = re.compile(r"[^:]+: (cnsdiff (?:[^,]|,(?! ))*)")
    lines = EVERY[name].epilog.splitlines()
    commands = [found.group(1) for line in lines if (found := typed.fullmatch(line))]
    assert commands
    for line in commands:
        words = shlex.split(line)[1 + len(name.split()) :]
        EVERY[name].make_context(name, words)


def test_the_help_names_every_command_in_the_order_of_its_use(cli):
    shown = cli("--help").out
    panels = re.findall(r"─ ([A-Z][\w ]+) ─", shown)
    assert panels == ["Options", *dict.fromkeys(purpose for _, purpose in COMMANDS)]
    for name, _ in [*COMMANDS, ("data", ""), ("store", "")]:
        assert re.search(rf"│ {name} +\w", shown)


def test_the_page_of_the_command_line_has_every_command():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `cnsdiff ([\w ]+)` \|", page, flags=re.MULTILINE))
    assert named == set(EVERY)


def error(done: Any) -> dict[str, Any]:
    """The document of a failure, which says what standard error says."""
    document = json.loads(done.out)
    assert list(document) == ["error"]
    assert list(document["error"]) == ["message", "exit_code"]
    assert document["error"]["exit_code"] == done.code
    return document["error"]


@pytest.mark.parametrize("name", EVERY)
def test_wrong_usage_is_json_for_machines(cli, name):
    done = cli(*name.split(), "--nonsense", "--json")
    found = error(done)
    assert (done.code, done.err) == (2, f"cnsdiff: {found['message']}\n")
    assert "--nonsense" in found["message"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'"),
        (["train"], "needs a log or a dataset directory, and --out RUN"),
        (["evaluate", "nowhere"], "is not a run directory"),
        (["data", "fetch", "ml-100"], "did you mean 'ml-100k'"),
        (["simulate"], "Missing option '--out'"),
        (["quickstart", "--epochs", "0"], "--epochs"),
    ],
)
def test_a_refusal_is_json_for_machines(cli, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    done = cli(*arguments, "--json")
    found = error(done)
    assert done.code == 2
    assert words in found["message"]
    assert done.err == f"cnsdiff: {found['message']}\n"
    plain = cli(*arguments)
    assert (plain.code, plain.out) == (2, "")


def test_what_the_system_refuses(cli, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "there")

    monkeypatch.setattr("cnsdiff.cli.commands.doctor.examine", refuse)
    done = cli("doctor", "--json")
    assert done.code == 1
    assert "Permission denied: 'there'; check the path" in error(done)["message"]


@pytest.mark.parametrize("machine", [False, True])
def test_ctrl_c_where_nothing_is_kept(cli, monkeypatch, machine):
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cnsdiff.cli.commands.doctor.examine", press)
    done = cli("doctor", *["--json"] * machine)
    assert done.code == 130
    assert "Traceback" not in done.err
    if machine:
        assert error(done)["message"] == "interrupted"


def test_ctrl_c_where_work_is_kept(cli, world, tmp_path, fast, monkeypatch):
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cnsdiff.training.progress.PlainReporter.epoch", press)
    done = cli("train", world, "--out", tmp_path / "run", *fast, "--json")
    assert done.code == 130
    assert f"cnsdiff train --resume {tmp_path / 'run'}" in error(done)["message"]
    assert "interrupted" in done.err


def keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from keys(one)
    elif isinstance(value, list):
        for one in value:
            yield from keys(one)


def test_keys_are_snake_case(cli, kept_run, world):
    """But for names: of splits, models, metrics, data sets, packages and files."""
    for arguments in (
        ["doctor"],
        ["data", "list"],
        ["data", "describe", "ml-100k"],
        ["data", "describe", world],
        ["evaluate", kept_run],
        ["recommend", kept_run, "--all-users", "--k", 1],
        ["plugins"],
    ):
        found = set(keys(cli(*arguments, "--json").json))
        odd = {key for key in found if not re.fullmatch(r"[a-z][a-z0-9_]*(@\d+)?", key)}
        names = {key for key in odd if re.fullmatch(r"lightning-fabric|period-\d", key)}
        assert odd == names, arguments


def test_list_and_describe_say_the_same_of_a_data_set(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("CNSDIFF_HOME", str(tmp_path))
    listed = {entry["name"]: entry for entry in cli("data", "list", "--json").json}
    assert cli("data", "describe", "ml-100k", "--json").json == listed["ml-100k"]
    assert listed["ml-100k"]["status"] == "absent"
