"""What shift there is in a dataset: counts, distances, and figures of them."""

from cnsdiff.diagnostics.describe import describe
from cnsdiff.diagnostics.description import Description
from cnsdiff.diagnostics.distances import Distances
from cnsdiff.diagnostics.shift import Shift

__all__ = ["Description", "Distances", "Shift", "describe"]
