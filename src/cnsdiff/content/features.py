"""Tables of features as vectors: categories, tags, text, numbers, and vectors of one's own.

Columns of words (categories, tags, text) are put together, weighted by how rare a word is, and
reduced by a truncated SVD; each column of vectors (of images, of sentences) is reduced to its
principal components; numbers are standardised. What is made of words and of vectors has length 1,
or 0 where nothing is known, and directions that many items share are shortened (each singular
value's power of -1/2), so that rare likeness counts, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import csr_array, diags_array, hstack

from cnsdiff.base.errors import ConfigError, DataError
from cnsdiff.base.seeding import derive_seed
from cnsdiff.base.settings import Record
from cnsdiff.base.text import install_command

#: What a column holds.
Kind = Literal["category", "tags", "text", "number", "vector"]
#: Words of a column that are kept, the most frequent first, and how often one must occur.
MOST_WORDS, LEAST_OFTEN = 100_000, 2
#: A column of text has so many words in a value on average, or more than half its values once.
_LONG_TEXT = 4.0
#: Rows of dense values worked on at a time.
_ROWS = 8192


class Column(Record):
    """A column as it was fitted."""

    name: str
    kind: Kind
    words: list[str] = Field(default_factory=list)
    """Those known, in the order of their numbers; none of numbers and vectors."""


@dataclass
class FeatureEncoder:
    """Vectors of items from a table of their features, fitted to some items.

    Attributes
    ----------
    columns
        Those that tell something.
    tensors
        What was computed: of words ``idf`` and ``words`` ``(F, r)``; of numbers ``centre`` and
        ``scale``; of each column of vectors ``centre:NAME`` and ``vectors:NAME``.
    notes
        What was left out, and why; a sentence each.
    """

    columns: list[Column]
    tensors: dict[str, NDArray[np.float32]]
    notes: list[str]

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
                tensors["centre"] = np.nan_to_num(np.nanmean(numbers, axis=0)).astype(np.float32)
                scale = np.nan_to_num(np.nanstd(numbers, axis=0)).astype(np.float32)
            tensors["scale"] = np.where(scale > 0, scale, np.float32(1))
        words = encoder._words(table)
        if words.shape[1]:
            holders = np.bincount(words.indices, minlength=words.shape[1])
            tensors["idf"] = (np.log((1 + len(table)) / (1 + holders)) + 1).astype(np.float32)
            tensors["words"] = _svd(encoder._weighted(words), rank, seed)
        for column in columns:
            if column.kind == "vector":
                dense = _dense(table[column.name])
                centre = np.nan_to_num(np.nanmean(dense, axis=0)).astype(np.float32)
                tensors[f"centre:{column.name}"] = centre
                tensors[f"vectors:{column.name}"] = _principal(dense, centre, rank)
        return encoder

    def vectors(self, table: pl.DataFrame) -> NDArray[np.float32]:
        """``(n, r)`` the vectors of items of a table with the same columns; others are ignored.

        Raises
        ------
        DataError
            A column is missing, or its values are of another kind than those fitted.
        """
        for column in self.columns:
            if column.name not in table.columns:
                raise DataError(
                    f"item features have no column {column.name!r}, which the model was trained "
                    f"with; give the columns {', '.join(own.name for own in self.columns)}"
                )
        parts = []
        if "words" in self.tensors:
            parts.append(_unit(self._weighted(self._words(table)) @ self.tensors["words"]))
        for column in self.columns:
            if column.kind == "vector":
                centre = self.tensors[f"centre:{column.name}"]
                directions = self.tensors[f"vectors:{column.name}"]
                dense = _dense(table[column.name])
                if dense.shape[1] not in (0, len(centre)):
                    raise DataError(
                        f"the feature {column.name!r} has vectors of {dense.shape[1]} numbers, "
                        f"and the model was trained with {len(centre)}"
                    )
                if not dense.shape[1]:
                    dense = np.full((len(table), len(centre)), np.nan, dtype=np.float32)
                parts.append(_unit(_zero(dense - centre) @ directions))
        numbers = self._numbers(table)
        if numbers.shape[1]:
            scaled = (numbers - self.tensors["centre"]) / self.tensors["scale"]
            # Together they are as long as what is made of words.
            parts.append(_zero(scaled.astype(np.float32)) / np.sqrt(numbers.shape[1]))
        if not parts:
            return np.zeros((len(table), 0), dtype=np.float32)
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def state(self) -> dict[str, Any]:
        """What :meth:`of_state` takes beside :attr:`tensors`, as JSON holds it."""
        return {"columns": [column.model_dump() for column in self.columns]}

    @classmethod
    def of_state(cls, state: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Self:
        """The encoder again."""
        columns = [Column.model_validate(column) for column in state["columns"]]
        return cls(columns, dict(tensors), [])

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
            said = _said(table[column.name], column.kind).join(known, on="word")
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


#: Names of the tensors that reduce, up to the colon.
_REDUCED = ("words", "vectors")


def kind_of(series: pl.Series) -> Kind | None:
    """What a column seems to hold, by its type and values; ``None`` if it is nothing known."""
    dtype, values = series.dtype, series.drop_nulls()
    if isinstance(dtype, pl.List | pl.Array):
        return "vector" if dtype.inner.is_float() else "tags"
    if dtype == pl.Boolean or dtype.is_float() or dtype.is_temporal():
        return "number"
    distinct = values.n_unique()
    if dtype.is_integer():
        # A code comes again and again; a price or a year of few items does not, nor does a flag.
        return "category" if 2 < distinct <= len(values) / 5 else "number"
    if dtype != pl.String and not isinstance(dtype, pl.Categorical | pl.Enum):
        return None
    texts = values.cast(pl.String)
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
        return Column(name=series.name, kind=kind) if _dense(series).shape[1] else None
    if kind == "number":
        values = _number(series)
        told = values[~np.isnan(values)]
        return Column(name=series.name, kind=kind) if len(np.unique(told)) > 1 else None
    holders = _said(series, kind).unique().group_by("word").len()
    kept = holders.filter((pl.col("len") >= LEAST_OFTEN) & (pl.col("len") < len(series)))
    if len(kept) > MOST_WORDS and kind == "category":
        raise DataError(
            f"the feature {series.name!r} has {len(kept):,} categories that occur twice or more, "
            f"and {MOST_WORDS:,} is the most; leave the column out, or group its values"
        )
    if not len(kept):
        return None
    words = kept.sort("len", "word", descending=[True, False]).head(MOST_WORDS)["word"]
    return Column(name=series.name, kind=kind, words=words.to_list())


def _said(series: pl.Series, kind: str) -> pl.DataFrame:
    """``row`` and ``word`` of a column of words, a row for each time that a word occurs."""
    rows = pl.int_range(len(series), eager=True).alias("row")
    if kind == "text":
        require_content()
        from sklearn.feature_extraction.text import TfidfVectorizer

        analyse = TfidfVectorizer(strip_accents="unicode").build_analyzer()
        said_by = [analyse(text) for text in series.cast(pl.String).fill_null("").to_list()]
        words = pl.Series(said_by, dtype=pl.List(pl.String))
    elif kind == "category":
        words = series.cast(pl.String).reshape((len(series), 1)).cast(pl.List(pl.String))
    elif isinstance(series.dtype, pl.List | pl.Array):
        words = series.cast(pl.List(pl.String))
    else:
        texts = series.cast(pl.String)
        mark = max("|;,", key=lambda own: int(texts.str.count_matches(re.escape(own)).sum() or 0))
        words = texts.str.split(mark)
    said = pl.DataFrame([rows, words.alias("word")]).explode("word").drop_nulls()
    said = said.with_columns(pl.col("word").str.strip_chars())
    return said.filter(pl.col("word") != "")


def _number(series: pl.Series) -> NDArray[np.float64]:
    """``(n,)`` NaN where missing."""
    if series.dtype.is_temporal():
        series = series.to_physical()
    try:
        values = series.cast(pl.Float64)
    except pl.exceptions.PolarsError:
        wrong = series.filter(
            series.cast(pl.Float64, strict=False).is_null() & series.is_not_null()
        )
        raise DataError(
            f"the feature {series.name!r} holds {wrong[0]!r}, which is no number; correct it, or "
            "let the column be of another kind"
        ) from None
    if values.is_nan().any() or values.is_infinite().any():
        place = (values.is_nan() | values.is_infinite()).arg_true()[0]
        raise DataError(
            f"the feature {series.name!r} is {values[place]} in row {place + 1}; leave a value "
            "empty where it is not known"
        )
    return values.to_numpy().astype(np.float64)


def _dense(series: pl.Series) -> NDArray[np.float32]:
    """``(n, d)`` of a column of vectors, NaN where missing; ``(n, 0)`` if all are."""
    if not isinstance(series.dtype, pl.List | pl.Array):
        raise DataError(
            f"the feature {series.name!r} holds {series.dtype} and no vectors; give lists of "
            "numbers"
        )
    lists = series.cast(pl.List(pl.Float32))
    told = lists.drop_nulls()
    lengths = told.list.len().unique().to_list()
    if len(lengths) > 1:
        raise DataError(
            f"the feature {series.name!r} has vectors of {min(lengths)} and of {max(lengths)} "
            "numbers; give all of them one length"
        )
    width = lengths[0] if lengths else 0
    dense = np.full((len(series), width), np.nan, dtype=np.float32)
    if width:
        values = told.explode().to_numpy().reshape(-1, width)
        if not np.isfinite(values).all():
            raise DataError(
                f"the feature {series.name!r} has a vector with a number that is missing or not "
                "finite; leave the whole vector empty where it is not known"
            )
        dense[series.is_not_null().to_numpy()] = values
    return dense


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


def _principal(
    dense: NDArray[np.float32], centre: NDArray[np.float32], rank: int
) -> NDArray[np.float32]:
    """``(d, r)`` the principal directions, each by its deviation's power of -1/2."""
    gram = np.zeros((dense.shape[1], dense.shape[1]))
    for start in range(0, len(dense), _ROWS):
        block = _zero(dense[start : start + _ROWS] - centre).astype(np.float64)
        gram += block.T @ block
    squares, directions = np.linalg.eigh(gram)
    order = np.argsort(-squares)[:rank]
    order = order[squares[order] > 1e-12 * max(squares.max(), 1e-300)]
    return np.asarray(directions[:, order] * squares[order] ** -0.25, dtype=np.float32)


def _zero(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.nan_to_num(values, nan=0.0)


def _unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of length 1, or 0."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), dtype=np.float32)
