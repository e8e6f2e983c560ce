"""Showing a benchmark: methods by datasets on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, TextIO

from cnsdiff.benchmark.fit import rehearses
from cnsdiff.benchmark.task import Task
from cnsdiff.display.progress import LiveView, PlainLines, Reporting, is_live
from cnsdiff.display.wording import clock, count

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

#: Tasks in hand that are named; of more, their number.
_NAMED = 4
#: Columns of a dataset and of a method's name, and lines that are not rows of the table.
_CELL, _NAME, _AROUND = 13, 20, 6


@dataclass(frozen=True)
class Cell:
    """The progress of a method on a dataset.

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


#: A final over a trial, of a rehearsal on the last fifth.
_REHEARSED = 1 + 1 / 0.8**2
#: What tells how long a task takes: its dataset, its method, and what is fitted.
Kind = tuple[str, str, str]


def kind_of(task: Task) -> Kind:
    """The kind of a task; one that rehearses trains twice at the end."""
    reference = "" if task.method.reference is None else " of a reference"
    rehearsed = " rehearsed" if rehearses(task.selections) else ""
    return task.dataset, task.method.name, f"{task.kind}{reference}{rehearsed}"


class Forecast:
    """How long the tasks of a benchmark will still take.

    A task takes as long as those of its kind have. Where none of its kind has ended, it takes as
    much longer or shorter than another kind of its method as other methods like it do. Where no
    kind says, nobody knows: quick references tell nothing of trainings.
    """

    def __init__(self) -> None:
        self._ended: dict[Kind, list[float]] = {}

    def ended(self, task: Task, seconds: float) -> None:
        """A task has ended after so many seconds."""
        self._ended.setdefault(kind_of(task), []).append(seconds)

    def left(self, tasks: Mapping[Kind, int], workers: int = 1) -> float | None:
        """Seconds until so many tasks of each kind are done, or ``None`` if nobody knows."""
        total = 0.0
        for kind, n in tasks.items():
            if n:
                seconds = self._seconds(kind)
                if seconds is None:
                    return None
                total += n * seconds
        return total / max(workers, 1)

    def _seconds(self, kind: Kind) -> float | None:
        means = {known: sum(took) / len(took) for known, took in self._ended.items()}
        if kind in means:
            return means[kind]
        dataset, method, fitted = kind
        estimates = []
        for other, seconds in means.items():
            if other[1] != method:
                continue
            # Other methods that have ended in both places.
            ratios = [
                means[dataset, rival, fitted] / mean
                for (place, rival, what), mean in means.items()
                if (place, what) == (other[0], other[2])
                and mean > 0
                and (dataset, rival, fitted) in means
            ]
            if ratios:
                estimates.append(seconds * median(ratios))
        if estimates:
            return median(estimates)
        # A final fits what a trial did; after a rehearsal everything trains once more.
        trial = means.get((dataset, method, fitted.replace("final", "trial")))
        return trial and trial * (_REHEARSED if fitted.endswith("rehearsed") else 1)


class Reporter(Reporting):
    """Listens to a benchmark; shows nothing itself."""

    def begin(self, total: int, known: int) -> None:
        """Of ``total`` tasks at most, ``known`` are done already."""

    def done(self, task: Task, seconds: float | None, error: str | None) -> None:
        """A task is done, or has failed."""

    def left(self, seconds: float | None) -> None:
        """How long the rest will take; ``None`` while nobody knows. Told before ``done``."""

    def fewer(self, n: int) -> None:
        """``n`` tasks turned out not to be needed."""

    def cell(self, cell: Cell) -> None:
        """The progress of a method on a dataset: at the start, and at each change."""

    def running(self, tasks: Sequence[Task]) -> None:
        """The tasks that workers have in hand, asked several times a second."""


class PlainReporter(PlainLines, Reporter):
    """A line per task on ``stream`` (standard error by default)."""

    def __init__(self, label: str = "", stream: TextIO | None = None) -> None:
        super().__init__(label, stream)
        self._total = self._done = self._known = 0
        self._left: float | None = None

    def begin(self, total: int, known: int) -> None:
        self._total, self._known = total, known
        self.note(f"{total} tasks, {known} of them done before")

    def done(self, task: Task, seconds: float | None, error: str | None) -> None:
        self._done += 1
        took = f"{seconds:.1f} s" if error is None else f"FAILED: {error}"
        self.note(
            f"{self._known + self._done}/{self._total}  {describe(task)}  {took}  "
            f"{_time_left(self._left)}"
        )

    def left(self, seconds: float | None) -> None:
        self._left = seconds

    def fewer(self, n: int) -> None:
        self._total -= n


class RichReporter(LiveView, Reporter):
    """A live table of methods and datasets; failures are lines above it."""

    def __init__(self, label: str = "benchmark") -> None:
        super().__init__(label)
        self._cells: dict[tuple[str, str], Cell] = {}
        self._since: dict[str, tuple[Task, float]] = {}  # of the tasks in hand, by key
        self._total = self._known = self._done = self._failed = 0
        self._left: tuple[float | None, float] = None, 0.0  # and when that was

    def begin(self, total: int, known: int) -> None:
        self._total, self._known, self.started = total, known, time.monotonic()

    def left(self, seconds: float | None) -> None:
        self._left = seconds, time.monotonic()

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
        from rich.console import Group
        from rich.text import Text

        in_hand = list(self._since.values())
        now = [_in_hand(task, since, console.width) for task, since in in_hand[:_NAMED]]
        if len(in_hand) > _NAMED:
            now.append(Text(f"and {len(in_hand) - _NAMED} more", style="dim"))
        settled = self._known + self._done
        text = f"{settled}/{self._total}  {clock(self.passed)} gone"
        if self._done:
            left, since = self._left
            if left is not None:
                left = max(left - (time.monotonic() - since), 0.0)
            text += f", {_time_left(left)}"
        if self._failed:
            text += f", {self._failed} failed"
        bar = self.bar(console.width, settled, self._total, text)
        return Group(bar, *self._table(console, console.height - _AROUND - len(now)), *now)

    def closing(self) -> RenderableType:
        """The work done and its duration, in a line."""
        from cnsdiff.display.screen import literal

        known = f" and {self._known} before" if self._known else ""
        failed = f", {self._failed} failed" if self._failed else ""
        return literal(f"{self.label}: {self._done} tasks{known}{failed}, {clock(self.passed)}")

    def _table(self, console: Console, room: int) -> list[RenderableType]:
        """The rows and columns that fit, those under way first, and a line on the others."""
        from rich.table import Table
        from rich.text import Text

        cells = self._cells
        if not cells:
            return []
        plain = console.options.ascii_only or console.legacy_windows
        busy = {(task.method.name, task.dataset) for task, _ in self._since.values()}
        methods = _first(cells, 0, busy, max(room, 1))
        datasets = _first(cells, 1, busy, max((console.width - _NAME) // _CELL, 1))
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
        table.add_column("", no_wrap=True, overflow="ellipsis", max_width=_NAME - 1)
        for dataset in datasets:
            table.add_column(dataset, no_wrap=True, overflow="ellipsis", width=_CELL - 1)
        for method in methods:
            row = [
                _cell_text(cells[at], at in busy, plain) if at in cells else Text()
                for at in ((method, dataset) for dataset in datasets)
            ]
            table.add_row(method, *row)
        legend = f"{next(iter(cells.values())).metric} on validation, the best so far"
        hidden = (
            ("more method", len({method for method, _ in cells}) - len(methods)),
            ("more dataset", len({dataset for _, dataset in cells}) - len(datasets)),
        )
        if more := [count(n, noun) for noun, n in hidden if n]:
            settled = sum(cell.done == cell.total for cell in cells.values())
            legend = f"and {', '.join(more)}; {settled} of {len(cells)} are done; {legend}"
        return [table, Text(legend, style="dim", no_wrap=True, overflow="ellipsis")]


def _time_left(seconds: float | None) -> str:
    return "time left unknown" if seconds is None else f"about {clock(seconds)} left"


def _in_hand(task: Task, since: float, width: int) -> Text:
    """A task that a worker has in hand, and for how long."""
    from cnsdiff.display.screen import literal

    line = literal(f"now {clock(time.monotonic() - since):>5}  {describe(task)}", "dim")
    line.no_wrap = True
    line.truncate(width, overflow="ellipsis")
    return line


def _first(
    cells: Mapping[tuple[str, str], Cell], at: int, busy: set[tuple[str, str]], room: int
) -> list[str]:
    """So many methods (0) or datasets (1): those under way, then unfinished, then done ones."""
    rank: dict[str, int] = {}
    for key, cell in cells.items():
        begun, done = 0 < cell.done < cell.total, cell.done == cell.total
        urgency = 0 if key in busy else 1 if begun else 3 if done else 2
        rank[key[at]] = min(rank.get(key[at], 9), urgency)
    names = set(sorted(rank, key=lambda name: rank[name])[:room])
    return [name for name in rank if name in names]


def _cell_text(cell: Cell, busy: bool, plain: bool) -> Text:
    """A cell in the table: failed, done, under way or waiting, and its value."""
    from rich.text import Text

    value = "" if cell.value is None else f" {cell.value:.4f}"
    done = cell.done == cell.total
    part = f"{cell.done}/{cell.total}{value}"
    if cell.failed:
        return Text(("x" if plain else "✗") + (f"{cell.failed}{value}" if done else part), "red")
    if done:
        return Text(f"{'ok' if plain else '✓'}{value}", "green")
    if busy:
        return Text(f"{'>' if plain else '▸'}{part}", "bold")
    return Text(part if cell.done else "-" if plain else "·", "dim")


def reporter_for_terminal(label: str = "benchmark") -> Reporter:
    """The live table if standard error is a terminal that can show it, plain lines if not."""
    return RichReporter(label) if is_live() else PlainReporter(label)
