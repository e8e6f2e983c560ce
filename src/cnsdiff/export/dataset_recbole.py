"""A dataset as RecBole's atomic files, with settings that make RecBole use our splits.

RecBole reads tab-separated text whose header types each column, with pandas. A tab or a line break
in an id would tear it apart, and words such as ``NA`` are read as missing and their rows dropped,
so such ids are refused. Quotes are doubled, as pandas expects them. All users and items have a row
of features, or RecBole would drop the interactions of the others.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl
import yaml

from cnsdiff.base.errors import DataError
from cnsdiff.data import Dataset
from cnsdiff.export.dataset_tables import TablesManifest, facts_of, pairs_of, side_table_of
from cnsdiff.export.directory import write_export

#: What pandas takes for missing, unless told otherwise, and RecBole does not tell.
READ_AS_MISSING = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)
_ID = {"user": "user_id", "item": "item_id"}
#: Fields of RecBole's own, or of the interactions.
_TAKEN = ("user_id", "item_id", "timestamp", "environment", "weight", "rating", "label")
#: The tests, and what the settings that judge on each are called.
_TESTS = {"test_iid": "iid.yaml", "test_ood": "ood.yaml"}


def dataset_to_recbole(
    dataset: Dataset, path: str | Path, *, overwrite: bool = False
) -> TablesManifest:
    """Write a dataset as RecBole's atomic files.

    RecBole finds a dataset by the name of its folder, so the files are called after ``path``:
    ``NAME.train.inter``, ``NAME.valid.inter``, ``NAME.test_iid.inter`` and
    ``NAME.test_ood.inter`` (those there are), ``NAME.user`` and ``NAME.item`` with the features.
    ``iid.yaml`` and ``ood.yaml`` are configuration files for RecBole that judge on the one test or
    the other.

    Whole numbers, text and Booleans become ``token``, other numbers ``float``, lists of them
    ``token_seq`` and ``float_seq``. A feature that is called as one of the other side, or as a
    field of RecBole's own, is written as ``user_…`` or ``item_…``.

    Parameters
    ----------
    dataset
        What to write. It needs a validation split and a test, as RecBole does.
    path
        Directory to write; its name is the dataset's in RecBole.
    overwrite
        Replace an export that is there.

    Returns
    -------
    dict
        The manifest; ``read_as_missing`` counts the features' values that RecBole cannot tell
        from missing ones.

    Raises
    ------
    DataError
        A split is missing, or an id or the name of a feature cannot be written.
    InputError
        ``path`` exists.
    StorageError
        It cannot be written; what was there is untouched.
    """
    path = Path(path)
    tests = [name for name in _TESTS if name in dataset.split_names]
    if "valid" not in dataset.split_names or not tests:
        raise DataError(
            f"{dataset.path or dataset.name}: RecBole needs train, valid and a test split, and "
            f"there are only {', '.join(dataset.split_names)}; prepare it again with them, or "
            "export to csv"
        )
    for side, ids in (("user", dataset.users), ("item", dataset.items)):
        _require_tokens(ids, side)
    features = _features(dataset)
    name = path.resolve().name

    def write(folder: Path) -> dict[str, object]:
        fields: list[str] | None = None  # of the interactions, in all splits
        for split in dataset.split_names:
            pairs = pairs_of(dataset, split).rename(_ID)
            _write(pairs, folder / f"{name}.{split}.inter")
            fields = [f for f in pairs.columns if fields is None or f in fields]
        for side, table in features.items():
            _write(table, folder / f"{name}.{side}")
        loaded = {"inter": fields or [], **{side: t.columns for side, t in features.items()}}
        for test in tests:
            text = _settings(path, ["train", "valid", test], loaded)
            (folder / _TESTS[test]).write_text(text, encoding="utf-8")
        return {"read_as_missing": _read_as_missing(features)}

    facts = {**facts_of(dataset, "recbole"), "name": name}
    manifest: TablesManifest = write_export(path, facts, write, overwrite=overwrite)
    return manifest


def _require_tokens(ids: pl.Series, side: str) -> None:
    if ids.dtype != pl.String:
        return
    torn = ids.filter(ids.str.contains(r"[\t\n\r]"))
    missing = ids.filter(ids.is_in(list(READ_AS_MISSING)))
    for bad, why in (
        (torn, "holds a tab or a line break, which separate values in RecBole's files"),
        (missing, "is read as a missing value by RecBole, which then drops its interactions"),
    ):
        if len(bad):
            more = f" (and {len(bad) - 1} others)" if len(bad) > 1 else ""
            raise DataError(
                f"the {side} id {bad[0]!r}{more} {why}; rename it in the log, or export to csv or "
                "parquet"
            )


def _features(dataset: Dataset) -> dict[str, pl.DataFrame]:
    """The features of each side that has some, under names that RecBole can tell apart."""
    tables = {
        side: side_table_of(dataset, f"{side}_features", unknown=True).rename(_ID, strict=False)
        for side in _ID
        if f"{side}_features" in dataset.table_names
    }
    renamed = {}
    for side, table in tables.items():
        others = {name for key, other in tables.items() if key != side for name in other.columns}
        own = table.columns[1:]
        for feature in own:
            if any(mark in feature for mark in ":\t\n\r"):
                raise DataError(
                    f"the {side} feature {feature!r} cannot be a field of RecBole's, whose names "
                    "hold no colon, tab or line break; rename it"
                )
        clash = {name: f"{side}_{name}" for name in own if name in others or name in _TAKEN}
        twice = sorted(set(clash.values()) & set(own))
        if twice:
            raise DataError(
                f"two {side} features would be called {twice[0]!r} in RecBole; rename one of them"
            )
        renamed[side] = table.rename(clash)
    return renamed


def _kind(dtype: pl.DataType) -> str:
    if isinstance(dtype, pl.List | pl.Array):
        return f"{_kind(dtype.inner)}_seq"  # type: ignore[arg-type]
    return "float" if dtype.is_float() or dtype.is_decimal() else "token"


def _write(table: pl.DataFrame, file: Path) -> None:
    """Columns as text, under a header that types them."""
    typed = {
        f"{column.name}:{'float' if column.name == 'timestamp' else _kind(column.dtype)}": (
            _text(column)
        )
        for column in table
    }
    pl.DataFrame(typed).write_csv(file, separator="\t", quote_style="necessary")


def _text(column: pl.Series) -> pl.Series:
    """Values as text; lists with a space between their entries."""
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if not isinstance(column.dtype, pl.List):
        return column.cast(pl.String)
    entries = column.cast(pl.List(pl.String))
    parted = entries.explode().str.contains(r"\s").fill_null(False)
    if parted.any():
        first = entries.explode().filter(parted)[0]
        raise DataError(
            f"the feature {column.name!r} lists {first!r}, and in RecBole a space separates the "
            "entries of a list; rename it"
        )
    return entries.list.join(" ")


def _read_as_missing(features: dict[str, pl.DataFrame]) -> dict[str, int]:
    counts = {
        f"{side}.{column.name}": int(column.is_in(list(READ_AS_MISSING)).sum())
        for side, table in features.items()
        for column in table
        if column.dtype == pl.String
    }
    return {name: count for name, count in counts.items() if count}


def _settings(path: Path, splits: list[str], loaded: dict[str, list[str]]) -> str:
    """A configuration file for RecBole: our splits, full ranking, our metrics."""
    settings: dict[str, object] = {
        "data_path": str(path.parent),
        "dataset": path.resolve().name,
        "benchmark_filename": splits,
        "field_separator": "\t",
        "seq_separator": " ",
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
    }
    if "timestamp" in loaded["inter"]:
        settings["TIME_FIELD"] = "timestamp"
    settings |= {
        "load_col": {source: list(columns) for source, columns in loaded.items()},
        "eval_args": {"group_by": "user", "order": "RO", "mode": "full"},
        "metrics": ["Recall", "NDCG"],
        "topk": [10, 20],
        "valid_metric": "NDCG@20",
    }
    text: str = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    return "# The splits of a dataset of cnsdiff, for RecBole.\n" + text
