"""Trackers by name, as the command line asks for them."""

from __future__ import annotations

from pathlib import Path

from cnsdiff.base.errors import ConfigError, did_you_mean
from cnsdiff.recommender.callbacks import Callback
from cnsdiff.tracking import mlflow, tensorboard
from cnsdiff.tracking.mlflow import MLflowCallback
from cnsdiff.tracking.remembered import remembered
from cnsdiff.tracking.tensorboard import TensorBoardCallback

NAMES = (tensorboard.NAME, mlflow.NAME)


def tracker(text: str, run: Path) -> Callback:
    """The tracker of ``tensorboard[=FOLDER]`` or ``mlflow[=ADDRESS]`` for a run directory.

    In ``FOLDER`` each run has a folder of its own name.

    Raises
    ------
    ConfigError
        There is no such tracker.
    InputError
        Its package is not installed.
    """
    name, equals, place = text.partition("=")
    if name not in NAMES:
        raise ConfigError(
            f"--track {text}: there is no tracker {name!r}{did_you_mean(name, NAMES)}; choose "
            f"{' or '.join(NAMES)}"
        )
    if equals and not place:
        raise ConfigError(f"--track {text}: say where after the =, or leave it out")
    if name == tensorboard.NAME:
        return TensorBoardCallback(Path(place) / run.resolve().name if place else None)
    return MLflowCallback(place or None)


def trackers(texts: list[str], run: Path) -> list[Callback]:
    """The trackers asked for, each at most once."""
    made = [tracker(text, run) for text in texts]
    names = [text.partition("=")[0] for text in texts]
    for name in NAMES:
        if names.count(name) > 1:
            raise ConfigError(f"--track {name} is given twice; a run has one place there")
    return made


def resumed_trackers(run: Path) -> list[Callback]:
    """Those that an unfinished run was tracked by, to go on where they were.

    Raises
    ------
    InputError
        A package is not installed, or ``tracking.json`` is damaged.
    """
    made: list[Callback] = []
    known = remembered(run)
    if tensorboard.NAME in known:
        made.append(TensorBoardCallback())
    if mlflow.NAME in known:
        made.append(MLflowCallback(experiment=known[mlflow.NAME].get("experiment", "cnsdiff")))
    return made
