"""Drift: how far what is asked of a running system is from what it was trained on.

Two samples of one distribution differ, too. So each gauge stands beside its level by chance, which
is measured, as that of :mod:`cnsdiff.diagnostics.shift`: training and live interactions are pooled
and divided again at random. Where a gauge is looked at each minute, 95% is no bound: of 10,000
looks at a stream that stands still, 500 would pass. An alarm takes :data:`SIGMAS`, which a normal
gauge passes by chance once in 3.5 million looks, or six years of minutes; and it takes
:data:`LEAST`, since with many interactions a difference that matters to nobody is beyond chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr, stdtrit

from cnsdiff.diagnostics.shift import Counts, jensen_shannon, shares

#: Random re-divisions behind a level of chance.
DRAWS = 20
#: Deviations beyond chance that raise an alarm, and below which it ends: it does not flicker.
SIGMAS, CALM = 5.0, 3.0
#: What an alarm takes beyond chance, in nats: .007 where a group's part of the interactions goes
#: from 20% to 30%, and .005 where 1.4% are of unknown items.
LEAST = 0.005
#: Strata of equal training mass.
STRATA = 10
#: Deviations within which 95% of what comes next lie, of a mean of so many draws.
_WITHIN = float(stdtrit(DRAWS - 1, 0.95) * np.sqrt(1 + 1 / DRAWS))
#: Scenarios that drift may resemble (docs/scenarios.md).
Scenario = Literal["popularity", "temporal", "new-items", "user-group"]
_SENTENCES: dict[Scenario, str] = {
    "popularity": "items popular in training and items rare in it have changed their shares",
    "temporal": "items that were alike popular in training no longer are",
    "new-items": "items that training did not know are asked for more than chance explains",
    "user-group": "groups of users of like taste have changed their shares",
}


class Gauge(NamedTuple):
    """One measure of drift, beside its level by chance.

    Attributes
    ----------
    value
        As measured: a Jensen–Shannon divergence, in nats.
    chance, bound
        Its mean where nothing but chance differs, and what it is below in 95% of cases.
    sigmas
        How far it is beyond chance, in deviations of a normal variable that is as unlikely.
    """

    value: float
    chance: float
    bound: float
    sigmas: float

    @property
    def excess(self) -> float:
        """What is beyond chance."""
        return self.value - self.chance

    @classmethod
    def of(cls, value: float, drawn: Sequence[float]) -> Self:
        """A divergence beside those of random re-divisions.

        Their cube roots are near normal (Wilson and Hilferty, 1931), while they themselves are as
        askew as χ². Of few draws the deviation is uncertain, which Student's distribution allows
        for.
        """
        roots = np.cbrt(drawn)
        mean, deviation = float(roots.mean()), float(roots.std(ddof=1))
        sigmas = _sigmas(float(np.cbrt(value)) - mean, deviation)
        return cls(value, float(np.mean(drawn)), (mean + _WITHIN * deviation) ** 3, sigmas)

    def alarms(self, *, before: bool = False) -> bool:
        """Whether it is beyond chance, and matters; ``before``: whether it was at the last look."""
        return self.sigmas > (CALM if before else SIGMAS) and self.excess > LEAST


class UserActivity(NamedTuple):
    """How many interactions each user has: ``(U,)`` in training and live, and the user's group."""

    trained: NDArray[np.int64]
    live: NDArray[np.int64]
    groups: NDArray[np.int64]


@dataclass(frozen=True)
class Drift:
    """How far live interactions are from training.

    Attributes
    ----------
    n_live
        Live interactions, of unknown items among them.
    items
        Over all items: the headline.
    gauges
        In nats, one for each scenario that there is something to measure by: ``popularity`` is
        what the strata of popularity explain of the headline, and ``temporal`` the rest, by which
        items of like popularity differ. Where a cause explains the items' drift, its own is at
        least as large.
    recency
        Of items used early in training and items used late; None if that is not known.
    strata
        ``(10,)`` live shares of the items in strata that had a tenth of training each: by
        ``"popularity"``, the rarest first, and ``"recency"``, those used early first.
    unknown_items, unknown_users
        Share of live interactions whose item, or user, training did not know.
    """

    n_live: int
    items: Gauge
    gauges: dict[Scenario, Gauge]
    recency: Gauge | None
    strata: dict[str, NDArray[np.float64]]
    unknown_items: float
    unknown_users: float

    def alarms(self, *, before: bool = False) -> bool:
        """Whether a gauge is beyond chance, and matters."""
        return any(gauge.alarms(before=before) for gauge in (self.items, *self.gauges.values()))

    @property
    def resembles(self) -> Scenario | None:
        """The scenario whose gauge has most beyond chance; None if none is beyond 95%."""
        beyond = [name for name, gauge in self.gauges.items() if gauge.value > gauge.bound]
        return max(beyond, key=lambda name: self.gauges[name].excess, default=None)

    @property
    def sentence(self) -> str:
        """What moved, for people."""
        if self.resembles is None:
            return "What is asked for differs from training no more than by chance."
        return f"This resembles {self.resembles!r}: {_SENTENCES[self.resembles]}."


def measure_drift(
    trained: NDArray[np.int64],
    live: NDArray[np.int64],
    generator: np.random.Generator,
    *,
    recency: NDArray[np.floating[Any]] | None = None,
    users: UserActivity | None = None,
    unknown_items: int = 0,
    unknown_users: int = 0,
) -> Drift:
    """How far live interactions are from those of training.

    Parameters
    ----------
    trained, live
        ``(I,)`` interactions with each item, both with at least one in all.
    generator
        Draws the re-divisions.
    recency
        ``(I,)`` how late in training each item was used, in any unit: the larger, the later. A
        decayed count over the count, say.
    users
        Of known users.
    unknown_items, unknown_users
        Live interactions of items, and of users, that training did not know. By chance there are
        as many of such items as Good and Turing expect of those seen once; where training left
        rare items out, there are always more.
    """
    by_recency = None if recency is None else np.argsort(recency, kind="stable")

    def measured(before: Counts, after: Counts) -> list[float]:
        over_items = jensen_shannon(before, after)
        over_strata = jensen_shannon(*_strata(before, after, np.argsort(before)))
        values = [over_items, over_strata, over_items - over_strata]
        if by_recency is not None:
            values.append(jensen_shannon(*_strata(before, after, by_recency)))
        return values

    # Pool, and divide again; strata are made anew, as the items on top are there by luck, too.
    pooled, n_live = trained + live, int(live.sum())
    parts = (
        generator.multivariate_hypergeometric(pooled, n_live, method="marginals")
        for _ in range(DRAWS)
    )
    drawn = np.array([measured(pooled - part, part) for part in parts])
    items, popularity, within, *age = map(Gauge.of, measured(trained, live), drawn.T)
    gauges: dict[Scenario, Gauge] = {
        "popularity": popularity,
        "temporal": within,
        "new-items": _unknown(trained, n_live, unknown_items),
    }
    if users is not None and users.live.any():
        gauges["user-group"] = _of_groups(users, generator)
    n_all = n_live + unknown_items
    orders = {"popularity": np.argsort(trained)}
    if by_recency is not None:
        orders["recency"] = by_recency
    return Drift(
        n_live=n_all,
        items=items,
        gauges=gauges,
        recency=age[0] if age else None,
        strata={name: shares(_strata(trained, live, order)[1]) for name, order in orders.items()},
        unknown_items=unknown_items / n_all,
        unknown_users=unknown_users / n_all,
    )


def taste_groups(vectors: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """``(U,)`` eight groups of users ``(U, d)``, by their side of the first three main axes."""
    centred = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    sides = centred @ axes[:, -3:] > 0
    result: NDArray[np.int64] = sides @ (1 << np.arange(sides.shape[1]))
    return result


def _strata(
    before: Counts, after: Counts, order: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Counts in strata of equal mass before, along an order; an item may be in several."""
    ends = np.cumsum(before[order])
    edges = ends[-1] * np.arange(1, STRATA) / STRATA
    of_mass = np.concatenate([[0], ends])
    after_ends = np.concatenate([[0.0], np.cumsum(after[order])])
    inside = np.interp(edges, of_mass, after_ends)
    return np.full(STRATA, 1.0), np.diff(np.concatenate([[0.0], inside, after_ends[-1:]]))


def _unknown(trained: NDArray[np.int64], n_known: int, n_unknown: int) -> Gauge:
    """The share of unknown items, beside that of the next interaction by Good and Turing."""
    n_trained, n_live = int(trained.sum()), n_known + n_unknown
    once, twice = (int((trained == times).sum()) for times in (1, 2))
    chance = (once + 1) / (n_trained + 1)
    variance = chance * (1 - chance) / n_live + (once + 2 * twice + 1) / (n_trained + 1) ** 2
    # Square roots of counts have nearly one deviation, however rare they are (Anscombe, 1948).
    at_chance = np.sqrt(n_live * chance + 0.375)
    deviation = n_live * np.sqrt(variance) / (2 * at_chance)
    beyond = np.sqrt(n_unknown + 0.375) - at_chance
    bound = ((at_chance + _WITHIN * deviation) ** 2 - 0.375) / n_live

    def nats(share: float) -> float:
        both = (np.array([1 - own, own]) for own in (chance, min(max(share, chance), 1.0)))
        return jensen_shannon(*both)

    return Gauge(nats(n_unknown / n_live), 0.0, nats(bound), _sigmas(beyond, deviation))


def _sigmas(beyond: float, deviation: float) -> float:
    """How unlikely it is to be so far beyond the mean of :data:`DRAWS` draws."""
    if deviation <= 0:
        return np.inf if beyond > 0 else 0.0
    ratio = beyond / (deviation * np.sqrt(1 + 1 / DRAWS))
    return -float(ndtri(stdtr(DRAWS - 1, -ratio)))


def _of_groups(users: UserActivity, generator: np.random.Generator) -> Gauge:
    """The shares of groups, by chance among fewer interactions, as those of a user come together.

    How many come together is how far users are dispersed within their groups.
    """
    n_groups = int(users.groups.max()) + 1
    trained, live = (np.bincount(users.groups, own, n_groups) for own in users[:2])
    known = users.trained > 0
    of_user, group = users.trained[known], users.groups[known]
    ratio = (live / np.maximum(trained, 1))[group]
    expected = of_user * ratio
    # Training is a sample, too, and whoever is most of a group is near what is expected of it.
    variance = float((expected * (1 + ratio) * (1 - of_user / trained[group])).sum())
    squares = float(np.square(users.live[known] - expected).sum())
    together = max(1.0, squares / max(variance, 1e-9))
    sizes = [max(1, round(float(own.sum()) / together)) for own in (trained, live)]
    pooled = shares(trained + live)
    drawn = [
        jensen_shannon(*(generator.multinomial(size, pooled) for size in sizes))
        for _ in range(DRAWS)
    ]
    return Gauge.of(jensen_shannon(trained, live), drawn)
