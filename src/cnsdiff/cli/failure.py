"""How a command reports failures and warnings: a sentence for people, JSON for machines."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from cnsdiff.base.errors import CnsdiffWarning, Interrupted
from cnsdiff.base.visible import say, say_json, visible

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
