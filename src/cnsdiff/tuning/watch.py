"""Following the training of a trial, and ending it early."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cnsdiff.recommender.config import Config
from cnsdiff.training.progress import Reporter as TrainingReporter
from cnsdiff.tuning.progress import Reporter

if TYPE_CHECKING:
    from cnsdiff.tuning.optuna_study import Asked


class LagsError(Exception):
    """Ends a training that lags behind the others."""


class Watch(TrainingReporter):
    """Follows a training: its validations go to the study, which may end it."""

    def __init__(self, asked: Asked, reporter: Reporter) -> None:
        self.asked, self.reporter = asked, reporter
        self.curve: list[tuple[int, float]] = []
        self.epochs = self.best_epoch = 0
        self.value: float | None = None
        self._metric, self._most = "", 0

    def follow(self, config: Config) -> None:
        """What is measured, and for how many epochs at most."""
        self._metric, self._most = config.training.selection_metrics[0], config.training.epochs

    def epoch(self, record: Mapping[str, Any], *, best: bool) -> None:
        self.epochs = record["epoch"]
        if not record["validation"]:
            return
        value = float(record["validation"][self._metric])
        self.curve.append((self.epochs, value))
        if best:
            self.best_epoch, self.value = self.epochs, value
        self.reporter.validated(self.epochs, self._most, value)
        # After its last epoch there is nothing to be saved.
        if self.asked.lags(self.epochs, value) and self.epochs < self._most:
            raise LagsError
