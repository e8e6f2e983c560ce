"""Writing files so that nothing is ever lost or half-written, and checking what is read.

A file is written under a temporary name in its own folder, flushed to disk and renamed; a
directory is filled beside its final place and renamed as a whole. A crash, a full disk or
Ctrl-C therefore leaves either the old content or the new, never a mixture.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnsdiff.errors import CnsdiffError, InputError, StorageError

if TYPE_CHECKING:
    import polars as pl

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def storage_error(path: Path, error: BaseException) -> StorageError:
    """One sentence for an operating-system error met while writing ``path``."""
    full = isinstance(error, OSError) and error.errno in _FULL
    # pyarrow and safetensors wrap the system's error and keep only its text.
    full = full or any(os.strerror(code) in str(error) for code in _FULL)
    # NumPy keeps how much it wrote.
    full = full or re.search(r"\d+ requested and \d+ written", str(error)) is not None
    if full:
        return StorageError(
            f"{path}: the disk is full, so it was not written (what was there before is "
            "untouched); free some space and run the command again"
        )
    return StorageError(f"{path}: cannot be written: {error}; check the folder's permissions")


@contextlib.contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors, also those that libraries wrap, into a :class:`StorageError`."""
    try:
        yield
    except CnsdiffError:
        raise
    except Exception as error:
        if isinstance(error, OSError) or "os error" in str(error).lower():
            raise storage_error(path, error) from error
        raise


def _hidden_beside(path: Path) -> Path:
    # Not tempfile: its files are private, and what we write should obey the caller's umask.
    # Absolute: polars writes to the home folder what begins with a folder called ``~``.
    return path.parent.absolute() / f".{path.name}.{secrets.token_hex(8)}"


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Remove the temporary files of ``names`` that a killed process left in ``folder``."""
    temporary = re.compile(rf"\.({'|'.join(map(re.escape, names))})\.[0-9a-f]{{16}}")
    for entry in folder.iterdir():
        if temporary.fullmatch(entry.name):
            entry.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Flush a file or the entries of a directory to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path`` in one step."""
    path = Path(path)
    temporary = _hidden_beside(path)
    with _system_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary directory beside ``path`` that takes its place on success.

    With ``overwrite`` an existing directory is first renamed aside and removed only after the
    new one stands; without it an existing, non-empty ``path`` is an error.
    """
    path = Path(path)
    if path.exists() and not overwrite and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: already exists; choose another --out or pass --overwrite")
    temporary = _hidden_beside(path)
    with _system_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            yield temporary
            for entry in temporary.rglob("*"):
                _sync(entry)
            _sync(temporary)
            _swap(temporary, path)
            _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, path: Path) -> None:
    """Put ``new`` in the place of ``path``, which is removed once ``new`` stands."""
    if not path.exists():
        new.replace(path)
        return
    aside = _hidden_beside(path)
    path.replace(aside)
    try:
        new.replace(path)
    except BaseException:  # Ctrl-C between the two renames must not lose the old one either
        aside.replace(path)
        raise
    if aside.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink()


def write_with(path: Path, write: Callable[[Path], Any]) -> None:
    """Call ``write(temporary)`` and move the result to ``path`` atomically."""
    with atomic_file(path) as temporary:
        write(temporary)


def write_text(path: Path, text: str) -> None:
    write_with(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n")


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The table in the Parquet file of exactly this name.

    To polars a path is a pattern: ``x[1]/items.parquet`` would be that of ``x1``. So it is never
    given one, here and in the readers below, but the open file.
    """
    import polars as pl

    with path.open("rb") as file:
        return pl.read_parquet(file, columns=None if columns is None else list(columns))


def read_parquet_schema(path: Path) -> dict[str, pl.DataType]:
    """Names and types of the columns of a Parquet file."""
    import polars as pl

    with path.open("rb") as file:
        return dict(pl.read_parquet_schema(file))


def read_csv(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Some columns of a large CSV file, whose quoted text may span lines."""
    import polars as pl

    with path.open("rb") as file:
        return pl.scan_csv(file, infer_schema_length=10_000).select(columns).collect()


def read_json_lines(path: Path, schema: Mapping[str, Any]) -> pl.DataFrame:
    """Some fields of a large file of JSON objects, one a line."""
    import polars as pl

    with path.open("rb") as file:
        return pl.scan_ndjson(file, schema=dict(schema)).select(*schema).collect()


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
