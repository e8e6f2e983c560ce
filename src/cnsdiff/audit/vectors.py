"""Embeddings that another system made: users and items whose inner product is the score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnsdiff.base.errors import CnsdiffError, DataError
from cnsdiff.base.settings import shown
from cnsdiff.base.storage import first_line, read_parquet
from cnsdiff.data import Dataset
from cnsdiff.data.ids import as_integers, id_values
from cnsdiff.kernels.memory import require_memory

_SHAPES = (
    "give a directory written by cnsdiff export, an .npz file with users, items, user_embeddings "
    "and item_embeddings, or a Parquet file with kind (user or item), id and vector"
)
_VECTOR = ("vector", "embedding", "embeddings")


@dataclass(frozen=True)
class Vectors:
    """Ids as they are in the file, and a row of numbers for each.

    Attributes
    ----------
    users, items
        Ids.
    user_vectors, item_vectors
        ``(n, d)`` float32.
    source
        File, for messages.
    """

    users: pl.Series
    items: pl.Series
    user_vectors: NDArray[np.float32]
    item_vectors: NDArray[np.float32]
    source: str

    def __post_init__(self) -> None:
        """Raise :class:`DataError` if ids and vectors do not fit together."""
        for side, ids, vectors in (
            ("user", self.users, self.user_vectors),
            ("item", self.items, self.item_vectors),
        ):
            if vectors.ndim != 2 or len(ids) != len(vectors) or not vectors.size:
                raise DataError(
                    f"{self.source}: has {len(ids)} {side} ids and {side} vectors of shape "
                    f"{vectors.shape}; give one row of numbers for each id"
                )
            if ids.null_count():
                raise DataError(f"{self.source}: a {side} id is missing; give each vector one")
            # Of vectors whose squared lengths are finite, every inner product is, too.
            with np.errstate(over="ignore", invalid="ignore"):
                finite = np.isfinite(np.einsum("nd,nd->n", vectors, vectors))
            if not finite.all():
                row = int(np.argmin(finite))
                raise DataError(
                    f"{self.source}: the vector of {side} {ids[row]!r} holds a value that is no "
                    "finite number, or too large a one for a finite score; correct or remove it"
                )
            if ids.is_duplicated().any():
                twice = ids.filter(ids.is_duplicated())[0]
                raise DataError(f"{self.source}: {side} {twice!r} has two vectors; keep one")
        if self.user_vectors.shape[1] != self.item_vectors.shape[1]:
            raise DataError(
                f"{self.source}: users' vectors have {self.user_vectors.shape[1]} numbers and "
                f"items' {self.item_vectors.shape[1]}; their inner product is the score, so give "
                "both the same number"
            )


def read_vectors(path: Path) -> Vectors:
    """Read embeddings; nothing is unpickled.

    Parameters
    ----------
    path
        A directory of ``cnsdiff export`` (Parquet or NumPy), an ``.npz`` file with ``users``,
        ``items``, ``user_embeddings`` and ``item_embeddings``, or a Parquet file with the columns
        ``kind``, ``id`` and ``vector``.

    Raises
    ------
    DataError
        It is none of these, or ids and vectors do not fit together.
    """
    try:
        if path.is_dir():
            return _directory(path)
        if path.suffix == ".npz":
            return _archive(path)
        return _single_table(path)
    except CnsdiffError:
        raise
    # NumPy and zipfile have no error of their own for damaged bytes: it can be any.
    except Exception as error:
        raise DataError(
            f"{path}: cannot be read as embeddings ({first_line(error)}); {_SHAPES}"
        ) from error


def _archive(path: Path) -> Vectors:
    names = ("users", "items", "user_embeddings", "item_embeddings")
    with ZipFile(path) as archive:
        members = [name.removesuffix(".npy") for name in archive.namelist()]
        if missing := [name for name in names if name not in members]:
            raise DataError(
                f"{path}: has no array {missing[0]!r}; its arrays are "
                f"{shown(', '.join(members))}, and {_SHAPES}"
            )
        arrays = []
        for name in names:
            with archive.open(f"{name}.npy") as file:
                size = archive.getinfo(f"{name}.npy").file_size
                arrays.append(_array(file, size, f"{path}: {name}"))
    return _vectors(*arrays, source=str(path))


def _directory(path: Path) -> Vectors:
    if (path / "users.parquet").is_file():
        users, items = (read_parquet(path / f"{side}.parquet") for side in ("users", "items"))
        matrices = [_matrix(side[_vector_column(side, path)], path) for side in (users, items)]
        return _vectors(users["id"], items["id"], *matrices, source=str(path))
    files = [path / f"{n}.npy" for n in ("user_ids", "item_ids", "user_vectors", "item_vectors")]
    if not all(file.is_file() for file in files):
        raise DataError(f"{path}: holds no embeddings; {_SHAPES}")
    arrays = []
    for place in files:
        with place.open("rb") as file:
            arrays.append(_array(file, place.stat().st_size, str(place)))
    return _vectors(*arrays, source=str(path))


def _array(file: IO[bytes], size: int, source: str) -> NDArray[Any]:
    """The array in a ``.npy`` file of ``size`` bytes, whose header is not believed."""
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"version {version} of the format is not known")
        file.seek(0)
    except Exception as error:  # as above
        raise DataError(f"{source}: is damaged ({first_line(error)}); write it again") from error
    if dtype.hasobject:
        raise DataError(
            f"{source}: holds Python objects, which are not read; convert it with "
            "array.astype(str), or to a type of number"
        )
    needed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or needed > size:
        raise DataError(
            f"{source}: says that it is an array of {shape}, and has too few bytes for that; write "
            "it again"
        )
    require_memory(needed, source, "give fewer of them")
    return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _single_table(path: Path) -> Vectors:
    table = read_parquet(path)
    vector = _vector_column(table, path)
    if "kind" not in table.columns:
        raise DataError(f"{path}: has no column 'kind'; {_SHAPES}")
    kinds = table["kind"].cast(pl.String).str.to_lowercase()
    users, items = (table.filter(kinds == side) for side in ("user", "item"))
    matrices = [_matrix(side[vector], path) for side in (users, items)]
    return _vectors(users["id"], items["id"], *matrices, source=str(path))


def _vector_column(table: pl.DataFrame, path: Path) -> str:
    name = next((name for name in _VECTOR if name in table.columns), None)
    if name is None or "id" not in table.columns:
        listed = ", ".join(map(repr, table.columns))
        raise DataError(f"{path}: has the columns {listed}, not id and vector; {_SHAPES}")
    return name


def _matrix(column: pl.Series, path: Path) -> NDArray[np.float32]:
    """Lists of equal length as ``(n, d)``."""
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if not isinstance(column.dtype, pl.List):
        raise DataError(f"{path}: column {column.name!r} holds {column.dtype}, not lists")
    lengths = column.list.len()
    if column.null_count() or lengths.n_unique() > 1:
        raise DataError(f"{path}: its vectors differ in length; give all the same number")
    if not len(column):
        return np.zeros((0, 0), dtype=np.float32)
    values = column.explode().cast(pl.Float32).to_numpy()
    return np.asarray(values, dtype=np.float32).reshape(len(column), int(lengths[0]))


def _vectors(
    users: Any, items: Any, user_vectors: Any, item_vectors: Any, *, source: str
) -> Vectors:
    user_ids, item_ids = (
        as_integers(id_values(pl.Series(ids).rename("id"), f"{source}: the {side} ids"))
        for side, ids in (("user", users), ("item", items))
    )
    matrices = [np.asarray(vectors) for vectors in (user_vectors, item_vectors)]
    for matrix in matrices:
        if matrix.dtype.kind not in "fiu":
            raise DataError(f"{source}: holds vectors of {matrix.dtype}; give real numbers")
    with np.errstate(over="ignore"):  # what becomes infinite is refused with its user or item
        of_users, of_items = (np.asarray(matrix, dtype=np.float32) for matrix in matrices)
    return Vectors(user_ids, item_ids, of_users, of_items, source)


class VectorScorer:
    """Vectors of another system as a scorer of a dataset.

    Users without a vector get no list, and items without one are never recommended.

    Parameters
    ----------
    vectors
        As read.
    dataset
        Whose users and items are asked for.

    Attributes
    ----------
    counts
        ``unknown_users`` and ``unknown_items`` of the vectors; ``users`` and ``items`` of the
        dataset that have one.
    """

    def __init__(self, vectors: Vectors, dataset: Dataset) -> None:
        self.n_users, self.n_items = dataset.n_users, dataset.n_items
        users, items = dataset.encode_users(vectors.users), dataset.encode_items(vectors.items)
        self._users, self._known_users = _placed(users, vectors.user_vectors, self.n_users)
        self._items, self._known_items = _placed(items, vectors.item_vectors, self.n_items)
        self.counts = {
            "unknown_users": int((users < 0).sum()),
            "unknown_items": int((items < 0).sum()),
            "users": int(self._known_users.sum()),
            "items": int(self._known_items.sum()),
        }

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        """Inner products ``(B, stop - start)``; minus infinity where there is no vector."""
        scores = self._users[users] @ self._items[start:stop].T
        scores[~self._known_users[users]] = -torch.inf
        scores[:, ~self._known_items[start:stop]] = -torch.inf
        return scores


def _placed(
    numbers: NDArray[np.int64], vectors: NDArray[np.float32], n: int
) -> tuple[Tensor, Tensor]:
    """``(n, d)`` the vector of each number, and ``(n,)`` whether it has one."""
    table = np.zeros((n, vectors.shape[1]), dtype=np.float32)
    known = np.zeros(n, dtype=bool)
    table[numbers[numbers >= 0]] = vectors[numbers >= 0]
    known[numbers[numbers >= 0]] = True
    return torch.from_numpy(table), torch.from_numpy(known)
