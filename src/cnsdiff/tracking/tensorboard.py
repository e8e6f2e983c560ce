"""Curves and configuration as TensorBoard event files."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from cnsdiff.base.errors import InputError, StorageError
from cnsdiff.base.text import install_command
from cnsdiff.evaluation import Evaluation
from cnsdiff.recommender.callbacks import FitContext
from cnsdiff.recommender.run_directory import Fitted, read_manifest
from cnsdiff.tracking.tracker import (
    TensorBoardPlace,
    Tracker,
    epoch_scalars,
    evaluation_scalars,
    read_places,
    reading_scalars,
    write_place,
)
from cnsdiff.training.checkpoint import EpochRecord

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardCallback(Tracker):
    """Writes a training for TensorBoard: ``tensorboard --logdir LOG_DIR`` shows it.

    One point per epoch of each loss term, validation metric, count of false negatives, hardness
    and time, by the names of the run's ``history.parquet``; the resolved configuration and the
    outcome as texts. A resumed training goes on in the same curves.

    Parameters
    ----------
    log_dir
        Where the event files go; ``RUN/tensorboard`` by default. Each training needs a place of
        its own, or their curves mix.

    Raises
    ------
    InputError
        The package tensorboard is not installed.
    """

    def __init__(self, log_dir: str | Path | None = None) -> None:
        if find_spec("tensorboard") is None:
            raise InputError(
                "TensorBoardCallback needs the package tensorboard, which is not installed; "
                f"install it with: {install_command('tensorboard')}"
            )
        self.log_dir = None if log_dir is None else Path(log_dir)
        self._writer: SummaryWriter | None = None
        self._place: Path | None = None
        self._best_epoch = 0

    def begin_fit(self, context: FitContext) -> None:
        before = read_places(context.run).tensorboard
        if self.log_dir is not None:
            place = self.log_dir
        elif before is not None:
            place = Path(before.log_dir)
        elif context.run is not None:
            place = context.run / "tensorboard"
        else:
            raise InputError(
                "TensorBoardCallback needs to know where to write; give it a log_dir, or fit a "
                "run directory"
            )
        self._place = place.resolve()
        goes_on = before is not None and before.log_dir == str(self._place)
        if goes_on:
            _wait_for_a_later_name(self._place)
        # What was written of epochs is written again, from the checkpoint's history: the one in
        # which the training was killed may be missing.
        self._writer = _writer(self._place, purge_step=1 if goes_on else None)
        if not goes_on:
            text = yaml.safe_dump(context.config.model_dump(mode="json"), sort_keys=False)
            self._writer.add_text("configuration", _verbatim(text), 0)
            text = yaml.safe_dump(context.provenance.to_dict(), sort_keys=False)
            self._writer.add_text("provenance", _verbatim(text), 0)
            write_place(context.run, tensorboard=TensorBoardPlace(log_dir=str(self._place)))
        context.note(f"TensorBoard: tensorboard --logdir {self._place}")

    def log_epoch(self, record: EpochRecord) -> None:
        for name, value in epoch_scalars(record).items():
            self._open.add_scalar(name, value, record["epoch"])

    def epoch(self, record: EpochRecord, *, best: bool) -> None:
        super().epoch(record, best=best)
        self._open.flush()

    def end_fit(self, fitted: Fitted) -> None:
        self._best_epoch = fitted.best_epoch
        read = (f"{name} {value:g}" for name, value in reading_scalars(fitted.model).items())
        text = ", ".join([f"best epoch {fitted.best_epoch} of {len(fitted.history)}", *read])
        self._open.add_text("outcome", text, fitted.best_epoch)
        self._close()

    def abort_fit(self, error: BaseException) -> None:
        self._close()

    def log_evaluation(self, evaluation: Evaluation, run: str | Path | None = None) -> None:
        """Add an evaluation's metrics, as points at the best epoch.

        Parameters
        ----------
        evaluation
            As :meth:`cnsdiff.Recommender.evaluate` returns it.
        run
            The run directory of a training that was tracked; by default, the training that this
            callback has just heard of.

        Raises
        ------
        InputError
            There is no such training.
        """
        place, step = self._place, self._best_epoch
        if run is not None:
            tracked = read_places(Path(run)).tensorboard
            place = None if tracked is None else Path(tracked.log_dir)
            step = getattr(read_manifest(Path(run)), "best_epoch", 0)
        if place is None or not step:
            raise InputError(
                f"{run or 'log_evaluation'}: no finished training was tracked by TensorBoard; fit "
                "with this callback first, or name its run directory"
            )
        with _writer(place) as writer:
            for name, value in evaluation_scalars(evaluation).items():
                writer.add_scalar(name, value, step)

    @property
    def _open(self) -> SummaryWriter:
        assert self._writer is not None, "begin_fit comes first"
        return self._writer

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None


def _writer(place: Path, purge_step: int | None = None) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter

    try:
        return SummaryWriter(str(place), purge_step=purge_step)
    except OSError as error:
        refused = StorageError(
            f"{place}: cannot be written: {error}; choose another folder for TensorBoard"
        )
        refused.exit_code = InputError.exit_code
        raise refused from error


def _wait_for_a_later_name(place: Path) -> None:
    """Until the second named in the newest event file is over.

    TensorBoard reads event files in the order of their names, and those begun in the same second
    are ordered by the digits of a process's number: 10 before 9. Read in the wrong order, what
    the later file takes back would stay.
    """
    stamps = [path.name.split(".")[3] for path in place.glob("events.out.tfevents.*")]
    newest = max((int(stamp) for stamp in stamps if stamp.isdecimal()), default=0)
    left = newest + 1 - time.time()
    # Where the clock was set back, no wait that anyone would bear brings it forward.
    if 0 < left <= 1:
        time.sleep(left)


def _verbatim(text: str) -> str:
    """As a block of code in Markdown."""
    return "".join(f"    {line}\n" for line in text.splitlines())
