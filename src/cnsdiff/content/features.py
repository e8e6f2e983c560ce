"""Tables of features as vectors: categories, tags, text, numbers, and vectors of one's own.

Columns of words (categories, tags, text) are put together, weighted by how rare a word is, and
reduced by a truncated SVD; each column of vectors (of images, of sentences) is reduced to its
principal components; numbers are standardised. What is made of words and of vectors has length 1,
or 0 where nothing is known, and directions that many items share are shortened (each singular
value's power of -1/2), so that rare likeness counts, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import csr_array, diags_array, hstack

from cnsdiff.base.errors import ConfigError, DataError, warn
from cnsdiff.base.seeding import derive_seed
from cnsdiff.base.settings import Record
from cnsdiff.base.text import install_command

#: What a column holds.
Kind = Literal["category", "tags", "text", "number", "vector"]
#: Words of a column that are kept, the most frequent first, and how often one must occur.
MOST_WORDS, LEAST_OFTEN = 100_000, 2
#: A column of text has so many words in a value on average, or more than half its values once.
_LONG_TEXT = 4.0
#: A date, with a time after it or not.
_DATE = r"^(\d{4}-\d\d-\d\d)(?:[T ]\d\d:.*)?$"
#: Rows of text and of dense values worked on at a time.
_ROWS = 8192


class Column(Record):
    """A column as it was fitted."""

    name: str
    kind: Kind
    words: list[str] = Field(default_factory=list)
    """Those known, in the order of their numbers; none of numbers and vectors."""
    mark: str = "|"
    """What stands between tags that are one text."""


@dataclass
class FeatureEncoder:
    """Vectors of items from a table of their features, fitted to some items.

    Attributes
    ----------
    columns
        Those that tell something.
    tensors
        What was computed: of words ``idf`` and ``words`` ``(F, r)``; of numbers ``centre``,
        ``scale`` and the range ``low`` to ``high``, all float64; of each column of vectors
        ``centre:NAME`` and ``vectors:NAME``.
    notes
        What was left out, and why; a sentence each.
    left_out
        The columns of which that is.
    """

    columns: list[Column]
    tensors: dict[str, NDArray[np.floating[Any]]]
    notes: list[str]
    left_out: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        """``r``, the size of :meth:`vectors`."""
        numbers = sum(column.kind == "number" for column in self.columns)
        reduced = [t for name, t in self.tensors.items() if name.partition(":")[0] in _REDUCED]
        return numbers + sum(int(tensor.shape[1]) for tensor in reduced)

    @classmethod
    def fit(
        cls,
        table: pl.DataFrame,
        *,
        rank: int = 256,
        kinds: Mapping[str, Kind] | None = None,
        seed: int = 0,
    ) -> Self:
        """Learn words, scales and directions.

        Parameters
        ----------
        table
            A row per item, without its id; nulls where nothing is known.
        rank
            Size of what is made of words, and of each column of vectors, at most.
        kinds
            Of columns by name, in place of what is told from their values.
        seed
            Of the SVD.

        Raises
        ------
        DataError
            A kind is unknown or does not fit, a number is not finite, or vectors differ in length.
        """
        kinds = dict(kinds or {})
        for name in kinds:
            if name not in table.columns:
                raise DataError(
                    f"item features have no column {name!r}; they are {', '.join(table.columns)}"
                )
        notes: list[str] = []
        columns = []
        for series in table.get_columns():
            kind = kinds.get(series.name) or kind_of(series)
            column = None if kind is None else _fitted(series, kind)
            if column is None:
                why = "no value tells items apart or is shared by two of them"
                if kind is None:
                    why = f"values of type {series.dtype} cannot be read as features"
                notes.append(f"the feature {series.name!r} was left out: {why}")
            else:
                columns.append(column)
        encoder = cls(columns, {}, notes)
        tensors = encoder.tensors
        numbers = encoder._numbers(table)
        if numbers.shape[1]:
            with np.errstate(all="ignore"):
                # Times of one day differ by less than single precision tells of them.
                tensors["centre"] = np.nan_to_num(np.nanmean(numbers, axis=0))
                scale = np.nan_to_num(np.nanstd(numbers, axis=0))
            tensors["scale"] = np.where(scale > 0, scale, 1.0)
            tensors["low"] = np.nanmin(numbers, axis=0)
            tensors["high"] = np.nanmax(numbers, axis=0)
        words = encoder._words(table)
        if words.shape[1]:
            holders = np.bincount(words.indices, minlength=words.shape[1])
            tensors["idf"] = (np.log((1 + len(table)) / (1 + holders)) + 1).astype(np.float32)
            tensors["words"] = _svd(encoder._weighted(words), rank, seed)
        for column in list(columns):
            if column.kind == "vector":
                centre, directions = _principal(table[column.name], rank)
                if not directions.shape[1]:
                    notes.append(f"the feature {column.name!r} was left out: its vectors are alike")
                    columns.remove(column)
                    continue
                tensors[f"centre:{column.name}"] = centre
                tensors[f"vectors:{column.name}"] = directions
        kept = {column.name for column in columns}
        encoder.left_out.extend(name for name in table.columns if name not in kept)
        return encoder

    def vectors(self, table: pl.DataFrame) -> NDArray[np.float32]:
        """``(n, r)`` the vectors of items of a table with the same columns.

        A column that the table lacks counts as one of missing values, one that was not there to fit
        is ignored; a warning names them. Numbers beyond those fitted count as the nearest of them.

        Raises
        ------
        DataError
            All columns are missing, or values are of another kind than those fitted.
        """
        table = self._completed(table)
        parts = []
        if "words" in self.tensors:
            parts.append(_unit(self._weighted(self._words(table)) @ self.tensors["words"]))
        for column in self.columns:
            if column.kind == "vector":
                centre = self.tensors[f"centre:{column.name}"]
                directions = self.tensors[f"vectors:{column.name}"]
                width = _width(table[column.name])
                if width not in (0, len(centre)):
                    raise DataError(
                        f"the feature {column.name!r} has vectors of {width} numbers, and the "
                        f"model was trained with {len(centre)}"
                    )
                part = np.zeros((len(table), directions.shape[1]), dtype=np.float32)
                for rows, dense in _blocks(table[column.name], width) if width else ():
                    part[rows] = _unit(_zero(dense - centre) @ directions)
                parts.append(part)
        numbers = self._numbers(table)
        if "low" in self.tensors:  # not in runs from before it was kept
            numbers = np.clip(numbers, self.tensors["low"], self.tensors["high"])
        if numbers.shape[1]:
            scaled = (numbers - self.tensors["centre"]) / self.tensors["scale"]
            # Together they are as long as what is made of words.
            parts.append(_zero(scaled.astype(np.float32)) / np.sqrt(numbers.shape[1]))
        if not parts:
            return np.zeros((len(table), 0), dtype=np.float32)
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def tells(self, table: pl.DataFrame) -> NDArray[np.bool_]:
        """``(n,)`` whether a table says anything of an item in the columns that were fitted."""
        names = [column.name for column in self.columns if column.name in table.columns]
        if not names:
            return np.zeros(len(table), dtype=bool)
        return table.select(pl.any_horizontal(pl.col(names).is_not_null())).to_series().to_numpy()

    def state(self) -> dict[str, Any]:
        """What :meth:`of_state` takes beside :attr:`tensors`, as JSON holds it."""
        return {
            "columns": [column.model_dump() for column in self.columns],
            "left_out": self.left_out,
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Self:
        """The encoder again."""
        columns = [Column.model_validate(column) for column in state["columns"]]
        return cls(columns, dict(tensors), [], [str(name) for name in state.get("left_out", [])])

    def _completed(self, table: pl.DataFrame) -> pl.DataFrame:
        """The table with the columns that it lacks, of nulls."""
        named = [column.name for column in self.columns]
        lacking = [column for column in self.columns if column.name not in table.columns]
        if lacking and len(lacking) == len(named):
            raise DataError(
                "item features have none of the columns that the model was trained with; give "
                f"some of {', '.join(named)}"
            )
        if lacking:
            listed = ", ".join(repr(column.name) for column in lacking)
            warn(
                f"item features lack {listed}, which the model was trained with; they count as not "
                "known"
            )
        other = [name for name in table.columns if name not in {*named, *self.left_out}]
        if other:
            listed = ", ".join(map(repr, other))
            warn(f"item features have {listed}, which the model was trained without; ignored")
        return table.with_columns(
            pl.lit(None, dtype=_EMPTY.get(column.kind, pl.String())).alias(column.name)
            for column in lacking
        )

    def _numbers(self, table: pl.DataFrame) -> NDArray[np.float64]:
        """``(n, p)`` NaN where missing."""
        own = [_number(table[c.name]) for c in self.columns if c.kind == "number"]
        return np.stack(own, axis=1) if own else np.zeros((len(table), 0))

    def _words(self, table: pl.DataFrame) -> csr_array:
        """``(n, F)`` how often each known word occurs."""
        blocks: list[Any] = [csr_array((len(table), 0), dtype=np.float32)]
        for column in self.columns:
            if not column.words:
                continue
            known = pl.DataFrame(
                {"word": column.words, "number": np.arange(len(column.words))},
                schema_overrides={"word": pl.String},
            )
            said = _said(table[column.name], column).join(known, on="word")
            rows, numbers = said["row"].to_numpy(), said["number"].to_numpy()
            ones = np.ones(len(said), dtype=np.float32)
            shape = len(table), len(column.words)
            blocks.append(csr_array((ones, (rows, numbers)), shape=shape))
        return csr_array(hstack(blocks, format="csr", dtype=np.float32))

    def _weighted(self, words: csr_array) -> csr_array:
        """Counts by their logarithm and by rarity, each column's part of a row of length 1."""
        weighted = words.copy()
        weighted.data = (1 + np.log(weighted.data)) * self.tensors["idf"][weighted.indices]
        blocks: list[Any] = []
        start = 0
        for column in self.columns:
            if column.words:
                block = weighted[:, start : start + len(column.words)]
                length = np.sqrt(np.asarray(block.multiply(block).sum(axis=1)).ravel())
                blocks.append(diags_array(1 / np.maximum(length, 1e-12)) @ block)
                start += len(column.words)
        return csr_array(hstack(blocks, format="csr", dtype=np.float32))


def require_content() -> None:
    """Raise :class:`ConfigError` where the extra ``content`` is not installed.

    A model that is served needs it for new items with text alone.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "learning from features needs scikit-learn; install it with: "
            + install_command("content")
        ) from error


#: Types of a column of nulls, where they are not text.
_EMPTY: dict[str, pl.DataType] = {"number": pl.Float64(), "vector": pl.List(pl.Float32())}
#: Names of the tensors that reduce, up to the colon.
_REDUCED = ("words", "vectors")


def kind_of(series: pl.Series) -> Kind | None:
    """What a column seems to hold, by its type and values; ``None`` if it is nothing known."""
    dtype, values = series.dtype, series.drop_nulls()
    if isinstance(dtype, pl.List | pl.Array):
        words = dtype.inner.is_integer() or dtype.inner in (pl.String, pl.Categorical, pl.Enum)
        return "vector" if dtype.inner.is_float() else "tags" if words else None
    if dtype == pl.Boolean or dtype.is_float() or dtype.is_decimal() or dtype.is_temporal():
        return "number"
    distinct = values.n_unique()
    if dtype.is_integer():
        # A code comes again and again; a price or a year of few items does not, nor does a flag.
        return "category" if 2 < distinct <= len(values) / 5 else "number"
    if dtype != pl.String and not isinstance(dtype, pl.Categorical | pl.Enum):
        return None
    texts = values.cast(pl.String)
    if len(texts) and texts.str.contains(_DATE).all():
        return "number"
    if len(texts) and texts.str.contains("|", literal=True).mean() >= 0.05:  # type: ignore[operator]
        return "tags"
    n_words = texts.str.count_matches(r"\S+").mean() or 0.0
    return "text" if distinct > len(values) / 2 or n_words >= _LONG_TEXT else "category"  # type: ignore[operator]


def _fitted(series: pl.Series, kind: Kind) -> Column | None:
    """The column with its words; ``None`` if it tells nothing."""
    if kind not in get_args(Kind):
        raise DataError(
            f"the feature {series.name!r} cannot be of the kind {kind!r}; the kinds are "
            f"{', '.join(get_args(Kind))}"
        )
    if kind == "vector":
        return Column(name=series.name, kind=kind) if _width(series) else None
    if kind == "number":
        values = _number(series)
        told = values[~np.isnan(values)]
        return Column(name=series.name, kind=kind) if len(np.unique(told)) > 1 else None
    column = Column(name=series.name, kind=kind)
    if kind == "tags" and not isinstance(series.dtype, pl.List | pl.Array):
        texts = series.cast(pl.String)
        mark = max("|;,", key=lambda own: int(texts.str.count_matches(re.escape(own)).sum() or 0))
        column = column.model_copy(update={"mark": mark})
    holders = _said(series, column).unique().group_by("word").len()
    kept = holders.filter((pl.col("len") >= LEAST_OFTEN) & (pl.col("len") < len(series)))
    if len(kept) > MOST_WORDS and kind == "category":
        raise DataError(
            f"the feature {series.name!r} has {len(kept):,} categories that occur twice or more, "
            f"and {MOST_WORDS:,} is the most; leave the column out, or group its values"
        )
    if not len(kept):
        return None
    words = kept.sort("len", "word", descending=[True, False]).head(MOST_WORDS)["word"]
    return column.model_copy(update={"words": words.to_list()})


def _said(series: pl.Series, column: Column) -> pl.DataFrame:
    """``row`` and ``word`` of a column of words, a row for each time that a word occurs."""
    rows = pl.int_range(len(series), eager=True).alias("row")
    if series.dtype.is_float() and (series.drop_nulls() % 1 == 0).all():
        series = series.cast(pl.Int64)  # codes that a missing one has made floats
    is_list = isinstance(series.dtype, pl.List | pl.Array)
    try:
        texts = series.cast(pl.List(pl.String) if is_list else pl.String)
    except pl.exceptions.PolarsError:
        raise DataError(
            f"the feature {column.name!r} holds {series.dtype}, which cannot be read as "
            f"{column.kind}; let the column be of another kind, or leave it out"
        ) from None
    if is_list:
        words = texts
    elif column.kind == "text":
        words = _analysed(texts)
    elif column.kind == "category":
        words = texts.reshape((len(texts), 1)).cast(pl.List(pl.String))
    else:
        words = texts.str.split(column.mark)
    said = pl.DataFrame([rows, words.alias("word")]).explode("word").drop_nulls()
    said = said.with_columns(pl.col("word").str.strip_chars())
    return said.filter(pl.col("word") != "")


def _analysed(texts: pl.Series) -> pl.Series:
    """The words of each text; some rows at a time, as Python's lists take much memory."""
    require_content()
    from sklearn.feature_extraction.text import TfidfVectorizer

    analyse = TfidfVectorizer(strip_accents="unicode").build_analyzer()
    parts = [pl.Series([], dtype=pl.List(pl.String))]
    for rows in texts.fill_null("").to_frame().iter_slices(_ROWS):
        words = [analyse(text) for text in rows.to_series()]
        parts.append(pl.Series(words, dtype=pl.List(pl.String)))
    return pl.concat(parts)


def _number(series: pl.Series) -> NDArray[np.float64]:
    """``(n,)`` NaN where missing."""
    # Tables may count time in different units.
    if series.dtype == pl.Duration:
        series = series.dt.total_microseconds()
    elif series.dtype in (pl.Date, pl.Datetime):
        series = series.dt.epoch("us")
    elif series.dtype == pl.Time:
        series = series.to_physical()
    try:
        values = series.cast(pl.Float64, strict=False)
    except pl.exceptions.PolarsError:
        values = pl.repeat(None, len(series), dtype=pl.Float64, eager=True)
    if series.dtype == pl.String:
        days = series.str.extract(_DATE).str.to_date("%Y-%m-%d", strict=False).dt.epoch("us")
        values = values.zip_with(values.is_not_null(), days.cast(pl.Float64))
    wrong = series.filter(values.is_null() & series.is_not_null())
    if len(wrong):
        raise DataError(
            f"the feature {series.name!r} holds {wrong[0]!r}, which is no number; correct it, or "
            "let the column be of another kind"
        )
    if values.is_nan().any() or values.is_infinite().any():
        place = (values.is_nan() | values.is_infinite()).arg_true()[0]
        raise DataError(
            f"the feature {series.name!r} is {values[place]} in row {place + 1}; leave a value "
            "empty where it is not known"
        )
    return values.to_numpy().astype(np.float64)


def _width(series: pl.Series) -> int:
    """How long the vectors of a column are; 0 if all are missing."""
    if not isinstance(series.dtype, pl.List | pl.Array) or not series.dtype.inner.is_numeric():
        raise DataError(
            f"the feature {series.name!r} holds {series.dtype} and no vectors; give lists of "
            "numbers"
        )
    lengths = series.cast(pl.List(series.dtype.inner)).list.len().unique().drop_nulls()
    widths = [length for length in lengths.to_list() if length]
    if len(widths) > 1:
        raise DataError(
            f"the feature {series.name!r} has vectors of {min(widths)} and of {max(widths)} "
            "numbers; give all of them one length"
        )
    return int(widths[0]) if widths else 0


def _blocks(series: pl.Series, width: int) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Some rows at a time, and their vectors ``(rows, width)``; NaN where missing."""
    for start in range(0, len(series), _ROWS):
        lists = series.slice(start, _ROWS).cast(pl.List(pl.Float32))
        told = (lists.list.len() > 0).fill_null(False)
        dense = np.full((len(lists), width), np.nan, dtype=np.float32)
        values = lists.filter(told).explode().to_numpy().reshape(-1, width)
        if not np.isfinite(values).all():
            raise DataError(
                f"the feature {series.name!r} has a vector with a number that is missing or not "
                "finite; leave the whole vector empty where it is not known"
            )
        dense[told.to_numpy()] = values
        yield slice(start, start + len(lists)), dense


def _svd(words: csr_array, rank: int, seed: int) -> NDArray[np.float32]:
    """``(F, r)`` the leading right singular vectors, each by its value's power of -1/2."""
    require_content()
    from sklearn.utils.extmath import randomized_svd

    rank = min(rank, min(words.shape))
    _, values, right = randomized_svd(
        words, rank, n_iter=4, random_state=derive_seed(seed, "content svd") % 2**32
    )
    kept = values > 1e-6 * values.max()
    return np.asarray((right[kept] / np.sqrt(values[kept])[:, None]).T, dtype=np.float32)


def _principal(series: pl.Series, rank: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """``(d,)`` the mean vector; ``(d, r)`` principal directions, by deviations' powers of -1/2."""
    width, n = _width(series), 0
    total = np.zeros(width)
    for _, dense in _blocks(series, width):
        told = dense[~np.isnan(dense[:, 0])]
        total += told.sum(axis=0, dtype=np.float64)
        n += len(told)
    centre = (total / n).astype(np.float32)
    gram = np.zeros((width, width))
    for _, dense in _blocks(series, width):
        block = _zero(dense - centre).astype(np.float64)
        gram += block.T @ block
    squares, directions = np.linalg.eigh(gram)
    order = np.argsort(-squares)[:rank]
    order = order[squares[order] > 1e-12 * max(squares.max(), 1e-300)]
    return centre, np.asarray(directions[:, order] * squares[order] ** -0.25, dtype=np.float32)


def _zero(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.nan_to_num(values, nan=0.0)


def _unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of length 1, or 0."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), dtype=np.float32)
