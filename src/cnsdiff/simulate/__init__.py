"""Worlds whose truth is known."""

from cnsdiff.simulate.confounded_world import ConfoundedWorld
from cnsdiff.simulate.environment import Environment, Intervention
from cnsdiff.simulate.settings import ShiftSettings, WorldSettings
from cnsdiff.simulate.truth import WorldTruth

__all__ = [
    "ConfoundedWorld",
    "Environment",
    "Intervention",
    "ShiftSettings",
    "WorldSettings",
    "WorldTruth",
]
