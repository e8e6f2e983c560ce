"""Showing a benchmark: a live bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from cnsdiff.benchmark.task import Task
from cnsdiff.reporting import LiveBar, PlainLines, Reporting


def describe(task: Task) -> str:
    """A task in a few words."""
    setting = " ".join(f"{name}={value}" for name, value in task.setting.items())
    return f"{task.dataset} {task.method.name} {task.kind} seed {task.seed} {setting}".rstrip()


class Reporter(Reporting):
    """What a benchmark tells; shows nothing itself."""

    def begin(self, total: int, known: int) -> None:
        """Of ``total`` tasks at most, ``known`` are done already."""

    def done(self, task: Task, seconds: float | None, error: str | None) -> None:
        """A task is done, or has failed."""

    def fewer(self, n: int) -> None:
        """``n`` tasks turned out not to be needed."""


class PlainReporter(PlainLines, Reporter):
    """A line per task on ``stream`` (standard error by default)."""

    def __init__(self, label: str = "", stream: TextIO | None = None) -> None:
        super().__init__(label, stream)
        self._total = self._done = self._known = 0
        self._started = 0.0

    def begin(self, total: int, known: int) -> None:
        self._total, self._known, self._started = total, known, time.monotonic()
        self.note(f"{total} tasks, {known} of them done before")

    def done(self, task: Task, seconds: float | None, error: str | None) -> None:
        self._done += 1
        passed = time.monotonic() - self._started
        left = passed / self._done * (self._total - self._known - self._done)
        took = f"{seconds:.1f} s" if error is None else f"FAILED: {error}"
        self.note(
            f"{self._known + self._done}/{self._total}  {describe(task)}  {took}  "
            f"about {left / 60:.0f} min left"
        )

    def fewer(self, n: int) -> None:
        self._total -= n


class RichReporter(LiveBar, Reporter):
    """A live bar with the time left; failures are lines above it."""

    def __init__(self, label: str = "benchmark") -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.table import Column

        super().__init__(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}", table_column=Column(no_wrap=True, ratio=1)),
        )
        self._task = self._progress.add_task(label, status="", start=False)
        self._failed = self._total = 0

    def begin(self, total: int, known: int) -> None:
        self._total = total
        self._progress.start_task(self._task)
        self._progress.update(self._task, total=total, completed=known)

    def done(self, task: Task, seconds: float | None, error: str | None) -> None:
        if error is not None:
            self._failed += 1
            self.note(f"failed: {describe(task)}: {error}")
        failed = f"{self._failed} failed  " if self._failed else ""
        self._progress.update(self._task, advance=1, status=f"{failed}{describe(task)}")

    def fewer(self, n: int) -> None:
        self._total -= n
        self._progress.update(self._task, total=self._total)


def reporter_for_terminal(label: str = "benchmark") -> Reporter:
    """The live bar if standard error is a terminal, plain lines if not."""
    return RichReporter(label) if sys.stderr.isatty() else PlainReporter(label)
