"""cnsdiff: recommenders that keep working when the world shifts."""

from __future__ import annotations

from cnsdiff.data import Dataset, Interactions, load_dataset, read_interactions
from cnsdiff.errors import CnsdiffError
from cnsdiff.recommender import Recommender

__all__ = [
    "CnsdiffError",
    "Dataset",
    "Interactions",
    "Recommender",
    "load_dataset",
    "read_interactions",
]
