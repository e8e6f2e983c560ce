"""A fetched data set as tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cnsdiff.base.errors import DataError
from cnsdiff.catalogue.entries import find
from cnsdiff.catalogue.store import damage, folder_of, layout_of, not_fetched, read_record
from cnsdiff.data.source import Source


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
        No such data set, or it is not fetched yet.
    DataError
        Its files are not those that were fetched, or cannot be read.
    """
    entry = find(name)
    folder = folder_of(entry, home)
    record = read_record(folder)
    if record is None:
        raise not_fetched(entry)
    wrong = damage(folder, record)
    layout = layout_of(entry, set(record["files"]))
    if wrong or layout is None:
        reason = wrong or "files that it needs are missing"
        raise DataError(f"{folder}: {reason}; run: cnsdiff data fetch {name} --force")
    kept = ("files", "route", "address", "licence", "terms", "home_page", "citation")
    provenance = {key: record[key] for key in kept} | {"threshold": entry.threshold}
    return replace(layout.read(folder), name=name, provenance=provenance)
