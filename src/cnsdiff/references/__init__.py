"""Models without gradient learning, which every learned model has to beat."""

from cnsdiff.references.base import (
    MostPop,
    RandomScores,
    RecentMostPop,
    Reference,
    ReferenceConfig,
    left_out_if_it_fails,
)
from cnsdiff.references.ease import EASE
from cnsdiff.references.ials import IALS
from cnsdiff.references.item_knn import ItemKNN

REFERENCES: dict[str, type[Reference]] = {
    "random": RandomScores,
    "mostpop": MostPop,
    "recent-mostpop": RecentMostPop,
    "itemknn": ItemKNN,
    "ease": EASE,
    "ials": IALS,
}
"""The references by the name they have in configurations and tables."""

CLOSED_FORM = {name: kind for name, kind in REFERENCES.items() if kind is not RandomScores}
"""Those that can be trained, saved and served like any model."""

STANDARD = ("mostpop", "itemknn", "ease")
"""Those of every table: no seed, no extra to install."""

REHEARSED = (*STANDARD, "recent-mostpop")
"""Those beside a model that was rehearsed: the log has times."""

__all__ = [
    "CLOSED_FORM",
    "EASE",
    "IALS",
    "REFERENCES",
    "REHEARSED",
    "STANDARD",
    "ItemKNN",
    "MostPop",
    "RandomScores",
    "RecentMostPop",
    "Reference",
    "ReferenceConfig",
    "left_out_if_it_fails",
]
