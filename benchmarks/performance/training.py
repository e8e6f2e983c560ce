"""Seconds of a training epoch, as a run's history has them."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

from cnsdiff import Recommender
from cnsdiff.data import Dataset
from cnsdiff.training.progress import Reporter


class Epoch(NamedTuple):
    """Median seconds of an epoch: training, and the validation after it."""

    seconds: float
    validation_seconds: float
    steps: int

    @property
    def both(self) -> float:
        return self.seconds + self.validation_seconds


class _Steps(Reporter):
    """Notes how many steps an epoch has."""

    steps = 0

    def begin(self, first_epoch: int, epochs: int, steps: int) -> None:
        self.steps = steps


def train(
    dataset: Dataset,
    epochs: int,
    threads: int,
    *,
    training: dict[str, Any] | None = None,
    **choice: Any,
) -> Epoch:
    """Train ``epochs`` epochs on the CPU, of which the first warms up unless it is the only one."""
    settings = {"epochs": epochs, "patience": None, **(training or {})}
    model, steps = Recommender(training=settings, threads=threads, device="cpu", **choice), _Steps()
    history = model.fit(dataset, reporter=steps).history_
    counted = history[1:] or history
    return Epoch(
        statistics.median(record["seconds"] for record in counted),
        statistics.median(record["validation_seconds"] for record in counted),
        steps.steps,
    )
