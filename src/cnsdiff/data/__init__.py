"""Interactions from any source, and prepared datasets on disk."""

from cnsdiff.data.dataset import SPLITS, Dataset, Split, load_dataset
from cnsdiff.data.interactions import Interactions
from cnsdiff.data.readers import FORMATS, read_interactions

__all__ = [
    "FORMATS",
    "SPLITS",
    "Dataset",
    "Interactions",
    "Split",
    "load_dataset",
    "read_interactions",
]
