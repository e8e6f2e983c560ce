"""Showing a tuning: a live table on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from cnsdiff.display.progress import LiveView, PlainLines, Reporting, is_live
from cnsdiff.display.wording import SparkLine, clock
from cnsdiff.display.wording import number as number_text
from cnsdiff.tuning.study import Setting, Trial, best_trial, value_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

#: Rows of the live table: the best trials, and those that ended last.
_BEST, _LAST = 3, 5
#: On a narrower terminal there is no room for the course of a trial beside its setting.
_WITH_COURSE = 70


class Reporter(Reporting):
    """Listens to a tuning; shows nothing itself. Override the events to show."""

    def begin(self, total: int, known: Sequence[Trial]) -> None:
        """Of ``total`` trials, ``known`` are there already."""

    def trial_begins(self, number: int, setting: Setting) -> None:
        """A setting is about to be trained."""

    def validated(self, epoch: int, epochs: int, value: float) -> None:
        """The trial under way has been validated after ``epoch`` of at most ``epochs``."""

    def trial_ends(self, trial: Trial, *, best: bool) -> None:
        """A trial has its outcome; ``best`` if none before it was as good."""


def outcome_in_words(trial: Trial) -> str:
    """The outcome of a trial, in a few words."""
    if trial.state == "failed":
        return f"FAILED: {trial.error}"
    text = f"{trial.value:.4f}"
    if trial.state == "pruned":
        text += f" pruned in epoch {trial.epochs}"
    else:
        text += f" in epoch {trial.best_epoch} of {trial.epochs}"
    return text + ("" if trial.same_as is None else f" as trial {trial.same_as}, the same setting")


def in_brief(setting: Setting) -> str:
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
        super().__init__(label)
        self._total = self._known = 0
        self._trials: list[Trial] = []
        self._now: tuple[int, Setting] | None = None
        self._course: list[float] = []
        self._epochs = (0, 0)

    def begin(self, total: int, known: Sequence[Trial]) -> None:
        self._total, self._known, self._trials = total, len(known), list(known)
        self.started = time.monotonic()

    def trial_begins(self, number: int, setting: Setting) -> None:
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
        from rich.text import Text

        done = len(self._trials)
        trial = f"trial {min(done + 1, self._total)}/{self._total}"
        bar = self.bar(console.width, done, self._total, trial)
        return Group(bar, Text(self._times(), style="dim"), self._table(console.width))

    def closing(self) -> RenderableType:
        """Number of trials, and the best of them, in a line."""
        from cnsdiff.display.screen import literal

        text = f"{self.label}: {len(self._trials)} trials in {clock(self.passed)}"
        best = best_trial(self._trials)
        if best is not None:
            text += f", best {best.value:.4f} in trial {best.number}"
        return literal(text)

    def _times(self) -> str:
        text = f"{clock(self.passed)} gone"
        new = len(self._trials) - self._known
        if new:
            left = self.passed / new * (self._total - len(self._trials))
            text += f"; about {clock(max(left, 0))} left"
        return text

    def _table(self, width: int) -> Table:
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

        def row(number: int, epochs: str, curve: list[float], setting: Setting, style: str) -> None:
            value = number_text(max(curve) if curve else None)
            courses = [SparkLine(curve, style)] if width >= _WITH_COURSE else []
            own = "" if style == "cyan" else style
            table.add_row(str(number), value, epochs, *courses, in_brief(setting), style=own)

        # The trial under way, the best, and the last.
        if self._now is not None:
            epoch, epochs = self._epochs
            row(
                self._now[0],
                f"{epoch}/{epochs}" if epochs else "-",
                self._course,
                self._now[1],
                "cyan",
            )
        completed = [trial for trial in self._trials if trial.state == "completed"]
        best = sorted(completed, key=lambda trial: (-(trial.value or 0.0), trial.number))[:_BEST]
        last = [trial for trial in self._trials[::-1][:_LAST] if trial not in best]
        for trial in best + last:
            mark = "" if trial.state == "completed" else f" {trial.state}"
            curve = [value for _, value in trial.curve]
            style = "green" if trial in best else "dim"
            row(trial.number, f"{trial.epochs}{mark}", curve, trial.setting, style)
        return table


def reporter_for_terminal(label: str = "tuning") -> Reporter:
    """The live table if standard error is a terminal that can show it, plain lines if not."""
    return RichReporter(label) if is_live() else PlainReporter(label)
