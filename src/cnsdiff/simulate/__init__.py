"""Worlds whose truth is known."""

from cnsdiff.simulate.confounded_world import ConfoundedWorld

__all__ = ["ConfoundedWorld"]
