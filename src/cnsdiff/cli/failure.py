"""Failures and warnings of commands: a sentence for people, JSON for machines.

Standard streams may be closed, full, broken off, or not of UTF-8: see :func:`usable_streams`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from types import FrameType
from typing import Any, TextIO, cast

from cnsdiff.base.errors import CnsdiffWarning, Interrupted
from cnsdiff.base.text import say, say_json, visible

#: Ask a process to end.
_POLITE = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def wants_json() -> bool:
    """Whether the command line asks for JSON; known also where it cannot be parsed."""
    return "--json" in sys.argv[1:]


def tell(message: str, exit_code: int) -> None:
    """A sentence on standard error and, with ``--json``, the same as JSON on standard output."""
    say(f"cnsdiff: {message}", sys.stderr)
    if wants_json():
        document(message, exit_code)


def document(message: str, exit_code: int) -> None:
    """The JSON document of a failure."""
    say_json({"error": {"message": message, "exit_code": exit_code}})


def tell_warnings_in_one_line() -> None:
    """From now on a ``CnsdiffWarning`` is a line without file and code."""
    written = warnings.formatwarning

    def in_one_line(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if issubclass(category, CnsdiffWarning):
            return f"cnsdiff: {visible(message)}\n"
        return written(message, category, filename, lineno, line)

    warnings.formatwarning = in_one_line


@contextmanager
def interruptible(how: str | Callable[[], str]) -> Iterator[None]:
    """Around long work that keeps what is done: Ctrl-C, or a polite kill, is told in a sentence.

    The end of the terminal (SIGHUP) is such a kill, but not to who was started to survive it.

    Parameters
    ----------
    how
        What is kept, and how to go on; a function where only the end can tell.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    before = {number: signal.getsignal(number) for number in _POLITE}
    for number, handler in before.items():
        if number == signal.SIGTERM or handler != signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {how if isinstance(how, str) else how()}") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BROKEN = {errno.EPIPE, errno.EIO, errno.EBADF}


class _Forgiving:
    """Standard error that may be written to when nobody reads it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def usable_streams() -> Iterator[None]:
    """Streams that can be written to without harm, until the block ends.

    A closed one (``>&-``) leaves its number to the next file that is opened, which would then hold
    what libraries print. It is opened on the null device: standard output such that to write to it
    fails, and is told; standard error such that what is said goes nowhere.
    """
    if sys.stdin is None:
        sys.stdin = _null(os.O_RDONLY, "r")
    if sys.stdout is None:
        sys.stdout = _null(os.O_RDONLY, "w")
    if sys.stderr is None:
        sys.stderr = _null(os.O_WRONLY, "w")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):  # what a test puts in its place
            cast(TextIOWrapper, stream).reconfigure(errors="backslashreplace")
    before = sys.stderr
    sys.stderr = cast(TextIO, _Forgiving(before))
    try:
        yield
    finally:
        sys.stderr = before


def _null(flags: int, mode: str) -> Any:
    handle = os.open(os.devnull, flags)  # takes the lowest number: that of the closed stream
    os.set_inheritable(handle, True)
    return os.fdopen(handle, mode, encoding="utf-8")


def is_of_standard_output(error: OSError) -> bool:
    """Whether an error may be standard output's: files are written through storage alone."""
    return error.filename is None and error.errno in _FULL | _BROKEN


def output_lost(error: OSError) -> int:
    """Say why standard output could not be written, if not to a reader who has enough."""
    with contextlib.suppress(OSError):  # else Python itself would fail to flush it at its end
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    if error.errno in _FULL:
        why = "the disk is full, so what was printed is not whole; free some space"
    elif error.errno == errno.EBADF:
        why = "is closed, so what was to be printed is lost; give it somewhere to go (> FILE)"
    else:
        why = f"cannot be written: {error.strerror}; give it somewhere else to go (> FILE)"
    if not isinstance(error, BrokenPipeError):
        say(f"cnsdiff: standard output: {why}", sys.stderr)
    return 1
