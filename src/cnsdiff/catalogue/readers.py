"""Reading each data set from the files its authors publish."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from cnsdiff.base.errors import DataError
from cnsdiff.base.storage import read_csv, read_json_lines
from cnsdiff.base.text import parameter
from cnsdiff.data import Interactions, read_interactions
from cnsdiff.data.interactions import Source
from cnsdiff.data.reading.tables import read_features

#: The flags of ml-100k's u.item in their order (its README and u.genre).
_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance"),
    *("Sci-Fi", "Thriller", "War", "Western"),
)

#: The end of a title; (V) marks a film that came out on video.
_YEAR = r"\s*\((\d{4})\)(?:\s*\(V\))?\s*$"


def ml_100k_grouplens(folder: Path) -> Source:
    """``u.data``, ``u.user`` and ``u.item`` of the original archive."""
    users = _fields(folder / "u.user", "|", ("user", "age", "gender", "occupation", "zip"))
    people = users.select("user", "age", "gender", "occupation")
    texts = ("item", "title", "release_date", "video_date", "address")
    items = _fields(folder / "u.item", "|", (*texts, *_GENRES))
    genres = pl.concat_list(
        pl.when(pl.col(name) == "1").then(pl.lit(name)).otherwise(None) for name in _GENRES
    )
    return Source(
        {"log": read_interactions(folder / "u.data")},
        {
            "user_features": read_features(people, "user"),
            "item_features": _films(items, genres.list.drop_nulls()),
        },
    )


def ml_100k_recbole(folder: Path) -> Source:
    """The same in RecBole's atomic files."""
    users = read_features(folder / "ml-100k.user", "user")
    items = read_features(folder / "ml-100k.item", "item")
    # One title ends in "(1995) (V)", of which RecBole took the V for the year.
    years = pl.col("release_year").cast(pl.Int64, strict=False)
    years = pl.coalesce(years, pl.col("movie_title").str.extract(_YEAR).cast(pl.Int64))
    return Source(
        {"log": read_interactions(folder / "ml-100k.inter")},
        {
            "user_features": users.select("user", "age", "gender", "occupation"),
            "item_features": items.select(
                "item",
                title=pl.col("movie_title").str.replace(_YEAR, ""),
                release_year=years,
                genres=pl.col("class").str.replace_all(" ", "|", literal=True),
            ),
        },
    )


def ml_1m(folder: Path) -> Source:
    """``ratings.dat``, ``users.dat`` and ``movies.dat``."""
    users = _fields(folder / "users.dat", "::", ("user", "gender", "age", "occupation", "zip"))
    people = users.select("user", "age", "gender", "occupation")
    items = _fields(folder / "movies.dat", "::", ("item", "title", "genres"))
    return Source(
        {"log": read_interactions(folder / "ratings.dat")},
        {
            "user_features": read_features(people, "user"),
            "item_features": _films(items, pl.col("genres").str.split("|")),
        },
    )


def kuairec(folder: Path) -> Source:
    """The sparse log, and the matrix in which every user saw (nearly) every video."""
    columns, names = ("user_id", "video_id", "watch_ratio"), {"watch_ratio": "rating"}
    log = _csv(folder / "big_matrix.csv", *columns, "timestamp").rename(names)
    # Pairs of the second stage of the experiment carry no time, so none is read.
    full = _csv(folder / "small_matrix.csv", *columns).rename(names)
    features = {}
    if (folder / "user_features.csv").is_file():
        features["user_features"] = read_features(folder / "user_features.csv", "user")
    if (folder / "item_categories.csv").is_file():
        categories = read_features(folder / "item_categories.csv", "item")
        features["item_features"] = categories.rename({"feat": "categories"}, strict=False)
    return Source(
        {
            "log": _interactions(log, folder / "big_matrix.csv"),
            "randomised": _interactions(full, folder / "small_matrix.csv"),
        },
        features,
    )


def coat_matrices(folder: Path) -> Source:
    """The original archive: dense matrices of 290 users by 300 coats, 0 for no rating."""
    tables = {}
    for role, name in (("log", "train.ascii"), ("randomised", "test.ascii")):
        ratings = _matrix(folder / name)
        users, items = np.nonzero(ratings)
        frame = pl.DataFrame({"user": users, "item": items, "rating": ratings[users, items]})
        tables[role] = _interactions(frame, folder / name)
    return Source(tables, _coat_features(folder))


def coat_triples(folder: Path) -> Source:
    """The same as lines of ``user,item,rating``."""
    return Source(triples(folder).tables, _coat_features(folder))


def triples(folder: Path) -> Source:
    """Lines of ``user,item,rating``: what users chose, and what was shown at random."""
    tables = {"log": "user.txt", "randomised": "random.txt"}
    return Source({role: read_interactions(folder / name) for role, name in tables.items()})


def yahoo_r3_webscope(folder: Path) -> Source:
    """The files as Yahoo hands them out."""
    stem = "ydata-ymusic-rating-study-v1_0"
    tables = {"log": f"{stem}-train.txt", "randomised": f"{stem}-test.txt"}
    return Source({role: read_interactions(folder / name) for role, name in tables.items()})


def food(folder: Path) -> Source:
    """Ratings of recipes (0 stands for a review without one) and what the recipes are."""
    path = folder / "RAW_interactions.csv"
    log = _csv(path, "user_id", "recipe_id", "rating", "date")
    features = {}
    if (folder / "RAW_recipes.csv").is_file():
        columns = ("id", "name", "minutes", "submitted", "n_steps", "n_ingredients")
        recipes = _csv(folder / "RAW_recipes.csv", *columns).rename({"id": "item"})
        features["item_features"] = read_features(recipes, "item")
    return Source({"log": _interactions(log, path)}, features)


def yelp(folder: Path) -> Source:
    """Stars of businesses, and where and what these are."""
    path = folder / "yelp_academic_dataset_review.json"
    log = _json_lines(
        path, user_id=pl.String, business_id=pl.String, stars=pl.Float64, date=pl.String
    )
    features = {}
    business = folder / "yelp_academic_dataset_business.json"
    if business.is_file():
        text, number = pl.String, pl.Float64
        table = _json_lines(
            business,
            business_id=text,
            city=text,
            state=text,
            stars=number,
            review_count=pl.Int64,
            categories=text,
        )
        features["item_features"] = read_features(table.rename({"business_id": "item"}), "item")
    return Source({"log": _interactions(log, path)}, features)


def amazon_2023(folder: Path) -> Source:
    """``CATEGORY.csv.gz`` (or unpacked): the one CSV file of the folder."""
    path = next(entry for entry in sorted(folder.iterdir()) if ".csv" in entry.suffixes)
    log = _csv(path, "user_id", "parent_asin", "rating", "timestamp")
    # Published in milliseconds.
    log = log.with_columns(pl.col("timestamp") // 1000)
    return Source({"log": _interactions(log, path)})


def _interactions(frame: pl.DataFrame, path: Path) -> Interactions:
    """A table under the name of its file; its columns go by usual names."""
    try:
        read = read_interactions(frame)
    except DataError as error:
        raise DataError(f"{path.name}: {error}") from error
    return replace(read, source=path.name)


def _csv(path: Path, *columns: str) -> pl.DataFrame:
    try:
        return read_csv(path, columns)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(path, error) from error


def _json_lines(path: Path, **columns: Any) -> pl.DataFrame:
    try:
        return read_json_lines(path, columns)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = str(error).partition("\n")[0]
    return DataError(
        f"{path}: is not what its publisher describes ({reason}); fetch it again with "
        f"{parameter('force', True)}"
    )


def _fields(path: Path, separator: str, names: tuple[str, ...]) -> pl.DataFrame:
    """Columns of text from lines without a header, in the encoding of their time."""
    lines = pl.Series(path.read_bytes().decode("latin-1").split("\n")).str.strip_chars_end("\r")
    fields = lines.filter(lines != "").str.split(separator)
    widths = fields.list.len()
    wrong = (widths != len(names)).arg_true()
    if len(wrong) or not len(fields):
        line, width = (wrong[0] + 1, widths[wrong[0]]) if len(wrong) else (1, 0)
        raise DataError(
            f"{path}, line {line}: has {width} fields where {len(names)} are expected; fetch it "
            f"again with {parameter('force', True)}"
        )
    return fields.list.to_struct(fields=names).struct.unnest()


def _films(items: pl.DataFrame, genres: pl.Expr) -> pl.DataFrame:
    """Title, year (which stands at the end of it) and genres, ``|`` between them."""
    title = pl.col("title")
    table = items.select(
        "item",
        title=title.str.replace(_YEAR, ""),
        release_year=title.str.extract(_YEAR).cast(pl.Int64),
        genres=genres.list.join("|"),
    )
    return read_features(table, "item")


def _coat_features(folder: Path) -> dict[str, pl.DataFrame]:
    sides: tuple[Literal["user", "item"], ...] = ("user", "item")
    return {
        f"{side}_features": _one_hot(folder, side)
        for side in sides
        if (folder / f"{side}_features.ascii").is_file()
    }


def _one_hot(folder: Path, side: Literal["user", "item"]) -> pl.DataFrame:
    """0/1 columns called ``attribute:value`` as one text column per attribute."""
    flags = _matrix(folder / f"{side}_features.ascii")
    map_path = folder / f"{side}_features_map.txt"
    names = [line.strip() for line in map_path.read_text(encoding="utf-8").splitlines()]
    names = [name for name in names if name]
    if len(names) != flags.shape[1]:
        raise DataError(
            f"{map_path}: names {len(names)} columns, but {side}_features.ascii has "
            f"{flags.shape[1]}; fetch both again with {parameter('force', True)}"
        )
    table = pl.DataFrame(flags == 1, schema=names)
    values: dict[str, list[pl.Expr]] = {}
    for name in names:
        attribute, _, value = name.partition(":")
        values.setdefault(attribute, []).append(pl.when(pl.col(name)).then(pl.lit(value)))
    columns = [pl.coalesce(options).alias(attribute) for attribute, options in values.items()]
    ids = pl.Series(side, np.arange(len(flags)))
    return read_features(table.select(columns).insert_column(0, ids), side)


def _matrix(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    try:
        return np.loadtxt(path, dtype=np.float64, ndmin=2)
    except ValueError as error:
        raise _unreadable(path, error) from error
