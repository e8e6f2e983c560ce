"""Models without gradient learning, which every learned model has to beat."""

from cnsdiff.references.base import MostPop, RandomScores, Reference, left_out_if_it_fails
from cnsdiff.references.ease import EASE
from cnsdiff.references.ials import IALS
from cnsdiff.references.item_knn import ItemKNN

REFERENCES: dict[str, type[Reference]] = {
    "random": RandomScores,
    "mostpop": MostPop,
    "itemknn": ItemKNN,
    "ease": EASE,
    "ials": IALS,
}
"""The references by the name they have in configurations and tables."""

STANDARD = ("mostpop", "itemknn", "ease")
"""Those of every table: no seed, no extra to install."""

__all__ = [
    "EASE",
    "IALS",
    "REFERENCES",
    "STANDARD",
    "ItemKNN",
    "MostPop",
    "RandomScores",
    "Reference",
    "left_out_if_it_fails",
]
