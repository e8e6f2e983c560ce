"""Recommenders that we did not train, as the command names them: FILE, NAME=FILE, SHIFT=FILE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnsdiff.audit.methods import METHODS
from cnsdiff.audit.shifts import SHIFTS
from cnsdiff.base.errors import ConfigError

#: What a recommender is called that has no name of its own.
YOURS = "yours"


@dataclass(frozen=True)
class Given:
    """A file, whose it is, and for which shift.

    Attributes
    ----------
    name
        Of the recommender.
    shift
        Whose splits it was made for; ``None`` for all.
    file
        Where it is.
    """

    name: str
    shift: str | None
    file: Path


def parse_given(texts: Sequence[str], option: str) -> list[Given]:
    """``FILE``, ``NAME=FILE``, ``SHIFT=FILE`` or ``NAME:SHIFT=FILE``, each.

    A file without a name is called after itself, or :data:`YOURS` if it is for one shift.

    Raises
    ------
    ConfigError
        A file is not there, a name is taken, or a recommender has two files for one shift.
    """
    found: list[Given] = []
    for text in texts:
        before, equals, after = text.partition("=")
        if not equals or Path(text).exists():
            before, after = "", text
        name, colon, shift = before.partition(":")
        if before in SHIFTS:
            name, shift = YOURS, before
        elif colon and shift not in SHIFTS:
            raise ConfigError(
                f"--{option} {text}: no shift is called {shift!r}; there are {', '.join(SHIFTS)}"
            )
        file = Path(after)
        name = name or (YOURS if shift else _stem(file))
        if not file.exists():
            raise ConfigError(f"--{option} {text}: there is no file {file}; check the path")
        if name in METHODS or name in SHIFTS:
            raise ConfigError(
                f"--{option} {text}: the name {name!r} is taken; give it another with NAME=FILE"
            )
        one = Given(name, shift or None, file)
        if any((name, one.shift) == (other.name, other.shift) for other in found):
            where = f" under {one.shift}" if one.shift else ""
            raise ConfigError(
                f"--{option} {text}: {name!r} has two files{where}; give each recommender a name "
                "of its own with NAME=FILE"
            )
        found.append(one)
    return found


def _stem(file: Path) -> str:
    return file.name.split(".")[0] or YOURS
