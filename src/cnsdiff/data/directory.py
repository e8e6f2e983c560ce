"""The dataset directory on disk: ``manifest.json`` beside one Parquet file per table.

Every read of a file goes through :func:`read_table`, which checks it against the manifest and
never unpickles anything.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl
from pydantic import Field

from cnsdiff.base.errors import DataError, did_you_mean
from cnsdiff.base.settings import Record, misfit, shown
from cnsdiff.base.storage import (
    atomic_directory,
    first_line,
    foreign_to,
    read_json,
    recover,
    sha256,
    write_json,
)

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
#: What ``report`` writes into a directory.
REPORT = "report.html"
SPLITS = ("train", "valid", "test_iid", "test_ood")
#: What may lie beside the splits: features of users and items, what an experiment found out
#: about pairs, what a simulation knows, and how often the log exposed each item.
SideTable = Literal[
    "user_features", "item_features", "judgements", "truth_users", "truth_items", "exposures"
]
SIDE_TABLES: tuple[str, ...] = get_args(SideTable)


class _Counts(Record):
    """Of a split; all else that is counted is a whole number, too."""

    __pydantic_extra__: dict[str, int]
    rows: int = Field(ge=1)


class _Checksum(Record):
    sha256: str


class DatasetManifest(Record):
    """What ``manifest.json`` says of a dataset."""

    schema_version: int
    name: str
    scenario: str
    fingerprint: str
    n_users: int = Field(ge=1)
    n_items: int = Field(ge=1)
    # Names become file names, so only the known ones are let through.
    splits: dict[Literal["train", "valid", "test_iid", "test_ood"], _Counts]
    tables: list[SideTable] = Field(default=[])
    files: dict[str, _Checksum]
    environments: list[int | str] = Field(default=[])
    source: dict[str, Any] = Field(default={})
    settings: dict[str, Any] = Field(default={})
    log: dict[str, Any] = Field(default={})


def require_split(name: str) -> None:
    """:class:`DataError` unless a split may be called ``name``."""
    _require_known("split", name, SPLITS)


def require_side_table(name: str) -> None:
    """:class:`DataError` unless a side table may be called ``name``."""
    _require_known("side table", name, SIDE_TABLES)


def _require_known(kind: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise DataError(
            f"there is no {kind} {name!r}{did_you_mean(name, known)}; {kind}s are "
            f"{', '.join(known)}"
        )


def ids_misfit(table: pl.DataFrame) -> str | None:
    """Why a table does not hold ids, each once, in its only column; ``None`` if it does."""
    if table.columns != ["id"]:
        return f"has the columns {shown(table.columns)}, not ['id']"
    ids = table["id"]
    if not (ids.dtype.is_integer() or ids.dtype == pl.String):
        return f"holds ids of type {ids.dtype}"
    if ids.null_count():
        return "has a row without an id"
    if ids.n_unique() < len(ids):
        return "has an id twice"
    return None


def numbers_misfit(table: pl.DataFrame, limits: Mapping[str, int]) -> str | None:
    """Why columns do not hold internal numbers below ``limits``; ``None`` if they do."""
    for column, limit in limits.items():
        if column not in table.columns or not table.schema[column].is_integer():
            return f"has no column {column!r} of whole numbers"
        # Nulls are neither below nor above: they are counted apart.
        if table[column].null_count() or not table[column].is_between(0, limit - 1).all():
            return f"holds {column} numbers that are not between 0 and {limit - 1}"
    return None


def file_name(table: str) -> str:
    return f"{table}.parquet"


def write_directory(
    path: Path, manifest: Mapping[str, Any], tables: Mapping[str, pl.DataFrame], *, overwrite: bool
) -> dict[str, Any]:
    """Write all tables and the manifest as one directory that appears whole or not at all.

    Returns
    -------
    dict
        The manifest as written, with the checksums of the files.

    Raises
    ------
    DataError
        ``path`` holds something that is no dataset, so ``overwrite`` will not replace it.
    InputError
        ``path`` exists and ``overwrite`` is off.
    StorageError
        It cannot be written; what was there is untouched.
    """
    if overwrite and not _is_replaceable(path):
        raise DataError(
            f"{path}: holds files but no dataset, so --overwrite does not replace it; choose "
            "another directory"
        )
    own = [*map(file_name, ("users", "items", "seen", *SPLITS, *SIDE_TABLES)), MANIFEST, REPORT]
    if overwrite and path.is_dir() and (other := foreign_to(path, own)) is not None:
        raise DataError(
            f"{path}: holds {other!r} beside the dataset, which --overwrite would remove; move it, "
            "or choose another directory"
        )
    with atomic_directory(path, overwrite=overwrite) as temporary:
        files = {}
        for table, frame in tables.items():
            target = temporary / file_name(table)
            frame.write_parquet(target)
            files[target.name] = {
                "sha256": sha256(target),
                "bytes": target.stat().st_size,
                "rows": frame.height,
            }
        written = {**manifest, "files": files}
        write_json(temporary / MANIFEST, written)
    return written


def _is_replaceable(path: Path) -> bool:
    """Whether nothing is lost but a dataset, perhaps a damaged one."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return True
    # A run, and many a folder of other programs, has a manifest.json as well.
    tables = [path / file_name(table) for table in ("users", "items", "train")]
    is_run = any((path / name).exists() for name in ("config.yaml", "weights.safetensors"))
    return (path / MANIFEST).is_file() and any(map(Path.is_file, tables)) and not is_run


def read_manifest(path: Path) -> dict[str, Any]:
    """The checked manifest of a dataset directory.

    Raises
    ------
    DataError
        There is no dataset, its manifest is damaged, its schema version is another one, or a
        file is missing.
    """
    recover(path)
    if not path.exists():
        raise DataError(f"{path}: no such dataset; make it with cnsdiff prepare --out {path}")
    if not path.is_dir():
        raise DataError(
            f"{path}: is a file, not a dataset directory; make one from it with cnsdiff prepare"
        )
    file = path / MANIFEST
    if not file.is_file():
        raise DataError(
            f"{path}: has no {MANIFEST}, so it is not a dataset; make one with cnsdiff prepare"
        )
    try:
        manifest: dict[str, Any] = read_json(file)
    except (ValueError, OSError) as error:
        raise DataError(
            f"{file}: is damaged ({first_line(error)}); prepare the dataset again"
        ) from error
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise DataError(
            f"{file}: has schema version {shown(version)}, and this cnsdiff reads "
            f"{SCHEMA_VERSION}; prepare the dataset again with this version"
        )
    if problem := misfit(DatasetManifest, manifest):
        raise DataError(f"{file}: is damaged ({problem}); prepare the dataset again")
    tables = manifest.get("tables", [])
    seen = ("seen",) if "seen" in manifest else ()  # datasets from before it have none
    for table in ("users", "items", *manifest["splits"], *tables, *seen):
        if file_name(table) not in manifest["files"]:
            raise DataError(
                f"{file}: is damaged (no checksum of {file_name(table)}); prepare the dataset again"
            )
        if not (path / file_name(table)).is_file():
            raise DataError(f"{path}: {file_name(table)} is missing; prepare the dataset again")
    return manifest


def read_table(path: Path, table: str, manifest: Mapping[str, Any]) -> pl.DataFrame:
    """One Parquet file of a dataset directory, checked against its checksum.

    Raises
    ------
    DataError
        The file is missing, or is not the one the manifest was written for.
    """
    try:
        return _read_table(path, table, manifest)
    except DataError as error:
        if _is_replaced(path, manifest):
            raise DataError(
                f"{path}: has been replaced since it was opened, so that its parts no longer fit "
                "together; open it, or give the command, again"
            ) from error
        raise


def _is_replaced(path: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether another dataset is there now."""
    try:
        return bool(read_json(path / MANIFEST) != manifest)
    except (OSError, ValueError):
        return False


def _read_table(path: Path, table: str, manifest: Mapping[str, Any]) -> pl.DataFrame:
    file = path / file_name(table)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read: {error.strerror or error}; prepare the dataset again"
        ) from error
    entry = manifest["files"][file.name]
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        size = entry.get("bytes")
        short = isinstance(size, int) and len(data) < size
        raise DataError(
            f"{file}: is {'truncated' if short else 'changed'} (its checksum differs from the "
            "manifest's); prepare the dataset again"
        )
    try:
        return pl.read_parquet(io.BytesIO(data))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DataError(
            f"{file}: is not a readable Parquet file; prepare the dataset again"
        ) from error
