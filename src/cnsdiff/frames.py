"""Data frames of any library: out comes the kind that went in."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import polars as pl
import pyarrow as pa


def like_given(table: pl.DataFrame, given: Any) -> Any:
    """``table`` as a frame of the library that ``given`` (a Series or frame) belongs to."""
    if isinstance(given, (pl.Series, pl.DataFrame)):
        return table
    if isinstance(given, pa.Array):
        return table.to_arrow()
    if nw.dependencies.is_into_series(given) or nw.dependencies.is_into_dataframe(given):
        implementation = nw.from_native(given, allow_series=True, eager_only=True).implementation
        if implementation.is_pandas():
            return table.to_pandas()
        if implementation.is_pyarrow():
            return table.to_arrow()
    return table
