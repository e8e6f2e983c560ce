"""Interactions from any source, and prepared datasets on disk."""

from cnsdiff.data.dataset import Dataset, load_dataset
from cnsdiff.data.directory import SIDE_TABLES, SPLITS
from cnsdiff.data.interactions import Interactions, Source
from cnsdiff.data.reading.readers import FORMATS, read_interactions
from cnsdiff.data.reading.tables import read_features
from cnsdiff.data.splits import Split

__all__ = [
    "FORMATS",
    "SIDE_TABLES",
    "SPLITS",
    "Dataset",
    "Interactions",
    "Source",
    "Split",
    "load_dataset",
    "read_features",
    "read_interactions",
]
