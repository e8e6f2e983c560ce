"""Showing a tuning: a live table on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from cnsdiff.display.progress import LiveView, PlainLines, Reporting, is_live
from cnsdiff.display.sparkline import SparkLine
from cnsdiff.display.wording import clock
from cnsdiff.tuning.study import Trial, best_trial, value_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

#: Rows of the live table: the best trials, and those that ended last.
_BEST, _LAST = 3, 5
#: On a narrower terminal there is no room for the course of a trial beside its setting.
_WITH_COURSE = 70


class Reporter(Reporting):
    """What a tuning tells; shows nothing itself. Override what is to be shown."""

    def begin(self, total: int, known: Sequence[Trial]) -> None:
        """Of ``total`` trials, ``known`` are there already."""

    def trial_begins(self, number: int, setting: dict[str, Any]) -> None:
        """A setting is about to be trained."""

    def validated(self, epoch: int, epochs: int, value: float) -> None:
        """The trial under way has been validated after ``epoch`` of at most ``epochs``."""

    def trial_ends(self, trial: Trial, *, best: bool) -> None:
        """A trial has its outcome; ``best`` if none before it was as good."""


def outcome_in_words(trial: Trial) -> str:
    """What came of a trial, in a few words."""
    if trial.state == "failed":
        return f"FAILED: {trial.error}"
    told = f"{trial.value:.4f}"
    if trial.state == "pruned":
        told += f" pruned in epoch {trial.epochs}"
    else:
        told += f" in epoch {trial.best_epoch} of {trial.epochs}"
    return told + ("" if trial.same_as is None else f" as trial {trial.same_as}, the same setting")


def in_brief(setting: dict[str, Any]) -> str:
    """A setting by the last parts of its keys, where these tell them apart."""
    last = {key: key.rpartition(".")[2] for key in setting}
    often = list(last.values())
    return "  ".join(
        f"{last[key] if often.count(last[key]) == 1 else key}={value_text(value)}"
        for key, value in setting.items()
    )


class PlainReporter(PlainLines, Reporter):
    """A line per trial on ``stream`` (standard error by default)."""

    def __init__(self, label: str = "", stream: TextIO | None = None) -> None:
        super().__init__(label, stream)
        self._total = 0

    def begin(self, total: int, known: Sequence[Trial]) -> None:
        self._total = total
        self.note(f"{total} trials, {len(known)} of them done before")

    def trial_ends(self, trial: Trial, *, best: bool) -> None:
        self.note(
            f"trial {trial.number} ({trial.number + 1}/{self._total})  {outcome_in_words(trial)}"
            f"{'  best' if best else ''}  {trial.described()}  {trial.seconds:.1f} s"
        )


class RichReporter(LiveView, Reporter):
    """A live table: the trial under way, the best so far, and those that ended last."""

    def __init__(self, label: str = "tuning") -> None:
        super().__init__()
        self.label = label
        self._total = self._known = 0
        self._trials: list[Trial] = []
        self._now: tuple[int, dict[str, Any]] | None = None
        self._course: list[float] = []
        self._epochs = (0, 0)
        self._started = time.monotonic()

    def begin(self, total: int, known: Sequence[Trial]) -> None:
        self._total, self._known, self._trials = total, len(known), list(known)
        self._started = time.monotonic()

    def trial_begins(self, number: int, setting: dict[str, Any]) -> None:
        self._course, self._epochs, self._now = [], (0, 0), (number, setting)

    def validated(self, epoch: int, epochs: int, value: float) -> None:
        self._course, self._epochs = [*self._course, value], (epoch, epochs)

    def trial_ends(self, trial: Trial, *, best: bool) -> None:
        self._trials, self._now = [*self._trials, trial], None
        if trial.state == "failed":
            self.note(f"trial {trial.number} failed: {trial.error}")

    def picture(self, console: Console) -> RenderableType:
        """A bar, a line of times, and a row per trial shown."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        from cnsdiff.display.screen import literal

        done = len(self._trials)
        bar = Table.grid(padding=(0, 1), expand=False)
        bar.add_column(no_wrap=True)
        bar.add_column()
        bar.add_column(no_wrap=True)
        width = max(min(console.width - len(self.label) - 18, 40), 8)
        bar.add_row(
            literal(self.label, "bold"),
            ProgressBar(max(self._total, 1), done, width=width),
            f"trial {min(done + 1, self._total)}/{self._total}",
        )
        return Group(bar, Text(self._times(), style="dim"), self._table(console.width))

    def closing(self) -> RenderableType:
        """How many trials, and the best of them, in a line."""
        from cnsdiff.display.screen import literal

        told = f"{self.label}: {len(self._trials)} trials in {clock(self._passed)}"
        best = best_trial(self._trials)
        if best is not None:
            told += f", best {best.value:.4f} in trial {best.number}"
        return literal(told)

    @property
    def _passed(self) -> float:
        return time.monotonic() - self._started

    def _times(self) -> str:
        told = f"{clock(self._passed)} gone"
        new = len(self._trials) - self._known
        if new:
            left = self._passed / new * (self._total - len(self._trials))
            told += f"; about {clock(max(left, 0))} left"
        return told

    def _table(self, width: int) -> Any:
        from rich.table import Table

        table = Table(
            box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False, expand=True
        )
        table.add_column("trial", justify="right", no_wrap=True)
        table.add_column("best", justify="right", no_wrap=True)
        table.add_column("epochs", justify="right", no_wrap=True)
        if width >= _WITH_COURSE:
            table.add_column("validation", no_wrap=True, min_width=12, max_width=24)
        # Last, and cut where the terminal is narrow.
        table.add_column("setting", no_wrap=True, overflow="ellipsis", ratio=1)

        def row(trial: Trial, style: str) -> None:
            value = "-" if trial.value is None else f"{trial.value:.4f}"
            course = SparkLine([value for _, value in trial.curve], style)
            mark = {"pruned": " pruned", "failed": " failed"}.get(trial.state, "")
            add(str(trial.number), value, f"{trial.epochs}{mark}", course, trial.setting, style)

        def add(
            number: str, value: str, epochs: str, course: SparkLine, setting: Any, style: str
        ) -> None:
            courses = (course,) if width >= _WITH_COURSE else ()
            table.add_row(number, value, epochs, *courses, in_brief(setting), style=style)

        if self._now is not None:
            number, setting = self._now
            value = f"{max(self._course):.4f}" if self._course else "-"
            epochs = f"{self._epochs[0]}/{self._epochs[1]}" if self._epochs[1] else "-"
            add(str(number), value, epochs, SparkLine(self._course, "cyan"), setting, "")
        completed = [trial for trial in self._trials if trial.state == "completed"]
        best = sorted(completed, key=lambda trial: (-(trial.value or 0.0), trial.number))[:_BEST]
        for trial in best:
            row(trial, "green")
        for trial in self._trials[::-1][:_LAST]:
            if trial not in best:
                row(trial, "dim")
        return table


def reporter_for_terminal(label: str = "tuning") -> Reporter:
    """The live table if standard error is a terminal that can show it, plain lines if not."""
    return RichReporter(label) if is_live() else PlainReporter(label)
