"""A study: what was searched, all trials, and what came of it. As a file, ``study.json``.

The file is written anew after each trial. It says all that a reader wants to know; what Optuna
goes on from is ``study.db`` beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import polars as pl
from pydantic import ConfigDict, Field, FiniteFloat, JsonValue, model_validator

from cnsdiff.base.errors import ConfigError, DataError, RunError
from cnsdiff.base.search_space import Space
from cnsdiff.base.settings import Record, shown
from cnsdiff.base.storage import locked, read_record, remove_leftovers, unused, write_json
from cnsdiff.base.text import Command
from cnsdiff.display.wording import count, number, percent

SCHEMA_VERSION = 1
#: A best value in the outer part of a space hints that there are better ones outside; how far
#: outside to look.
_NEAR, _FURTHER = 0.05, 4
STUDY_FILE, BEST_CONFIG, BEST_RUN, DATABASE = "study.json", "best.yaml", "best", "study.db"

#: ``completed``: trained to its end; ``pruned``: ended early, as it lagged behind the others;
#: ``failed``: could not be trained.
TrialState = Literal["completed", "pruned", "failed"]
_Whole: TypeAlias = Annotated[int, Field(ge=0, lt=2**31)]
#: The value of each setting searched, by dotted key; whole numbers fit into 64 bits.
Setting: TypeAlias = dict[
    str, bool | Annotated[int, Field(gt=-(2**63), lt=2**63)] | FiniteFloat | str | None
]


class Trial(Record):
    """One setting that was tried, and what came of it.

    Attributes
    ----------
    number
        From 0, which is the configuration as given.
    state
        See :data:`TrialState`.
    setting
        The value of each setting searched, by dotted key.
    value
        The validation objective at its best epoch (of a pruned one so far); ``None`` if it failed.
    best_epoch, epochs
        Which epoch that was, and how many were trained.
    dial
        At which the finished model is read; ``None`` unless completed.
    curve
        Epoch and objective of each validation.
    seconds
        That it took.
    error
        Why it failed, in a sentence.
    same_as
        Number of an earlier trial of the same setting, whose outcome this is: nothing was trained.
    """

    model_config = ConfigDict(extra="forbid")

    number: _Whole
    state: TrialState
    setting: Setting
    value: FiniteFloat | None = None
    best_epoch: _Whole = 0
    epochs: _Whole = 0
    dial: FiniteFloat | None = None
    curve: Annotated[
        tuple[Annotated[tuple[int, FiniteFloat], Field(strict=False)], ...], Field(strict=False)
    ] = ()
    seconds: FiniteFloat = 0.0
    error: str | None = None
    same_as: int | None = None

    @model_validator(mode="after")
    def _require_value(self) -> Trial:
        if self.state == "completed" and self.value is None:
            raise ValueError("completed, but has no value")
        return self

    def described(self) -> str:
        """Its setting in a few words."""
        return "  ".join(f"{key}={value_text(value)}" for key, value in self.setting.items())


class Share(Record):
    """Of the variance of a forest, what one setting explains.

    Attributes
    ----------
    share
        The mean over the forests; those of all settings sum to one.
    low, high
        The 10% and 90% quantiles over the forests.
    """

    model_config = ConfigDict(extra="forbid")

    share: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat


class Importances(Record):
    """The shares of all settings searched; see :mod:`cnsdiff.tuning.importance`.

    Attributes
    ----------
    shares
        By the setting's dotted key, largest first.
    n_trials
        Completed trials that they are of.
    leader
        The setting that comes first, whichever trials are left out; ``None`` if there is none.
    """

    shares: dict[str, Share]
    n_trials: int
    leader: str | None

    @model_validator(mode="after")
    def _require_leader(self) -> Importances:
        if self.leader is not None and self.leader not in self.shares:
            raise ValueError(f"leader is {shown(self.leader)}, which has no share")
        return self


class StudiedDataset(Record):
    """The dataset of a study."""

    name: str
    scenario: str
    path: str | None


class Study(Record):
    """Results of a tuning so far.

    Attributes
    ----------
    dataset
        ``name``, ``scenario``, ``path`` and ``fingerprint``.
    objective
        What validation measures: ``"ndcg@20"``, or ``"ndcg@20 (recency)"`` as under a shift that
        is anticipated.
    asked
        How many trials were asked for.
    pruning
        Whether trials that lag behind are ended.
    searched
        The space of each setting, by dotted key.
    left_out
        Why some settings are not searched.
    importances
        ``None`` while there are too few trials to tell.
    trials
        All of them, in order.
    config
        The configuration as given, as a tree.
    """

    model_config = ConfigDict(extra="ignore")

    dataset: StudiedDataset
    objective: str
    asked: _Whole
    pruning: bool
    searched: dict[str, Space]
    left_out: tuple[str, ...] = Field(strict=False)
    importances: Importances | None = None
    trials: tuple[Trial, ...] = Field((), strict=False)
    config: dict[str, JsonValue]

    @model_validator(mode="after")
    def _require_agreement(self) -> Study:
        if "seed" not in self.config:
            raise ValueError("config has no seed")
        for key in self.searched:
            try:
                self.as_given(key)
            except (KeyError, TypeError):
                raise ValueError(f"config has no {shown(key)}, which was searched") from None
        for at, trial in enumerate(self.trials):
            if missing := self.searched.keys() - trial.setting.keys():
                raise ValueError(f"trials.{at}.setting has no {shown(min(missing))}")
        if self.importances is not None:
            unknown = self.importances.shares.keys() - self.searched.keys()
            if unknown or not self.importances.shares:
                raise ValueError("importances do not match the searched settings")
        return self

    @property
    def spaces(self) -> dict[str, Space]:
        """The spaces searched, by dotted key."""
        return self.searched

    @property
    def best(self) -> Trial | None:
        """The completed trial of the highest value; ``None`` if there is none."""
        return best_trial(self.trials)

    @property
    def given(self) -> Trial | None:
        """The trial of the configuration as given, if it completed."""
        first = self.trials[0] if self.trials else None
        return first if first is not None and first.state == "completed" else None

    @property
    def gain(self) -> float | None:
        """By which share the best is above the configuration as given; ``None`` if unknown."""
        if self.best is None or self.given is None or not self.given.value:
            return None
        assert self.best.value is not None
        return self.best.value / self.given.value - 1

    def as_given(self, key: str) -> Any:
        """The value of a setting in the configuration as given, by its dotted key."""
        value: Any = self.config
        for part in key.split("."):
            value = value[part]
        return value

    def wider(self) -> dict[str, Space]:
        """Of settings on a logarithmic scale whose best is near an end: where to look on."""
        best = self.best
        if best is None or best.number == 0:
            return {}
        logarithmic = {key: space for key, space in self.searched.items() if space.log}
        wider = {key: _wider(space, best.setting[key]) for key, space in logarithmic.items()}
        return {key: space for key, space in wider.items() if space is not None}

    def count(self, state: str) -> int:
        """Number of trials in a state."""
        return sum(trial.state == state for trial in self.trials)

    def table(self) -> pl.DataFrame:
        """A row per trial: ``trial``, ``state``, ``value``, …, and a column per setting searched.

        A setting whose values are of several types is a column of text.
        """
        trials = self.trials
        columns = {
            "trial": [trial.number for trial in trials],
            "state": [trial.state for trial in trials],
            "value": pl.Series([trial.value for trial in trials], dtype=pl.Float64),
            "best_epoch": [trial.best_epoch for trial in trials],
            "epochs": [trial.epochs for trial in trials],
            "dial": pl.Series([trial.dial for trial in trials], dtype=pl.Float64),
            "seconds": [trial.seconds for trial in trials],
            "error": pl.Series([trial.error for trial in trials], dtype=pl.String),
        }
        settings = {key: _column([t.setting[key] for t in trials]) for key in self.searched}
        return pl.DataFrame(columns | settings)

    def with_trials(
        self, trials: tuple[Trial, ...], importances: Importances | None = None
    ) -> Study:
        """The same with these trials."""
        return self.model_copy(update={"trials": trials, "importances": importances})

    def verdict(self, objective: str | None = None) -> str:
        """The outcome in one sentence; ``objective`` is how to call it."""
        best = self.best
        if best is None:
            return (
                f"None of {count(len(self.trials), 'setting')} could be trained to its end."
                if self.trials
                else "No setting has been tried yet."
            )
        reached = f"{objective or self.objective} {number(best.value)} on validation"
        if best.number == 0:
            if len(self.trials) == 1:
                return f"The configuration as given reaches {reached}; nothing else was tried."
            others = count(len(self.trials) - 1, "setting")
            return f"The configuration as given reaches {reached}, and none of {others} is better."
        sentence = f"The best of {count(len(self.trials), 'setting')} reaches {reached}"
        if self.gain is not None:
            sentence += f", {percent(self.gain, 1)} over the configuration as given"
        if self.importances is not None and self.importances.leader is not None:
            leader = self.importances.leader
            share = self.importances.shares[leader].share
            sentence += f"; {leader} accounts for {percent(share, 0)} of the differences"
        return sentence + "."

    def write(self, folder: Path) -> None:
        """Write ``study.json``."""
        best = self.best
        stated = {
            "schema_version": SCHEMA_VERSION,
            "created_by": f"cnsdiff {version('cnsdiff')}",
            "verdict": self.verdict(),
            "best": None if best is None else {"trial": best.number, "value": best.value},
        }
        write_json(folder / STUDY_FILE, stated | self.model_dump(mode="json"))


def value_text(value: object) -> str:
    """A value of a setting, a number with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def best_trial(trials: Iterable[Trial]) -> Trial | None:
    """The completed trial of the highest value, of equal ones the first; ``None`` if none is."""
    completed = [trial for trial in trials if trial.state == "completed"]
    return max(completed, key=lambda trial: (trial.value, -trial.number), default=None)


def next_commands(study: Study, folder: Path) -> list[Command]:
    """Commands to go on with after the study in ``folder``."""
    best, config = folder / BEST_RUN, folder / BEST_CONFIG
    dataset = study.dataset.path or "DATASET"
    another = "the same with another seed"
    run = unused(folder.with_name(f"{folder.name}-seed-1"))
    return [
        Command("evaluate", best, references=True, purpose="what it is worth on the tests"),
        Command("report", folder, purpose="which settings matter"),
        Command("train", dataset, config=config, seed=1, out=run, purpose=another),
    ]


def read_study(folder: Path) -> Study:
    """The study in a directory.

    Raises
    ------
    RunError
        There is none, it is damaged, or of another version.
    """
    file = folder / STUDY_FILE
    mend = f"run the `{Command('tune')}` command again, which writes it anew"
    missing = RunError(
        f"{folder}: holds no study (it has no {STUDY_FILE}); make one with "
        f"`{Command('tune', 'DATASET', out=folder)}`"
    )
    return read_record(file, Study, SCHEMA_VERSION, mend, missing=missing)


@contextmanager
def opened(folder: Path | None) -> Iterator[None]:
    """A directory that holds a study or nothing, and that nobody else writes to."""
    if folder is None:
        yield
        return
    own = {DATABASE, STUDY_FILE, BEST_CONFIG, BEST_RUN}
    fresh = not (folder / DATABASE).exists()
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; choose another directory")
    if folder.is_dir() and fresh and any(not e.name.startswith(".") for e in folder.iterdir()):
        raise RunError(
            f"{folder}: is not empty and holds no study ({DATABASE}); choose another directory"
        )
    busy = RunError(
        f"{folder}: another tuning is running here; wait for it, or choose another directory"
    )
    with locked(folder, busy):
        remove_leftovers(folder, own)
        try:
            yield
        except (ConfigError, DataError):
            if fresh:  # refused before anything was tried: a mended command begins anew
                for name in (DATABASE, STUDY_FILE):
                    (folder / name).unlink(missing_ok=True)
            raise


def _wider(space: Space, value: Any) -> Space | None:
    """A space that goes on where ``value`` is near an end of this one."""
    assert space.low is not None and space.high is not None
    if not isinstance(value, int | float) or value not in space:
        return None
    place = math.log(value / space.low) / math.log(space.high / space.low)
    low, high = space.low, space.high
    if place > 1 - _NEAR:
        high *= _FURTHER
    elif place < _NEAR:
        low = max(float(round(low / _FURTHER)), 1.0) if space.integer else low / _FURTHER
    if (low, high) == (space.low, space.high):
        return None
    return space.model_copy(update={"low": low, "high": high})


def _column(values: list[Any]) -> pl.Series:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        kind = pl.Float64 if float in kinds else pl.Int64
        return pl.Series(values, dtype=kind, strict=False)
    if kinds == {bool}:
        return pl.Series(values, dtype=pl.Boolean)
    return pl.Series([None if value is None else str(value) for value in values], dtype=pl.String)
