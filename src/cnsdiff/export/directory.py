"""The directory that an export writes: its files, and a manifest that says what they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cnsdiff.base.errors import InputError
from cnsdiff.base.storage import atomic_directory, foreign_to, read_json, sha256, write_json

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


def write_export(
    path: str | Path,
    facts: Mapping[str, Any],
    write: Callable[[Path], Mapping[str, Any] | None],
    *,
    overwrite: bool,
) -> dict[str, Any]:
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
    dict
        The manifest, with the size and the SHA-256 of each file.

    Raises
    ------
    InputError
        ``path`` exists and ``overwrite`` is off, or it holds something that is no export.
    StorageError
        It cannot be written; what was there is untouched.
    """
    path = Path(path)
    if overwrite and not _is_replaceable(path):
        raise InputError(
            f"{path}: holds something that is no export, so --overwrite does not replace it; "
            "choose another directory"
        )
    if overwrite and path.is_dir() and (other := foreign_to(path, _own_files(path))) is not None:
        raise InputError(
            f"{path}: holds {other!r} beside the export, which --overwrite would remove; move it, "
            "or choose another directory"
        )
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


def _own_files(path: Path) -> list[str]:
    """What the manifest of an export says is there; nothing if there is none."""
    try:
        files = read_json(path / MANIFEST).get("files")
    except (OSError, ValueError, AttributeError):
        return []
    return [MANIFEST, *(files if isinstance(files, dict) else ())]


def _is_replaceable(path: Path) -> bool:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return True
    try:
        manifest = read_json(path / MANIFEST)
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and "export" in manifest
