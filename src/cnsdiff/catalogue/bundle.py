"""Files to take something from: a folder, an archive, or one plain file.

Only single files are ever taken out, by their base name, as plain bytes: no folder, link or
permission of an archive reaches the disk.
"""

from __future__ import annotations

import contextlib
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from cnsdiff.base.errors import DataError
from cnsdiff.display.wording import byte_size

_BLOCK = 1 << 20
_TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
#: What the libraries raise on damaged bytes.
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError)


@dataclass(frozen=True)
class Bundle:
    """Files by their base names."""

    place: str
    """Where they are, for messages."""
    files: Mapping[str, Callable[[], IO[bytes]]]
    """How to open each of them."""

    def copy(self, names: Iterable[str], into: Path, *, limit: int) -> None:
        """Write the named files into a folder.

        :class:`DataError` if they hold more than ``limit`` bytes together, or are damaged.
        """
        left = limit
        for name in sorted(names, key=list(self.files).index):
            with _damage(self.place), self.files[name]() as file, (into / name).open("wb") as out:
                while block := file.read(_BLOCK):
                    left -= len(block)
                    if left < 0:
                        raise DataError(
                            f"{self.place}: unpacks to more than {byte_size(limit)}, far above "
                            "what this data set holds, so it is not taken; get the file again "
                            "from its publisher"
                        )
                    out.write(block)


@contextlib.contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """The files in a folder (at any depth), in a zip or tar archive, or the one file itself.

    Where a name occurs more than once, the one nearest to the top counts. :class:`DataError` if
    there is nothing at ``path``, the archive is damaged, or one of its names points outside of it.
    """
    place = path.name or str(path)
    if path.is_dir():
        entries = sorted(entry for entry in path.rglob("*") if entry.is_file())
        yield Bundle(
            place, _nearest({str(entry.relative_to(path)): _opener(entry) for entry in entries})
        )
    elif not path.is_file():
        raise DataError(f"{path}: no such file or folder; check the path")
    elif path.suffix == ".zip" or zipfile.is_zipfile(path):
        with _damage(place), zipfile.ZipFile(path) as zipped:
            yield _zip(place, zipped)
    elif path.name.endswith(_TAR_ENDINGS) or _is_tar(path):
        with _damage(place), tarfile.open(path) as archive:
            yield _tar(place, archive)
    else:
        yield Bundle(place, {path.name: _opener(path)})


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    return lambda: path.open("rb")


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except _DAMAGE:
        return False


@contextlib.contextmanager
def _damage(place: str) -> Iterator[None]:
    try:
        yield
    except (*_DAMAGE, NotImplementedError, RuntimeError) as error:
        # The latter two: a compression zipfile does not know, or a password.
        raise DataError(
            f"{place}: is a damaged archive ({error}); get it again from its publisher"
        ) from error


def _zip(place: str, archive: zipfile.ZipFile) -> Bundle:
    files = {}
    for member in archive.infolist():
        _check_name(place, member.orig_filename)
        if member.is_dir() or stat.S_ISLNK(member.external_attr >> 16):
            continue
        files[member.filename] = lambda member=member: archive.open(member)
    return Bundle(place, _nearest(files))


def _tar(place: str, archive: tarfile.TarFile) -> Bundle:
    files: dict[str, Callable[[], IO[bytes]]] = {}
    for member in archive:
        _check_name(place, member.name)
        if member.isfile():
            files[member.name] = _tar_opener(archive, member)
    return Bundle(place, _nearest(files))


def _tar_opener(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        file = archive.extractfile(member)
        assert file is not None  # it is a regular file
        return file

    return opened


def _check_name(place: str, name: str) -> None:
    """Refuse an archive that was made to write elsewhere.

    Nothing would be written there in any case; but such an archive is not what it claims to be.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    drive = path.parts[:1] and path.parts[0].endswith(":")
    if path.is_absolute() or ".." in path.parts or drive:
        raise DataError(
            f"{place}: holds {name!r}, which points outside of the archive, so nothing of it is "
            "taken; get the file again from its publisher"
        )


def _nearest(files: Mapping[str, Callable[[], IO[bytes]]]) -> dict[str, Callable[[], IO[bytes]]]:
    """By base name; of several the one with the fewest folders above it, in the given order."""
    by_name: dict[str, str] = {}
    for name in files:
        base = PurePosixPath(name).name
        if base not in by_name or name.count("/") < by_name[base].count("/"):
            by_name[base] = name
    return {base: files[name] for base, name in by_name.items()}
