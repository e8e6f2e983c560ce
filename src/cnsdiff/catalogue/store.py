"""Where fetched data sets lie: a folder each, with a record of what came from where."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import platformdirs

from cnsdiff.base.errors import DataError, InputError
from cnsdiff.base.settings import Record, validated
from cnsdiff.base.storage import read_json, recover, sha256
from cnsdiff.base.text import Command, parameter
from cnsdiff.catalogue.entries import Entry, Layout, find
from cnsdiff.data.interactions import Source

#: The record beside the files.
RECORD = "source.json"
SCHEMA_VERSION = 1


class FetchedFile(Record):
    """A file of a fetched data set."""

    bytes: int
    sha256: str


class Archive(Record):
    """The file that the data set was unpacked from."""

    file: str
    bytes: int
    sha256: str


class FetchRecord(Record):
    """``source.json``: the origin of each file, the time, and the terms."""

    schema_version: int
    name: str
    route: str
    address: str
    fetched: str
    """When, UTC, ISO 8601."""
    archive: Archive | None
    """None where the files were copied from a folder."""
    checked_against: str | None
    """The publisher's checksum that the archive has, if there is one."""
    licence: str
    terms: str
    terms_accepted: bool | None
    """None where nobody asks."""
    home_page: str
    citation: str
    files: dict[str, FetchedFile]


def home(path: Path | str | None = None) -> Path:
    """Where data sets are kept: as given, else ``$CNSDIFF_HOME``, else the user's data folder."""
    if path is not None:
        return Path(path).expanduser()
    named = os.environ.get("CNSDIFF_HOME")
    return Path(named).expanduser() if named else platformdirs.user_data_path("cnsdiff")


def folder_of(entry: Entry, at: Path | str | None = None) -> Path:
    """The data set's own folder."""
    return home(at) / entry.name


def downloads_of(entry: Entry, at: Path | str | None = None) -> Path:
    """Where its downloads wait until they are complete."""
    return home(at) / ".downloads" / entry.name


def layout_of(entry: Entry, names: Iterable[str]) -> Layout | None:
    """The first layout whose required files are all among ``names``."""
    return next((layout for layout in entry.layouts if set(layout.required) <= set(names)), None)


def status(entry: Entry, at: Path | str | None = None) -> Literal["fetched", "damaged", "absent"]:
    """Whether it is there; told from the sizes of its files, which is quick."""
    folder = folder_of(entry, at)
    try:
        record = read_record(folder)
    except DataError:
        return "damaged"
    if record is None:
        return "absent"
    whole = all(_size(folder / name) == file.bytes for name, file in record.files.items())
    return "fetched" if whole else "damaged"


def damage(folder: Path, record: FetchRecord) -> str | None:
    """The fault of a data set's files by their checksums; None if they are intact."""
    for name, file in record.files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256(path) != file.sha256:
            return f"{name} is not what was fetched"
    return None


def read_record(folder: Path) -> FetchRecord | None:
    """The record of a fetched data set; None if there is none."""
    path = folder / RECORD
    recover(folder)
    try:
        content = read_json(path)
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError("not a record of this version")
        return validated(FetchRecord, content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path}: cannot be used ({error}); fetch the data set again with "
            f"{parameter('force', True)}"
        ) from error


def describe_files(folder: Path) -> dict[str, FetchedFile]:
    """Size and SHA-256 of each file, for the record."""
    return {
        path.name: FetchedFile(bytes=path.stat().st_size, sha256=sha256(path))
        for path in sorted(folder.iterdir())
    }


def not_fetched(entry: Entry) -> InputError:
    """The sentence for a data set that is asked for but not there."""
    command = Command("data fetch", entry.name)
    if not entry.addresses:
        command = Command("data fetch", entry.name, from_="PATH", accept_terms=True)
    return InputError(f"{entry.name}: is not fetched yet; run: {command}")


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def load(name: str, *, home: Path | str | None = None) -> Source:
    """Read a data set that ``cnsdiff data fetch`` brought.

    Parameters
    ----------
    name
        As in ``cnsdiff data list``.
    home
        Where data sets are kept; see :func:`cnsdiff.catalogue.home`.

    Returns
    -------
    Source
        Tables ``"log"`` and, for randomised experiments, ``"randomised"``; the features there
        are. ``provenance`` holds ``files`` (size and SHA-256 each), ``address``,
        ``licence``, ``citation`` and the usual ``threshold``.

    Raises
    ------
    InputError
        No such data set, it is not fetched yet, or its files are not those that were fetched.
    """
    entry = find(name)
    folder = folder_of(entry, home)
    record = read_record(folder)
    if record is None:
        raise not_fetched(entry)
    wrong = damage(folder, record)
    layout = layout_of(entry, record.files)
    if wrong or layout is None:
        reason = wrong or "files that it needs are missing"
        raise DataError(f"{folder}: {reason}; run: {Command('data fetch', name, force=True)}")
    keys = ("files", "route", "address", "licence", "terms", "home_page", "citation")
    content = record.model_dump()
    provenance = {key: content[key] for key in keys} | {"threshold": entry.threshold}
    return replace(layout.read(folder), name=name, provenance=provenance)
