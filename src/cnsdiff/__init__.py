"""cnsdiff: recommenders that keep working when the world shifts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnsdiff.data import Dataset, Interactions, load_dataset, read_interactions
    from cnsdiff.errors import CnsdiffError
    from cnsdiff.recommender import Recommender
    from cnsdiff.shifts import prepare, prepare_given
    from cnsdiff.simulate import ConfoundedWorld

__all__ = [
    "CnsdiffError",
    "ConfoundedWorld",
    "Dataset",
    "Interactions",
    "Recommender",
    "load_dataset",
    "prepare",
    "prepare_given",
    "read_interactions",
]

# Names are imported when first used, so that `cnsdiff --help` need not load PyTorch.
_HOME = {
    "CnsdiffError": "errors",
    "ConfoundedWorld": "simulate",
    "Recommender": "recommender",
    "prepare": "shifts",
    "prepare_given": "shifts",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cnsdiff' has no attribute {name!r}")
    return getattr(import_module(f"cnsdiff.{_HOME.get(name, 'data')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
