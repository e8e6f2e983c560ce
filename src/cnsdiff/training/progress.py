"""Showing training: a live table on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal, TextIO

from cnsdiff.display.progress import LiveView, PlainLines, Reporting, is_live
from cnsdiff.display.wording import SparkLine, clock, count, spark_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    from cnsdiff.training.checkpoint import EpochRecord
    from cnsdiff.training.selection import EarlyStopping

#: Terms of the loss, and what was seen of the negatives: its title and how it is written.
_SHOWN = ("loss", "bpr", "softmax", "psl", "bsl", "sl@k", "bc", "contrastive", "sampler")
_SEEN = {"fhn": ("false negatives", ".2%"), "hardness": ("hardness", ".4f")}
#: Seconds between lines about the start.
_SLOW = 5.0


class Reporter(Reporting):
    """Listens to the training loop; shows nothing itself. Override the events to show."""

    def starting(self) -> AbstractContextManager[Callable[[int, int], None]]:
        """Around the computation of the tables' start, which may take minutes on a large log.

        What it gives is told of each block of the vectors searched: how many, and at most how many.
        """
        return nullcontext(lambda found, most: None)

    def before(self, history: Sequence[EpochRecord], stopping: EarlyStopping) -> None:
        """The records of the epochs before this start, and what will tell when to stop.

        Told once, before :meth:`begin`; ``stopping`` is kept up to date by the loop.
        """

    def begin(self, first_epoch: int, epochs: int, steps: int) -> None:
        """Training starts after ``first_epoch`` of ``epochs``, each of ``steps`` steps."""

    def step(self, epoch: int, scalars: Mapping[str, float] | None) -> None:
        """A step is done; ``scalars`` only when they were read from the device."""

    def epoch(self, record: EpochRecord, *, best: bool) -> None:
        """An epoch is done and its record written to the history."""


class PlainReporter(PlainLines, Reporter):
    """A line per epoch on ``stream`` (standard error by default)."""

    def __init__(self, label: str = "", stream: TextIO | None = None) -> None:
        super().__init__(label, stream)
        self._epochs = self._first = 0
        self._started = 0.0

    @contextmanager
    def starting(self) -> Iterator[Callable[[int, int], None]]:
        last = time.monotonic()

        def tell(found: int, most: int) -> None:
            nonlocal last
            if time.monotonic() - last > _SLOW:
                self.note(f"spectral start: {found:,} of at most {most:,} vectors")
                last = time.monotonic()

        yield tell

    def begin(self, first_epoch: int, epochs: int, steps: int) -> None:
        self._first, self._epochs, self._started = first_epoch, epochs, time.monotonic()

    def epoch(self, record: EpochRecord, *, best: bool) -> None:
        done = record["epoch"] - self._first
        left = (time.monotonic() - self._started) / done * (self._epochs - record["epoch"])
        self.note(
            f"epoch {record['epoch']}/{self._epochs}  {describe(record)}  "
            f"{record['seconds']:.1f} s  at most {left:.0f} s left{'  best' if best else ''}"
        )


class SparseReporter(PlainLines, Reporter):
    """A line now and then: for a training that is one of many, and of which most are short.

    Several trainings may follow each other; the seconds are counted from the first.

    Parameters
    ----------
    label, stream
        As of the plain lines.
    every
        Seconds between lines, and before the first.
    clock
        In seconds.
    """

    def __init__(
        self,
        label: str = "",
        stream: TextIO | None = None,
        *,
        every: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(label, stream)
        self._every, self._clock = every, clock
        self._started = self._told = clock()
        self._epochs = 0

    def begin(self, first_epoch: int, epochs: int, steps: int) -> None:
        self._epochs = epochs

    def step(self, epoch: int, scalars: Mapping[str, float] | None) -> None:
        now = self._clock()
        if now - self._told >= self._every:
            self._told = now
            self.note(f"epoch {epoch} of at most {self._epochs}, {now - self._started:.0f} s")


class RichReporter(LiveView, Reporter):
    """A live table: loss terms and validation over the epochs, the time left, the patience left."""

    def __init__(self, label: str = "training") -> None:
        super().__init__(label)
        self._history: list[EpochRecord] = []
        self._stopping: EarlyStopping | None = None
        self._first = self._epochs = self._steps = self._done = 0
        self._epoch = 0
        self._scalars: Mapping[str, float] = {}

    @contextmanager
    def starting(self) -> Iterator[Callable[[int, int], None]]:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        from cnsdiff.display.screen import Screen

        bar = Progress(
            TextColumn("spectral start", style="bold", markup=False),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of at most {task.total:,.0f} vectors", markup=False),
            TimeElapsedColumn(),
            console=Screen(stderr=True),
            transient=True,
        )

        def tell(found: int, most: int) -> None:
            if not bar.tasks:  # other starts have nothing to show
                bar.start()
                bar.add_task("", total=most)
            bar.update(bar.tasks[0].id, completed=found)

        try:
            yield tell
        finally:
            if bar.tasks:
                bar.stop()

    def before(self, history: Sequence[EpochRecord], stopping: EarlyStopping) -> None:
        self._history, self._stopping = list(history), stopping

    def begin(self, first_epoch: int, epochs: int, steps: int) -> None:
        self._first, self._epochs, self._steps, self._done = first_epoch, epochs, steps, 0
        self._epoch = first_epoch + 1
        self.started = time.monotonic()

    def step(self, epoch: int, scalars: Mapping[str, float] | None) -> None:
        self._epoch = epoch
        self._done += 1
        if scalars is not None:
            self._scalars = scalars

    def epoch(self, record: EpochRecord, *, best: bool) -> None:
        self._history = [*self._history, record]

    def picture(self, console: Console) -> RenderableType:
        """A bar, a line of times, and a row per number with its course."""
        from rich.console import Group
        from rich.text import Text

        from cnsdiff.display.screen import literal

        if not self._epochs:
            return literal(self.label, "bold")
        epoch = f"epoch {min(self._epoch, self._epochs)}/{self._epochs}"
        done = self._first * self._steps + self._done
        bar = self.bar(console.width, done, self._epochs * self._steps, epoch)
        return Group(bar, Text(self._times(), style="dim"), self._table(console.width))

    def closing(self) -> RenderableType:
        """Number of epochs, the best of them, and the course, in a line."""
        from cnsdiff.display.screen import literal

        done = len(self._history) - self._first
        before = f" after {self._first} before" if self._first else ""
        told = f"{self.label}: {count(done, 'epoch')} in {clock(self.passed)}{before}"
        metrics = self._metrics
        if metrics and self._stopping is not None and self._stopping.best:
            best = self._stopping.best[metrics[0]]
            told += f", best {metrics[0]} {best:.4f} in epoch {self._stopping.best_epoch}"
            room = min(self.console.width - len(told) - 2, 24)
            if room >= 8:
                values = [r["validation"].get(metrics[0]) for r in self._history if r["validation"]]
                plain = self.console.options.ascii_only
                told += f"  {spark_line(values, room, ascii_only=plain)}"
        return literal(told)

    @property
    def _metrics(self) -> list[str]:
        """Those that pick the epoch."""
        if self._stopping is not None:
            return list(self._stopping.metrics)
        return list(next((r["validation"] for r in self._history if r["validation"]), {}))[:1]

    def _times(self) -> str:
        told = [f"{clock(self.passed)} gone"]
        if self._done:
            left = (self._epochs - self._first) * self._steps - self._done
            told.append(f"at most {clock(self.passed / self._done * max(left, 0))} left")
        stopping = self._stopping
        if stopping is not None and stopping.patience is not None:
            left = max(stopping.patience - stopping.stale, 0)
            told.append(f"patience {left}/{stopping.patience} validations")
        return ", ".join(told)

    def _table(self, width: int) -> Table:
        from rich.table import Table

        from cnsdiff.display.screen import literal

        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        table.add_column("", no_wrap=True, overflow="ellipsis", max_width=max(width - 34, 12))
        table.add_column("now", justify="right", no_wrap=True)
        table.add_column("best", justify="right", no_wrap=True)
        table.add_column("at", justify="right", no_wrap=True)
        # Narrower than this there is no room for a course that says anything.
        curves = width >= 50
        if curves:
            table.add_column("epochs so far", no_wrap=True, max_width=60)

        def row(name: str, now: str, best: str | Text, at: str, course: SparkLine) -> None:
            cells = (name, now, best, at)
            table.add_row(*cells, course) if curves else table.add_row(*cells)

        stopping, last = self._stopping, self._history[-1] if self._history else None
        validated = [r["validation"] for r in self._history if r["validation"]]
        for name in self._metrics:
            now = f"{validated[-1][name]:.4f}" if validated else "-"
            known = stopping is not None and bool(stopping.best)
            best = literal(f"{stopping.best[name]:.4f}", "bold") if stopping and known else "-"
            at = str(stopping.best_epoch) if stopping and known else "-"
            row(name, now, best, at, self._course("validation", name, "green"))
        terms = last["train"] if last else self._scalars
        for name in _SHOWN:
            if name in terms:
                value = self._scalars.get(name, terms[name])
                row(name, f"{value:.4f}", "", "", self._course("train", name, "cyan"))
        for name, (title, form) in _SEEN.items():
            if name in terms:
                row(
                    title, format(terms[name], form), "", "", self._course("train", name, "magenta")
                )
        if last:
            seconds = [r["seconds"] + r["validation_seconds"] for r in self._history]
            row("seconds an epoch", f"{seconds[-1]:.2f}", "", "", SparkLine(seconds, "dim"))
        return table

    def _course(
        self, part: Literal["train", "validation"], name: str, style: str = ""
    ) -> SparkLine:
        return SparkLine([r[part].get(name) for r in self._history if r[part]], style)


def describe(record: EpochRecord) -> str:
    """Loss terms and validation metric of an epoch's record, in a few words."""
    parts = [f"{name} {record['train'][name]:.4f}" for name in _SHOWN if name in record["train"]]
    parts += [f"{name} {value:.4f}" for name, value in list(record["validation"].items())[:1]]
    return "  ".join(parts)


def reporter_for_terminal(label: str = "training") -> Reporter:
    """The live table if standard error is a terminal that can show it, plain lines if not."""
    return RichReporter(label) if is_live() else PlainReporter(label)
