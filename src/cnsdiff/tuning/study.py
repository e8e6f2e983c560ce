"""A study: what was searched, all trials, and what came of it. As a file, ``study.json``.

The file is written anew after each trial. It says all that a reader wants to know; what Optuna
goes on from is ``study.db`` beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import ConfigDict, Field, FiniteFloat, model_validator

from cnsdiff.base.errors import ConfigError, DataError, RunError
from cnsdiff.base.search_space import Space
from cnsdiff.base.settings import Record, misfit, shown
from cnsdiff.base.spelling import Command
from cnsdiff.base.storage import first_line, locked, read_json, remove_leftovers, write_json
from cnsdiff.display.wording import count, number, percent

SCHEMA_VERSION = 1
#: A best value in the outer part of a space hints that there are better ones outside; how far
#: outside to look.
_NEAR, _FURTHER = 0.05, 4
STUDY_FILE, BEST_CONFIG, BEST_RUN, DATABASE = "study.json", "best.yaml", "best", "study.db"


@dataclass(frozen=True)
class Share:
    """Of the variance of a forest, what one setting explains.

    Attributes
    ----------
    share
        The mean over the forests; those of all settings sum to one.
    low, high
        The 10% and 90% quantiles over the forests.
    """

    share: float
    low: float
    high: float


class ShareRecord(Record):
    """A :class:`Share` in ``study.json``."""

    model_config = ConfigDict(extra="forbid")

    share: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat


class ImportancesRecord(Record):
    """:class:`Importances` in ``study.json``."""

    shares: dict[str, ShareRecord]
    n_trials: int
    leader: str | None

    @model_validator(mode="after")
    def _known(self) -> ImportancesRecord:
        if self.leader is not None and self.leader not in self.shares:
            raise ValueError(f"leader is {shown(self.leader)}, which has no share")
        return self


@dataclass(frozen=True)
class Importances:
    """The shares of all settings searched.

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

    def as_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Importances:
        """What :meth:`as_json` was made of."""
        shares = {key: Share(**share) for key, share in record["shares"].items()}
        return cls(shares, record["n_trials"], record["leader"])


@dataclass(frozen=True)
class Study:
    """What a tuning has found so far.

    Attributes
    ----------
    dataset
        ``name``, ``scenario``, ``path`` and ``fingerprint``.
    objective
        What validation measures: ``"ndcg@20"``, or ``"ndcg@20 (recency)"`` as under a shift that
        is anticipated.
    config
        The configuration as given, as a tree.
    spaces
        What is searched, by dotted key.
    left_out
        Why some settings are not searched.
    asked
        How many trials were asked for.
    pruning
        Whether trials that lag behind are ended.
    trials
        All of them, in order.
    importances
        ``None`` while there are too few trials to tell.
    """

    dataset: dict[str, Any]
    objective: str
    config: dict[str, Any]
    spaces: dict[str, Space]
    left_out: tuple[str, ...]
    asked: int
    pruning: bool
    trials: tuple[Trial, ...] = ()
    importances: Importances | None = None

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
        logarithmic = {key: space for key, space in self.spaces.items() if space.log}
        wider = {key: _wider(space, best.setting[key]) for key, space in logarithmic.items()}
        return {key: space for key, space in wider.items() if space is not None}

    def count(self, state: str) -> int:
        """How many trials are in a state."""
        return sum(trial.state == state for trial in self.trials)

    def table(self) -> pl.DataFrame:
        """A row per trial; see :func:`~cnsdiff.tuning.study.trials_table`."""
        return trials_table(self.trials, self.spaces)

    def with_trials(
        self, trials: tuple[Trial, ...], importances: Importances | None = None
    ) -> Study:
        """The same with these trials."""
        return replace(self, trials=trials, importances=importances)

    def verdict(self, objective: str | None = None) -> str:
        """What came of it, in one sentence; ``objective`` is how to call it."""
        best = self.best
        if best is None:
            return (
                f"None of {count(len(self.trials), 'setting')} could be trained to its end."
                if self.trials
                else "No setting has been tried yet."
            )
        told = f"{objective or self.objective} {number(best.value)} on validation"
        if best.number == 0:
            if len(self.trials) == 1:
                return f"The configuration as given reaches {told}; nothing else was tried."
            others = count(len(self.trials) - 1, "setting")
            return f"The configuration as given reaches {told}, and none of {others} is better."
        sentence = f"The best of {count(len(self.trials), 'setting')} reaches {told}"
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
        write_json(
            folder / STUDY_FILE,
            {
                "schema_version": SCHEMA_VERSION,
                "created_by": f"cnsdiff {version('cnsdiff')}",
                "verdict": self.verdict(),
                "dataset": self.dataset,
                "objective": self.objective,
                "asked": self.asked,
                "pruning": self.pruning,
                "searched": {
                    key: space.model_dump(mode="json") for key, space in self.spaces.items()
                },
                "left_out": list(self.left_out),
                "best": None if best is None else {"trial": best.number, "value": best.value},
                "importances": None if self.importances is None else self.importances.as_json(),
                "trials": [trial.as_json() for trial in self.trials],
                "config": self.config,
            },
        )


class _StudiedDataset(Record):
    name: str
    scenario: str
    path: str | None


class StudyRecord(Record):
    """What ``study.json`` says, checked when it is read again."""

    schema_version: int
    dataset: _StudiedDataset
    objective: str
    asked: int = Field(ge=0, lt=2**31)
    pruning: bool
    searched: dict[str, Space]
    left_out: list[str]
    importances: ImportancesRecord | None
    trials: list[TrialRecord]
    config: dict[str, Any]

    @model_validator(mode="after")
    def _together(self) -> StudyRecord:
        if "seed" not in self.config:
            raise ValueError("config has no seed")
        for key in self.searched:
            value: Any = self.config
            for part in key.split("."):
                if not isinstance(value, dict) or part not in value:
                    raise ValueError(f"config has no {shown(key)}, which was searched")
                value = value[part]
        for at, trial in enumerate(self.trials):
            if missing := self.searched.keys() - trial.setting.keys():
                raise ValueError(f"trials.{at}.setting has no {shown(min(missing))}")
        if self.importances is not None:
            unknown = self.importances.shares.keys() - self.searched.keys()
            if unknown or not self.importances.shares:
                raise ValueError("importances are not of what was searched")
        return self


def next_commands(study: Study, folder: Path) -> list[Command]:
    """Commands to go on with after the study in ``folder``."""
    best, config = folder / BEST_RUN, folder / BEST_CONFIG
    dataset = study.dataset["path"] or "DATASET"
    another = "the same with another seed"
    return [
        Command("evaluate", best, references=True, purpose="what it is worth on the tests"),
        Command("report", folder, purpose="which settings matter"),
        Command("train", dataset, config=config, seed=1, out="RUN", purpose=another),
    ]


def read_study(folder: Path) -> Study:
    """The study in a directory.

    Raises
    ------
    RunError
        There is none, it is damaged, or of another version.
    """
    file = folder / STUDY_FILE
    try:
        record = read_json(file)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(
            f"{folder}: holds no study (it has no {STUDY_FILE}); make one with "
            f"`{Command('tune', 'DATASET', out=folder)}`"
        ) from error
    except (OSError, ValueError) as error:
        raise _damaged(file, first_line(error)) from error
    stated = isinstance(record, dict) and "schema_version" in record
    if stated and record["schema_version"] != SCHEMA_VERSION:
        raise RunError(
            f"{file}: schema version {shown(record['schema_version'])}, this cnsdiff reads "
            f"{SCHEMA_VERSION}; use the version of cnsdiff that wrote it"
        )
    if problem := misfit(StudyRecord, record):
        raise _damaged(file, problem)
    return _study(record)


def _study(record: Mapping[str, Any]) -> Study:
    importances = record["importances"]
    return Study(
        dataset=dict(record["dataset"]),
        objective=record["objective"],
        config=dict(record["config"]),
        spaces={key: Space(**space) for key, space in record["searched"].items()},
        left_out=tuple(record["left_out"]),
        asked=record["asked"],
        pruning=record["pruning"],
        trials=tuple(Trial.from_json(trial) for trial in record["trials"]),
        importances=None if importances is None else Importances.from_json(importances),
    )


def _damaged(file: Path, problem: str) -> RunError:
    return RunError(
        f"{file}: is damaged ({problem}); run the `cnsdiff tune` command again, which writes it "
        "anew"
    )


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


#: ``completed``: trained to its end; ``pruned``: ended early, as it lagged behind the others;
#: ``failed``: could not be trained.
TrialState = Literal["completed", "pruned", "failed"]


class TrialRecord(Record):
    """A trial in ``study.json``; see :class:`Trial`."""

    model_config = ConfigDict(extra="forbid")

    number: int = Field(ge=0, lt=2**31)
    state: TrialState
    setting: dict[
        str, bool | Annotated[int, Field(gt=-(2**63), lt=2**63)] | FiniteFloat | str | None
    ]
    value: FiniteFloat | None
    best_epoch: int = Field(ge=0, lt=2**31)
    epochs: int = Field(ge=0, lt=2**31)
    dial: FiniteFloat | None
    curve: list[Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]]
    seconds: FiniteFloat
    error: str | None
    same_as: int | None

    @model_validator(mode="after")
    def _valued(self) -> TrialRecord:
        if self.state == "completed" and self.value is None:
            raise ValueError("completed, but has no value")
        return self


@dataclass(frozen=True)
class Trial:
    """A trial of a study.

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

    number: int
    state: TrialState
    setting: dict[str, Any]
    value: float | None = None
    best_epoch: int = 0
    epochs: int = 0
    dial: float | None = None
    curve: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0
    error: str | None = None
    same_as: int | None = None

    def as_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Trial:
        """What :meth:`as_json` was made of."""
        curve = tuple((int(epoch), float(value)) for epoch, value in record["curve"])
        return cls(**{**record, "curve": curve})

    def described(self) -> str:
        """Its setting in a few words."""
        return "  ".join(f"{key}={value_text(value)}" for key, value in self.setting.items())


def value_text(value: Any) -> str:
    """A value of a setting, a number with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def best_trial(trials: Iterable[Trial]) -> Trial | None:
    """The completed trial of the highest value, of equal ones the first; ``None`` if none is."""
    completed = [trial for trial in trials if trial.state == "completed"]
    return max(completed, key=lambda trial: (trial.value, -trial.number), default=None)


def trials_table(trials: Iterable[Trial], keys: Iterable[str]) -> pl.DataFrame:
    """A row per trial: ``trial``, ``state``, ``value``, …, and a column per setting searched.

    A setting whose values are of several types is a column of text.
    """
    trials = list(trials)
    own = {
        "trial": [trial.number for trial in trials],
        "state": [trial.state for trial in trials],
        "value": pl.Series([trial.value for trial in trials], dtype=pl.Float64),
        "best_epoch": [trial.best_epoch for trial in trials],
        "epochs": [trial.epochs for trial in trials],
        "dial": pl.Series([trial.dial for trial in trials], dtype=pl.Float64),
        "seconds": [trial.seconds for trial in trials],
        "error": pl.Series([trial.error for trial in trials], dtype=pl.String),
    }
    return pl.DataFrame(own | {key: _column([t.setting[key] for t in trials]) for key in keys})


def _column(values: list[Any]) -> pl.Series:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        kind = pl.Float64 if float in kinds else pl.Int64
        return pl.Series(values, dtype=kind, strict=False)
    if kinds == {bool}:
        return pl.Series(values, dtype=pl.Boolean)
    return pl.Series([None if value is None else str(value) for value in values], dtype=pl.String)


@contextmanager
def opened(folder: Path | None) -> Iterator[None]:
    """A directory that holds a study or nothing, and that nobody else writes to."""
    if folder is None:
        yield
        return
    own = {DATABASE, STUDY_FILE, BEST_CONFIG, BEST_RUN}
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; choose another directory")
    if folder.is_dir() and not (folder / DATABASE).exists():
        others = sorted(e.name for e in folder.iterdir() if not e.name.startswith("."))
        if others:
            raise RunError(
                f"{folder}: is not empty and holds no study ({DATABASE}); choose another directory"
            )
    fresh = not (folder / DATABASE).exists()
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
