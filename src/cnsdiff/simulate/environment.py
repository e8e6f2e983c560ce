"""The environment ``E``, period by period, and the shifts as interventions on it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cnsdiff.base.errors import ConfigError
from cnsdiff.base.seeding import numpy_generator
from cnsdiff.simulate.settings import ShiftSettings, WorldSettings

Row = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Environment:
    """An environment: beside taste, it decides which items are shown for a while."""

    label: str
    """Its name: in the ``period`` column, in the truth, and of its random stream."""
    start: int
    length: int
    """When it holds, in periods."""
    exposures: float
    """Mean number of items a user is shown."""
    popularity: Row
    season: Row
    promotion: Row
    """``(I,)`` each: the parts of ``E``."""
    salience: Row
    """``E`` ``(I,)``, their standardised sum."""
    available: NDArray[np.bool_]
    """``(I,)``: the items there are by then; others are shown to nobody."""
    randomised: float = 0.0
    """Share of the logging policy given up for chance: at 1 all items are shown alike."""


class Surroundings:
    """The parts of ``E`` over the logged periods, and how they add up.

    Attributes
    ----------
    popularity, season, promotion
        ``(T, I)`` each. Popularity drifts as an AR(1) process with standard normal margins;
        season is a cosine over ``season_length`` periods, whose phase is that of the item's
        season group; promotion lifts one group of items in each period. Each has mean about 0
        and variance about 1.
    resampled
        ``(I,)``: another, independent popularity.
    season_group, promotion_group
        ``(I,)``: the groups of each item.
    promotion_groups
        Their number.
    promoted
        ``(T,)``: the group promoted in each period, never the same twice running.
    launched
        ``(I,)``: the period from which on there is the item; 0 for most.
    """

    def __init__(self, settings: WorldSettings) -> None:
        self._settings = settings
        items, periods = settings.n_items, settings.periods
        draw = numpy_generator(settings.seed, "environment")
        self.season_group = draw.integers(settings.seasons, size=items)
        self.promotion_groups = settings.promotion_groups
        self.promotion_group = draw.integers(settings.promotion_groups, size=items)
        self.promoted = self._campaigns(draw)
        self.resampled: Row = draw.normal(size=items)
        self.popularity = self._drift(draw)
        turn = np.arange(periods)[:, None] / settings.season_length
        turn = turn - self.season_group / settings.seasons
        self.season: Row = np.sqrt(2.0) * np.cos(2 * np.pi * turn)
        self.promotion = self.promotion_of(self.promoted[:, None])
        self.launched = self._launches()
        mixed = self._mixed(self.popularity, self.season, self.promotion)
        spread = float(mixed.std())
        self._mean, self._scale = float(mixed.mean()), spread if spread > 1e-12 else 1.0

    def _campaigns(self, draw: np.random.Generator) -> NDArray[np.int64]:
        groups = self.promotion_groups
        steps = draw.integers(1, max(groups, 2), size=self._settings.periods)
        result: NDArray[np.int64] = steps.cumsum() % groups
        return result

    def _drift(self, draw: np.random.Generator) -> Row:
        shocks: Row = draw.normal(size=(self._settings.periods, self._settings.n_items))
        keep = self._settings.persistence
        for period in range(1, len(shocks)):
            shocks[period] = keep * shocks[period - 1] + np.sqrt(1 - keep**2) * shocks[period]
        return shocks

    def _launches(self) -> NDArray[np.int64]:
        draw = numpy_generator(self._settings.seed, "launches")  # moves no other draw
        late = draw.random(self._settings.n_items) < self._settings.launches
        periods = draw.integers(1, max(self._settings.periods, 2), size=len(late))
        return np.where(late, periods, 0)

    def promotion_of(self, group: int | NDArray[np.int64]) -> Row:
        """The promotion part when ``group`` is promoted: standardised over the groups."""
        groups = self.promotion_groups
        if groups == 1:
            return np.zeros(np.broadcast_shapes(np.shape(group), self.promotion_group.shape))
        share = 1 / groups
        lifted = (self.promotion_group == group).astype(np.float64)
        result: Row = (lifted - share) / np.sqrt(share * (1 - share))
        return result

    def _mixed(self, popularity: Row, season: Row, promotion: Row) -> Row:
        weights = self._settings
        result: Row = (
            weights.popularity_weight * popularity
            + weights.season_weight * season
            + weights.promotion_weight * promotion
        )
        return result

    def salience(self, popularity: Row, season: Row, promotion: Row) -> Row:
        """``E``: the weighted sum, standardised as it is over the logged items and periods."""
        return (self._mixed(popularity, season, promotion) - self._mean) / self._scale

    def periods(self) -> tuple[Environment, ...]:
        """The logged periods; each shows its share of ``exposures``."""
        settings = self._settings
        digits = len(str(settings.periods - 1))
        return tuple(
            Environment(
                label=f"period-{period:0{digits}d}",
                start=period,
                length=1,
                exposures=settings.exposures / settings.periods,
                popularity=self.popularity[period],
                season=self.season[period],
                promotion=self.promotion[period],
                salience=self.salience(
                    self.popularity[period], self.season[period], self.promotion[period]
                ),
                available=self.launched <= period,
            )
            for period in range(settings.periods)
        )


@dataclass(frozen=True)
class Intervention:
    """The environments of the log (train, valid, test_iid) and of the OOD test, in time order."""

    logged: tuple[Environment, ...]
    shifted: tuple[Environment, ...]


def intervene(
    periods: tuple[Environment, ...], surroundings: Surroundings, settings: ShiftSettings
) -> Intervention:
    """The environments under a shift of the logged ``periods``.

    :class:`ConfigError` if the temporal cut leaves no period on one side.
    """
    plan = Intervention(periods, periods)
    if "temporal" in settings.parts:
        plan = _temporal(plan, surroundings, settings)
    if "popularity" in settings.parts:
        plan = _popularity(plan, surroundings, settings)
    if "exposure" in settings.parts:
        plan = _exposure(plan, surroundings, settings)
    return plan


def _temporal(
    plan: Intervention, surroundings: Surroundings, settings: ShiftSettings
) -> Intervention:
    """The last periods are the OOD test.

    At strength 1 they are as they were; at strength 0 as if time had stopped at the cut. With
    ``abrupt`` each season becomes its opposite at the cut, and the campaigns move on by half the
    groups, so that the periods just before say little about those after.
    """
    count = len(plan.shifted)
    n_test = settings.test_periods or max(1, count // 4)
    if n_test >= count:
        raise ConfigError(
            f"ConfoundedWorld: test_periods {n_test} of {count} periods leave none to train on; "
            "lower test_periods or raise periods"
        )
    logged, later = plan.shifted[:-n_test], plan.shifted[-n_test:]
    if settings.abrupt:
        later = tuple(_turned_over(environment, surroundings) for environment in later)
    if settings.strength < 1:
        last = logged[-1]

        def towards(now: Row, then: Row) -> Row:
            return then + settings.strength * (now - then)

        later = tuple(
            _changed(
                environment,
                surroundings,
                "slowed",
                popularity=towards(environment.popularity, last.popularity),
                season=towards(environment.season, last.season),
                promotion=towards(environment.promotion, last.promotion),
            )
            for environment in later
        )
    return Intervention(logged, later)


def _turned_over(environment: Environment, surroundings: Surroundings) -> Environment:
    groups = surroundings.promotion_groups
    moved = (int(surroundings.promoted[environment.start]) + groups // 2) % groups
    return _changed(
        environment,
        surroundings,
        "abrupt",
        season=-environment.season,
        promotion=surroundings.promotion_of(moved),
    )


def _popularity(
    plan: Intervention, surroundings: Surroundings, settings: ShiftSettings
) -> Intervention:
    """The same periods, had popularity been another: inverted, uniform or drawn anew."""

    def target(popularity: Row) -> Row:
        if settings.target == "inverted":
            return -popularity
        if settings.target == "uniform":
            return np.zeros_like(popularity)
        return surroundings.resampled

    share = settings.strength
    shifted = tuple(
        _changed(
            environment,
            surroundings,
            "popularity",
            popularity=(1 - share) * environment.popularity
            + share * target(environment.popularity),
        )
        for environment in plan.shifted
    )
    return replace(plan, shifted=shifted)


def _exposure(
    plan: Intervention, surroundings: Surroundings, settings: ShiftSettings
) -> Intervention:
    """One experiment over the same time that shows items at random, whatever the user's taste.

    Below strength 1 it keeps a part of the policy under the mean environment of that time.
    """
    parts = {
        name: np.mean([getattr(environment, name) for environment in plan.shifted], axis=0)
        for name in ("popularity", "season", "promotion")
    }
    first, last = plan.shifted[0], plan.shifted[-1]
    logged = sum(environment.exposures for environment in plan.shifted)
    shown = settings.shown or logged
    n_items = int(last.available.sum())
    if shown >= n_items:
        raise ConfigError(
            f"ConfoundedWorld: shown must be less than the {n_items} items there are, not {shown:g}"
        )
    experiment = Environment(
        label="randomised",
        start=first.start,
        length=last.start + last.length - first.start,
        exposures=shown,
        salience=surroundings.salience(**parts),
        available=last.available,
        randomised=settings.strength,
        **parts,
    )
    return replace(plan, shifted=(experiment,))


def _changed(
    environment: Environment, surroundings: Surroundings, how: str, **parts: Row
) -> Environment:
    """The environment with other parts, under a label (and so with chance) of its own."""
    named = {
        name: parts.get(name, getattr(environment, name))
        for name in ("popularity", "season", "promotion")
    }
    return replace(
        environment,
        label=f"{environment.label}/{how}",
        salience=surroundings.salience(**named),
        **named,
    )
