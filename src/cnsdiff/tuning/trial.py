"""One setting that was tried, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import ConfigDict, Field, FiniteFloat, model_validator

from cnsdiff.base.settings import Record

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
        return "  ".join(f"{key}={shown(value)}" for key, value in self.setting.items())


def shown(value: Any) -> str:
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
