"""Exposure: which items a user is shown in an environment."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cnsdiff.base.counted_random import uniforms
from cnsdiff.base.seeding import derive_seed
from cnsdiff.simulate.environment import Environment
from cnsdiff.simulate.settings import WorldSettings

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(64)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


class ExposurePolicy:
    """``O_ui ~ Bernoulli(σ((1 - r)(a θ_u·φ_i + b E_i) + c))``.

    ``r`` is the environment's ``randomised``. ``c`` is such that a user drawn at random is shown
    ``exposures`` items on average: how much is shown does not depend on what is shown.

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
        kept = 1 - environment.randomised
        centre = kept * self._settings.confounding * environment.salience + offset
        slope = kept * self._settings.personalisation * self._spread
        return np.asarray(expit(centre[:, None] + slope[:, None] * _NODES) @ _WEIGHTS)

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
        kept = 1 - environment.randomised
        pull = kept * self._settings.confounding * environment.salience + self.offset(environment)
        return np.asarray(expit(kept * self._settings.personalisation * affinity + pull[items]))

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
        """``p(i | do(e))`` ``(I,)``: which item an exposure is of, free of ``u`` (METHOD §9).

        The mean is over users as the world draws them, not over those it happened to draw. The
        integral is by Gauss-Hermite quadrature.
        """
        means = self._means(environment, self.offset(environment))
        result: NDArray[np.float64] = means / means.sum()
        return result
