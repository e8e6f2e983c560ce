"""An OOD test whose items follow another popularity distribution than the log's."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from cnsdiff.base.errors import ConfigError
from cnsdiff.shifts.apportionment import apportion
from cnsdiff.shifts.base import register_scenario
from cnsdiff.shifts.drawing import others, rank_within, rounded
from cnsdiff.shifts.log import Log
from cnsdiff.shifts.log_scenario import LogScenario, Parts

_STRENGTHS = {"uniform": 1.0, "inverted": 2.0}


@register_scenario
class Popularity(LogScenario):
    """The OOD test is drawn from the log so that ``p(item) ∝ popularity ** (1 - strength)``.

    Counts per item are exact (:func:`~cnsdiff.shifts.apportionment.apportion`). No item gives
    more than ``max_share`` of its rows; what it cannot give, the others give in proportion. How
    far the result is from the target for that reason (total variation, 0 to 1) and how many items
    gave all they may is written to the manifest; a smaller ``ood_share`` comes nearer.

    Attributes
    ----------
    strength
        0: no shift; 1: all items alike; 2: popularity inverted.
    target
        The same by name: ``"uniform"``, ``"inverted"``, or ``"tempered"`` with a ``strength``.
    ood_share
        Share of the log that becomes the OOD test.
    max_share
        Largest share of an item's rows that the OOD test takes.
    """

    name: ClassVar[str] = "popularity"

    strength: float = Field(1.0, ge=0, le=5)
    target: Literal["uniform", "inverted", "tempered"] | None = None
    ood_share: float = Field(0.1, gt=0, lt=1)
    max_share: float = Field(0.5, gt=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _strength_of_target(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("target") is None:
            return given
        target, strength = given["target"], given.get("strength")
        if target == "tempered" and strength is None:
            raise ValueError("target 'tempered' needs a strength; add it, for instance 0.5")
        named = _STRENGTHS.get(target) if isinstance(target, str) else None
        if named is not None and strength not in (None, named):
            raise ValueError(
                f"target {target!r} is strength {named:g}, and strength {strength} is given too; "
                "drop one of the two"
            )
        return given if named is None else {**given, "strength": named}

    def divide(self, log: Log, rng: np.random.Generator) -> Parts:
        """Draw the OOD test; all other rows train."""
        free = log.free
        popularity = np.bincount(log.items, minlength=log.n_items)
        available = np.bincount(log.items[free], minlength=log.n_items)
        caps = np.minimum(available, np.floor(self.max_share * popularity).astype(np.int64))
        wanted = rounded(self.ood_share, len(log))
        if wanted > caps.sum():
            raise ConfigError(
                f"{log.source}: at most {caps.sum()} of the {len(log)} rows can go to the OOD "
                f"test (max_share {self.max_share:g} of each item, and each user and item keeps "
                f"a row in train), and ood_share asks for {wanted}; lower ood_share"
            )
        weights = np.where(popularity > 0, popularity, np.inf) ** (1 - self.strength)
        weights[popularity == 0] = 0
        counts = apportion(wanted, weights, caps)
        items = log.items[free]
        ood = free[rank_within(items, rng) < counts[items]]
        # An empty test is refused by the caller, in words.
        missed = np.abs(counts / max(wanted, 1) - weights / weights.sum()).sum() / 2
        found = {
            "items_at_cap": int(np.count_nonzero((counts == caps) & (counts > 0))),
            "distance_to_target": round(float(missed), 4),
        }
        return Parts(others(ood, len(log)), ood, found)
