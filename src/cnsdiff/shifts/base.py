"""What a shift scenario is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

from pydantic import ValidationError

from cnsdiff.base.errors import ConfigError, DataError, did_you_mean
from cnsdiff.base.registry import Registry
from cnsdiff.base.settings import Settings, first_problem
from cnsdiff.data import Dataset, Interactions, Source
from cnsdiff.shifts.filters import NO_FILTERS, Filters


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
            raise ConfigError(self._complaint(error)) from error

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

    def settings(self) -> dict[str, Any]:
        """The settings as written to the manifest, in JSON's types."""
        return self.model_dump(mode="json")

    @classmethod
    def _complaint(cls, error: ValidationError) -> str:
        problem = first_problem(error)
        setting = ".".join(map(str, problem.keys))
        if problem.unknown:
            known = list(cls.model_fields)
            listed = f"its settings are {', '.join(known)}" if known else "it has none"
            return (
                f"scenario {cls.name}: unknown setting {setting!r}{did_you_mean(setting, known)}; "
                f"{listed}"
            )
        if not setting:
            return f"scenario {cls.name}: {problem.message}"
        return f"scenario {cls.name}: {setting}: {problem.message} (got {problem.given!r})"


def table_of(source: Source, role: str, scenario: str) -> Interactions:
    """The source's table of that role.

    Raises
    ------
    DataError
        There is none; the message says how to give it.
    """
    if role in source.tables:
        return source.tables[role]
    mend = {
        "log": "give one log of interactions, or use the scenario 'given' for ready splits",
        "train": "name the tables after the splits, or choose a scenario that divides a log",
        "randomised": "name the file of interactions with items shown at random with --randomised",
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
