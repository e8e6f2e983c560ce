"""Bringing ids of different types together, and looking them up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from cnsdiff.data.interactions import Interactions
from cnsdiff.data.values import id_values
from cnsdiff.errors import DataError


def unify(splits: Mapping[str, Interactions], role: str) -> dict[str, pl.Series]:
    """The ids of one role (``"user"``, ``"item"``, …) in each split, all of one type.

    Where the splits differ (integers in one file, text in another) all become text, since an
    integer's text is exact and nothing else is common to both.
    """
    series = {name: split.frame[role] for name, split in splits.items()}
    kinds = {ids.dtype for ids in series.values()}
    if len(kinds) == 1:
        return series
    if pl.String not in kinds and not all(kind.is_integer() for kind in kinds):
        listed = ", ".join(f"{name} {ids.dtype}" for name, ids in series.items())
        raise DataError(f"the {role} ids differ in type ({listed}); give all splits the same one")
    return {name: ids.cast(pl.String) for name, ids in series.items()}


class Vocabulary:
    """Ids by number: ``ids[number]`` is the id, and :meth:`encode` finds the number."""

    def __init__(self, ids: pl.Series) -> None:
        self.ids = ids
        self._table: pl.DataFrame | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self, ids: Iterable[Any]) -> NDArray[np.int64]:
        """The number of each id, -1 where it is unknown.

        Integers may be asked for as text and the other way round, if the text is the same.

        Raises
        ------
        DataError
            ``ids`` is not a one-dimensional list of integers or strings.
        """
        asked = _like(id_values(id_column(ids), "the ids asked for"), self.ids.dtype).alias("id")
        if self._table is None:
            numbers = pl.int_range(len(self.ids), dtype=pl.Int64, eager=True)
            self._table = pl.DataFrame({"id": self.ids, "number": numbers})
        found = asked.to_frame().join(self._table, on="id", how="left", maintain_order="left")
        return found["number"].fill_null(-1).to_numpy(writable=True)

    def decode(self, numbers: Sequence[int] | NDArray[np.integer[Any]]) -> pl.Series:
        """The ids of internal numbers.

        Raises
        ------
        ValueError
            A number is not between 0 and the number of ids (-1 is nobody's).
        """
        index = np.asarray(numbers, dtype=np.int64).reshape(-1)
        if index.size and (index.min() < 0 or index.max() >= len(self.ids)):
            raise ValueError(f"internal numbers go from 0 to {len(self.ids) - 1}")
        return self.ids.gather(pl.Series(index))


class IdIndex:
    """Ids by number for serving: plain dictionaries and arrays.

    Polars waits for ever in a process that was forked after its threads had started, which is
    how web servers and task queues start their workers; nothing here uses them.

    Parameters
    ----------
    ids
        The id of each number: integers or text.
    """

    def __init__(self, ids: pl.Series) -> None:
        self.ids: pa.Array = ids.to_arrow()
        self._text = ids.dtype == pl.String
        self._numbers: dict[int | str, int] = {id: at for at, id in enumerate(ids.to_list())}

    def find(self, ids: Iterable[Any]) -> NDArray[np.int64]:
        """The number of each id, -1 where it is unknown; as :meth:`Vocabulary.encode`.

        Raises
        ------
        DataError
            ``ids`` is not a one-dimensional list of integers or strings.
        """
        keys = (self._key(value) for value in ids)
        numbers = [-1 if key is None else self._numbers.get(key, -1) for key in keys]
        return np.array(numbers, dtype=np.int64)

    def take(self, numbers: NDArray[np.integer[Any]]) -> pa.Array:
        """The ids of internal numbers."""
        return self.ids.take(pa.array(numbers))

    def _key(self, value: Any) -> int | str | None:
        if isinstance(value, str):
            if self._text:
                return value
            # "007" is not the id 7.
            whole = value.removeprefix("-")
            if not (whole.isascii() and whole.isdecimal() and len(whole) < 21):
                return None
            return int(value) if str(int(value)) == value else None
        if isinstance(value, float | np.floating):
            if value != value:
                return None
            if float(value).is_integer():
                value = int(value)  # an integer that pandas left beside a missing one
        if isinstance(value, int | np.integer) and not isinstance(value, bool):
            return str(int(value)) if self._text else int(value)
        if value is None:
            return None
        raise DataError(
            f"ids are integers or strings, not {type(value).__name__} ({value!r}); convert them"
        )


def id_list(ids: Iterable[Any]) -> list[Any]:
    """Ids in any container (list, array, Series of any library) as a list.

    Raises
    ------
    DataError
        They are a single id, a table, or no list at all.
    """
    if isinstance(ids, str | bytes):
        raise DataError(f"expected a list of ids, not the single id {ids!r}; put it in a list")
    given: Any = ids
    if nw.dependencies.is_into_dataframe(given) or isinstance(given, pl.LazyFrame | Mapping):
        raise DataError(
            f"expected a list of ids, not a {type(given).__name__}; give one of its columns"
        )
    if isinstance(given, pa.Array | pa.ChunkedArray):
        return list(given.to_pylist())
    try:
        return list(given.tolist() if hasattr(given, "tolist") else given)
    except TypeError as error:
        raise DataError(f"ids must be a list of integers or strings: {error}") from error


def id_column(ids: Iterable[Any]) -> pl.Series:
    """Ids in any container (list, array, Series of any library) as they are, in a column.

    Raises
    ------
    DataError
        They are not a one-dimensional list of integers or strings.
    """
    if isinstance(ids, str | bytes):
        raise DataError(f"expected a list of ids, not the single id {ids!r}; put it in a list")
    try:
        given: Any = ids
        if isinstance(given, pl.Series):
            return given
        if isinstance(given, pa.Array):
            given = pa.chunked_array([given])
        if nw.dependencies.is_into_series(given):
            column: pl.Series = nw.from_native(given, series_only=True).to_polars()
            return column
        values = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        kinds = {type(value) for value in values}
        if str in kinds and len(kinds) > 1:
            values = [str(value) for value in values]
        return pl.Series(values, dtype=None if values else pl.Int64)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise DataError(f"ids must be a list of integers or strings: {error}") from error


def _like(asked: pl.Series, dtype: pl.DataType) -> pl.Series:
    if asked.dtype == dtype:
        return asked
    if dtype == pl.String:
        return asked.cast(pl.String)
    cast = asked.cast(dtype, strict=False)
    if asked.dtype != pl.String:
        return cast
    # "007" is not the id 7.
    return cast.set((cast.cast(pl.String) != asked).fill_null(False), None)
