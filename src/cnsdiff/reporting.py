"""What all progress reports share: nothing shown, plain lines, or a live bar."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress


class Reporting:
    """Shows nothing; a context manager around the work reported on."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def note(self, message: str) -> None:
        """Something worth knowing, in one line."""


class PlainLines(Reporting):
    """Notes are lines ``label: message`` on ``stream`` (standard error by default)."""

    def __init__(self, label: str = "", stream: TextIO | None = None) -> None:
        self.label = f"{label}: " if label else ""
        self.stream = stream

    def note(self, message: str) -> None:
        print(f"{self.label}{message}", file=self.stream or sys.stderr, flush=True)


class LiveBar(Reporting):
    """A rich progress bar of these ``columns`` on standard error, with notes above it."""

    def __init__(self, *columns: Any) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._progress: Progress = Progress(*columns, console=Console(stderr=True))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def note(self, message: str) -> None:
        self._progress.console.print(message, markup=False, highlight=False)
