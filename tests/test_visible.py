"""What comes from outside is shown to the letter, and nothing in it acts or hides."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys

import pytest
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cnsdiff.base import text as text_module
from cnsdiff.base.text import install_command, json_text, say, say_json, shell_word, visible
from cnsdiff.display.screen import Screen, literal

HIDING = {
    "\x1b[2J": r"\x1b[2J",
    "\x9b2J": r"\x9b2J",
    "\x00": r"\x00",
    "bell\x07": r"bell\x07",
    "del\x7f": r"del\x7f",
    "a\r\nb\tc": r"a\r\nb\tc",
    "\x85\u2028\u2029": r"\x85\u2028\u2029",
    "\u202egpj.exe\u2069": r"\u202egpj.exe\u2069",
    "a\u200bb": r"a\u200bb",
    "a\u200db": r"a\u200db",
    "\ufeffid": r"\ufeffid",
    "\U000e0041": r"\U000e0041",
    "\udcff": r"\udcff",
    "\ufdd0": r"\ufdd0",
}
PLAIN = ["Song 3 [live]", "[/]", "\\x1b", "é ü", "😀", "👩‍👧", "می‌خواهم", "a\u00a0b", ""]


@pytest.mark.parametrize(("given", "shown"), HIDING.items(), ids=ascii)
def test_what_hides_is_written_out(given, shown):
    assert visible(given) == shown
    assert visible(shown) == shown


@pytest.mark.parametrize("text", PLAIN)
def test_everything_else_is_left_alone(text):
    assert visible(text) == text
    assert shell_word("a" + text) in ("a" + text, f"'a{text}'")


def test_values_that_are_no_text_and_lines_of_our_own():
    assert (visible(12), visible(None), visible(1.5)) == ("12", "None", "1.5")
    assert visible("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@pytest.mark.parametrize("text", [*HIDING, *PLAIN], ids=ascii)
def test_json_says_the_same_and_hides_nothing(text):
    document = json_text({"id": [text], text: 1}, indent=2)
    assert json.loads(document) == {"id": [text], text: 1}
    assert visible(document, keep="\n") == document
    document.encode()  # lone surrogates and all


def test_json_on_a_stream_of_few_letters(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("sys.stdout", stream)
    say_json({"id": "ü→\x9b"})
    stream.seek(0)
    written = stream.read()
    assert json.loads(written) == {"id": "ü→\x9b"}
    assert written.isascii()


def test_say_prints_one_line():
    stream = io.StringIO()
    say("a [b] \x1b[2J\ncnsdiff: forged", stream)
    assert stream.getvalue() == "a [b] \\x1b[2J\\ncnsdiff: forged\n"


@pytest.mark.parametrize(
    "text", [*(text for text in HIDING if text != "\x00"), *PLAIN, "it's [*] $HOME `id`"], ids=ascii
)
def test_words_that_can_be_pasted_into_a_shell(text):
    word = shell_word(f"x{text}'\\")
    assert visible(word) == word
    typed = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert typed.stdout == f"x{text}'\\".encode(errors="surrogateescape")


def on_a_screen(*shown: object) -> str:
    stream = io.StringIO()
    screen = Screen(file=stream, width=60, force_terminal=True, color_system=None)
    for one in shown:
        screen.print(one)
    return stream.getvalue()


@pytest.mark.parametrize("text", [*HIDING, *PLAIN[:-1], ":smile: [red]x[/red]"], ids=ascii)
def test_whatever_is_drawn_is_literal(text):
    table = Table(title=text, caption=text)
    table.add_column(text)
    table.add_row(text)
    table.add_row(literal(text, "bold"))
    made = on_a_screen(text, table, Panel(text, title=literal(text)), literal(text))
    assert made.count(visible(text)) == 9
    made = on_a_screen(Text(text), Panel(Text(text), title=Text(text)))  # made by others
    assert visible(made, keep="\n") == made


def test_styles_are_ours():
    stream = io.StringIO()
    screen = Screen(file=stream, force_terminal=True, color_system="standard")
    screen.print(literal("[bold]\x1b[31m", "red"))
    screen.print("plain 12", style="green")
    assert stream.getvalue() == "\x1b[31m[bold]\\x1b[31m\x1b[0m\n\x1b[32mplain 12\x1b[0m\n"


def test_an_extra_is_installed_where_it_is_needed(monkeypatch):
    monkeypatch.setattr(text_module.importlib.util, "find_spec", lambda name: object())
    assert install_command("tune") == "pip install 'cnsdiff[tune]'"
    # As the README makes its environment, with the pip of the Python below.
    monkeypatch.setattr(text_module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "executable", "/my shop/.venv/bin/python")
    monkeypatch.setattr(sys, "_base_executable", "/usr/bin/python3.11")
    command = install_command("tune")
    assert shlex.split(command) == [
        *("/usr/bin/python3.11", "-m", "pip", "--python", "/my shop/.venv/bin/python"),
        *("install", "cnsdiff[tune]"),
    ]
    monkeypatch.setattr(sys, "_base_executable", sys.executable)
    assert install_command("tune").startswith("python3 -m pip --python '/my shop/")
