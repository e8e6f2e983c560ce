"""Errors, each one sentence that names the place and the mend.

Every error the library raises on purpose is a :class:`CnsdiffError`; the command line prints
its message as it is and exits with its ``exit_code``.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable


class CnsdiffError(Exception):
    """Base of all errors raised on purpose; ``exit_code`` is what the command line returns."""

    exit_code = 1


class CnsdiffWarning(UserWarning):
    """Something worth knowing that stops nothing; the command line prints it as one line."""


def warn(text: str) -> None:
    """Give a :class:`CnsdiffWarning` in the name of whoever called the caller."""
    warnings.warn(text, CnsdiffWarning, stacklevel=3)


class InputError(CnsdiffError):
    """The caller's input is at fault (file, option, id): exit code 2."""

    exit_code = 2


class ConflictError(InputError):
    """What is asked for does not fit which versions are active and on trial now."""


class DataError(InputError):
    """An interaction file, table or dataset directory cannot be used."""


class ConfigError(InputError):
    """A configuration key or value is wrong."""


class RunError(InputError):
    """A run directory is missing, unfinished, damaged or of another version."""


class TrainingError(CnsdiffError):
    """Training cannot go on (for instance, a loss became NaN)."""


class StorageError(CnsdiffError):
    """A file could not be written; whatever was there before is untouched.

    The exit code is 1 where the disk is full, and 2 where the place asked for is at fault.
    """


class Interrupted(CnsdiffError):
    """Ctrl-C ended work that can go on later: exit code 130."""

    exit_code = 130


class NotFittedError(CnsdiffError, ValueError, AttributeError):
    """A fitted attribute or method was used before ``fit`` (same bases as scikit-learn's)."""


def reason(error: BaseException) -> str:
    """Why something failed, in a line: our own sentence, or the first line of another's."""
    if isinstance(error, CnsdiffError):
        return str(error)
    if is_of_memory(error):
        return "there is not enough memory for it"
    first = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


#: NumPy, PyTorch and its GPU part each say so in their own way, PyTorch as a RuntimeError.
_SHORTAGE = (
    "allocate memory",
    "out of memory",
    "not enough memory",
    "Storage size calculation overflowed",
    "multiplication overflow",
    "array is too big",
    "Maximum allowed dimension exceeded",
)


def is_of_memory(error: BaseException) -> bool:
    """Whether something failed for want of memory, more than any machine has included."""
    kinds = (RuntimeError, ValueError)
    told = isinstance(error, kinds) and any(words in str(error) for words in _SHORTAGE)
    return told or isinstance(error, MemoryError)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the known word nearest to ``word``, or ``""``."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
