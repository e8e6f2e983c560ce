"""Trained embeddings and prepared datasets for other tools.

Embeddings, so that the inner product of a user's and an item's vector is the score that
``recommend`` ranks by (:mod:`cnsdiff.export.embeddings`)::

    to_parquet(model, "exports/shop")
    to_numpy(model, "exports/shop")
    to_faiss(model, "exports/shop", index="auto")

The splits of a dataset, under the ids as given::

    dataset_to_csv(dataset, "exports/shop")
    dataset_to_parquet(dataset, "exports/shop")
    dataset_to_recbole(dataset, "exports/shop")

Each writes a directory that appears whole or not at all, with a ``manifest.json``, and returns
that manifest.
"""

from cnsdiff.export.dataset_recbole import dataset_to_recbole
from cnsdiff.export.dataset_tables import dataset_to_csv, dataset_to_parquet
from cnsdiff.export.embeddings import to_numpy, to_parquet
from cnsdiff.export.embeddings_faiss import to_faiss

__all__ = [
    "dataset_to_csv",
    "dataset_to_parquet",
    "dataset_to_recbole",
    "to_faiss",
    "to_numpy",
    "to_parquet",
]
