"""The shift in a dataset: counts, distances, and figures of them."""

from cnsdiff.diagnostics.description import Description, describe
from cnsdiff.diagnostics.log import LogDescription, describe_log
from cnsdiff.diagnostics.shift import Distances, Shift

__all__ = ["Description", "Distances", "LogDescription", "Shift", "describe", "describe_log"]
