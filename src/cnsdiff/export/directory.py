"""The directory that an export writes: its files, and a manifest that says what they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

from cnsdiff.base.errors import InputError
from cnsdiff.base.settings import Record
from cnsdiff.base.storage import atomic_directory, foreign_to, read_json, sha256, write_json
from cnsdiff.base.text import parameter

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


class ExportedFile(TypedDict):
    """A file of an export, in its manifest."""

    bytes: int
    sha256: str


class ExportManifest(TypedDict):
    """``manifest.json`` of every export."""

    schema_version: int
    created_by: str
    export: str
    format: str
    files: dict[str, ExportedFile]


class _EarlierExport(Record):
    """The part of a manifest that tells whether an export may be replaced."""

    export: str
    files: dict[str, dict[str, int | str]]


def write_export(
    path: str | Path,
    facts: Mapping[str, object],
    write: Callable[[Path], Mapping[str, object] | None],
    *,
    overwrite: bool,
) -> Any:
    """Write an export as one directory that appears whole or not at all.

    Parameters
    ----------
    path
        Where; missing folders are made.
    facts
        What the manifest says, ``"export"`` and ``"format"`` among it.
    write
        Writes the files into the folder it is given; what it returns joins the facts.
    overwrite
        Replace an export that is there; anything else is never replaced.

    Returns
    -------
    ExportManifest
        With ``facts``, and the size and the SHA-256 of each file.

    Raises
    ------
    InputError
        ``path`` exists and ``overwrite`` is off, or it holds something that is not an export.
    StorageError
        It cannot be written; what was there is untouched.
    """
    path = Path(path)
    if overwrite:
        _require_replaceable(path)
    with atomic_directory(path, overwrite=overwrite) as temporary:
        more = write(temporary) or {}
        files = {
            file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
            for file in sorted(temporary.iterdir())
        }
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "created_by": f"cnsdiff {version('cnsdiff')}",
            **facts,
            **more,
            "files": files,
        }
        write_json(temporary / MANIFEST, manifest)
    return manifest


def _require_replaceable(path: Path) -> None:
    """Refuse to replace anything but nothing, an empty folder, or an export by itself."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    try:
        earlier = _EarlierExport.model_validate(read_json(path / MANIFEST))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: holds something that is not an export, so {parameter('overwrite', True)} "
            "does not replace it; choose another directory"
        ) from error
    other = foreign_to(path, [MANIFEST, *earlier.files])
    if other is not None:
        raise InputError(
            f"{path}: holds {other!r} beside the export, which "
            f"{parameter('overwrite', True)} would remove; move it, or choose another directory"
        )
