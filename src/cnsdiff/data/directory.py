"""The dataset directory on disk: ``manifest.json`` beside one Parquet file per table.

Every read of a file goes through :func:`read_table`, which checks it against the manifest and
never unpickles anything.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

import polars as pl
from pydantic import Field, TypeAdapter, ValidationError, field_validator

from cnsdiff.base.errors import DataError, did_you_mean
from cnsdiff.base.settings import Record, shown
from cnsdiff.base.storage import (
    atomic_directory,
    foreign_to,
    read_json,
    read_record,
    recover,
    write_json,
)
from cnsdiff.base.text import Command, parameter
from cnsdiff.data.interactions import Step

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
#: What ``report`` writes into a directory.
REPORT = "report.html"
SPLITS = ("train", "valid", "test_iid", "test_ood")
#: What may lie beside the splits: features of users and items, what an experiment found out
#: about pairs, what a simulation knows, how often the log exposed each item, what is known of
#: the environment to come; and items that held-out pairs have and train has not, with what is known
#: of them, and those pairs.
SideTable = Literal[
    "user_features",
    "item_features",
    "judgements",
    "truth_users",
    "truth_items",
    "exposures",
    "target_counts",
    "target_sample",
    "new_item_features",
    "new_item_pairs",
]
SIDE_TABLES: tuple[str, ...] = get_args(SideTable)


_FUNNEL = TypeAdapter(list[Step])


def funnel_of(content: object) -> list[Step]:
    """The steps of a funnel as JSON has them; ValueError if it is none."""
    try:
        return _FUNNEL.validate_python(content)
    except ValidationError:
        raise ValueError("must be a list of steps, each with a name and its rows") from None


class SplitCounts(Record):
    """Counts of a split, and of rows left out of it; scenarios may add more."""

    __pydantic_extra__: dict[str, int]

    rows: int = Field(ge=1)
    """Pairs."""
    users: int = 0
    items: int = 0
    duplicates: int = 0
    """Repetitions of a pair."""
    dropped_unknown: int | None = None
    """Pairs of a user or item that train does not know; None where nobody counted."""
    new_item_pairs: int = 0
    """Pairs of a known user and an item that train does not know, of which features are known."""
    overlap_train: int = 0
    overlap_test: int = 0
    overlap_test_iid: int = 0
    """Pairs that are in the other split, too; left out here, but for those of both tests."""
    read: int = 0
    skipped: int = 0
    """Malformed rows."""
    below_threshold: int = 0
    users_without_positives: int = 0
    outside_k_core: int = 0
    ratings_ignored: int = 0
    """Rows with a rating that no threshold made use of."""
    in_log: int = 0
    """Randomised positives that are in the log, too."""


class SeenCounts(Record):
    """Counts of :meth:`~cnsdiff.data.Dataset.seen`."""

    pairs: int = 0


class FileRecord(Record):
    """A file of the dataset as it was written."""

    sha256: str
    bytes: int | None = None
    rows: int | None = None


class DatasetManifest(Record):
    """``manifest.json`` of a dataset."""

    schema_version: int
    name: str
    scenario: str
    created_by: str = ""
    fingerprint: str
    """Hex SHA-256 of ids, pairs and side tables."""
    n_users: int = Field(ge=1)
    n_items: int = Field(ge=1)
    # Names become file names, so only the known ones are let through.
    splits: dict[Annotated[str, Field(pattern=f"^({'|'.join(SPLITS)})$")], SplitCounts]
    source: dict[str, object] = Field(default={})
    """Where the data came from: licence, file names, an address."""
    settings: dict[str, object] = Field(default={})
    """Preparation: the filters, the seed, the scenario's settings."""
    seen: SeenCounts | None = None
    """None in datasets from before there was such a table."""
    environments: list[int | str] = Field(default=[])
    """Labels of the periods."""
    tables: list[SideTable] = Field(default=[])
    log: dict[str, object] = Field(default={})
    """Counts of the log, and the scenario's choices; under ``funnel`` the steps of :attr:`funnel`,
    in datasets of a log since there are any."""
    files: dict[str, FileRecord] = Field(default={})

    @field_validator("log")
    @classmethod
    def _steps(cls, log: dict[str, object]) -> dict[str, object]:
        funnel_of(log.get("funnel", []))
        return log

    @property
    def funnel(self) -> list[Step]:
        """What became of the rows of the log until they were pairs; empty where it is not kept."""
        return funnel_of(self.log.get("funnel", []))

    def to_dict(self) -> dict[str, object]:
        """In JSON's types, with the keys that were set, as in the file."""
        return self.model_dump(exclude_unset=True)


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
    path: Path, manifest: DatasetManifest, tables: Mapping[str, pl.DataFrame], *, overwrite: bool
) -> DatasetManifest:
    """Write all tables and the manifest as one directory that appears whole or not at all.

    Returns the manifest with the checksums of the files. Raises :class:`InputError` if ``path``
    exists and ``overwrite`` is off, or holds something that is no dataset; :class:`StorageError` if
    it cannot be written, and what was there is untouched.
    """
    option = parameter("overwrite", True)
    if overwrite and not _is_replaceable(path):
        raise DataError(
            f"{path}: holds files but no dataset, so {option} does not replace it; choose "
            "another directory"
        )
    own = [*map(file_name, ("users", "items", "seen", *SPLITS, *SIDE_TABLES)), MANIFEST, REPORT]
    if overwrite and path.is_dir() and (other := foreign_to(path, own)) is not None:
        raise DataError(
            f"{path}: holds {other!r} beside the dataset, which {option} would remove; move it, "
            "or choose another directory"
        )
    with atomic_directory(path, overwrite=overwrite) as temporary:
        files = {}
        for table, frame in tables.items():
            buffer = io.BytesIO()
            frame.write_parquet(buffer)
            content = buffer.getbuffer()
            (temporary / file_name(table)).write_bytes(content)
            files[file_name(table)] = FileRecord(
                sha256=hashlib.sha256(content).hexdigest(), bytes=len(content), rows=frame.height
            )
        written = manifest.model_copy(update={"files": files})
        write_json(temporary / MANIFEST, written.to_dict())
    return written


def _is_replaceable(path: Path) -> bool:
    """Whether nothing is lost but a dataset, perhaps a damaged one."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return True
    # A run, and many a folder of other programs, has a manifest.json as well.
    tables = [path / file_name(table) for table in ("users", "items", "train")]
    is_run = any((path / name).exists() for name in ("config.yaml", "weights.safetensors"))
    return (path / MANIFEST).is_file() and any(map(Path.is_file, tables)) and not is_run


def read_manifest(path: Path) -> DatasetManifest:
    """The manifest of a dataset directory.

    :class:`DataError` if there is no dataset, its manifest is damaged or of another schema version,
    or a file is missing.
    """
    recover(path)
    if not path.exists():
        raise DataError(f"{path}: no such dataset; make it with {Command('prepare', out=path)}")
    if not path.is_dir():
        raise DataError(
            f"{path}: is a file, not a dataset directory; make one from it with cnsdiff prepare"
        )
    file = path / MANIFEST
    if not file.is_file():
        raise DataError(
            f"{path}: has no {MANIFEST}, so it is not a dataset; make one with cnsdiff prepare"
        )
    again = "prepare the dataset again"
    manifest = read_record(file, DatasetManifest, SCHEMA_VERSION, again, DataError)
    seen = () if manifest.seen is None else ("seen",)
    for table in ("users", "items", *manifest.splits, *manifest.tables, *seen):
        if file_name(table) not in manifest.files:
            raise DataError(f"{file}: is damaged (no checksum of {file_name(table)}); {again}")
        if not (path / file_name(table)).is_file():
            raise DataError(f"{path}: {file_name(table)} is missing; {again}")
    return manifest


def read_table(path: Path, table: str, manifest: DatasetManifest) -> pl.DataFrame:
    """One Parquet file of a dataset directory; :class:`DataError` if its checksum is another."""
    try:
        return _read_table(path / file_name(table), manifest.files[file_name(table)])
    except DataError as error:
        try:
            replaced = read_json(path / MANIFEST) != manifest.to_dict()
        except (OSError, ValueError):
            replaced = False
        if replaced:
            raise DataError(
                f"{path}: has been replaced since it was opened, so that its parts no longer fit "
                "together; open it, or give the command, again"
            ) from error
        raise


def _read_table(file: Path, record: FileRecord) -> pl.DataFrame:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read: {error.strerror or error}; prepare the dataset again"
        ) from error
    if hashlib.sha256(data).hexdigest() != record.sha256:
        short = record.bytes is not None and len(data) < record.bytes
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
