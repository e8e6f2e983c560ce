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
    """Ids as given and a row of numbers for each.

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
    wanted = ("users", "items", "user_embeddings", "item_embeddings")
    with ZipFile(path) as archive:
        held = [name.removesuffix(".npy") for name in archive.namelist()]
        if missing := [name for name in wanted if name not in held]:
            raise DataError(
                f"{path}: has no array {missing[0]!r}; its arrays are "
                f"{shown(', '.join(held))}, and {_SHAPES}"
            )
        found = []
        for name in wanted:
            member = f"{name}.npy"
            with archive.open(member) as file:
                size = archive.getinfo(member).file_size
                found.append(_array(file, size, f"{path}: {name}"))
    users, items, user_vectors, item_vectors = found
    return _vectors(users, items, user_vectors, item_vectors, str(path))


def _directory(path: Path) -> Vectors:
    if (path / "users.parquet").is_file():
        tables = [read_parquet(path / f"{side}.parquet") for side in ("users", "items")]
        columns = [_vector_column(table, str(path)) for table in tables]
        ids = [table["id"] for table in tables]
        matrices = [_matrix(t[c], str(path)) for t, c in zip(tables, columns, strict=True)]
        return _vectors(ids[0], ids[1], matrices[0], matrices[1], str(path))
    names = ("user_ids", "item_ids", "user_vectors", "item_vectors")
    if all((path / f"{name}.npy").is_file() for name in names):
        found = []
        for name in names:
            place = path / f"{name}.npy"
            with place.open("rb") as file:
                found.append(_array(file, place.stat().st_size, str(place)))
        users, items, user_vectors, item_vectors = found
        return _vectors(users, items, user_vectors, item_vectors, str(path))
    raise DataError(f"{path}: holds no embeddings; {_SHAPES}")


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
    vector = _vector_column(table, str(path))
    for column in ("kind", "id"):
        if column not in table.columns:
            raise DataError(f"{path}: has no column {column!r}; {_SHAPES}")
    kinds = table["kind"].cast(pl.String).str.to_lowercase()
    sides = [table.filter(kinds == side) for side in ("user", "item")]
    matrices = [_matrix(side[vector], str(path)) for side in sides]
    return _vectors(sides[0]["id"], sides[1]["id"], matrices[0], matrices[1], str(path))


def _vector_column(table: pl.DataFrame, source: str) -> str:
    found = next((name for name in _VECTOR if name in table.columns), None)
    if found is None or "id" not in table.columns:
        listed = ", ".join(map(repr, table.columns))
        raise DataError(f"{source}: has the columns {listed}, not id and vector; {_SHAPES}")
    return found


def _matrix(column: pl.Series, source: str) -> NDArray[np.float32]:
    """Lists of equal length as ``(n, d)``."""
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if not isinstance(column.dtype, pl.List):
        raise DataError(f"{source}: column {column.name!r} holds {column.dtype}, not lists")
    lengths = column.list.len()
    if column.null_count() or lengths.n_unique() > 1:
        raise DataError(f"{source}: its vectors differ in length; give all the same number")
    width = int(lengths[0]) if len(column) else 0
    values = column.explode().cast(pl.Float32).to_numpy() if len(column) else np.zeros(0)
    return np.asarray(values, dtype=np.float32).reshape(len(column), width)


def _vectors(
    users: object, items: object, user_vectors: object, item_vectors: object, source: str
) -> Vectors:
    ids = [
        as_integers(id_values(pl.Series(given).rename("id"), f"{source}: the {side} ids"))  # type: ignore[arg-type]
        for side, given in (("user", users), ("item", items))
    ]
    for given in (user_vectors, item_vectors):
        if (dtype := np.asarray(given).dtype).kind not in "fiu":
            raise DataError(f"{source}: holds vectors of {dtype}; give real numbers")
    with np.errstate(over="ignore"):  # what becomes infinite is refused with its user or item
        matrices = [np.asarray(given, dtype=np.float32) for given in (user_vectors, item_vectors)]
    return Vectors(ids[0], ids[1], matrices[0], matrices[1], source)


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
