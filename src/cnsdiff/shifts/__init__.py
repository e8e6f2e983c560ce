"""Shift scenarios: from interactions to a dataset whose test data differ in a known way."""

from cnsdiff.shifts.base import SCENARIOS, Filters, Scenario, register_scenario
from cnsdiff.shifts.exposure import Exposure
from cnsdiff.shifts.hybrid import Hybrid
from cnsdiff.shifts.log_scenario import Log, LogScenario, OODTest, Parts
from cnsdiff.shifts.new_items import NewItems
from cnsdiff.shifts.noise import Noise
from cnsdiff.shifts.popularity import Popularity
from cnsdiff.shifts.preparation import Given, prepare, prepare_given
from cnsdiff.shifts.temporal import Temporal
from cnsdiff.shifts.user_group import UserGroup

__all__ = [
    "SCENARIOS",
    "Exposure",
    "Filters",
    "Given",
    "Hybrid",
    "Log",
    "LogScenario",
    "NewItems",
    "Noise",
    "OODTest",
    "Parts",
    "Popularity",
    "Scenario",
    "Temporal",
    "UserGroup",
    "prepare",
    "prepare_given",
    "register_scenario",
]
