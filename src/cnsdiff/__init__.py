"""cnsdiff: recommenders that keep working when the world shifts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnsdiff.base.errors import CnsdiffError
    from cnsdiff.data import Dataset, Interactions, load_dataset, read_interactions
    from cnsdiff.evaluation import Evaluation, evaluate
    from cnsdiff.recommender.recommender import Recommender
    from cnsdiff.shifts import prepare, prepare_given
    from cnsdiff.simulate import ConfoundedWorld
    from cnsdiff.tuning.tuner import tune

__all__ = [
    "CnsdiffError",
    "ConfoundedWorld",
    "Dataset",
    "Evaluation",
    "Interactions",
    "Recommender",
    "evaluate",
    "load_dataset",
    "prepare",
    "prepare_given",
    "read_interactions",
    "tune",
]

# Names are imported when first used, so that `cnsdiff --help` need not load PyTorch.
_HOME = {
    "CnsdiffError": "base.errors",
    "ConfoundedWorld": "simulate",
    "Evaluation": "evaluation",
    "Recommender": "recommender.recommender",
    "evaluate": "evaluation",
    "prepare": "shifts",
    "prepare_given": "shifts",
    "tune": "tuning",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cnsdiff' has no attribute {name!r}")
    return getattr(import_module(f"cnsdiff.{_HOME.get(name, 'data')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
