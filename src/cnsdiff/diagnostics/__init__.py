"""The shift in a dataset: counts, distances, and figures of them."""

from cnsdiff.diagnostics.description import Description, describe
from cnsdiff.diagnostics.measures import Distances
from cnsdiff.diagnostics.shift import Shift

__all__ = ["Description", "Distances", "Shift", "describe"]
