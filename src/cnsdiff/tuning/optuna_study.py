"""Optuna's side of a study: which setting comes next, who is pruned, and the database.

What trial ``n`` tries is a function of the seed, ``n`` and the outcomes of the trials before it:
its generator is seeded afresh. A trial that was cut short leaves no outcome, so its place is taken
by one that tries the very same, and a study that was killed ends as one that was left alone.
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.trial import FrozenTrial, TrialState

from cnsdiff.base.errors import RunError
from cnsdiff.base.search_space import Space
from cnsdiff.base.seeding import derive_seed
from cnsdiff.base.storage import first_line, storage_error
from cnsdiff.tuning.study import Setting, Trial

#: Trials before the sampler learns from them, and before one is pruned by them.
_STARTUP = 8
_PRUNED_BY = 5

_NAME = "cnsdiff"
_STATES = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


class _AsGiven(optuna.samplers.BaseSampler):
    """Suggests the configuration as given."""

    def __init__(self, given: Setting) -> None:
        self.given = given

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Any, trial: Any, param_name: str, param_distribution: Any
    ) -> Any:
        return self.given[param_name]


@dataclass(frozen=True)
class Question:
    """A trial under way: its number, from 0, and the setting that it tries."""

    number: int
    setting: Setting
    trial: optuna.Trial
    database: Path | None

    def lags(self, epoch: int, value: float) -> bool:
        """Take in a validation; true if the trial lags behind the others and is to be pruned."""
        with _guarded(self.database):
            self.trial.report(value, epoch)
            return self.trial.should_prune()


class OptunaStudy:
    """The study of one directory, or one in memory.

    Parameters
    ----------
    database
        File to store it in; ``None`` for memory.
    spaces, given
        What is searched, and its values in the configuration as given.
    seed
        The one seed.
    warmup
        Epochs before which no trial is pruned; ``None`` prunes none.
    identity
        What the study is of; a database of another is refused.

    Raises
    ------
    RunError
        The database is damaged, or is of another study.
    StorageError
        It cannot be written.
    """

    def __init__(
        self,
        database: Path | None,
        spaces: Mapping[str, Space],
        given: Setting,
        *,
        seed: int,
        warmup: int | None,
        identity: Mapping[str, str],
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.database, self.spaces, self.given, self.seed = database, spaces, given, seed
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if warmup is not None:
            pruner = optuna.pruners.MedianPruner(
                n_startup_trials=_PRUNED_BY, n_warmup_steps=warmup, n_min_trials=2
            )
        with _opening(database):
            storage = _storage(database)

            def create() -> optuna.Study:
                return optuna.create_study(
                    storage=storage,
                    study_name=_NAME,
                    direction="maximize",
                    load_if_exists=True,
                    pruner=pruner,
                )

            self._study = create()
            if self._study.user_attrs.get("identity", identity) != identity and not self.trials():
                # Nothing would be mixed up: another study may begin in its place.
                optuna.delete_study(study_name=_NAME, storage=storage)
                self._study = create()
            self._require_same(identity)
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                # Left by a kill. It has no outcome, and its place will be taken.
                self._study.tell(trial.number, state=TrialState.FAIL)

    def _require_same(self, identity: Mapping[str, str]) -> None:
        before = self._study.user_attrs.get("identity")
        if before is None:
            self._study.set_user_attr("identity", dict(identity))
            return
        for what, value in identity.items():
            if before.get(what) != value:
                folder = None if self.database is None else self.database.parent
                raise RunError(
                    f"{folder}: holds a study of another {what}; give the same {what} as before, "
                    "or choose another directory"
                )

    def trials(self) -> tuple[Trial, ...]:
        """All trials that have an outcome, in order."""
        with _guarded(self.database):
            settled = [t for t in self._study.get_trials(deepcopy=False) if _is_settled(t)]
        return tuple(
            Trial.model_validate({**trial.user_attrs["outcome"], "number": number})
            for number, trial in enumerate(settled)
        )

    def ask(self, number: int) -> Question:
        """Begin the trial that comes after ``number`` trials."""
        if number == 0:
            sampler: optuna.samplers.BaseSampler = _AsGiven(self.given)
        else:
            sampler = optuna.samplers.TPESampler(
                seed=derive_seed(self.seed, "tune", number) % 2**32, n_startup_trials=_STARTUP
            )
        searched = {
            key: space.distribution()
            for key, space in sorted(self.spaces.items())
            # What is given may lie outside of a space that was asked for.
            if number or self.given[key] in space
        }
        with _guarded(self.database):
            self._study.sampler = sampler
            trial = self._study.ask(searched)
            setting = dict(self.given)
            if number:
                setting = {k: self.spaces[k].short(trial.params[k]) for k in sorted(self.spaces)}
        return Question(number, setting, trial, self.database)

    def tell(self, question: Question, outcome: Trial) -> None:
        """Store the outcome of a trial."""
        state = next(state for state, name in _STATES.items() if name == outcome.state)
        with _guarded(self.database):
            known = self._study.trials[question.trial.number].intermediate_values
            for epoch, value in outcome.curve:
                if epoch not in known:
                    question.trial.report(value, epoch)
            question.trial.set_user_attr("outcome", outcome.model_dump(mode="json"))
            completed = state is TrialState.COMPLETE
            self._study.tell(question.trial, outcome.value if completed else None, state=state)

    def give_up(self, question: Question) -> None:
        """End a trial without an outcome; its place will be taken."""
        with _guarded(self.database):
            self._study.tell(question.trial, state=TrialState.FAIL)


def _is_settled(trial: FrozenTrial) -> bool:
    """Whether it has an outcome; a kill may have come between that and the end of the trial."""
    outcome = trial.user_attrs.get("outcome")
    return outcome is not None and outcome["state"] == _STATES.get(trial.state)


def _storage(database: Path | None) -> Any:
    if database is None:
        return None

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(database, timeout=60)

    # Not by an address: some letters that a path may have mean something else there.
    return optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": connect})


@contextlib.contextmanager
def _opening(database: Path | None) -> Iterator[None]:
    """Failures of opening a database, each in one sentence."""
    try:
        with _guarded(database):
            yield
    except (sqlite3.DatabaseError, sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
        raise RunError(
            f"{database}: is not a database of a study, or is damaged ({first_line(error)}); move "
            "it away to begin anew, or choose another directory"
        ) from error


@contextlib.contextmanager
def _guarded(database: Path | None) -> Iterator[None]:
    """A disk that is full or may not be written, as a :class:`StorageError`."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.OperationalError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, sqlite3.OperationalError):
            full = "full" in str(cause)
            reason = OSError(errno.ENOSPC, str(cause)) if full else cause
            raise storage_error(database or Path("study"), reason) from error
        raise
