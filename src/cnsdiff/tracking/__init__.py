"""Trackers: callbacks that write a training into TensorBoard or MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cnsdiff.base.errors import ConfigError, did_you_mean
from cnsdiff.recommender.callbacks import Callback
from cnsdiff.tracking.mlflow import MLflowCallback
from cnsdiff.tracking.tensorboard import TensorBoardCallback
from cnsdiff.tracking.tracker import read_places

__all__ = ["MLflowCallback", "TensorBoardCallback", "resumed_trackers", "trackers"]

NAMES = ("tensorboard", "mlflow")


def trackers(texts: Sequence[str], run: Path) -> list[Callback]:
    """The trackers ``tensorboard[=FOLDER]`` and ``mlflow[=ADDRESS]`` of a run directory.

    In ``FOLDER`` each run has a folder of its own name.

    Raises
    ------
    ConfigError
        A tracker is unknown, has no place after the ``=``, or is named twice.
    InputError
        Its package is not installed.
    """
    callbacks: dict[str, Callback] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        if name not in NAMES:
            raise ConfigError(
                f"there is no tracker {name!r}{did_you_mean(name, NAMES)}; choose "
                f"{' or '.join(NAMES)}"
            )
        if equals and not place:
            raise ConfigError(f"tracker {text}: say where after the =, or leave it out")
        if name in callbacks:
            raise ConfigError(f"tracker {name} is given twice; a run has one place there")
        if name == "tensorboard":
            callbacks[name] = TensorBoardCallback(
                Path(place) / run.resolve().name if place else None
            )
        else:
            callbacks[name] = MLflowCallback(place or None)
    return list(callbacks.values())


def resumed_trackers(run: Path) -> list[Callback]:
    """The trackers of an unfinished run, to go on where they were.

    Raises
    ------
    InputError
        A package is not installed, or ``tracking.json`` is damaged.
    """
    places = read_places(run)
    callbacks: list[Callback] = []
    if places.tensorboard is not None:
        callbacks.append(TensorBoardCallback())
    if places.mlflow is not None:
        callbacks.append(MLflowCallback(experiment=places.mlflow.experiment))
    return callbacks
