"""Callbacks: listeners to a training, beside the reporter that shows it.

A :class:`Callback` is a :class:`~cnsdiff.training.progress.Reporter` that also hears what is
trained, and what came of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cnsdiff.base.errors import InputError
from cnsdiff.recommender.config import Config
from cnsdiff.recommender.run_directory import Fitted, Provenance
from cnsdiff.training.progress import Reporter

if TYPE_CHECKING:
    from cnsdiff.training.checkpoint import EpochRecord
    from cnsdiff.training.selection import EarlyStopping


@dataclass(frozen=True)
class FitContext:
    """A training that is about to begin.

    Attributes
    ----------
    config
        The resolved configuration.
    provenance
        Versions and dataset.
    run
        The run directory, which exists; None if nothing is stored.
    note
        Tells the user something worth knowing, in one line.
    """

    config: Config
    provenance: Provenance
    run: Path | None
    note: Callable[[str], None]


class Callback(Reporter):
    """Hears of a training; does nothing itself. Override what is to be heard.

    In this order: :meth:`begin_fit`; :meth:`before` with the epochs of an interrupted training,
    ``begin``, ``step`` and ``epoch``; :meth:`end_fit` or :meth:`abort_fit`. Of several processes
    the first alone tells.

    What :meth:`begin_fit` raises ends the training before it has begun. An exception later on is
    noted, and training goes on without this callback: hours of work shall not be lost because a
    server is gone.
    """

    def begin_fit(self, context: FitContext) -> None:
        """Training is about to begin, or to go on."""

    def end_fit(self, fitted: Fitted) -> None:
        """All is trained, and written if there is a run directory."""

    def abort_fit(self, error: BaseException) -> None:
        """Training ended early, by Ctrl-C or by an error, which is raised afterwards."""


class Listeners(Reporter):
    """A reporter and callbacks, told together.

    Parameters
    ----------
    reporter
        Shows what is told. Its exceptions are raised.
    callbacks
        Told after it. One that fails is left out from then on, and the reporter says so.

    Raises
    ------
    InputError
        One of ``callbacks`` is no :class:`Callback`.
    """

    def __init__(
        self, reporter: Reporter | None = None, callbacks: Sequence[Callback] = ()
    ) -> None:
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise InputError(
                    "callbacks must hold objects of cnsdiff.recommender.callbacks.Callback, "
                    f"not {callback!r}"
                )
        self.reporter = reporter or Reporter()
        self.callbacks = list(callbacks)

    def __enter__(self) -> Self:
        self.reporter.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.reporter.__exit__(*error)

    def note(self, message: str) -> None:
        self.reporter.note(message)
        self._tell(lambda callback: callback.note(message))

    def starting(self) -> AbstractContextManager[Callable[[int, int], None]]:
        return self.reporter.starting()

    def before(self, history: Sequence[EpochRecord], stopping: EarlyStopping) -> None:
        self.reporter.before(history, stopping)
        self._tell(lambda callback: callback.before(history, stopping))

    def begin(self, first_epoch: int, epochs: int, steps: int) -> None:
        self.reporter.begin(first_epoch, epochs, steps)
        self._tell(lambda callback: callback.begin(first_epoch, epochs, steps))

    def step(self, epoch: int, scalars: Mapping[str, float] | None) -> None:
        self.reporter.step(epoch, scalars)
        self._tell(lambda callback: callback.step(epoch, scalars))

    def epoch(self, record: EpochRecord, *, best: bool) -> None:
        self.reporter.epoch(record, best=best)
        self._tell(lambda callback: callback.epoch(record, best=best))

    def begin_fit(self, context: FitContext) -> None:
        """Tell the callbacks; what one raises is raised."""
        for callback in self.callbacks:
            callback.begin_fit(context)

    def end_fit(self, fitted: Fitted) -> None:
        """Tell the callbacks."""
        self._tell(lambda callback: callback.end_fit(fitted))

    def abort_fit(self, error: BaseException) -> None:
        """Tell the callbacks."""
        self._tell(lambda callback: callback.abort_fit(error))

    def _tell(self, call: Callable[[Callback], None]) -> None:
        for callback in list(self.callbacks):
            try:
                call(callback)
            except Exception as error:
                self.callbacks.remove(callback)
                said = without_passwords(" ".join(f"{type(error).__name__}: {error}".split()))
                self.reporter.note(
                    f"{type(callback).__name__} failed ({said}); training goes on without it"
                )


def without_passwords(text: str) -> str:
    """A message of another library, without what its addresses say of who asks."""
    return re.sub(r"://[^/@\s]*@", "://…@", text)
