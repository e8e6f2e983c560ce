"""Base of all progress reports: nothing shown, plain lines, a live bar or a live picture."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, Self, TextIO

from cnsdiff.base.text import say

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

#: Times a second that a live picture is drawn: often enough to read, and cheap beside training.
_DRAWN = 4


def is_live() -> bool:
    """Whether standard error is a terminal on which what is shown can be drawn anew."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


class Reporting:
    """Shows nothing; a context manager around the work reported on."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def note(self, message: str) -> None:
        """Something worth knowing, in one line."""


class PlainLines(Reporting):
    """Notes are lines ``label: message`` on ``stream`` (standard error by default)."""

    def __init__(self, label: str = "", stream: TextIO | None = None) -> None:
        self.label = f"{label}: " if label else ""
        self.stream = stream

    def note(self, message: str) -> None:
        say(f"{self.label}{message}", self.stream or sys.stderr)


class LiveBar(Reporting):
    """A rich progress bar of these ``columns`` on standard error, with notes above it."""

    def __init__(self, *columns: Any) -> None:
        from rich.progress import Progress

        from cnsdiff.display.screen import Screen

        self._progress: Progress = Progress(*columns, console=Screen(stderr=True))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def note(self, message: str) -> None:
        self._progress.console.print(message)


class LiveView(Reporting):
    """A picture on standard error that is drawn again and again, with notes above it.

    Override :meth:`picture` and :meth:`closing`. Either is asked for in a thread of its own, so
    what they show should change by assignments of whole values.

    Attributes
    ----------
    label
        What is under way.
    started
        When it began, by ``time.monotonic``.
    """

    def __init__(self, label: str) -> None:
        from cnsdiff.display.screen import LivePicture

        self.label = label
        self.started = time.monotonic()
        self._live = LivePicture(lambda: self.picture(self.console), per_second=_DRAWN)

    @property
    def passed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.started

    def bar(self, width: int, done: float, total: float, text: str) -> RenderableType:
        """The label, a bar that is ``done / total`` full, and ``text``, in one line."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        from cnsdiff.display.screen import literal

        line = Table.grid(padding=(0, 1))
        line.add_column(no_wrap=True)
        line.add_column()
        line.add_column(no_wrap=True, overflow="ellipsis")
        room = max(min(width - len(self.label) - len(text) - 2, 40), 4)
        line.add_row(
            literal(self.label, "bold"), ProgressBar(max(total, 1), done, width=room), text
        )
        return line

    @property
    def console(self) -> Console:
        """The console it is drawn on."""
        return self._live.console

    def picture(self, console: Console) -> RenderableType:
        """The picture of the work so far, for a terminal of this width and height."""
        raise NotImplementedError

    def closing(self) -> RenderableType:
        """The picture that stays on the screen at the end."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.draw = self.closing
        self._live.stop()

    def note(self, message: str) -> None:
        self.console.print(message)
