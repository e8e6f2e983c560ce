"""Text that people and shells read: values from outside to the letter, and what to type next.

Ids, names, paths and messages come from files and may hold anything: an escape sequence that clears
the screen, a line break that forges a line, a character that turns the direction of writing.
:func:`visible` writes them out. :mod:`cnsdiff.display.screen` does the same for what rich draws.

Messages of the library name parameters as Python spells them: "pass skip_bad=True". While a command
of ``cnsdiff`` runs, the same sentence says "pass --skip-bad": see :func:`parameter`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO, TypeAlias

#: Controls (C0, DEL, C1), line and paragraph separators, marks of direction, what has no width and
#: tells two names apart that look alike, noncharacters, tags, lone surrogates.
_UNSEEN = (
    "\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufdd0-\ufdef"
    "\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f\ud800-\udfff"
)
#: Joiners belong to emoji and to scripts other than Latin; beside an ASCII letter they only hide.
_JOINER = "(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
_HIDDEN = re.compile(f"[{_UNSEEN}]|{_JOINER}")
#: Those that JSON does not escape by itself.
_HIDDEN_IN_JSON = re.compile(f"[{_UNSEEN[_UNSEEN.index(chr(0x7F)) :]}]|{_JOINER}")


def visible(value: object, keep: str = "") -> str:
    r"""A value as text in which nothing acts or hides: ``\x1b`` is written out as four characters.

    Parameters
    ----------
    keep
        Characters that stay as they are: line breaks, where the text is known to have lines.
    """
    text = str(value)
    if text.isprintable():
        return text
    return _HIDDEN.sub(lambda found: found[0] if found[0] in keep else _escaped(found[0]), text)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def shell_word(value: object) -> str:
    """A path or an id as it can be typed in a shell; in Bash, if it has letters that hide."""
    text = str(value)
    if visible(text) == text:
        return shlex.quote(text)

    def typed(letter: str) -> str:
        if letter in "\\'":
            return f"\\{letter}"
        if visible(letter) == letter:
            return letter
        return "".join(f"\\x{byte:02x}" for byte in os.fsencode(letter))

    return f"$'{''.join(map(typed, text))}'"


def json_text(value: Any, *, ascii_only: bool = False, **options: Any) -> str:
    """A JSON document that can be shown and stored anywhere, and read back to the letter.

    Parameters
    ----------
    ascii_only
        For a stream that cannot take other letters.
    options
        Of :func:`json.dumps`.
    """
    text = json.dumps(value, ensure_ascii=ascii_only, **options)
    return _HIDDEN_IN_JSON.sub(lambda found: json.dumps(found[0])[1:-1], text)


def say(message: object, stream: TextIO | None = None) -> None:
    """Print one line, whatever the message holds; on standard output by default."""
    print(visible(message), file=stream or sys.stdout, flush=True)


def say_json(value: Any, **options: Any) -> None:
    """Print one JSON document on standard output, in letters that it can take."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    ascii_only = not encoding.lower().startswith("utf")
    print(json_text(value, ascii_only=ascii_only, indent=2, **options), flush=True)


#: In the place of a value: the parameter is only named.
NAMED = object()
#: Writes a parameter and its value, which may be ``NAMED``, or ``...`` where the reader chooses it.
Speller: TypeAlias = Callable[[str, object], str]


def in_python(name: str, value: object) -> str:
    """``skip_bad=True``, ``user=...`` or the bare name."""
    if value is NAMED:
        return name
    return f"{name}=..." if value is ... else f"{name}={value!r}"


_speller: Speller = in_python


def parameter(name: str, value: object = NAMED) -> str:
    """A parameter of the public functions, as the reader of a message would type it.

    Parameters
    ----------
    name
        As in Python: ``"skip_bad"``.
    value
        What to pass, ``...`` if that is the reader's choice; without it, the parameter is named.
    """
    return _speller(name, value)


@contextlib.contextmanager
def spelled(speller: Speller) -> Iterator[None]:
    """Within the block, :func:`parameter` writes as ``speller`` does."""
    global _speller
    before, _speller = _speller, speller
    try:
        yield
    finally:
        _speller = before


def install_command(extra: str) -> str:
    """A shell command that installs an extra of this package into the environment in use.

    An environment made with ``--without-pip`` has no pip; then that of the Python it was made from
    acts on it.

    Examples
    --------
    >>> install_command("tune").endswith("install 'cnsdiff[tune]'")
    True
    """
    pip = "pip"
    if importlib.util.find_spec("pip") is None:
        base = getattr(sys, "_base_executable", None)
        python = "python3" if base in (None, sys.executable) else shell_word(base)
        pip = f"{python} -m pip --python {shell_word(sys.executable)}"
    return f"{pip} install {shlex.quote(f'cnsdiff[{extra}]')}"


class Command:
    """A command of ``cnsdiff`` to go on with; ``str()`` of it can be pasted into a shell.

    Parameters
    ----------
    name
        ``"train"``, ``"data fetch"``.
    arguments
        Its arguments, in order; the place of one that begins with a dash is written ``./-shop``,
        or it would be read as an option.
    purpose
        What it is for, in a few words.
    options
        By parameter: ``seed=1`` is ``--seed 1``, ``references=True`` is ``--references``,
        ``header=False`` is ``--no-header`` and ``from_=x`` is ``--from x``; a list repeats the
        option, a mapping too, as ``KEY=VALUE``. What is None is left out.

    Examples
    --------
    >>> print(Command("train", "data/food", set={"training.dial": "auto"}, seed=1, out="my run"))
    cnsdiff train data/food --set training.dial=auto --seed 1 --out 'my run'
    """

    def __init__(
        self, name: str, /, *arguments: object, purpose: str = "", **options: object
    ) -> None:
        self.purpose = purpose
        words = (str(argument) for argument in arguments)
        words = (f"./{word}" if word.startswith("-") else word for word in words)
        self.words = ("cnsdiff", *name.split(), *words)
        for key, value in options.items():
            self.words += tuple(_option(key.rstrip("_").replace("_", "-"), value))

    def __str__(self) -> str:
        return " ".join(map(shell_word, self.words))

    def __repr__(self) -> str:
        return f"<{self}>"


def _option(name: str, value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = [f"{key}={setting}" for key, setting in value.items()]
    for each in value if isinstance(value, list | tuple) else [value]:
        if isinstance(each, bool):
            yield f"--{name}" if each else f"--no-{name}"
        elif each is not None:
            yield from (f"--{name}", str(each))
