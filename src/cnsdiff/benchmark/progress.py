"""What a benchmark tells of its progress: nothing shown, or plain lines."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cnsdiff.benchmark.task import Task
from cnsdiff.display.progress import LiveView, PlainLines, Reporting, is_live
from cnsdiff.display.screen import literal
from cnsdiff.display.wording import clock, count


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


#: Tasks in hand that are named; of more, their number.
_NAMED = 4
#: Columns of a dataset and of a method's name, and lines that are not rows of the table.
_CELL, _NAME, _AROUND = 13, 20, 6


class RichReporter(LiveView, Reporter):
    """A live table of methods and datasets; failures are lines above it."""

    def __init__(self, label: str = "benchmark") -> None:
        super().__init__()
        self.label = label
        self._cells: dict[tuple[str, str], Cell] = {}
        self._since: dict[str, tuple[Task, float]] = {}  # of the tasks in hand, by key
        self._total = self._known = self._done = self._failed = 0
        self._started = time.monotonic()

    def begin(self, total: int, known: int) -> None:
        self._total, self._known, self._started = total, known, time.monotonic()

    def done(self, task: Task, seconds: float | None, error: str | None) -> None:
        self._done += 1
        if error is not None:
            self._failed += 1
            self.note(f"failed: {describe(task)}: {error}")

    def fewer(self, n: int) -> None:
        self._total -= n

    def cell(self, cell: Cell) -> None:
        self._cells = self._cells | {(cell.method, cell.dataset): cell}

    def running(self, tasks: Sequence[Task]) -> None:
        now = time.monotonic()
        self._since = {t.key: self._since.get(t.key, (t, now)) for t in tasks}

    def picture(self, console: Console) -> RenderableType:
        """A bar, the table, and what the workers do."""
        plain = console.options.ascii_only or console.legacy_windows
        in_hand = list(self._since.values())
        now = [self._in_hand(task, since, console.width) for task, since in in_hand[:_NAMED]]
        if len(in_hand) > _NAMED:
            now.append(Text(f"and {len(in_hand) - _NAMED} more", style="dim"))
        room = console.height - _AROUND - len(now)
        return Group(self._bar(console.width), *self._table(console.width, room, plain), *now)

    def closing(self) -> RenderableType:
        """What was done and how long it took, in a line."""
        known = f" and {self._known} before" if self._known else ""
        failed = f", {self._failed} failed" if self._failed else ""
        return literal(
            f"{self.label}: {self._done} tasks{known}{failed}, "
            f"{clock(time.monotonic() - self._started)}"
        )

    def _bar(self, width: int) -> RenderableType:
        passed = time.monotonic() - self._started
        left = self._total - self._known - self._done
        told = f"{self._known + self._done}/{self._total}  {clock(passed)} gone"
        if self._done:
            told += f", about {clock(passed / self._done * left)} left"
        if self._failed:
            told += f", {self._failed} failed"
        line = Table.grid(padding=(0, 1))
        line.add_column(no_wrap=True)
        line.add_column()
        line.add_column(no_wrap=True, overflow="ellipsis")
        room = max(min(width - len(self.label) - len(told) - 2, 40), 4)
        bar = ProgressBar(max(self._total, 1), self._known + self._done, width=room)
        line.add_row(literal(self.label, "bold"), bar, told)
        return line

    def _in_hand(self, task: Task, since: float, width: int) -> Text:
        taken = clock(time.monotonic() - since)
        line = literal(f"now {taken:>5}  {describe(task)}", "dim")
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
        return line

    def _table(self, width: int, room: int, plain: bool) -> list[RenderableType]:
        """The rows and columns that fit, those under way first, and a line on the others."""
        if not self._cells:
            return []
        cells = self._cells
        busy = {(task.method.name, task.dataset) for task, _ in self._since.values()}
        shown = {
            at: _chosen(cells.values(), at, busy, max(n, 1))
            for at, n in ((0, room), (1, (width - _NAME) // _CELL))
        }
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
        table.add_column("", no_wrap=True, overflow="ellipsis", max_width=_NAME - 1)
        for dataset in shown[1]:
            table.add_column(dataset, no_wrap=True, overflow="ellipsis", width=_CELL - 1)
        for method in shown[0]:
            row = [
                _written(cells[method, name], (method, name) in busy, plain)
                if (method, name) in cells
                else Text()
                for name in shown[1]
            ]
            table.add_row(method, *row)
        metric = next(iter(cells.values())).metric
        more = [
            count(left, f"more {kind}")
            for kind, at in (("method", 0), ("dataset", 1))
            if (left := len({key[at] for key in cells}) - len(shown[at]))
        ]
        settled = sum(cell.done == cell.total for cell in cells.values())
        legend = f"{metric} on validation, the best so far"
        if more:
            legend = f"and {', '.join(more)}; {settled} of {len(cells)} are done; {legend}"
        return [table, Text(legend, style="dim", no_wrap=True, overflow="ellipsis")]


def _chosen(cells: Iterable[Cell], at: int, busy: set[tuple[str, str]], room: int) -> list[str]:
    """So many methods (0) or datasets (1): those under way, then unfinished, then done ones."""
    rank: dict[str, int] = {}
    for cell in cells:
        key = (cell.method, cell.dataset)
        of = (
            0 if key in busy else 1 if 0 < cell.done < cell.total else 2 + (cell.done == cell.total)
        )
        rank[key[at]] = min(rank.get(key[at], 9), of)
    kept = set(sorted(rank, key=lambda name: rank[name])[:room])
    return [name for name in rank if name in kept]


def _written(cell: Cell, busy: bool, plain: bool) -> Text:
    """What the table says of a cell: failed, done, under way or waiting, and its value."""
    value = "" if cell.value is None else f" {cell.value:.4f}"
    if cell.done == cell.total:
        if cell.failed:
            return Text(f"{'x' if plain else '✗'}{cell.failed}{value}", style="red")
        return Text(f"{'ok' if plain else '✓'}{value}", style="green")
    part = f"{cell.done}/{cell.total}{value}"
    if cell.failed:
        return Text(f"{'x' if plain else '✗'}{part}", style="red")
    if busy:
        return Text(f"{'>' if plain else '▸'}{part}", style="bold")
    return Text(part if cell.done else "-" if plain else "·", style="dim")


def reporter_for_terminal(label: str = "benchmark") -> Reporter:
    """The live table if standard error is a terminal that can show it, plain lines if not."""
    return RichReporter(label) if is_live() else PlainReporter(label)
