"""What a benchmark tells of its progress: nothing shown, or plain lines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from cnsdiff.benchmark.task import Task
from cnsdiff.display.progress import PlainLines, Reporting


@dataclass(frozen=True)
class Cell:
    """How far a method on a dataset is.

    Attributes
    ----------
    total, done, failed
        Tasks at most, those that are settled, and of these the failed ones.
    value
        The best ``metric`` of its search on *validation*, by the first objective of the grid;
        ``None`` if there is none yet. What a test says is not told before all is done.
    """

    dataset: str
    method: str
    total: int
    done: int
    failed: int
    value: float | None
    metric: str


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

    def cell(self, cell: Cell) -> None:
        """How far a method on a dataset is: once for each at the start, and when it changes."""

    def running(self, tasks: Sequence[Task]) -> None:
        """The tasks that workers have in hand, asked several times a second."""


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
