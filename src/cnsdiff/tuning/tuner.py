"""Tuning: trials of settings, one after another, each judged on validation alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import yaml

from cnsdiff.base.errors import (
    CnsdiffError,
    ConfigError,
    InputError,
    RunError,
    TrainingError,
)
from cnsdiff.base.search_space import Space
from cnsdiff.base.storage import write_text
from cnsdiff.base.text import install_command
from cnsdiff.data import Dataset
from cnsdiff.recommender.config import Config
from cnsdiff.recommender.recommender import Recommender
from cnsdiff.recommender.run_directory import config_fingerprint, provenance, read_manifest
from cnsdiff.training.checkpoint import EpochRecord
from cnsdiff.training.processes import place
from cnsdiff.training.progress import Reporter as TrainingReporter
from cnsdiff.tuning.importance import importances
from cnsdiff.tuning.progress import Reporter
from cnsdiff.tuning.searches import Variants, choose_searches
from cnsdiff.tuning.study import (
    BEST_CONFIG,
    BEST_RUN,
    DATABASE,
    Setting,
    StudiedDataset,
    Study,
    Trial,
    TrialState,
    best_trial,
    opened,
)

if TYPE_CHECKING:
    from cnsdiff.tuning.optuna_study import Question

#: No trial is pruned in its first epochs: that many validations, or this share of all epochs.
_WARMUP_VALIDATIONS, _WARMUP_SHARE = 5, 10


@dataclass(frozen=True)
class Tuned:
    """Result of :func:`tune`.

    Attributes
    ----------
    study
        What was searched, and every trial.
    model
        The best trial's recommender, fitted.
    """

    study: Study
    model: Recommender

    @property
    def best_config(self) -> Config:
        """The configuration of the best trial."""
        return self.model.config_

    @property
    def best_value(self) -> float:
        """The validation objective there."""
        assert self.study.best is not None and self.study.best.value is not None
        return self.study.best.value

    @property
    def trials(self) -> pl.DataFrame:
        """A row per trial; see :func:`~cnsdiff.tuning.study.Study.table`."""
        return self.study.table()


def tune(
    recommender: Recommender,
    dataset: Dataset,
    *,
    trials: int = 20,
    out: str | Path | None = None,
    search: Mapping[str, Space] | None = None,
    only: Collection[str] | None = None,
    fixed: Collection[str] = (),
    budget: float | None = None,
    prune: bool = True,
    reporter: Reporter | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Tuned:
    """Search settings of a recommender; validation judges, and no test split is opened.

    Trial 0 is the configuration as given, so what is chosen is never worse than that on validation.
    The others are suggested by Optuna's TPE sampler. All are trained with the recommender's own
    seed, one after another; which comes next, and so the result, is a function of that seed.

    Parameters
    ----------
    recommender
        Not fitted, or fitted before; it is not changed. It says what is tried first, which of the
        spaces that settings declare are searched, and by ``training.select_on`` what judges.
    dataset
        Its train and valid splits are read.
    trials
        How many settings to try, those of before included.
    out
        Directory to keep the study in, the best configuration (``best.yaml``) and the best trial's
        run (``best/``). If it holds a study of the same, that goes on.
    search
        Spaces by dotted key, in place of those declared or beside them.
    only
        Search these settings alone: dotted keys, or names of sections.
    fixed
        Dotted keys that stay as given.
    budget
        Seconds; no trial begins that would, going by those before, not end within.
    prune
        End trials early that lag behind the median of the others.
    reporter
        Told of progress; silent by default.
    clock
        In seconds; for tests.

    Returns
    -------
    Tuned

    Raises
    ------
    ConfigError
        The configuration is wrong, a setting cannot be searched, or Optuna is not installed.
    DataError
        The dataset has no valid split.
    RunError
        ``out`` holds something else, or a study of something else, or is in use.
    StorageError
        ``out`` cannot be written.
    TrainingError
        Not one trial could be trained to its end.
    """
    if place().count > 1:
        raise ConfigError(
            "a tuning runs in one process; start it without torchrun, and train the best "
            "configuration with several"
        )
    try:
        import optuna  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"tuning needs {error.name}; install it with: {install_command('tune')}"
        ) from error
    if trials < 1:
        raise ConfigError(f"a tuning needs 1 trial or more, not {trials}")
    variants = Variants(recommender)
    training = variants.config.training
    if training.select_on == "test_ood":
        raise ConfigError(
            "training.select_on=test_ood would choose settings on the test set; choose by "
            "validation: valid, or the shift that you anticipate"
        )
    searches = choose_searches(variants, search=search, only=only, fixed=fixed)
    study = Study(
        dataset=StudiedDataset.model_validate(
            provenance(variants.config, dataset).dataset.model_dump()
        ),
        objective=training.selection_metrics[0],
        config=variants.config.model_dump(mode="json"),
        searched=searches.spaces,
        left_out=searches.left_out,
        asked=trials,
        pruning=prune,
    )
    folder = None if out is None else Path(out)
    with opened(folder):
        tuning = _Tuning(variants, dataset, study, searches.given, folder, reporter or Reporter())
        tuning.run(budget, clock)
        return tuning.result()


class _Tuning:
    """A study being carried out."""

    def __init__(
        self,
        variants: Variants,
        dataset: Dataset,
        study: Study,
        given: Setting,
        folder: Path | None,
        reporter: Reporter,
    ) -> None:
        from cnsdiff.tuning.optuna_study import OptunaStudy

        self.variants, self.dataset = variants, dataset
        self.folder, self.reporter = folder, reporter
        self.model: Recommender | None = None
        training = variants.config.training
        least = _WARMUP_VALIDATIONS * training.validate_every
        warmup = max(least, training.epochs // _WARMUP_SHARE) if study.pruning else None
        self.optuna = OptunaStudy(
            None if folder is None else folder / DATABASE,
            study.spaces,
            given,
            seed=variants.config.seed,
            warmup=warmup,
            identity={
                "dataset": dataset.fingerprint,
                "configuration": config_fingerprint(variants.config),
                "search space": repr(sorted(study.spaces.items())),
                "way of pruning": str(warmup),
            },
        )
        self.study = study.with_trials(self.optuna.trials())

    def run(self, budget: float | None, clock: Callable[[], float]) -> None:
        """Try settings until all trials are there, or the budget is spent."""
        started = clock()
        asked = self.study.asked
        with self.reporter:
            for sentence in self.study.left_out:
                self.reporter.note(sentence)
            self.reporter.begin(asked, self.study.trials)
            try:
                while len(self.study.trials) < asked and not self._exhausted():
                    if budget is not None and not self._fits(budget - (clock() - started)):
                        self.reporter.note(
                            f"the budget is spent after {len(self.study.trials)} of {asked} "
                            "trials; the same again goes on"
                        )
                        break
                    self._try(clock)
            finally:
                # The importances take a while, so they are computed once.
                trials, seed = self.study.trials, self.variants.config.seed
                shares = importances(trials, self.study.spaces, seed)
                self.study = self.study.with_trials(trials, shares)
                self._write()

    def result(self) -> Tuned:
        """The study and the best trial's model."""
        best = self.study.best
        if best is None:
            errors = [trial.error for trial in self.study.trials if trial.error]
            reason = f"; the first: {errors[0]}" if errors else ""
            raise TrainingError(f"none of {len(self.study.trials)} trials ended well{reason}")
        return Tuned(self.study, self.model or self._stored(best))

    def _stored(self, best: Trial) -> Recommender:
        """The best trial's run of a study taken up; trained again if it is gone."""
        assert self.folder is not None
        run = self.folder / BEST_RUN
        try:
            expected = config_fingerprint(self.variants.resolve(_changes(best)))
            if read_manifest(run).config_fingerprint == expected:
                return Recommender.load(run)
        except RunError as error:
            self.reporter.note(f"the best trial is trained again: {error}")
        model = self.variants.recommender(_changes(best)).fit(self.dataset)
        model.save(run, overwrite=True)
        return model

    def _fits(self, left: float) -> bool:
        """Whether a trial can be expected to end in time; the first is begun in any case."""
        seconds = [trial.seconds for trial in self.study.trials if trial.same_as is None]
        return not seconds or statistics.median(seconds) <= left

    def _exhausted(self) -> bool:
        """Whether all settings there are have been tried."""
        total = 1
        for space in self.study.spaces.values():
            if space.size is None:
                return False
            total *= space.size
        tried = {
            repr(trial.setting)
            for trial in self.study.trials
            if all(trial.setting[key] in space for key, space in self.study.spaces.items())
        }
        if len(tried) < total:
            return False
        self.reporter.note(f"all {total} settings have been tried")
        return True

    def _try(self, clock: Callable[[], float]) -> None:
        """One trial: ask for a setting, train it unless it is known, store the outcome."""
        trials = self.study.trials
        question = self.optuna.ask(len(trials))
        try:
            # Optuna may suggest a setting again; its outcome would be the same.
            twin = next((t for t in trials if t.setting == question.setting), None)
            if twin is not None:
                change = {"number": question.number, "seconds": 0.0, "same_as": twin.number}
                trial = twin.model_copy(update=change)
            else:
                self.reporter.trial_begins(question.number, question.setting)
                trial = self._train(question, clock)
        except BaseException:
            # Ctrl-C, or an error that another setting would meet as well.
            self.optuna.give_up(question)
            raise
        self.optuna.tell(question, trial)
        self.study = self.study.with_trials((*trials, trial))
        self._write()
        self.reporter.trial_ends(trial, best=self.study.best is trial)

    def _train(self, question: Question, clock: Callable[[], float]) -> Trial:
        """Train a setting, and store the model if none before it was as good."""
        started = clock()
        watch = _Watch(question, self.reporter)
        state: TrialState = "completed"
        dial = error = None
        try:
            model = self.variants.recommender(question.setting if question.number else {})
            watch.follow(model.resolve())
            model.fit(self.dataset, reporter=watch, stop=lambda _: watch.lags)
            if watch.lags:
                state = "pruned"
            else:
                dial = model.dial_
        except CnsdiffError as failure:
            if question.number == 0 and isinstance(failure, InputError):
                raise  # the user's, and not the setting's
            state, error = "failed", str(failure)
        if state == "failed":
            watch = _Watch(question, self.reporter)  # of a failed one nothing is kept
        trial = Trial(
            number=question.number,
            state=state,
            setting=question.setting,
            dial=dial,
            seconds=clock() - started,
            error=error,
            value=watch.value,
            best_epoch=watch.best_epoch,
            epochs=watch.epochs,
            curve=tuple(watch.curve),
        )
        if best_trial((*self.study.trials, trial)) is trial:
            self.model = model
            if self.folder is not None:
                model.save(self.folder / BEST_RUN, overwrite=True)
        return trial

    def _write(self) -> None:
        """Write what is known so far."""
        if self.folder is None:
            return
        self.study.write(self.folder)
        best = self.study.best
        if best is not None:
            config = self.variants.resolve(_changes(best))
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
            reached = f"{self.study.objective} {best.value:.4f} on validation"
            write_text(self.folder / BEST_CONFIG, f"# Trial {best.number}: {reached}.\n{text}")


def _changes(trial: Trial) -> Setting:
    """The setting of a trial; the first is the configuration as given."""
    return trial.setting if trial.number else {}


class _Watch(TrainingReporter):
    """Follows a training: its validations go to the study, which may say that it lags."""

    def __init__(self, question: Question, reporter: Reporter) -> None:
        self.question, self.reporter = question, reporter
        self.curve: list[tuple[int, float]] = []
        self.epochs = self.best_epoch = 0
        self.value: float | None = None
        self.lags = False
        self._metric, self._most = "", 0

    def follow(self, config: Config) -> None:
        """The configuration to train, and the most epochs."""
        self._metric, self._most = config.training.selection_metrics[0], config.training.epochs

    def epoch(self, record: EpochRecord, *, best: bool) -> None:
        self.epochs = record["epoch"]
        if not record["validation"]:
            return
        value = float(record["validation"][self._metric])
        self.curve.append((self.epochs, value))
        if best:
            self.best_epoch, self.value = self.epochs, value
        self.reporter.validated(self.epochs, self._most, value)
        # After its last epoch there is nothing to be saved.
        self.lags = self.question.lags(self.epochs, value) and self.epochs < self._most
