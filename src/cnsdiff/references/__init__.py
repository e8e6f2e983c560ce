"""Models without gradient learning, which every learned model has to beat."""

from cnsdiff.references.base import Reference
from cnsdiff.references.ease import EASE
from cnsdiff.references.item_knn import ItemKNN
from cnsdiff.references.most_popular import MostPop

REFERENCES: dict[str, type[MostPop] | type[ItemKNN] | type[EASE]] = {
    "mostpop": MostPop,
    "itemknn": ItemKNN,
    "ease": EASE,
}
"""The references by the name they have in configurations and tables."""

__all__ = ["EASE", "REFERENCES", "ItemKNN", "MostPop", "Reference"]
