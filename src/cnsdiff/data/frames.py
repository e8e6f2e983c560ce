"""Ids in any container go in, and a frame of the same library comes out.

Nothing here starts the threads of Polars, which a forked process would wait for (see
:class:`cnsdiff.data.ids.IdIndex`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import narwhals as nw
import polars as pl
import pyarrow as pa

from cnsdiff.base.errors import DataError
from cnsdiff.data.ids import id_list


def column_of(ids: Any, name: str) -> Any:
    """``given``, or its column ``name`` where it is a data frame; a list where it is an iterator.

    :class:`DataError` if it is a data frame without such a column.
    """
    if isinstance(ids, Iterator):
        return list(ids)
    if isinstance(ids, pl.LazyFrame):
        ids = ids.collect()
    if not nw.dependencies.is_into_dataframe(ids):
        return ids
    frame = nw.from_native(ids, eager_only=True)
    if name not in frame.columns:
        raise DataError(
            f"expected a list of {name}s, not a data frame without a column {name!r} (it has "
            f"{', '.join(map(repr, frame.columns))}); give the column that holds them"
        )
    return frame[name].to_native()


def id_array(ids: Any) -> pa.Array:
    """Ids in any container as they are; text where some are text and some are numbers."""
    if isinstance(ids, pl.Series):
        return ids.to_arrow()
    if isinstance(ids, pa.ChunkedArray):
        return ids.combine_chunks()
    if isinstance(ids, pa.Array):
        return ids
    values = id_list(ids)
    if len({type(value) for value in values}) > 1:
        values = [None if value is None else str(value) for value in values]
    try:
        return pa.array(values, type=None if values else pa.int64())
    except (OverflowError, pa.ArrowInvalid):  # more than 64 bits
        return pa.array(list(map(str, values)))


def frame_like(columns: Mapping[str, pa.Array], like: Any) -> Any:
    """A frame of the library that ``given`` (a Series or frame) belongs to; else of Polars."""
    if isinstance(like, pa.Array):
        return pa.table(dict(columns))
    if nw.dependencies.is_into_series(like) or nw.dependencies.is_into_dataframe(like):
        implementation = nw.from_native(like, allow_series=True, eager_only=True).implementation
        if implementation.is_pandas():
            return pa.table(dict(columns)).to_pandas(use_threads=False)
        if implementation.is_pyarrow():
            return pa.table(dict(columns))
    return pl.DataFrame([pl.Series(name, column) for name, column in columns.items()])
