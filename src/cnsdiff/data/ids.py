"""Ids of different types: brought together, looked up, and taken from and given as data frames."""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any, Self

import narwhals as nw
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from cnsdiff.base.errors import DataError, warn
from cnsdiff.base.text import parameter
from cnsdiff.data.interactions import Interactions

#: What programs write for a missing id (pandas and its forerunners, Python, SQL, Hive, a shell).
MISSING = (
    *("nan", "NaN", "NAN", "-nan", "-NaN", "NaT", "None", "NULL", "Null", "null", "NA", "N/A"),
    *("n/a", "#N/A", "#NA", "#N/A N/A", "<NA>", "<null>", "(null)", "<None>", "undefined", "\\N"),
)
#: A whole number that a float or a spreadsheet has cut short: 1.23457E+17.
_CUT_SHORT = r"^-?\d(\.\d+)?[eE]\+\d+$"
#: Of an id that is written nearly like a known one: letters that may stand in it, its length, and
#: how many known ones are told.
_LETTERS, _LONGEST_TYPED, _MOST_NEAR = string.ascii_letters + string.digits + "-_. ", 64, 3


def id_values(series: pl.Series, what: str) -> pl.Series:
    """Ids as Int64, UInt64 or String, null where they are missing or empty text.

    :class:`DataError` if the type cannot hold ids, or floats are too large to tell them apart;
    ``what`` opens the sentence.
    """
    dtype = series.dtype
    if isinstance(dtype, pl.Categorical | pl.Enum):
        series = series.cast(pl.String)
    if series.dtype == pl.String:
        return series.set(series == "", None)
    if dtype.is_integer():
        return _narrowest(series)
    if dtype == pl.Null:
        return series.cast(pl.String)
    if dtype.is_float() or dtype.is_decimal():
        if dtype.is_float():
            series = series.fill_nan(None)
            _require_exact(series, what)
        # A missing value turns pandas integers into floats; the ids themselves are still whole.
        whole = series.cast(pl.Int64, strict=False)
        if bool((whole.cast(dtype) == series).fill_null(series.is_null()).all()):
            return whole
    raise DataError(
        f"{what} holds {dtype}, which cannot serve as ids; turn it into integers or strings, or "
        f"name another column with {parameter('user', 'NAME')} or {parameter('item', 'NAME')}"
    )


def _require_exact(floats: pl.Series, what: str) -> None:
    """Stop where whole floats are so large that different ids became the same."""
    digits = 53 if floats.dtype == pl.Float64 else 24 if floats.dtype == pl.Float32 else 11
    lost = floats.abs() >= 2.0**digits
    if lost.any():
        raise DataError(
            f"{what} holds {floats.dtype}, which has lost digits of ids as large as "
            f"{floats.filter(lost)[0]:.0f} (2**{digits} and more); read them as integers or "
            "strings (in pandas dtype 'Int64' or str)"
        )


def _narrowest(series: pl.Series) -> pl.Series:
    for dtype in (pl.Int64, pl.UInt64):
        cast = series.cast(dtype, strict=False)
        if cast.null_count() == series.null_count():
            return cast
    return series.cast(pl.String)


def as_integers(ids: pl.Series, what: str | None = None, *, literal: bool = False) -> pl.Series:
    """Text ids as Int64 when not one of them loses a character by it, else unchanged.

    ``"007"``, ``"+7"`` and numbers beyond 64 bits therefore stay text. Unless ``literal``, whole
    numbers written as floats (``"7.0"``, as pandas does beside a missing value) are integers too;
    a warning says so if it is known ``what`` they are.
    """
    if ids.dtype != pl.String:
        return ids
    whole = _as_written(ids)
    if whole is None and not literal and ids.str.ends_with(".0").any():
        whole = _as_written(ids.str.strip_suffix(".0"))
        if whole is not None and what is not None:
            shown = ids.filter(ids.str.ends_with(".0"))[0]
            warn(
                f"{what}: ids such as {shown!r} are taken for the whole number; "
                f"{parameter('literal_ids', True)} takes them as they are written"
            )
    return ids if whole is None else whole


def _as_written(ids: pl.Series) -> pl.Series | None:
    whole = ids.cast(pl.Int64, strict=False)
    same = whole.null_count() == ids.null_count() and bool((whole.cast(pl.String) == ids).all())
    return whole if same else None


def doubtful(ids: pl.Series) -> pl.Series:
    """Text ids that are a word for a missing value, or a number cut short."""
    if ids.dtype != pl.String:
        return pl.repeat(False, len(ids), dtype=pl.Boolean, eager=True)
    doubts = ids.is_in(list(MISSING))
    if ids.str.contains("+", literal=True).any():
        doubts |= ids.str.contains(_CUT_SHORT)
    long_float = ids.str.ends_with(".0") & (ids.str.len_bytes() > 17)
    if long_float.any():
        doubts |= long_float & (ids.cast(pl.Float64, strict=False).abs() >= 2.0**53)
    return doubts.fill_null(False)


def why_doubtful(value: Any, role: str) -> str:
    """Why an id looks suspicious."""
    if value in MISSING:
        return f"stands for a missing {role}"
    return f"is a number whose last digits are lost, so different {role}s may look alike"


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
        :class:`DataError` if ``ids`` is not a one-dimensional list of integers or strings.
        """
        column = as_type(id_values(id_column(ids), "the ids asked for"), self.ids.dtype).alias("id")
        if self._table is None:
            numbers = pl.int_range(len(self.ids), dtype=pl.Int64, eager=True)
            self._table = pl.DataFrame({"id": self.ids, "number": numbers})
        matches = column.to_frame().join(self._table, on="id", how="left", maintain_order="left")
        return matches["number"].fill_null(-1).to_numpy(writable=True)

    def decode(self, numbers: Sequence[int] | NDArray[np.integer[Any]]) -> pl.Series:
        """The ids of internal numbers; ValueError for one that is nobody's, such as -1."""
        index = np.asarray(numbers, dtype=np.int64).reshape(-1)
        if index.size and (index.min() < 0 or index.max() >= len(self.ids)):
            raise ValueError(f"internal numbers go from 0 to {len(self.ids) - 1}")
        return self.ids.gather(pl.Series(index))


class IdIndex:
    """Ids by number for serving: plain dictionaries and arrays.

    Polars waits for ever in a process that was forked after its threads had started, which is how
    web servers and task queues start their workers; nothing here uses them.
    """

    def __init__(self, ids: pl.Series) -> None:
        self.ids: pa.Array = ids.to_arrow()
        self._text = ids.dtype == pl.String
        self._numbers: dict[int | str, int] = {id: at for at, id in enumerate(ids.to_list())}
        # Apart, as the many are shared with the index that they were added to.
        self._added: dict[int | str, int] = {}

    def with_more(self, ids: pl.Series) -> Self:
        """The index with ids of its type behind its own, quickly for a few; none may be known."""
        result = copy(self)
        result.ids = pa.concat_arrays([self.ids, ids.to_arrow()])
        added = {id: len(self.ids) + at for at, id in enumerate(ids.to_list())}
        result._added = self._added | added
        return result

    def find(self, ids: Iterable[Any]) -> NDArray[np.int64]:
        """The number of each id, -1 where it is unknown; as :meth:`Vocabulary.encode`."""
        get, key, plain = self._numbers.get, self._key, str if self._text else int
        if self._added:
            added, first = self._added.get, get
            get = lambda id, unknown: first(id, added(id, unknown))  # type: ignore  # noqa: E731
        numbers = [get(v if type(v) is plain else key(v), -1) for v in ids]  # type: ignore[arg-type]
        return np.array(numbers, dtype=np.int64)

    def find_text(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """The number of each id as its text is written to the letter, -1 where it is unknown.

        ``"7.0"`` is not the id 7 here: where two spellings were one, an item could be added, or a
        user forgotten, by one and stay by the other.
        """
        if self._text:
            return self.find(ids)
        return self.find([own if own.removeprefix("-").isdecimal() else "" for own in ids])

    def near(self, text: str) -> list[int | str]:
        """Known ids that an unknown one may be meant for, at most three, quickly in any number.

        Those that differ in case, in spaces around them or in zeros; without any, those that are
        one letter away, unless they are so many that none is likelier than the others.
        """
        plain = text.strip()
        alike = [plain, plain.lower(), plain.upper(), plain.capitalize(), plain.lstrip("0")]
        known = self._of_spellings([*alike, plain.removesuffix(".0")])
        if known or not self._text or len(plain) > _LONGEST_TYPED:
            return known[:_MOST_NEAR]
        ends = [(plain[:at], plain[at:]) for at in range(len(plain) + 1)]
        one_away = [before + after[1:] for before, after in ends if after]
        one_away += [
            before + after[1] + after[0] + after[2:] for before, after in ends if after[1:]
        ]
        one_away += [before + letter + after for before, after in ends for letter in _LETTERS]
        one_away += [before + letter + after[1:] for before, after in ends for letter in _LETTERS]
        known = self._of_spellings(one_away)
        return known if len(known) <= _MOST_NEAR else []

    def _of_spellings(self, texts: Iterable[str]) -> list[int | str]:
        numbers = self.find_text(list(dict.fromkeys(texts)))
        return self.names(numbers[numbers >= 0])

    def names(self, numbers: NDArray[np.integer[Any]]) -> list[int | str]:
        """The ids of internal numbers as Python has them; quick for a few."""
        n, added = len(self._listed), list(self._added) if self._added else []
        return [self._listed[k] if k < n else added[k - n] for k in numbers.tolist()]

    @cached_property
    def _listed(self) -> list[int | str]:
        return list(self._numbers)

    def take(self, numbers: NDArray[np.integer[Any]]) -> pa.Array:
        """The ids of internal numbers."""
        return self.ids.take(pa.array(numbers))

    def _key(self, value: Any) -> int | str | None:
        if isinstance(value, str):
            if self._text:
                return value
            # "007" is not the id 7, and "7.0" is, as where ids are read.
            plain = value.removesuffix(".0")
            digits = plain.removeprefix("-")
            if not (digits.isascii() and digits.isdecimal() and len(digits) < 21):
                return None
            return int(plain) if str(int(plain)) == plain else None
        if isinstance(value, float | np.floating):
            if value != value:
                return None
            exact = float(value)
            if exact.is_integer() and abs(exact) < 2**53:
                value = int(exact)  # an integer that pandas left beside a missing one
        if isinstance(value, int | np.integer) and not isinstance(value, bool):
            return str(int(value)) if self._text else int(value)
        if value is None:
            return None
        raise DataError(
            f"ids are integers or strings, not {type(value).__name__} ({value!r}); convert them"
        )


def id_list(ids: Iterable[Any]) -> list[Any]:
    """Ids in any container (list, array, Series of any library) as a list.

    :class:`DataError` if they are a single id, a table, or no list at all.
    """
    if isinstance(ids, str | bytes):
        raise DataError(f"expected a list of ids, not the single id {ids!r}; put it in a list")
    container: Any = ids
    if nw.dependencies.is_into_dataframe(container) or isinstance(
        container, pl.LazyFrame | Mapping
    ):
        raise DataError(
            f"expected a list of ids, not a {type(container).__name__}; give one of its columns"
        )
    if isinstance(container, pa.Array | pa.ChunkedArray):
        return list(container.to_pylist())
    try:
        return list(container.tolist() if hasattr(container, "tolist") else container)
    except TypeError as error:
        raise DataError(f"ids must be a list of integers or strings: {error}") from error


def id_column(ids: Iterable[Any]) -> pl.Series:
    """Ids in any container (list, array, Series of any library) as they are, in a column.

    :class:`DataError` if they are not a one-dimensional list of integers or strings.
    """
    if isinstance(ids, str | bytes):
        raise DataError(f"expected a list of ids, not the single id {ids!r}; put it in a list")
    try:
        container: Any = ids
        if isinstance(container, pl.Series):
            return container
        if isinstance(container, pa.Array):
            container = pa.chunked_array([container])
        if nw.dependencies.is_into_series(container):
            column: pl.Series = nw.from_native(container, series_only=True).to_polars()
            return column
        values = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        kinds = {type(value) for value in values}
        if str in kinds and len(kinds) > 1:
            values = [str(value) for value in values]
        return pl.Series(values, dtype=None if values else pl.Int64)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise DataError(f"ids must be a list of integers or strings: {error}") from error


def as_type(ids: pl.Series, dtype: pl.DataType) -> pl.Series:
    if ids.dtype == dtype:
        return ids
    if dtype == pl.String:
        return ids.cast(pl.String)
    if ids.dtype != pl.String:
        return ids.cast(dtype, strict=False)
    # "007" is not the id 7, and "7.0" is, as where ids are read.
    plain = ids.str.strip_suffix(".0")
    cast = plain.cast(dtype, strict=False)
    return cast.set((cast.cast(pl.String) != plain).fill_null(False), None)


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
