"""The four shifts, as interventions on the environment (METHOD §6).

Each maps the environments of the log and of the OOD test to new ones; a hybrid is their
composition. Taste and relevance are never touched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cnsdiff.base.errors import ConfigError
from cnsdiff.simulate.environment import Environment, Row, Surroundings
from cnsdiff.simulate.settings import ShiftSettings


@dataclass(frozen=True)
class Intervention:
    """The environments of the log (train, valid, test_iid) and of the OOD test, in time order."""

    logged: tuple[Environment, ...]
    shifted: tuple[Environment, ...]


def intervene(
    periods: tuple[Environment, ...], surroundings: Surroundings, settings: ShiftSettings
) -> Intervention:
    """The environments under a shift of the logged ``periods``.

    Raises
    ------
    ConfigError
        The temporal cut leaves no period on one side.
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
    kept = settings.test_periods or max(1, count // 4)
    if kept >= count:
        raise ConfigError(
            f"ConfoundedWorld: test_periods {kept} of {count} periods leave none to train on; "
            "lower test_periods or raise periods"
        )
    logged, later = plan.shifted[:-kept], plan.shifted[-kept:]
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
    if shown >= len(first.salience):
        raise ConfigError(
            f"ConfoundedWorld: shown must be less than n_items={len(first.salience)}, not {shown:g}"
        )
    experiment = Environment(
        label="randomised",
        start=first.start,
        length=last.start + last.length - first.start,
        exposures=shown,
        salience=surroundings.salience(**parts),
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
