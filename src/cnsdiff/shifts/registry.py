"""Finding a scenario by name.

A package adds its own under the entry-point group ``cnsdiff.scenarios``, a script by
:func:`register_scenario`.
"""

from __future__ import annotations

from importlib.metadata import EntryPoints, entry_points
from typing import TypeVar

from cnsdiff.errors import ConfigError, did_you_mean
from cnsdiff.shifts.base import Scenario

ENTRY_POINTS = "cnsdiff.scenarios"

_SCENARIOS: dict[str, type[Scenario]] = {}
_Class = TypeVar("_Class", bound=type[Scenario])


def register_scenario(scenario: _Class) -> _Class:
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
        There is none; the message names the nearest.
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


def _points() -> EntryPoints:
    return entry_points(group=ENTRY_POINTS)
