"""Settings of the training loop."""

from __future__ import annotations

import contextlib
import math
from typing import Annotated, Literal, cast

from pydantic import Field, field_validator, model_validator

from cnsdiff.base.search_space import Searched
from cnsdiff.base.settings import Settings
from cnsdiff.data.reading.times import seconds_of
from cnsdiff.evaluation.anticipation import WEIGHTED, Anticipated, Slicing, anticipated_name
from cnsdiff.evaluation.judges import JudgeKind

#: The four metrics that must improve together in the published code.
PUBLISHED_METRICS = ("recall@10", "ndcg@10", "recall@20", "ndcg@20")

Dial = Literal["off", "auto"] | float

#: Scenarios whose shift is not one of time.
TIMELESS = ("popularity", "exposure", "user-group", "noise")

#: An automatic batch is at least so large, and larger where an epoch would have more steps.
LEAST_BATCH, MOST_STEPS = 2048, 64


class TrainingConfig(Settings):
    """Length, speed and validation of the training."""

    epochs: int = Field(120, ge=1, le=10**6)
    batch_size: Annotated[int, Field(ge=1, lt=2**31)] | Literal["auto"] = Field(
        "auto",
        description="interactions per step; auto: 2048, and more where an epoch would have more "
        "than 64 steps of that, so that propagation over the whole graph, which each step needs, "
        "takes a time that grows with the log and not with its square",
    )
    slices: int = Field(
        1,
        ge=1,
        le=1024,
        description="parts of a batch, by user, that processes compute at once; at least one for "
        "each process, whatever it says here",
    )
    shard: bool = Field(
        False,
        description="with several processes: cut the tables and their moments by rows, so that "
        "each process has its share",
    )
    lr: Annotated[float, Searched(low=5e-4, high=2e-2, log=True)] = Field(
        0.002, gt=0, description="Adam's learning rate"
    )
    patience: int | None = Field(
        10, ge=1, description="validations without improvement before stopping; None: never stop"
    )
    patience_steps: int = Field(
        500,
        ge=0,
        description="optimiser steps without improvement before stopping, at the least: on a small "
        "log ten epochs are few steps, and training starts with a plateau",
    )
    validate_every: int = Field(1, ge=1, description="epochs between validations")
    select_on: Literal[
        "auto", "valid", Anticipated, "rehearsal", "target-counts", "target-sample", "test_ood"
    ] = Field(
        "auto",
        description="what picks the best epoch: the validation split as it is; the same weighted "
        "as under an anticipated shift; 'rehearsal', the latest part of the training data, after "
        "which all of them train; 'target-counts', validation as it is, after which scores are "
        "read under the known item counts of the target; 'target-sample', the judged users of the "
        "target; 'test_ood', which repeats the published code's selection on "
        "the test set and is not an honest result; or 'auto': 'rehearsal' on a log with times, "
        "unless the dataset was prepared for a shift other than time or the dial is set, and "
        "'valid' otherwise",
    )
    refit: bool | Literal["auto"] = Field(
        "auto",
        description="once epoch and dial are chosen, train on everything, validation included; "
        "'auto': after a rehearsal, and where the dataset lacks a validation or a test split",
    )
    horizon: float = Field(
        0.2,
        gt=0,
        description="of 'rehearsal': how long the model is to hold, as seconds or a length of "
        "time ('30d'); below 1, the share of the interactions that are rehearsed on",
    )
    select_also: Anticipated | None = Field(
        None,
        description="of 'rehearsal': the objective of a shift that comes beside that of time, by "
        "which the rehearsed pairs weigh",
    )
    select_metric: str = Field("ndcg@20", pattern=r"^(recall|ndcg|precision|hitrate|mrr|map)@\d+$")
    select_strength: float = Field(
        1.0,
        ge=-10,
        le=10,
        description="of 'tempered': 0 no shift, 1 uniform popularity, 2 inverted",
    )
    select_half_life: float = Field(
        0.1,
        ge=1e-6,
        le=1e6,
        description="of 'recency', as a share of the validation data's time span",
    )
    select_slices: int = Field(4, ge=2, le=1000, description="number of strata of 'worst-slice'")
    select_slice_by: Slicing = Field("popularity", description="what 'worst-slice' slices by")
    dial: Dial = Field(
        "auto",
        description="how much of the environment the scores keep: 'auto' chooses it on validation "
        "by what picks the epoch, 'off' (0) leaves the scores as they are, a number fixes it",
    )
    select_drift: float = Field(
        0.5, ge=0, le=1, description="of 'drift': share of held-out pairs from a changed taste"
    )
    fhn_every: int | None = Field(
        1, ge=1, description="epochs between counts of false negatives; None: never"
    )
    fhn_on: JudgeKind = Field(
        "valid",
        description="what tells a false negative: pairs held out in 'valid' or in all splits, an "
        "experiment's judgements, or a simulated world's truth; it changes no weight",
    )
    fhn_sample: int | None = Field(
        None,
        ge=1,
        description="negatives judged in an epoch that counts; None: 1% of the training "
        "interactions, but at least 256 and at most 2048, at a few per cent of an epoch's time",
    )
    fhn_neighbours: int = Field(
        1, ge=1, le=10**6, description="k, catalogue items that stand for a synthesised negative"
    )

    def batch_size_for(self, n_pairs: int) -> int:
        """Interactions per step of a log of ``n_pairs``."""
        if self.batch_size == "auto":
            return max(LEAST_BATCH, math.ceil(n_pairs / MOST_STEPS))
        return self.batch_size

    def patience_in_validations(self, steps_per_epoch: int) -> int | None:
        """Validations without improvement that satisfy both forms of patience."""
        if self.patience is None:
            return None
        between = steps_per_epoch * self.validate_every
        return max(self.patience, math.ceil(self.patience_steps / between))

    @property
    def fixed_dial(self) -> float | None:
        """The dial that is not chosen, if it is not."""
        if self.select_on == "target-counts":  # which are the environment themselves
            return 0.0
        if self.dial == "auto":
            return None
        return 0.0 if self.dial == "off" else self.dial

    @property
    def rehearses(self) -> bool:
        """Whether training is rehearsed on its latest part, and then done with everything."""
        return self.select_on == "rehearsal"

    @property
    def selection_split(self) -> str:
        """The split that picks the best epoch, or the side table."""
        if self.select_on == "target-sample":
            return "target_sample"
        return "test_ood" if self.select_on == "test_ood" else "valid"

    @property
    def selection_metrics(self) -> tuple[str, ...]:
        """The metrics that pick the best epoch, by their names in a validation."""
        if self.select_on == "test_ood":
            return PUBLISHED_METRICS
        if self.anticipated is None:
            return (self.select_metric,)
        return (anticipated_name(self.select_metric, self.anticipated),)

    @property
    def anticipated(self) -> Anticipated | None:
        """The shift that validation is weighted for, if any."""
        if self.select_on == "rehearsal":
            return self.select_also
        if self.select_on in ("auto", "valid", "target-counts", "target-sample", "test_ood"):
            return None
        return cast(Anticipated, self.select_on)

    def on(self, scenario: str, *, dated: bool) -> TrainingConfig:
        """These settings for a dataset: with ``select_on="auto"`` decided.

        Parameters
        ----------
        scenario
            That it was prepared by.
        dated
            Whether its training pairs have times.
        """
        if self.select_on != "auto":
            return self
        possible = dated and self.refit is not False and self.dial == "auto"
        rehearses = possible and scenario not in TIMELESS
        return self.model_copy(update={"select_on": "rehearsal" if rehearses else "valid"})

    def refits(self, *, held_out: bool) -> bool:
        """Whether everything trains in the end; a dataset has held out splits for both or not."""
        if self.refit == "auto":
            return self.rehearses or (not held_out and self.select_on != "test_ood")
        return self.refit

    @field_validator("horizon", mode="before")
    @classmethod
    def _horizon(cls, value: object) -> object:
        return seconds_of(value) if isinstance(value, str) else value

    @field_validator("dial", mode="before")
    @classmethod
    def _dial(cls, value: object) -> object:
        if value is False:  # YAML's reading of a bare `off`
            return "off"
        if value not in ("off", "auto"):
            number = math.nan
            if isinstance(value, str | int | float) and value is not True:
                with contextlib.suppress(ValueError, OverflowError):
                    number = float(value)
            if not math.isfinite(number):
                raise ValueError("must be 'auto', 'off' or a finite number")
            return number
        return value

    @model_validator(mode="after")
    def _check(self) -> TrainingConfig:
        if self.anticipated is not None and self.select_metric.partition("@")[0] not in WEIGHTED:
            raise ValueError(
                f"{'select_also' if self.rehearses else 'select_on'}={self.anticipated!r} weighs "
                "validation pairs, which only recall and ndcg "
                f"can do; set select_metric to one of them, not {self.select_metric!r}"
            )
        if self.rehearses and self.fixed_dial:
            raise ValueError(
                "select_on='rehearsal' chooses an environment, of which the dial is a part; set "
                f"training.dial to 'auto' or 'off', not {self.dial:g}"
            )
        if self.select_on == "target-counts" and self.dial not in ("auto", "off", 0):
            raise ValueError(
                "select_on='target-counts' reads scores under known counts and not at a dial; set "
                f"training.dial to 'auto', not {self.dial:g}"
            )
        if self.refit is False and self.rehearses:
            raise ValueError(
                "select_on='rehearsal' trains on a part of the log, which nobody should be served "
                "from; leave training.refit at 'auto'"
            )
        if self.select_on == "test_ood" and self.dial == "auto":
            raise ValueError(
                "select_on='test_ood' repeats a published protocol, which has no dial, and 'auto' "
                "would choose one on the test set; set training.dial to 'off'"
            )
        return self
