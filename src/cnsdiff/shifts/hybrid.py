"""Two shifts at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field, SerializeAsAny, field_validator

from cnsdiff.base.errors import ConfigError, warn
from cnsdiff.data import Dataset, Interactions, Source
from cnsdiff.data.ids import Vocabulary
from cnsdiff.shifts.base import NO_FILTERS, SCENARIOS, Filters, register_scenario
from cnsdiff.shifts.drawing import Rows, rounded
from cnsdiff.shifts.log_scenario import Log, LogScenario, Parts
from cnsdiff.shifts.new_items import NewItems
from cnsdiff.shifts.popularity import Popularity
from cnsdiff.shifts.temporal import Temporal, warn_of_few_users

_DEFAULTS: dict[str, LogScenario] = {
    "first": Temporal(),
    # What the first holds out is not trained on, so that an item may give all of its rows.
    "second": Popularity(ood_share=0.5, max_share=1.0),
}


@register_scenario
class Hybrid(LogScenario):
    """The second scenario chooses its OOD test among what the first holds out.

    Rows that the first holds out and the second does not choose are left out, and so are those
    of users and items that the first's training side does not know. Items of which there are
    features may be new: the second chooses among their rows by themselves, so that the test of
    known items is the same with features and without.
    """

    name: ClassVar[str] = "hybrid"

    first: SerializeAsAny[LogScenario] = Field(_DEFAULTS["first"])
    second: SerializeAsAny[LogScenario] = Field(_DEFAULTS["second"])
    """A scenario, its name, or a mapping of ``name`` and settings; a mapping without a name
    changes settings of the default."""

    @field_validator("first", mode="before")
    @classmethod
    def _first(cls, value: Any) -> Any:
        return _with_known_items(_part(value, "first"))

    @field_validator("second", mode="before")
    @classmethod
    def _second(cls, value: Any) -> Any:
        part = _part(value, "second")
        if isinstance(part, Temporal):
            raise ConfigError(
                "scenario hybrid: temporal cannot be the second, since train would then hold rows "
                "from after its cut; make it the first"
            )
        return _with_known_items(part)

    def settings(self) -> dict[str, object]:
        """The settings, the two parts with their names."""
        whole = super().settings()
        for key, part in (("first", self.first), ("second", self.second)):
            own = part.settings()
            whole[key] = {"name": part.name, **{name: own[name] for name in part.own_settings()}}
        return whole

    def __call__(
        self, source: Source | Interactions, *, filters: Filters = NO_FILTERS, seed: int = 0
    ) -> Dataset:
        """Build the dataset (see :class:`Scenario`); few users after a cut give a warning."""
        dataset = super().__call__(source, filters=filters, seed=seed)
        if isinstance(self.first, Temporal):
            warn_of_few_users(dataset)
        return dataset

    def divide(self, log: Log, rng: np.random.Generator) -> Parts:
        """Divide by the first, and choose by the second among what it holds out."""
        first = self.first.divide(log, rng)
        train = log.frame[first.train]
        of_known_users = _seen(train["user"], log.n_users)[log.users[first.ood]]
        trained = _seen(train["item"], log.n_items)
        known = of_known_users & trained[log.items[first.ood]]
        rows = first.ood[known]
        if len(rows) == 0:
            raise ConfigError(
                f"{log.source}: nothing that the first scenario, {self.first.name}, holds out has "
                "a user and an item of its training side; change its settings or give a larger log"
            )
        second = self.second.divide(log.part(rows), rng)
        ood = rows[second.ood]
        facts = {"unknown_to_first": int((~known).sum()), **first.facts, **second.facts}
        if "item_features" in log.features:
            named = log.features["item_features"]["item"]
            told = Vocabulary(log.item_ids.alias("id")).encode(named)
            able = np.zeros(log.n_items, dtype=bool)
            able[told[told >= 0]] = True
            fresh = first.ood[of_known_users & (able & ~trained)[log.items[first.ood]]]
            if isinstance(self.second, Popularity):
                chosen = self._among_new(log, fresh, rng)
            else:  # those whom the second chooses, with all that the first has of them
                chosen = fresh[np.isin(log.users[fresh], log.users[ood])]
            ood = np.concatenate([ood, chosen])
            facts["unknown_to_first"] = int((~known).sum()) - len(fresh)
        return Parts(first.train, ood, facts)

    def _among_new(self, log: Log, rows: Rows, rng: np.random.Generator) -> Rows:
        """What the second chooses among rows of new items; none where they are too few for it."""
        if not rounded(self.second.ood_share, len(rows)):  # type: ignore[attr-defined]
            return rows[:0]
        try:
            return rows[self.second.divide(log.part(rows), rng).ood]
        except ConfigError:
            warn(
                f"{log.source}: the {len(rows):,} rows of new items are too few for the second "
                f"scenario, {self.second.name}, to choose among, so no new item is in the test"
            )
            return rows[:0]

    def observe(self, log: Log, train: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
        """The records of the training side after both."""
        return self.second.observe(log, self.first.observe(log, train, rng), rng)


def _seen(numbers: pl.Series, n: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    seen = np.zeros(n, dtype=bool)
    seen[numbers.to_numpy()] = True
    return seen


def _part(value: Any, key: str) -> Any:
    """A part of the hybrid from whatever it may be given as."""
    part = value
    if isinstance(value, str):
        part = SCENARIOS.find(value)()
    elif isinstance(value, Mapping):
        settings = dict(value)
        base = _DEFAULTS[key]
        if "name" in settings:
            part = SCENARIOS.find(settings.pop("name"))(**settings)
        else:
            part = type(base)(**{**base.model_dump(exclude_unset=True), **settings})
    if not isinstance(part, LogScenario) or not part.ood_from_log:
        what = getattr(part, "name", part)
        raise ConfigError(
            f"scenario hybrid: {key} must be a scenario whose OOD test is rows of the log, and "
            f"{what!r} is not; choose popularity, temporal, user-group or noise"
        )
    shared = sorted(part.model_fields_set & set(LogScenario.model_fields))
    if shared:
        raise ConfigError(
            f"scenario hybrid: {shared[0]} is set in {key}, and it belongs to the hybrid itself"
        )
    return part


def _with_known_items(part: Any) -> Any:
    """A part whose OOD test is of items that train knows, as that of a hybrid is."""
    if isinstance(part, NewItems):
        raise ConfigError(
            "scenario hybrid: new-items cannot be a part, since a part chooses among items that "
            "train knows; prepare new-items by itself"
        )
    return part
