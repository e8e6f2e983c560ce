"""Standard streams that are closed, full, broken off or of another encoding."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from cnsdiff.cli import main

FULL = Path("/dev/full")
COMMANDS = {
    "help": ("--help",),
    "version": ("--version",),
    "table": ("data", "list"),
    "document": ("data", "list", "--json"),
    "failure": ("train", "--json"),
}


@pytest.fixture
def command(monkeypatch, capsys):
    """``main`` with a standard output, and perhaps a standard error, of one's own."""

    def run(arguments, **streams) -> tuple[int, str]:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["cnsdiff", *map(str, arguments)])
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            with pytest.raises(SystemExit) as end:
                main()
        return end.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_output_that_is_lost_is_a_failure(command, arguments):
    with FULL.open("w", encoding="utf-8") as full:
        code, err = command(arguments, stdout=full)
    assert code == 1
    assert err.splitlines()[-1].startswith("cnsdiff: standard output: the disk is full")
    code, err = command(arguments, stdout=None)
    assert code == 1
    assert err.splitlines()[-1].startswith("cnsdiff: standard output: is closed")
    assert "Traceback" not in err
    reading, writing = os.pipe()
    os.close(reading)
    with suppress(BrokenPipeError), os.fdopen(writing, "w", encoding="utf-8") as pipe:
        code, err = command(arguments, stdout=pipe)
    assert code == 1
    assert "standard output" not in err  # who reads has enough


def test_work_is_done_though_its_summary_is_lost(command, world, fast, tmp_path):
    with FULL.open("w", encoding="utf-8") as full:
        code, err = command(("train", world, "--out", tmp_path / "run", *fast), stdout=full)
    assert (code, "the disk is full" in err) == (1, True)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "complete"


@pytest.mark.parametrize("closed", [True, False])
def test_what_nobody_hears_stops_no_work(command, world, fast, tmp_path, closed):
    told = io.StringIO()
    train = ("train", world, "--out", tmp_path / "run", *fast, "--json")
    # Closing it, with what could not be written, fails again.
    with suppress(OSError), FULL.open("w", encoding="utf-8") as full:
        stderr = None if closed else full
        assert command(train, stdout=told, stderr=stderr)[0] == 0
        assert command(("train",), stderr=stderr)[0] == 2
    assert json.loads(told.getvalue())["epochs"] == 2  # and nothing of what was said


def test_a_closed_stream_leaves_its_number_to_no_file(tmp_path):
    """What libraries print would be written into it."""
    code = (
        "import os, sys; sys.argv = ['cnsdiff', '--version']\n"
        "from cnsdiff.cli.failure import usable_streams\n"
        "with usable_streams():\n"
        "    file = os.open('file', os.O_CREAT | os.O_RDWR)\n"
        "    os._exit(file)"
    )
    closed = "".join(f"os.close({number});" for number in (0, 1, 2))
    script = f"import os, sys; {closed} os.execv(sys.executable, [sys.executable, '-c', {code!r}])"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)
    assert done.returncode > 2


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_letters_that_the_stream_does_not_have(command, arguments, tmp_path):
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as ascii_only:
        code, err = command(arguments, stdout=ascii_only)
        assert code == (2 if arguments[0] == "train" else 0), err
        text = raw.getvalue().decode("ascii")
    if "--json" in arguments:
        json.loads(text)


def test_a_locale_that_has_no_name_for_a_file(cli, world, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        "wörld".encode("ascii")  # as the system's functions do with a path, under LC_ALL=C

    monkeypatch.setattr("cnsdiff.export.dataset_to_csv", fail)
    done = cli("data", "export", world, "--to", "csv", "--out", tmp_path / "out")
    done.refused("wörld: cannot be the name of a file in the encoding ascii; set PYTHONUTF8=1")
