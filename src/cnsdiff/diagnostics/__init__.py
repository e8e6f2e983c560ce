"""The shift in a dataset: counts, distances, and figures of them."""

from cnsdiff.diagnostics.description import Description, describe
from cnsdiff.diagnostics.shift import Distances, Shift

__all__ = ["Description", "Distances", "Shift", "describe"]
