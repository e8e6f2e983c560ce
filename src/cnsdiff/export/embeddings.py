"""Embeddings whose inner product is the score, as Parquet or as NumPy arrays.

A score read at a dial is ``u · v + b``, and ``b`` is what the dial adds to an item
(:mod:`cnsdiff.evaluation.dial`). Whatever ranks by inner products knows no ``b``, so it becomes a
coordinate: ``(u, 1) · (v, b)``. At dial 0 there is no ``b``: the vectors are the model's own. What
an environment adds (:mod:`cnsdiff.environment`) is a ``b``, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cnsdiff.base.errors import DataError, InputError
from cnsdiff.base.storage import write_array
from cnsdiff.export.directory import ExportManifest, write_export
from cnsdiff.export.item_weights import ItemWeightsManifest, item_weights_to_parquet
from cnsdiff.recommender.eligibility import SeenItems
from cnsdiff.recommender.embedding_model import EmbeddingModel, ItemItemModel
from cnsdiff.recommender.run_directory import config_fingerprint

if TYPE_CHECKING:
    from cnsdiff.recommender.recommender import Recommender


class EmbeddingsManifest(ExportManifest):
    """The manifest of exported embeddings."""

    score: str
    dial: float
    environment: NotRequired[dict[str, object]]
    dim: int
    model_dim: int
    last_coordinate: str
    n_users: int
    n_items: int
    config_fingerprint: str
    seen: str
    best_epoch: int
    dataset: dict[str, str | None]
    index: NotRequired[dict[str, str | int | float]]


@dataclass(frozen=True)
class Vectors:
    """A trained model, read at a dial, as vectors.

    Attributes
    ----------
    users, items
        The ids as given; the row is that of the vectors.
    user_vectors, item_vectors
        ``(U, d)`` and ``(I, d)`` float32, C-ordered; their inner product is the score.
    seen
        ``(n, 2)`` rows of a user and of an item that the user already has: what ``recommend``
        leaves out. Sorted.
    facts
        What the manifest says of them.
    """

    users: pl.Series
    items: pl.Series
    user_vectors: NDArray[np.float32]
    item_vectors: NDArray[np.float32]
    seen: NDArray[np.int64]
    facts: dict[str, object]


def vectors_of(model: Recommender, dial: float | None = None, seen: SeenItems = "all") -> Vectors:
    """The vectors of a fitted model, read at ``dial``, or as it is read without one.

    ``seen`` says which pairs are left out, as in :meth:`cnsdiff.Recommender.recommend`.

    Raises
    ------
    NotFittedError
        The model has not been fitted.
    InputError
        ``dial`` is not finite, ``seen`` is unknown, or the model has no embeddings.
    """
    if not isinstance(model.model_, EmbeddingModel):
        raise InputError(
            f"a model {model.config_.method!r} scores by item weights and has no embeddings; "
            "export to parquet, which writes the weights"
        )
    pairs = np.stack(model.model_.left_out(seen).nonzero(), axis=1).astype(np.int64)
    environment = model.environment_ if dial is None else None
    scorer = model.model_.scorer(dial=dial)
    users, items = scorer.user_embeddings.numpy(), scorer.item_embeddings.numpy()
    model_dim = users.shape[1]
    if scorer.item_bias is not None:
        bias = scorer.item_bias.numpy()
        users = np.concatenate([users, np.ones((len(users), 1), np.float32)], axis=1)
        items = np.concatenate([items, bias[:, None]], axis=1)
    dim = users.shape[1]
    last = "the model's own"
    if dim > model_dim:
        last = "the dial's share" if environment is None else "the environment's share"
    return Vectors(
        users=model.users_,
        items=model.items_,
        user_vectors=np.ascontiguousarray(users, dtype=np.float32),
        item_vectors=np.ascontiguousarray(items, dtype=np.float32),
        seen=pairs,
        facts={
            "export": "embeddings",
            "score": "inner product of a user's and an item's vector",
            "dial": model.dial_ if dial is None else dial,
            **({} if environment is None else {"environment": environment.model_dump()}),
            "dim": dim,
            "model_dim": model_dim,
            "last_coordinate": last,
            "n_users": len(users),
            "n_items": len(items),
            "config_fingerprint": config_fingerprint(model.config_),
            "seen": "train" if seen == "all" and model.model_.seen is None else seen,
            "best_epoch": model.best_epoch_,
            "dataset": model.trained_on_,
        },
    )


def to_parquet(
    model: Recommender,
    path: str | Path,
    *,
    dial: float | None = None,
    seen: SeenItems = "all",
    overwrite: bool = False,
) -> EmbeddingsManifest | ItemWeightsManifest:
    """Write a model's embeddings, or item weights, as Parquet files.

    Of embeddings, ``users.parquet`` and ``items.parquet`` have the columns ``id`` (as given) and
    ``embedding`` (a list of ``d`` float32); ``seen.parquet`` has ``user`` and ``item``, the pairs
    that recommendations leave out. Of item weights, see
    :func:`~cnsdiff.export.item_weights.item_weights_to_parquet`.

    Parameters
    ----------
    model
        A fitted recommender.
    path
        Directory to write.
    dial
        Read the model here, not at ``model.dial_``. Other than 0 it adds a coordinate to the
        vectors (:mod:`cnsdiff.export.embeddings`).
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
    if isinstance(model.model_, ItemItemModel):
        return item_weights_to_parquet(model, path, dial=dial, seen=seen, overwrite=overwrite)
    vectors = vectors_of(model, dial, seen)

    def write(folder: Path) -> None:
        for name, ids, array in (
            ("users", vectors.users, vectors.user_vectors),
            ("items", vectors.items, vectors.item_vectors),
        ):
            embedding = pl.Series(array, dtype=pl.Array(pl.Float32, array.shape[1]))
            table = pl.DataFrame({"id": ids, "embedding": embedding})
            table.write_parquet(folder / f"{name}.parquet")
        user, item = vectors.seen.T
        pairs = pl.DataFrame(
            {"user": vectors.users.gather(user), "item": vectors.items.gather(item)}
        )
        pairs.write_parquet(folder / "seen.parquet")

    facts = {**vectors.facts, "format": "parquet"}
    manifest: EmbeddingsManifest = write_export(path, facts, write, overwrite=overwrite)
    return manifest


def to_numpy(
    model: Recommender,
    path: str | Path,
    *,
    dial: float | None = None,
    seen: SeenItems = "all",
    overwrite: bool = False,
) -> EmbeddingsManifest:
    """Write a model's embeddings as NumPy files.

    ``user_ids.npy``, ``item_ids.npy`` (integers, or Unicode text), ``user_vectors.npy``
    ``(U, d)``, ``item_vectors.npy`` ``(I, d)``, both float32, and ``seen.npy`` ``(n, 2)``: rows
    of a user and of an item that the user already has, which recommendations leave out.
    ``numpy.load(file)`` reads each, ``mmap_mode="r"`` without filling the memory.

    Parameters
    ----------
    model, path, dial, seen, overwrite
        As in :func:`to_parquet`.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    InputError
        ``path`` exists, ``dial`` is not finite, or an id cannot be written as it is.
    StorageError
        It cannot be written; what was there is untouched.
    """
    vectors = vectors_of(model, dial, seen)

    def write(folder: Path) -> None:
        write_arrays(vectors, folder)
        write_array(folder / "item_vectors.npy", vectors.item_vectors)

    facts = {**vectors.facts, "format": "numpy"}
    manifest: EmbeddingsManifest = write_export(path, facts, write, overwrite=overwrite)
    return manifest


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
    cut = ids.filter(ids.str.ends_with("\0"))
    if len(cut):
        raise DataError(
            f"the id {cut[0]!r} ends in a null character, which NumPy drops; export to parquet"
        )
    return np.array(ids.to_list(), dtype=np.str_)
