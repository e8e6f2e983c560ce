"""Standard streams as they may be: closed, full, broken off, or not of UTF-8."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from io import TextIOWrapper
from typing import Any, TextIO, cast

from cnsdiff.base.visible import say

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BROKEN = {errno.EPIPE, errno.EIO, errno.EBADF}


class _Forgiving:
    """Standard error, of which it is no failure that nobody hears it."""

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
