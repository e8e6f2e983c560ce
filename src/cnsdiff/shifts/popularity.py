"""An OOD test whose items follow another popularity distribution than the log's."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from cnsdiff.base.errors import ConfigError
from cnsdiff.shifts.base import register_scenario
from cnsdiff.shifts.drawing import others, rank_within, rounded
from cnsdiff.shifts.log_scenario import Log, LogScenario, Parts

_STRENGTHS = {"uniform": 1.0, "inverted": 2.0}


@register_scenario
class Popularity(LogScenario):
    """The OOD test is drawn from the log so that ``p(item) ∝ popularity ** (1 - strength)``.

    Counts per item are exact (:func:`~cnsdiff.shifts.popularity.apportion`). No item gives
    more than ``max_share`` of its rows; what it cannot give, the others give in proportion. How
    far the result is from the target for that reason (total variation, 0 to 1) and how many items
    gave all they may is written to the manifest; a smaller ``ood_share`` comes nearer.
    """

    name: ClassVar[str] = "popularity"

    strength: float = Field(1.0, ge=0, le=5)
    """0: no shift; 1: all items alike; 2: popularity inverted."""
    target: Literal["uniform", "inverted", "tempered"] | None = None
    """The same by name: ``"uniform"``, ``"inverted"``, or ``"tempered"`` with a ``strength``."""
    ood_share: float = Field(0.1, gt=0, lt=1)
    """Share of the log that becomes the OOD test."""
    max_share: float = Field(0.5, gt=0, le=1)
    """Largest share of an item's rows that the OOD test takes."""

    @model_validator(mode="before")
    @classmethod
    def _strength_of_target(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("target") is None:
            return values
        target, strength = values["target"], values.get("strength")
        if target == "tempered" and strength is None:
            raise ValueError("target 'tempered' needs a strength; add it, for instance 0.5")
        named = _STRENGTHS.get(target) if isinstance(target, str) else None
        if named is not None and strength not in (None, named):
            raise ValueError(
                f"target {target!r} is strength {named:g}, and strength {strength} is given too; "
                "drop one of the two"
            )
        return values if named is None else {**values, "strength": named}

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
        facts = {
            "items_at_cap": int(np.count_nonzero((counts == caps) & (counts > 0))),
            "distance_to_target": round(float(missed), 4),
        }
        return Parts(others(ood, len(log)), ood, facts)


#: Quotas nearer than this to each other, or to a whole number, count as equal.
_EQUAL = 1e-9


def apportion(
    total: int, weights: NDArray[np.float64], caps: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Divide ``total`` in proportion to ``weights`` ``(n,)``, at most ``caps`` ``(n,)`` each.

    First the real quotas: ``min(caps[i], level * weights[i])`` with the one ``level`` at which they
    sum to ``total`` (water-filling). Then whole numbers: each quota is rounded down, and the
    largest remainders are rounded up, ties in order of index (Hamilton's method). A weight of zero
    gets nothing.

    Returns int64 ``(n,)`` summing to ``total``, each within 1 of its quota. ValueError if the caps
    of the positive weights do not hold ``total``, or an argument is out of range.
    """
    weights = np.asarray(weights, dtype=np.float64)
    caps = np.where(weights > 0, np.asarray(caps, dtype=np.int64), 0)
    if not np.isfinite(weights).all() or (weights < 0).any() or (caps < 0).any() or total < 0:
        raise ValueError("weights must be finite, and no argument negative")
    if total > caps.sum():
        raise ValueError(f"the caps hold {caps.sum()}, not {total}")
    quotas = _quotas(total, weights, caps)
    counts = np.minimum(np.floor(quotas + _EQUAL).astype(np.int64), caps)
    remainders = np.round((quotas - counts) / _EQUAL)
    # What is capped has no remainder, so the largest ones belong to those with room for one more.
    ranked = np.argsort(np.where(counts < caps, -remainders, np.inf), kind="stable")
    counts[ranked[: total - int(counts.sum())]] += 1
    return counts


def _quotas(
    total: int, weights: NDArray[np.float64], caps: NDArray[np.int64]
) -> NDArray[np.float64]:
    """``min(caps, level * weights)`` with the level at which they sum to ``total``."""
    open_ = np.flatnonzero(caps > 0)
    # The level at which each reaches its cap; in this order they fill up.
    full_at = caps[open_] / weights[open_]
    order = np.argsort(full_at, kind="stable")
    filled = np.concatenate([[0], np.cumsum(caps[open_][order])[:-1]])
    still_open = np.cumsum(weights[open_][order][::-1])[::-1]
    levels = (total - filled) / still_open
    # The level is right once the next to fill up does not.
    fits = np.flatnonzero(levels <= full_at[order])
    level = levels[fits[0]] if fits.size else np.inf
    quotas = np.zeros(len(weights))
    quotas[open_] = np.minimum(caps[open_], level * weights[open_])
    return quotas
