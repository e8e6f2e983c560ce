"""Relevance and exposure: a click needs both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from cnsdiff.base.seeding import derive_seed, uniforms
from cnsdiff.simulate.environment import Environment
from cnsdiff.simulate.settings import WorldSettings

Numbers = NDArray[np.int64]
#: User-item pairs that are dense in memory at once.
PAIRS_AT_ONCE = 1 << 20


def user_blocks(n_users: int, n_items: int) -> list[Numbers]:
    """All users in blocks, so few at a time that their rows over all items may be dense."""
    rows = max(1, PAIRS_AT_ONCE // n_items)
    return np.split(np.arange(n_users), range(rows, n_users, rows))


def paired(users: ArrayLike, items: ArrayLike) -> tuple[Numbers, Numbers]:
    """Users and items as arrays that broadcast: a user goes with a row of items.

    Users ``(B,)`` and items ``(B, k)`` are ``k`` pairs of each user; equal shapes are pairs as
    they stand; ``(B, 1)`` and ``(1, I)`` are all pairs.
    """
    left, right = np.asarray(users, dtype=np.int64), np.asarray(items, dtype=np.int64)
    if 0 < left.ndim < right.ndim:
        left = left.reshape(left.shape + (1,) * (right.ndim - left.ndim))
    return left, right


@dataclass(frozen=True, eq=False)
class Relevance:
    """``R_ui ~ Bernoulli(σ(κ (θ_u·φ_i - ρ)))``, drawn once and for all.

    Every method takes users and items that broadcast (see :func:`paired`) and answers with their
    common shape, the same to the last bit whatever it is.
    """

    tastes: NDArray[np.float64]
    attributes: NDArray[np.float64]
    """``θ`` ``(U, dim)`` and ``φ`` ``(I, dim)``, float64."""
    sharpness: float
    threshold: float
    """``κ`` and ``ρ``."""
    seed: int
    """Of the world."""
    user_numbers: Numbers
    item_numbers: Numbers
    """``(U,)``, ``(I,)``: the world's own number of each row, which names the draw of a pair."""
    world_items: int
    """Items of the world."""

    def affinity(self, users: ArrayLike, items: ArrayLike) -> NDArray[np.float64]:
        """``θ_u·φ_i``; variance about 1."""
        user, item = paired(users, items)
        # Not a matrix product: its last bits depend on the shape, and relevance hangs on them.
        total: Any = self.tastes[user, 0] * self.attributes[item, 0]
        for factor in range(1, self.tastes.shape[1]):
            total = total + self.tastes[user, factor] * self.attributes[item, factor]
        return np.asarray(total)

    def probability(self, users: ArrayLike, items: ArrayLike) -> NDArray[np.float64]:
        """``P(R_ui = 1)``; no environment enters."""
        logits = self.sharpness * (self.affinity(users, items) - self.threshold)
        return np.asarray(expit(logits))

    def drawn(self, users: ArrayLike, items: ArrayLike) -> NDArray[np.bool_]:
        """``R_ui``: whether the user likes the item."""
        uniform = uniforms(derive_seed(self.seed, "relevance"), self.pair_numbers(users, items))
        return np.asarray(uniform < self.probability(users, items))

    def pair_numbers(self, users: ArrayLike, items: ArrayLike) -> Numbers:
        """The number of each pair in the world: ``u·I + i``."""
        user, item = paired(users, items)
        return np.asarray(self.user_numbers[user] * self.world_items + self.item_numbers[item])


_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(64)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


class ExposurePolicy:
    """``O_ui ~ Bernoulli(σ((1 - r)(a θ_u·φ_i + b E_i) + c))``.

    ``r`` is the environment's ``randomised``. ``c`` is such that a user drawn at random is shown
    ``exposures`` items on average: how much is shown does not depend on what is shown. Items that
    are not ``available`` yet are never shown.

    Parameters
    ----------
    settings
        Of the world: ``a``, ``b``, seed.
    attributes
        ``φ`` ``(I, dim)``.
    taste_scale
        Standard deviation of each taste factor; tastes are normal.
    """

    def __init__(
        self, settings: WorldSettings, attributes: NDArray[np.float64], taste_scale: float
    ) -> None:
        self._settings = settings
        # Given φ_i, the affinity of a user drawn at random is normal with this deviation.
        self._spread = taste_scale * np.linalg.norm(attributes, axis=1)
        self._offsets: WeakKeyDictionary[Environment, float] = WeakKeyDictionary()

    def _means(self, environment: Environment, offset: float) -> NDArray[np.float64]:
        share = 1 - environment.randomised
        centre = share * self._settings.confounding * environment.salience + offset
        slope = share * self._settings.personalisation * self._spread
        means = expit(centre[:, None] + slope[:, None] * _NODES) @ _WEIGHTS
        return np.asarray(environment.available * means)

    def offset(self, environment: Environment) -> float:
        """``c`` of an environment."""
        known = self._offsets.get(environment)
        if known is None:
            from scipy.optimize import brentq  # slow to import, and needed to simulate only

            share = environment.exposures / self._settings.n_items

            def excess(offset: float) -> float:
                return float(self._means(environment, offset).mean()) - share

            reach = 50.0
            while excess(-reach) > 0 or excess(reach) < 0:
                reach *= 2
            known = float(brentq(excess, -reach, reach, xtol=1e-12))
            self._offsets[environment] = known
        return known

    def probability(
        self, affinity: NDArray[np.float64], items: NDArray[np.int64], environment: Environment
    ) -> NDArray[np.float64]:
        """``P(O_ui = 1 | do(E = e))`` of pairs whose affinity is given; shapes broadcast."""
        share = 1 - environment.randomised
        pull = share * self._settings.confounding * environment.salience + self.offset(environment)
        shown = expit(share * self._settings.personalisation * affinity + pull[items])
        return np.asarray(environment.available[items] * shown)

    def drawn(
        self,
        affinity: NDArray[np.float64],
        items: NDArray[np.int64],
        pair_numbers: NDArray[np.int64],
        environment: Environment,
    ) -> NDArray[np.bool_]:
        """``O_ui``: whether each pair is shown; drawn anew for each environment's label."""
        key = derive_seed(self._settings.seed, f"exposure/{environment.label}")
        shown = uniforms(key, pair_numbers) < self.probability(affinity, items, environment)
        return np.asarray(shown)

    def law(self, environment: Environment) -> NDArray[np.float64]:
        """``p(i | do(e))`` ``(I,)``: which item an exposure is of, free of ``u`` (equation 21).

        The mean is over users as the world draws them, not over those it happened to draw. The
        integral is by Gauss-Hermite quadrature.
        """
        means = self._means(environment, self.offset(environment))
        result: NDArray[np.float64] = means / means.sum()
        return result
