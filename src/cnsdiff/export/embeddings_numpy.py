"""Embeddings as NumPy arrays: ``.npy`` files that need no pickle and can be mapped into memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cnsdiff.base.errors import DataError
from cnsdiff.base.storage import write_array
from cnsdiff.export.directory import write_export
from cnsdiff.export.vectors import Vectors, vectors_of
from cnsdiff.recommender.eligibility import SeenItems

if TYPE_CHECKING:
    from cnsdiff.recommender.recommender import Recommender


def to_numpy(
    model: Recommender,
    path: str | Path,
    *,
    dial: float | None = None,
    seen: SeenItems = "all",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a model's embeddings as NumPy files.

    ``user_ids.npy``, ``item_ids.npy`` (integers, or Unicode text), ``user_vectors.npy``
    ``(U, d)``, ``item_vectors.npy`` ``(I, d)``, both float32, and ``seen.npy`` ``(n, 2)``: rows
    of a user and of an item that the user already has, which recommendations leave out.
    ``numpy.load(file)`` reads each, ``mmap_mode="r"`` without filling the memory.

    Parameters
    ----------
    model, path, dial, seen, overwrite
        As in :func:`~cnsdiff.export.to_parquet`.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    InputError
        ``path`` exists, ``dial`` is not finite, or an id cannot be kept as it is.
    StorageError
        It cannot be written; what was there is untouched.
    """
    vectors = vectors_of(model, dial, seen)

    def write(folder: Path) -> None:
        write_arrays(vectors, folder)
        write_array(folder / "item_vectors.npy", vectors.item_vectors)

    return write_export(path, {**vectors.facts, "format": "numpy"}, write, overwrite=overwrite)


def write_arrays(vectors: Vectors, folder: Path) -> None:
    """All but the items' vectors, which an index may hold in their place."""
    write_array(folder / "user_ids.npy", id_array(vectors.users))
    write_array(folder / "item_ids.npy", id_array(vectors.items))
    write_array(folder / "user_vectors.npy", vectors.user_vectors)
    write_array(folder / "seen.npy", vectors.seen)


def id_array(ids: pl.Series) -> NDArray[Any]:
    """Ids as an array of integers or of fixed-width Unicode text, which needs no pickle.

    Raises
    ------
    DataError
        A text ends in a null character, which NumPy's text drops.
    """
    if ids.dtype != pl.String:
        return ids.to_numpy()
    lost = ids.str.ends_with("\0")
    if lost.any():
        raise DataError(
            f"the id {ids.filter(lost)[0]!r} ends in a null character, which NumPy drops; export "
            "to parquet"
        )
    return np.array(ids.to_list(), dtype=np.str_)
