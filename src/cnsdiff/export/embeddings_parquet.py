"""Embeddings as Parquet: a row an id, its vector a list of fixed size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cnsdiff.export.directory import write_export
from cnsdiff.export.vectors import vectors_of
from cnsdiff.recommender.eligibility import SeenItems

if TYPE_CHECKING:
    from cnsdiff.recommender.recommender import Recommender


def to_parquet(
    model: Recommender,
    path: str | Path,
    *,
    dial: float | None = None,
    seen: SeenItems = "all",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a model's embeddings as Parquet files.

    ``users.parquet`` and ``items.parquet`` have the columns ``id`` (as given) and ``embedding``
    (a list of ``d`` float32); ``seen.parquet`` has ``user`` and ``item``, the pairs
    that recommendations leave out.

    Parameters
    ----------
    model
        A fitted recommender.
    path
        Directory to write.
    dial
        Read the model here, not at ``model.dial_``. Other than 0 it adds a coordinate to the
        vectors (:mod:`cnsdiff.export.vectors`).
    seen
        Which pairs are left out, as in :meth:`cnsdiff.Recommender.recommend`.
    overwrite
        Replace an export that is there.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    InputError
        ``path`` exists, or ``dial`` is not finite.
    StorageError
        It cannot be written; what was there is untouched.
    """
    vectors = vectors_of(model, dial, seen)

    def write(folder: Path) -> None:
        _table(vectors.users, vectors.user_vectors).write_parquet(folder / "users.parquet")
        _table(vectors.items, vectors.item_vectors).write_parquet(folder / "items.parquet")
        pairs = pl.DataFrame(
            {
                "user": vectors.users.gather(vectors.seen[:, 0]),
                "item": vectors.items.gather(vectors.seen[:, 1]),
            }
        )
        pairs.write_parquet(folder / "seen.parquet")

    return write_export(path, {**vectors.facts, "format": "parquet"}, write, overwrite=overwrite)


def _table(ids: pl.Series, vectors: NDArray[np.float32]) -> pl.DataFrame:
    kind = pl.Array(pl.Float32, vectors.shape[1])
    return pl.DataFrame({"id": ids, "embedding": pl.Series(vectors, dtype=kind)})
