"""ConfoundedWorld: a structural causal model of clicks whose truth is known (METHOD §6).

Taste causes relevance; the environment causes exposure and nothing else; a click needs both::

    R_ui ~ Bernoulli(σ(κ (θ_u·φ_i - ρ)))                    relevance, free of E
    O_ui ~ Bernoulli(σ(a θ_u·φ_i + b E_i + c))              exposure under environment E
    Y_ui = O_ui R_ui                                        the observed click

An intervention ``do(E = e')`` redraws exposure under another salience ``e'`` and leaves taste and
relevance as they are, so whatever a model loses on the clicks it then sees, it lost by having
learnt the environment.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from cnsdiff.data import Dataset, Interactions
from cnsdiff.errors import ConfigError
from cnsdiff.seeding import numpy_generator

Intervention = Literal["invert", "uniform", "resample"]

#: Users whose dense rows are held in memory at once.
_BLOCK = 1024


class ConfoundedWorld:
    """A world of users and items, and the clicks it would log.

    Parameters
    ----------
    n_users, n_items
        Size of the world.
    dim
        Number of taste factors.
    confounding
        ``b``: how strongly salience moves exposure. 0 is no confounding.
    personalisation
        ``a``: how strongly the logging policy already follows taste.
    sharpness, threshold
        ``κ`` and ``ρ`` of relevance.
    exposures
        Mean number of items a user is shown (it fixes ``c``).
    seed
        The one seed; the world and its log are functions of it.

    Attributes
    ----------
    tastes, attributes
        ``θ`` ``(U, dim)`` and ``φ`` ``(I, dim)``; ``θ_u·φ_i`` has variance about 1.
    salience
        ``E`` ``(I,)`` in the world that is logged, standard normal.
    """

    def __init__(
        self,
        *,
        n_users: int = 1500,
        n_items: int = 800,
        dim: int = 8,
        confounding: float = 1.5,
        personalisation: float = 0.5,
        sharpness: float = 3.0,
        threshold: float = 0.5,
        exposures: float = 80.0,
        seed: int = 0,
    ) -> None:
        if not 0 < exposures < n_items:
            raise ConfigError(
                f"exposures must lie between 0 and n_items={n_items}, not {exposures:g}"
            )
        self.n_users, self.n_items, self.seed = n_users, n_items, seed
        self.confounding, self.personalisation = confounding, personalisation
        self.sharpness, self.threshold, self.exposures = sharpness, threshold, exposures
        world = numpy_generator(seed, "world")
        scale = dim**-0.25
        self.tastes = world.normal(0.0, scale, (n_users, dim))
        self.attributes = world.normal(0.0, scale, (n_items, dim))
        self.salience = world.normal(0.0, 1.0, n_items)
        self._resampled = world.normal(0.0, 1.0, n_items)

    # -- truth ---------------------------------------------------------------------------------

    def affinity(self, users: NDArray[np.int64]) -> NDArray[np.float64]:
        """``θ_u·φ_i`` of ``(B,)`` users and all items, ``(B, I)``."""
        result: NDArray[np.float64] = self.tastes[users] @ self.attributes.T
        return result

    def relevance_probability(self, users: NDArray[np.int64]) -> NDArray[np.float64]:
        """``P(R_ui = 1)``, ``(B, I)``; no environment enters."""
        result: NDArray[np.float64] = expit(
            self.sharpness * (self.affinity(users) - self.threshold)
        )
        return result

    def exposure_probability(
        self, users: NDArray[np.int64], salience: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """``P(O_ui = 1 | do(E = salience))``, ``(B, I)``."""
        logits = self.personalisation * self.affinity(users) + self.confounding * salience
        result: NDArray[np.float64] = expit(logits + self._offset(salience))
        return result

    def intervene(self, intervention: Intervention) -> NDArray[np.float64]:
        """The salience ``(I,)`` under an intervention on the environment.

        ``invert`` shows most what was shown least, ``uniform`` shows all items alike, and
        ``resample`` draws a new, independent salience.
        """
        if intervention == "invert":
            return -self.salience
        if intervention == "uniform":
            return np.zeros(self.n_items)
        if intervention == "resample":
            return self._resampled
        raise ConfigError(
            f"unknown intervention {intervention!r}; choose invert, uniform or resample"
        )

    def _offset(self, salience: NDArray[np.float64]) -> float:
        """``c`` such that users are shown ``exposures`` items on average.

        ``θ_u·φ_i`` is integrated out over a fixed sample of pairs, so that ``c`` does not depend
        on which users are asked about.
        """
        generator = numpy_generator(self.seed, "offset")
        users = generator.integers(self.n_users, size=20_000)
        items = generator.integers(self.n_items, size=20_000)
        logits = self.personalisation * (self.tastes[users] * self.attributes[items]).sum(1)
        logits = logits + self.confounding * salience[items]
        target = self.exposures / self.n_items

        def excess(c: float) -> float:
            return float(expit(logits + c).mean() - target)

        return float(brentq(excess, -60.0, 60.0))

    # -- what is observed ----------------------------------------------------------------------

    def clicks(
        self, salience: NDArray[np.float64], purpose: str
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Users and items ``(n,)`` of the clicks logged under ``salience``.

        Relevance is a fact of the world and the same in every log; exposure is drawn anew for
        each ``purpose``.
        """
        relevance = numpy_generator(self.seed, "relevance")
        exposure = numpy_generator(self.seed, "exposure/" + purpose)
        found = []
        for users in self._blocks():
            shape = (len(users), self.n_items)
            relevant = relevance.random(shape) < self.relevance_probability(users)
            exposed = exposure.random(shape) < self.exposure_probability(users, salience)
            row, item = np.nonzero(relevant & exposed)
            found.append((users[row], item))
        return (
            np.concatenate([user for user, _ in found]),
            np.concatenate([item for _, item in found]),
        )

    def _blocks(self) -> Iterator[NDArray[np.int64]]:
        users = np.arange(self.n_users)
        yield from np.split(users, range(_BLOCK, self.n_users, _BLOCK))

    def dataset(self, intervention: Intervention = "uniform") -> Dataset:
        """The logged clicks as train, valid and test_iid (70/10/20), and an OOD test.

        ``test_ood`` holds the clicks of an independent log under ``do(E)``, without the pairs of
        the other splits.
        """
        user, item = self.clicks(self.salience, "log")
        part = numpy_generator(self.seed, "split").choice(
            ["train", "valid", "test_iid"], p=[0.7, 0.1, 0.2], size=len(user)
        )
        splits = {
            name: (user[part == name], item[part == name])
            for name in ("train", "valid", "test_iid")
        }
        ood_user, ood_item = self.clicks(self.intervene(intervention), intervention)
        seen = np.isin(ood_user * self.n_items + ood_item, user * self.n_items + item)
        splits["test_ood"] = (ood_user[~seen], ood_item[~seen])
        return Dataset.from_splits(
            {
                name: Interactions(pl.DataFrame({"user": users, "item": items}), "ConfoundedWorld")
                for name, (users, items) in splits.items()
            },
            name="confounded-world",
            scenario=f"exposure-{intervention}",
            source={"simulator": "ConfoundedWorld", "licence": "generated data, free to use"},
            settings={
                "n_users": self.n_users,
                "n_items": self.n_items,
                "confounding": self.confounding,
                "personalisation": self.personalisation,
                "sharpness": self.sharpness,
                "threshold": self.threshold,
                "exposures": self.exposures,
                "intervention": intervention,
                "seed": self.seed,
            },
        )
