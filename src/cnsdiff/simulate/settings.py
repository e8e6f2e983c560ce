"""Settings of a simulated world and of its shift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from cnsdiff.base.errors import ConfigError, did_you_mean
from cnsdiff.base.settings import BEYOND_WHOLE, Settings, complaint

SHIFTS = ("popularity", "temporal", "exposure")
#: What ``hybrid`` stands for.
HYBRID = "temporal+popularity"

_AnySettings = TypeVar("_AnySettings", bound=Settings)


class WorldSettings(Settings):
    """A confounded world; it and its log are a function of these."""

    n_users: int = Field(1500, ge=1, le=10**9, description="users")
    n_items: int = Field(800, ge=2, le=10**9, description="items")
    dim: int = Field(8, ge=1, le=2**16, description="taste factors")
    confounding: float = Field(
        1.5, ge=0, le=1000, description="b: how strongly the environment moves exposure"
    )
    personalisation: float = Field(
        0.5, ge=0, le=1000, description="a: how strongly exposure follows taste"
    )
    sharpness: float = Field(3.0, ge=0, le=1000, description="κ of relevance")
    threshold: float = Field(0.5, ge=-1000, le=1000, description="ρ of relevance")
    exposures: float = Field(
        80.0, description="mean number of items a user is shown, over all periods"
    )
    periods: int = Field(8, ge=1, le=10_000, description="T: periods that are logged, 30 days each")
    popularity_weight: float = Field(1.0, ge=0, le=1000, description="its weight in E")
    season_weight: float = Field(0.5, ge=0, le=1000, description="its weight in E")
    promotion_weight: float = Field(0.5, ge=0, le=1000, description="its weight in E")
    persistence: float = Field(
        0.95, ge=-1, le=1, description="correlation of an item's popularity with the period before"
    )
    launches: float = Field(
        0.0, ge=0, lt=1, description="share of the items that come while the log runs, not before"
    )
    seasons: int = Field(
        4, ge=1, le=10**6, description="groups of items with a season of their own"
    )
    season_length: int = Field(8, ge=1, le=10**6, description="periods until the seasons come back")
    promotion_groups: int = Field(
        8, ge=1, le=10**6, description="groups of items, one promoted in a period"
    )
    content_features: int = Field(16, ge=0, le=2**16, description="columns of item_features")
    content_noise: float = Field(
        0.5, ge=0, le=1000, description="their noise, as a multiple of the signal"
    )
    user_groups: int = Field(
        4, ge=1, le=10**6, description="values of the attribute group of users"
    )
    seed: int = Field(0, ge=0, lt=BEYOND_WHOLE, description="the one seed")

    @model_validator(mode="after")
    def _check(self) -> WorldSettings:
        if not 0 < self.exposures < self.n_items:
            raise ValueError(
                f"exposures must lie between 0 and n_items={self.n_items}, not {self.exposures:g}"
            )
        return self


class ShiftSettings(Settings):
    """The difference between a simulated dataset's OOD test and its log."""

    shift: str = Field(
        "exposure", description="popularity, temporal, exposure, hybrid, or two joined by +"
    )
    strength: float = Field(
        1.0, ge=0, le=1, description="from the logged environment (0) to the full shift (1)"
    )
    target: Literal["inverted", "uniform", "resampled"] = Field(
        "inverted", description="popularity: what salience becomes"
    )
    test_periods: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="temporal: last periods kept for the OOD test; null: a quarter",
    )
    abrupt: bool = Field(
        False, description="temporal: seasons and promotions turn over at the cut as well"
    )
    shown: float | None = Field(
        None, gt=0, description="exposure: random items a user is shown; null: as in the log"
    )
    valid: float = Field(0.1, gt=0, lt=1, description="share of the log for validation")
    test_iid: float = Field(0.2, gt=0, lt=1, description="share of the log for the IID test")

    @property
    def _names(self) -> list[str]:
        """The single shifts, as written."""
        return (HYBRID if self.shift == "hybrid" else self.shift).split("+")

    @property
    def parts(self) -> tuple[str, ...]:
        """The single shifts, in the order in which they are applied."""
        return tuple(name for name in ("temporal", "popularity", "exposure") if name in self._names)

    @model_validator(mode="after")
    def _check(self) -> ShiftSettings:
        names = self._names
        for name in names:
            if name not in SHIFTS:
                raise ValueError(
                    f"unknown shift {name!r}{did_you_mean(name, (*SHIFTS, 'hybrid'))}; choose "
                    "popularity, temporal, exposure, hybrid, or two joined by +"
                )
        if len(set(names)) < len(names):
            raise ValueError(f"shift {self.shift!r} names one shift twice; name each once")
        if self.valid + self.test_iid >= 1:
            raise ValueError(
                f"valid {self.valid:g} and test_iid {self.test_iid:g} leave nothing to train on; "
                "lower one of them"
            )
        return self


def validated(model: type[_AnySettings], values: Mapping[str, Any]) -> _AnySettings:
    """The settings, or a :class:`ConfigError` of one sentence on the first thing wrong."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(complaint(error, model, "ConfoundedWorld")) from error
