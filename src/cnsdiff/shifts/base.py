"""What a shift scenario is, and where scenarios are found by name.

A scenario turns interactions into a :class:`~cnsdiff.data.Dataset` whose test data differ from
its training data in a known way. A package adds its own under the entry-point group
``cnsdiff.scenarios``, a script by :func:`register_scenario`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

from cnsdiff.data import Dataset, Interactions
from cnsdiff.errors import ConfigError, did_you_mean

ENTRY_POINTS = "cnsdiff.scenarios"


@dataclass(frozen=True)
class Filters:
    """What makes an interaction count.

    Attributes
    ----------
    threshold
        Least rating of a positive; None takes every interaction for one.
    user_core, item_core
        Least number of positives of a user and of an item (0 keeps all).
    """

    threshold: float | None = None
    user_core: int = 0
    item_core: int = 0

    def clean(self, given: Interactions, *, core: bool) -> tuple[Interactions, dict[str, int]]:
        """Positives, each pair once, in the k-core if ``core``; and what was left out.

        Raises
        ------
        DataError
            There are no ratings for the threshold, or none reaches it.
        """
        positive = given.positives(self.threshold)
        once = positive.deduplicated()
        kept = once
        if core and (self.user_core > 1 or self.item_core > 1):
            kept = once.k_core(self.user_core, self.item_core)
        return kept, {
            "read": len(given),
            "skipped": given.skipped,
            "below_threshold": len(given) - len(positive),
            "users_without_positives": given.n_users - positive.n_users,
            "duplicates": len(positive) - len(once),
            "outside_k_core": len(once) - len(kept),
        }

    def settings(self) -> dict[str, Any]:
        """As written to the manifest."""
        return asdict(self)


@runtime_checkable
class Scenario(Protocol):
    """Turns named tables of interactions into a dataset.

    Attributes
    ----------
    name
        As given to ``--scenario`` and written to the manifest.
    """

    name: str

    def __call__(
        self,
        tables: Mapping[str, Interactions],
        *,
        filters: Filters,
        dataset_name: str,
        source: Mapping[str, Any] | None = None,
    ) -> Dataset:
        """Build the dataset.

        Parameters
        ----------
        tables
            Interactions by role: ``{"log": …}`` for a scenario that splits one log, split names
            for one that takes ready splits.
        filters
            Threshold and k-core to apply.
        dataset_name, source
            For the manifest.
        """
        ...


_SCENARIOS: dict[str, type[Scenario]] = {}


def register_scenario(scenario: type[Any]) -> type[Any]:
    """Class decorator that makes a scenario known by its ``name``."""
    _SCENARIOS[scenario.name] = scenario
    return scenario


def scenario_names() -> tuple[str, ...]:
    """All scenarios that can be asked for by name."""
    return tuple(sorted({*_SCENARIOS, *(point.name for point in _points())}))


def get_scenario(name: str) -> type[Scenario]:
    """The scenario class of that name.

    Raises
    ------
    ConfigError
        There is none.
    """
    if name in _SCENARIOS:
        return _SCENARIOS[name]
    for point in _points():
        if point.name == name:
            found: type[Scenario] = point.load()
            return found
    known = scenario_names()
    raise ConfigError(
        f"unknown scenario {name!r}{did_you_mean(name, known)}; --scenario takes {', '.join(known)}"
    )


def _points() -> Any:
    return entry_points(group=ENTRY_POINTS)
