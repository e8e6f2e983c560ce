"""How a sentence names what its reader should type: a parameter, or a command of ``cnsdiff``.

The library speaks Python: "pass skip_bad=True". While a command of ``cnsdiff`` runs, the command
line puts its own options in the place of parameters, and the same sentence says "pass --skip-bad".
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from cnsdiff.base.visible import shell_word

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


class Command:
    """A command of ``cnsdiff`` to go on with; ``str()`` of it can be pasted into a shell.

    Parameters
    ----------
    name
        ``"train"``, ``"data fetch"``.
    arguments
        Its arguments, in order.
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
        self.words = ("cnsdiff", *name.split(), *map(str, arguments))
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
