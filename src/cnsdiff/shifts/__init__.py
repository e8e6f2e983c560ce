"""Shift scenarios: from interactions to a dataset whose test data differ in a known way."""

from cnsdiff.shifts.base import (
    Filters,
    Scenario,
    get_scenario,
    register_scenario,
    scenario_names,
)
from cnsdiff.shifts.given import Given, prepare_given

__all__ = [
    "Filters",
    "Given",
    "Scenario",
    "get_scenario",
    "prepare_given",
    "register_scenario",
    "scenario_names",
]
