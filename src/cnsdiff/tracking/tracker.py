"""Base of the trackers: the numbers they log, and the place of a run.

``RUN/tracking.json`` says where each tracker has the run, so that a resumed training goes on there.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnsdiff.base.errors import RunError
from cnsdiff.base.settings import Record
from cnsdiff.base.storage import read_json, write_json
from cnsdiff.evaluation import Evaluation
from cnsdiff.recommender.callbacks import Callback
from cnsdiff.recommender.run_directory import TRACKING, history_row
from cnsdiff.training.checkpoint import EpochRecord

if TYPE_CHECKING:
    from cnsdiff.recommender.embedding_model import Model
    from cnsdiff.training.selection import EarlyStopping


class MLflowPlace(Record):
    """Where MLflow has a run; ``tracking_uri`` is left out if it holds a password."""

    run_id: str
    experiment: str = "cnsdiff"
    tracking_uri: str | None = None


class TensorBoardPlace(Record):
    """Where TensorBoard's event files of a run are."""

    log_dir: str


class Places(Record):
    """``tracking.json``: where each tracker has this run."""

    mlflow: MLflowPlace | None = None
    tensorboard: TensorBoardPlace | None = None


def read_places(run: Path | None) -> Places:
    """Where a run directory is tracked; nowhere if there is no directory.

    Raises
    ------
    RunError
        ``tracking.json`` is damaged.
    """
    if run is None or not (run / TRACKING).exists():
        return Places()
    try:
        return Places.model_validate(read_json(run / TRACKING))
    except (OSError, ValueError) as error:  # pydantic's is a ValueError
        raise RunError(
            f"{run / TRACKING}: is damaged; delete it to track the run from here on"
        ) from error


def write_place(run: Path | None, **place: Record) -> None:
    """Add a tracker's place to those of a run directory, if there is one."""
    if run is not None:
        places = read_places(run).model_copy(update=place)
        write_json(run / TRACKING, places.model_dump(mode="json", exclude_none=True))


class Tracker(Callback):
    """A callback that logs each epoch once, those before a resumption included."""

    @abstractmethod
    def log_epoch(self, record: EpochRecord) -> None:
        """Log the numbers of an epoch's record."""

    def before(self, history: Sequence[EpochRecord], stopping: EarlyStopping) -> None:
        for record in history:
            self.log_epoch(record)

    def epoch(self, record: EpochRecord, *, best: bool) -> None:
        self.log_epoch(record)


def epoch_scalars(record: EpochRecord) -> dict[str, float]:
    """``train/loss``, ``valid/ndcg@20``, ``seconds`` and so on of an epoch's record."""
    row = history_row(record)
    return {name: float(value) for name, value in row.items() if name != "epoch"}


def reading_scalars(model: Model) -> dict[str, float]:
    """How a model is read: its dial, or what each covariate of its environment adds."""
    if model.environment is None:
        return {"dial": model.dial}
    named = zip(model.environment.names, model.environment.coefficients, strict=True)
    return {f"environment/{name}": coefficient for name, coefficient in named}


def evaluation_scalars(evaluation: Evaluation) -> dict[str, float]:
    """``test_ood/ndcg@20`` of each split, and ``kept/ndcg@20``; what is not finite is left out."""
    scalars = {
        f"{split}/{name}": value
        for split, metrics in evaluation.metrics.items()
        for name, value in metrics.items()
    }
    if {"test_iid", "test_ood"} <= evaluation.splits.keys():
        scalars |= {f"kept/{name}": value for name, value in evaluation.kept().items()}
    return {name: value for name, value in scalars.items() if math.isfinite(value)}


def dotted(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a configuration by their dotted names, as ``--set`` takes them."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
