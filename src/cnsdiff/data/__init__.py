"""Interactions from any source, and prepared datasets on disk."""

from cnsdiff.data.dataset import Dataset, load_dataset
from cnsdiff.data.directory import SPLITS
from cnsdiff.data.interactions import Interactions
from cnsdiff.data.readers import FORMATS, read_interactions
from cnsdiff.data.splits import Split

__all__ = [
    "FORMATS",
    "SPLITS",
    "Dataset",
    "Interactions",
    "Split",
    "load_dataset",
    "read_interactions",
]
