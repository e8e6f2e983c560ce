"""What is known of a published data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cnsdiff.catalogue.checksum import Checksum
from cnsdiff.data.source import Source


@dataclass(frozen=True)
class Layout:
    """One way in which the files of a data set are named, and how to read them.

    Attributes
    ----------
    required
        Base names of the files that must be there.
    read
        From a folder with these files to a :class:`~cnsdiff.data.source.Source`.
    optional
        Base names of files to take along where they are.
    """

    required: tuple[str, ...]
    read: Callable[[Path], Source]
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wheel:
    """A Python package that carries the data set.

    Attributes
    ----------
    project, version
        As on the package index.
    file
        Name of the wheel there.
    checksum
        Of the wheel.
    """

    project: str
    version: str
    file: str
    checksum: Checksum


@dataclass(frozen=True)
class Entry:
    """What is known of a published data set.

    Attributes
    ----------
    name
        What it is called here, and its folder.
    what
        One line: who did what with which.
    shift
        The distribution shift it can show.
    size
        Bytes to fetch, roughly.
    licence, terms
        In a word, and in a sentence.
    home_page, citation
        Where it is described, and the work to cite.
    columns
        What an interaction has.
    threshold
        The rating from which an interaction usually counts as positive.
    layouts
        How its files may be named, the preferred first.
    addresses, checksum
        Where it is, and what the file must have; no address where a login or a request is
        needed.
    ask
        Whether its terms must be accepted before it is fetched.
    wheel
        The package that carries it too, if there is one.
    unpacked
        Bytes that its files may have at most; an archive with more is not what it claims to be.
    """

    name: str
    what: str
    shift: str
    size: int
    licence: str
    terms: str
    home_page: str
    citation: str
    columns: tuple[str, ...]
    threshold: float
    layouts: tuple[Layout, ...]
    addresses: tuple[str, ...] = ()
    checksum: Checksum | None = None
    ask: bool = False
    wheel: Wheel | None = None
    unpacked: int = 1 << 30
