"""A dataset's splits as plain tables under the ids as given: CSV, or Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NotRequired

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cnsdiff.data import Dataset
from cnsdiff.data.side_tables import ROW_OF
from cnsdiff.export.directory import ExportManifest, write_export


class TablesManifest(ExportManifest):
    """The manifest of an exported dataset; the last two keys are RecBole's."""

    dataset: dict[str, str]
    rows: dict[str, int]
    licence: str | None
    name: NotRequired[str]
    read_as_missing: NotRequired[dict[str, int]]


def dataset_to_csv(
    dataset: Dataset, path: str | Path, *, overwrite: bool = False
) -> TablesManifest:
    """Write a dataset as CSV files, one for each split and side table.

    Splits have the columns ``user``, ``item`` and, where there are, ``timestamp``,
    ``environment`` and (of train and valid) ``weight``; side tables begin with the id they are
    about. Text is quoted. A column of lists
    becomes one column for each place (``taste_0``, ``taste_1``, …).

    Parameters
    ----------
    dataset
        What to write; each split is read in turn.
    path
        Directory to write.
    overwrite
        Replace an export that is there.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    InputError
        ``path`` exists.
    StorageError
        It cannot be written; what was there is untouched.
    """

    def write(folder: Path) -> None:
        for name, table in tables_of(dataset):
            flat = _flattened(table)
            flat.write_csv(folder / f"{name}.csv", quote_style="non_numeric")

    facts = facts_of(dataset, "csv")
    manifest: TablesManifest = write_export(path, facts, write, overwrite=overwrite)
    return manifest


def dataset_to_parquet(
    dataset: Dataset, path: str | Path, *, overwrite: bool = False
) -> TablesManifest:
    """Write a dataset as Parquet files; as :func:`dataset_to_csv`, but columns stay as they are."""

    def write(folder: Path) -> None:
        for name, table in tables_of(dataset):
            table.write_parquet(folder / f"{name}.parquet")

    facts = facts_of(dataset, "parquet")
    manifest: TablesManifest = write_export(path, facts, write, overwrite=overwrite)
    return manifest


def facts_of(dataset: Dataset, format: str) -> dict[str, object]:
    """The dataset in the manifest of an export."""
    return {
        "export": "dataset",
        "format": format,
        "dataset": {
            "name": dataset.name,
            "scenario": dataset.scenario,
            "fingerprint": dataset.fingerprint,
        },
        "rows": {name: dataset.manifest.splits[name].rows for name in dataset.split_names},
        "licence": dataset.manifest.source.get("licence"),
    }


def tables_of(dataset: Dataset) -> Iterator[tuple[str, pl.DataFrame]]:
    """Each split and side table by name, under the ids as given; one at a time is in memory."""
    for name in dataset.split_names:
        yield name, pairs_of(dataset, name)
    for name in dataset.table_names:
        yield name, side_table_of(dataset, name)


def pairs_of(dataset: Dataset, name: str) -> pl.DataFrame:
    """A split under the ids as given.

    Columns ``user``, ``item`` and, where it has them, ``timestamp``, ``environment``, ``weight``.
    """
    split = dataset.split(name)
    columns: dict[str, pl.Series | NDArray[np.int64] | NDArray[np.float64]] = {
        "user": dataset.decode_users(split.users),
        "item": dataset.decode_items(split.items),
    }
    if split.timestamps is not None:
        columns["timestamp"] = split.timestamps
    if split.periods is not None:
        columns["environment"] = pl.Series(dataset.periods).gather(split.periods)
    if split.weights is not None:
        columns["weight"] = split.weights
    return pl.DataFrame(columns)


def side_table_of(dataset: Dataset, name: str, *, unknown: bool = False) -> pl.DataFrame:
    """A side table under the ids as given.

    Those of ``judgements`` are pairs, and so are ``new_item_pairs``; the others have a row for each
    user or item of whom something is known, or with ``unknown`` for all.
    """
    table = dataset.table(name)
    if name == "new_item_features":
        return table.rename({"id": "item", "item": "id"}, strict=False)
    if name == "new_item_pairs":
        ids = dataset.table("new_item_features")["id"]
        return table.with_columns(
            user=dataset.decode_users(table["user"].to_numpy()), item=ids.gather(table["item"])
        )
    if name not in ROW_OF:
        return table.with_columns(
            user=dataset.decode_users(table["user"].to_numpy()),
            item=dataset.decode_items(table["item"].to_numpy()),
        )
    side = ROW_OF[name]
    ids = dataset.users if side == "user" else dataset.items
    known = table.select(unknown | ~pl.all_horizontal(pl.all().is_null())).to_series()
    return pl.DataFrame([ids.alias(side), *table]).filter(known)


def _flattened(table: pl.DataFrame) -> pl.DataFrame:
    """Arrays as a column for each place, since CSV knows no lists."""
    columns: list[pl.Series] = []
    for column in table:
        if isinstance(column.dtype, pl.Array):
            column = column.arr.to_list()
        if isinstance(column.dtype, pl.List):
            longest = int(column.list.len().fill_null(0).to_numpy().max(initial=0))
            columns += [
                column.list.get(place, null_on_oob=True).alias(f"{column.name}_{place}")
                for place in range(longest)
            ]
        else:
            columns.append(column)
    return pl.DataFrame(columns)
