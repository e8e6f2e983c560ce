"""Base of the shift scenarios, and the filters of interactions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

from pydantic import ValidationError

from cnsdiff.base.errors import ConfigError, DataError
from cnsdiff.base.registry import Registry
from cnsdiff.base.settings import Settings, complaint
from cnsdiff.base.text import parameter
from cnsdiff.data import Dataset, Interactions, Source
from cnsdiff.data.interactions import checked_core, checked_most, checked_threshold


@dataclass(frozen=True)
class Filters:
    """Filters that interactions must pass."""

    threshold: float | None = None
    """Least rating of a positive; None takes every interaction for one."""
    user_core: int = 0
    item_core: int = 0
    """Least number of positives of a user and of an item (0 keeps all)."""
    max_per_user: int | None = None
    """Users of more positives than this are left out, before the core is taken; None keeps all."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", checked_threshold(self.threshold))
        for side in ("user", "item"):
            name = f"{side}_core"
            object.__setattr__(self, name, checked_core(getattr(self, name), side))
        if self.max_per_user is not None:
            object.__setattr__(self, "max_per_user", checked_most(self.max_per_user))

    def clean(
        self, interactions: Interactions, *, core: bool
    ) -> tuple[Interactions, dict[str, int]]:
        """Positives, each pair once, and what was left out.

        With ``core`` also without heavy users, and in the k-core. :class:`DataError` if there are
        no ratings for the threshold, none reaches it, or every user is heavy.
        """
        positives = interactions.positives(self.threshold)
        distinct = positives.deduplicated()
        light = distinct
        if core and self.max_per_user is not None:
            light = distinct.without_heavy_users(self.max_per_user)
        in_core = light
        if core and (self.user_core > 1 or self.item_core > 1):
            in_core = light.k_core(self.user_core, self.item_core)
        heavy = len(distinct) - len(light)
        return in_core, {
            "read": len(interactions),
            "skipped": interactions.skipped,
            "below_threshold": len(interactions) - len(positives),
            "users_without_positives": interactions.n_users - positives.n_users,
            "duplicates": len(positives) - len(distinct),
            **({"of_heavy_users": heavy} if self.max_per_user is not None else {}),
            "outside_k_core": len(light) - len(in_core),
        }

    def settings(self) -> dict[str, object]:
        """As written to the manifest."""
        settings = asdict(self)
        if self.max_per_user is None:  # manifests are as they were before it
            del settings["max_per_user"]
        return settings


#: Every interaction counts.
NO_FILTERS = Filters()


class Scenario(Settings, ABC):
    """Turns interactions into a dataset whose test data differ in a known way.

    Its fields are its settings; an object of it is called with the data::

        Popularity(strength=1.0)(source, filters=Filters(threshold=4), seed=0)

    Most scenarios divide one log: they derive from :class:`~cnsdiff.shifts.LogScenario`, which
    leaves only the choice of rows to them.

    Attributes
    ----------
    name
        As given to ``--scenario`` and written to the manifest.

    Raises
    ------
    ConfigError
        A setting is unknown (the nearest is named) or has a bad value.
    """

    name: ClassVar[str]

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise ConfigError(complaint(error, type(self), f"scenario {self.name}")) from error

    @abstractmethod
    def __call__(
        self, source: Source | Interactions, *, filters: Filters = NO_FILTERS, seed: int = 0
    ) -> Dataset:
        """Build the dataset.

        Parameters
        ----------
        source
            Tables by role, features, name and provenance; a lone table is the log.
        filters
            Threshold and k-core to apply.
        seed
            The one seed of everything chosen at random.

        Raises
        ------
        InputError
            The data cannot be divided in this way; the message says what to change.
        """

    def settings(self) -> dict[str, object]:
        """The settings as written to the manifest, in JSON's types."""
        return self.model_dump(mode="json")


def table_of(source: Source, role: str, scenario: str) -> Interactions:
    """The source's table of that role; :class:`DataError` if there is none."""
    if role in source.tables:
        return source.tables[role]
    mend = {
        "log": "give one log of interactions, or use the scenario 'given' for ready splits",
        "train": "name the tables after the splits, or choose a scenario that divides a log",
        "randomised": "pass the file of randomly exposed interactions as "
        + parameter("randomised", ...),
    }
    raise DataError(
        f"{source.name}: the scenario {scenario} needs a table {role!r}, and its tables are "
        f"{', '.join(map(repr, source.tables)) or 'none'}; "
        f"{mend.get(role, 'add it to the source')}"
    )


#: Scenarios by name.
SCENARIOS: Registry[Scenario] = Registry("scenario", Scenario)  # type: ignore[type-abstract]
_Class = TypeVar("_Class", bound=type[Scenario])


def register_scenario(scenario: _Class) -> _Class:
    """Class decorator that makes a scenario known by its ``name``."""
    return SCENARIOS.register(scenario.name)(scenario)
