"""Showing training: a live bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from cnsdiff.reporting import LiveBar, PlainLines, Reporting

_SHOWN = ("loss", "bpr", "softmax", "contrastive", "sampler")


class Reporter(Reporting):
    """What the training loop tells; shows nothing itself. Override what is to be shown."""

    def begin(self, first_epoch: int, epochs: int, steps: int) -> None:
        """Training starts after ``first_epoch`` of ``epochs``, each of ``steps`` steps."""

    def step(self, epoch: int, scalars: Mapping[str, float] | None) -> None:
        """A step is done; ``scalars`` only when they were read from the device."""

    def epoch(self, record: Mapping[str, Any], *, best: bool) -> None:
        """An epoch is done and its record written to the history."""


class PlainReporter(PlainLines, Reporter):
    """A line per epoch on ``stream`` (standard error by default)."""

    def __init__(self, label: str = "", stream: TextIO | None = None) -> None:
        super().__init__(label, stream)
        self._epochs = self._first = 0
        self._started = 0.0

    def begin(self, first_epoch: int, epochs: int, steps: int) -> None:
        self._first, self._epochs, self._started = first_epoch, epochs, time.monotonic()

    def epoch(self, record: Mapping[str, Any], *, best: bool) -> None:
        done = record["epoch"] - self._first
        left = (time.monotonic() - self._started) / done * (self._epochs - record["epoch"])
        self.note(
            f"epoch {record['epoch']}/{self._epochs}  {describe(record)}  "
            f"{record['seconds']:.1f} s  at most {left:.0f} s left{'  best' if best else ''}"
        )


class RichReporter(LiveBar, Reporter):
    """A live progress bar with loss terms, the validation metric and the time left."""

    def __init__(self, label: str = "training") -> None:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.table import Column

        super().__init__(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[epoch]}/{task.fields[epochs]}"),
            TimeRemainingColumn(),
            # Last, and what matters most first: a narrow terminal cuts it at the end.
            TextColumn("{task.fields[status]}", table_column=Column(no_wrap=True, ratio=1)),
        )
        self._task = self._progress.add_task(label, epoch=0, epochs=0, status="", start=False)
        self._losses = self._validation = ""

    def begin(self, first_epoch: int, epochs: int, steps: int) -> None:
        self._progress.start_task(self._task)
        self._progress.update(
            self._task, total=(epochs - first_epoch) * steps, epoch=first_epoch + 1, epochs=epochs
        )

    def step(self, epoch: int, scalars: Mapping[str, float] | None) -> None:
        if scalars is not None:
            self._losses = "  ".join(f"{k} {scalars[k]:.4f}" for k in _SHOWN if k in scalars)
        status = f"{self._validation}  {self._losses}".strip()
        self._progress.update(self._task, advance=1, epoch=epoch, status=status)

    def epoch(self, record: Mapping[str, Any], *, best: bool) -> None:
        if record["validation"]:
            name, value = next(iter(record["validation"].items()))
            mark = " [green]best[/]" if best else ""
            self._validation = f"{name} [bold]{value:.4f}[/]{mark}"


def describe(record: Mapping[str, Any]) -> str:
    """Loss terms and validation metric of an epoch's record, in a few words."""
    parts = [f"{name} {record['train'][name]:.4f}" for name in _SHOWN if name in record["train"]]
    parts += [f"{name} {value:.4f}" for name, value in list(record["validation"].items())[:1]]
    return "  ".join(parts)


def reporter_for_terminal(label: str = "training") -> Reporter:
    """The live bar if standard error is a terminal, plain lines if not."""
    return RichReporter(label) if sys.stderr.isatty() else PlainReporter(label)
