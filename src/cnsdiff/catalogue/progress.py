"""Showing a download: a live bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from cnsdiff.display.progress import LiveBar, PlainLines, Reporting
from cnsdiff.display.wording import byte_size


class Reporter(Reporting):
    """Listens to a download; shows nothing itself. Override the events to show."""

    def begin(self, name: str, done: int, total: int | None) -> None:
        """A body starts to arrive, of which ``done`` bytes of ``total`` are here already."""

    def advance(self, size: int) -> None:
        """Another ``size`` bytes are written."""


class PlainReporter(PlainLines, Reporter):
    """A line every few seconds on ``stream`` (standard error by default)."""

    def __init__(self, label: str, *, every: float = 5.0, stream: TextIO | None = None) -> None:
        super().__init__(label, stream)
        self.every = every
        self._name, self._done, self._shown = "", 0, 0.0
        self._total: int | None = None

    def begin(self, name: str, done: int, total: int | None) -> None:
        self._name, self._done, self._total, self._shown = name, done, total, time.monotonic()
        start = f", going on after {byte_size(done)}" if done else ""
        size = "of unknown size" if total is None else byte_size(total)
        self.note(f"downloading {name} ({size}{start})")

    def advance(self, size: int) -> None:
        self._done += size
        if time.monotonic() - self._shown >= self.every:
            self._shown = time.monotonic()
            share = f" ({self._done / self._total:.0%})" if self._total else ""
            self.note(f"{self._name}: {byte_size(self._done)}{share}")


class RichReporter(LiveBar, Reporter):
    """A live bar with size, speed and the time left."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        super().__init__(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=20),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._task = self._progress.add_task("", visible=False, start=False)

    def begin(self, name: str, done: int, total: int | None) -> None:
        self._progress.reset(
            self._task, description=name, completed=done, total=total, visible=True
        )

    def advance(self, size: int) -> None:
        self._progress.update(self._task, advance=size)


def reporter_for_terminal(label: str = "cnsdiff") -> Reporter:
    """The live bar if standard error is a terminal, plain lines if not."""
    return RichReporter() if sys.stderr.isatty() else PlainReporter(label)
