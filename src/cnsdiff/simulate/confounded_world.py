"""ConfoundedWorld: a structural causal model of clicks whose truth is known (docs/world.md).

Taste causes relevance; the environment causes exposure and nothing else; a click needs both::

    R_ui  ~ Bernoulli(σ(κ (θ_u·φ_i - ρ)))                  relevance, free of E
    O_uit ~ Bernoulli(σ(a θ_u·φ_i + b E_it + c_t))         exposure under the environment E_t
    Y_uit = O_uit R_ui                                     the observed click

An intervention ``do(E = e')`` redraws exposure under another environment and leaves taste and
relevance as they are, so whatever a model loses on the clicks it then sees, it lost by having
learnt the environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from cnsdiff.base.errors import ConfigError
from cnsdiff.base.seeding import derive_seed, numpy_generator, uniforms
from cnsdiff.data import Dataset, Interactions
from cnsdiff.kernels.memory import require_memory
from cnsdiff.simulate.clicks import ExposurePolicy, Relevance, user_blocks
from cnsdiff.simulate.environment import Environment, Intervention, Surroundings, intervene
from cnsdiff.simulate.settings import ShiftSettings, WorldSettings, validated
from cnsdiff.simulate.truth import truth_tables

#: Epoch seconds at which the log begins, 1 January 2000, and the length of a period.
LOG_START, PERIOD_SECONDS = 946_684_800, 30 * 86_400


class ConfoundedWorld:
    """A world of users and items, and the clicks it would log.

    Parameters
    ----------
    **settings
        Fields of :class:`~cnsdiff.simulate.WorldSettings`: ``n_users``, ``n_items``,
        ``confounding`` (``b``), ``exposures``, ``periods``, ``seed``, …

    Attributes
    ----------
    settings
        All of them.
    tastes, attributes
        ``θ`` ``(U, dim)`` and ``φ`` ``(I, dim)``; ``θ_u·φ_i`` has variance about 1.
    surroundings
        The parts of ``E`` and the groups of the items.
    periods
        The environments of the logged periods.
    relevance
        What users like.

    Raises
    ------
    ConfigError
        A setting is unknown or impossible.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = validated(WorldSettings, settings)
        self.n_users, self.n_items = self.settings.n_users, self.settings.n_items
        self.seed = self.settings.seed
        dim = self.settings.dim
        self._require_memory()
        world = numpy_generator(self.seed, "world")
        scale = dim**-0.25
        self.tastes = world.normal(0.0, scale, (self.n_users, dim))
        self.attributes = world.normal(0.0, scale, (self.n_items, dim))
        self.surroundings = Surroundings(self.settings)
        self.periods = self.surroundings.periods()
        first = self.periods[0]
        if first.exposures >= (n_first := int(first.available.sum())):
            raise ConfigError(
                f"ConfoundedWorld: {first.exposures:g} exposures a period are too many for the "
                f"{n_first} items of the first; lower exposures or launches"
            )
        self.relevance = Relevance(
            tastes=self.tastes,
            attributes=self.attributes,
            sharpness=self.settings.sharpness,
            threshold=self.settings.threshold,
            seed=self.seed,
            user_numbers=np.arange(self.n_users),
            item_numbers=np.arange(self.n_items),
            world_items=self.n_items,
        )
        self._policy = ExposurePolicy(self.settings, self.attributes, scale)

    def _require_memory(self) -> None:
        """Refuse a world that main memory cannot hold: its tables, and the log to come."""
        its = self.settings
        of_items = its.dim + its.periods + its.content_features
        numbers = self.n_users * (its.dim + 3 * its.exposures) + self.n_items * of_items
        require_memory(
            int(8 * numbers),
            f"ConfoundedWorld: a world of {self.n_users:,} users and {self.n_items:,} items",
            "lower n_users, n_items, dim, exposures or periods",
        )

    def __repr__(self) -> str:
        return (
            f"ConfoundedWorld({self.n_users:,} users, {self.n_items:,} items, "
            f"{self.settings.periods} periods, b = {self.settings.confounding:g}, "
            f"seed {self.seed})"
        )

    # -- truth ---------------------------------------------------------------------------------

    def affinity(self, users: ArrayLike, items: ArrayLike) -> NDArray[np.float64]:
        """``θ_u·φ_i`` of users and items that broadcast; ``(B,)`` users go with ``(B, k)``."""
        return self.relevance.affinity(users, items)

    def relevance_probability(self, users: ArrayLike, items: ArrayLike) -> NDArray[np.float64]:
        """``P(R_ui = 1)`` of users and items that broadcast; no environment enters."""
        return self.relevance.probability(users, items)

    def relevant(self, users: ArrayLike, items: ArrayLike) -> NDArray[np.bool_]:
        """``R_ui``: whether each user likes each item, a fixed fact of the world."""
        return self.relevance.drawn(users, items)

    def exposure_probability(
        self, users: ArrayLike, environment: Environment
    ) -> NDArray[np.float64]:
        """``P(O_ui = 1 | do(E = e))`` of ``(B,)`` users and all items, ``(B, I)``."""
        rows, items = np.asarray(users)[:, None], np.arange(self.n_items)[None, :]
        return self._policy.probability(self.affinity(rows, items), items, environment)

    def exposed(
        self, users: ArrayLike, items: ArrayLike, environment: Environment
    ) -> NDArray[np.bool_]:
        """``O_ui``: whether each user is shown each item while ``environment`` holds."""
        affinity = self.affinity(users, items)
        numbers = self.relevance.pair_numbers(users, items)
        return self._policy.drawn(affinity, np.asarray(items), numbers, environment)

    def exposure_law(self, environment: Environment) -> NDArray[np.float64]:
        """``p(i | do(e))`` ``(I,)``: which item an exposure is of, free of ``u`` (equation 21)."""
        return self._policy.law(environment)

    def intervene(self, shift: str = "exposure", **options: Any) -> Intervention:
        """The environments of the log and of the OOD test under a shift.

        Parameters are those of :meth:`dataset`.
        """
        settings = validated(ShiftSettings, {"shift": shift, **options})
        return intervene(self.periods, self.surroundings, settings)

    # -- what is observed ----------------------------------------------------------------------

    def clicks(self, environments: Sequence[Environment]) -> pl.DataFrame:
        """The first click of each pair while the environments hold, one after the other.

        Returns
        -------
        polars.DataFrame
            ``user``, ``item`` (numbers), ``timestamp`` (epoch seconds), ``period``
            (the label of its environment); in the order of time.
        """
        return self._observe(environments, clicked=True)

    def exposures(self, environments: Sequence[Environment]) -> pl.DataFrame:
        """As :meth:`clicks`, of all that is shown: with ``relevant``, whether the user likes it."""
        return self._observe(environments, clicked=False)

    def dataset(self, shift: str = "exposure", **options: Any) -> Dataset:
        """The world's log as train, valid and test_iid, and an OOD test under a shift.

        Parameters
        ----------
        shift
            ``popularity``, ``temporal``, ``exposure``, ``hybrid`` (temporal and popularity), or
            two of them joined by ``+``.
        **options
            Fields of :class:`~cnsdiff.simulate.ShiftSettings`: ``strength``, ``target``,
            ``test_periods``, …

        Returns
        -------
        Dataset
            With the truth as side tables (see :class:`~cnsdiff.simulate.WorldTruth`), features
            of users and items, and under ``exposure`` the judgements of the experiment.

        Raises
        ------
        ConfigError
            An option is unknown or impossible, or the world is so small that a split is empty.
        """
        settings = validated(ShiftSettings, {"shift": shift, **options})
        plan = intervene(self.periods, self.surroundings, settings)
        experiment = "exposure" in settings.parts
        seen = self._observe(plan.shifted, clicked=not experiment)
        laws = {
            environment.label: self.exposure_law(environment)
            for environment in (*plan.logged, *plan.shifted)
        }
        tables = {
            "user_features": user_features(self.settings, self.tastes),
            "item_features": item_features(self.settings, self.attributes),
            **truth_tables(self.relevance, self.surroundings, plan, laws),
        }
        if experiment:
            tables["judgements"] = seen.select("user", "item", "relevant")
            seen = seen.filter("relevant").drop("relevant")
        return assemble(self.clicks(plan.logged), seen, tables, plan, self.settings, settings)

    def _observe(self, environments: Sequence[Environment], *, clicked: bool) -> pl.DataFrame:
        blocks = user_blocks(self.n_users, self.n_items)
        frames = [self._observe_block(users, environments, clicked) for users in blocks]
        return pl.concat(frames).sort("timestamp", "user", "item")

    def _observe_block(
        self, users: NDArray[np.int64], environments: Sequence[Environment], clicked: bool
    ) -> pl.DataFrame:
        """Exposures (or clicks, if ``clicked``) of the users of one block, pair by pair."""
        everything = np.arange(self.n_items)
        relevant = self.relevant(users[:, None], everything[None, :])
        # What is not relevant is never clicked, so its exposure need not be drawn.
        row, item = np.nonzero(relevant if clicked else np.ones_like(relevant))
        user = users[row]
        affinity = self.affinity(user, item)
        numbers = self.relevance.pair_numbers(user, item)
        first = np.full(len(user), -1)
        for place, environment in enumerate(environments):
            shown = self._policy.drawn(affinity, item, numbers, environment)
            first[shown & (first < 0)] = place
        seen = np.flatnonzero(first >= 0)
        first = first[seen]
        moment = uniforms(derive_seed(self.seed, "moment"), numbers[seen])
        starts = np.array([environment.start for environment in environments])
        lengths = np.array([environment.length for environment in environments])
        time = LOG_START + (starts[first] + moment * lengths[first]) * PERIOD_SECONDS
        labels = pl.Series([environment.label for environment in environments], dtype=pl.String)
        frame = pl.DataFrame(
            {
                "user": user[seen],
                "item": item[seen],
                "timestamp": time.astype(np.int64),
                "period": labels.gather(pl.Series(first)),
            }
        )
        return frame if clicked else frame.with_columns(relevant=relevant[row[seen], item[seen]])


def content_map(settings: WorldSettings) -> NDArray[np.float64]:
    """``W`` ``(features, dim)`` such that each feature of ``W φ_i`` has variance 1."""
    draw = numpy_generator(settings.seed, "content-map")
    rows = draw.normal(size=(settings.content_features, settings.dim))
    # φ has variance dim^-1/2 in each factor.
    result: NDArray[np.float64] = (
        rows * settings.dim**0.25 / np.linalg.norm(rows, axis=1, keepdims=True)
    )
    return result


def item_features(settings: WorldSettings, attributes: NDArray[np.float64]) -> pl.DataFrame:
    """``x_i = W φ_i + noise``: columns ``item``, ``content_0``, … ."""
    signal = attributes @ content_map(settings).T
    noise = numpy_generator(settings.seed, "content-noise").normal(size=signal.shape)
    features = signal + settings.content_noise * noise
    columns = {f"content_{number}": column for number, column in enumerate(features.T)}
    return pl.DataFrame({"item": np.arange(settings.n_items), **columns})


def user_features(settings: WorldSettings, tastes: NDArray[np.float64]) -> pl.DataFrame:
    """Columns ``user`` and ``group``: users of like taste tend to be in the same group.

    Each group has a direction of taste; a user is in group ``g`` with probability
    ``softmax_g(2 θ_u·m_g / sd)``.
    """
    draw = numpy_generator(settings.seed, "user-groups")
    directions = draw.normal(size=(settings.user_groups, settings.dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    pull = 2 * settings.dim**0.25 * tastes @ directions.T
    group = (pull + draw.gumbel(size=pull.shape)).argmax(1)
    names = pl.Series([f"group-{number}" for number in range(settings.user_groups)])
    return pl.DataFrame(
        {"user": np.arange(settings.n_users), "group": names.gather(pl.Series(group))}
    )


def assemble(
    clicks: pl.DataFrame,
    shifted: pl.DataFrame,
    tables: Mapping[str, pl.DataFrame],
    plan: Intervention,
    world: WorldSettings,
    shift: ShiftSettings,
) -> Dataset:
    """Train, valid and test_iid at random from the log; test_ood without the pairs of the log.

    :class:`ConfigError` if a split would be empty.
    """
    draw = numpy_generator(world.seed, "split").random(clicks.height)
    part = np.where(draw < shift.valid, 1, np.where(draw < shift.valid + shift.test_iid, 2, 0))
    splits = {
        name: clicks.filter(pl.Series(part == number))
        for number, name in enumerate(("train", "valid", "test_iid"))
    }
    splits["test_ood"] = shifted.join(
        clicks, on=["user", "item"], how="anti", maintain_order="left"
    )
    for name, frame in splits.items():
        known = frame.join(splits["train"].select("user").unique(), on="user", how="semi")
        known = known.join(splits["train"].select("item").unique(), on="item", how="semi")
        if known.height == 0:
            raise ConfigError(
                f"ConfoundedWorld: so small a log leaves the {name} split empty; raise n_users, "
                "n_items or exposures"
            )
    return Dataset.from_splits(
        {name: Interactions(frame, "ConfoundedWorld") for name, frame in splits.items()},
        name="confounded-world",
        scenario=shift.shift,
        source={"simulator": "ConfoundedWorld", "licence": "generated data, free to use"},
        settings={
            "world": world.model_dump(),
            "shift": shift.model_dump(),
            "environments": {
                "logged": [environment.label for environment in plan.logged],
                "test_ood": [environment.label for environment in plan.shifted],
            },
        },
        tables=tables,
    )
