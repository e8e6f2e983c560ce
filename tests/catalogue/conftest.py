"""A server, patience that does not wait, and archives to serve."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from misbehaving_server import Web, serving

from cnsdiff.catalogue.download import Retry
from cnsdiff.catalogue.progress import Reporter


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as state:
        yield state


@dataclass
class Patience:
    """A :class:`Retry` that notes the waits and does not wait."""

    waits: list[float] = field(default_factory=list)

    def retry(self, **changes: float) -> Retry:
        return Retry(**{"sleep": self.waits.append, "read_timeout": 5.0, **changes})  # type: ignore[arg-type]


@pytest.fixture
def patience() -> Patience:
    return Patience()


class Notes(Reporter):
    """Keeps what a download says."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.begun: list[tuple[str, int, int | None]] = []
        self.received = 0

    def begin(self, name: str, done: int, total: int | None) -> None:
        self.begun.append((name, done, total))

    def advance(self, size: int) -> None:
        self.received += size

    def note(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def notes() -> Notes:
    return Notes()


def zipped(files: dict[str, bytes | str]) -> bytes:
    """A zip archive with these members."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return memory.getvalue()


@pytest.fixture(name="zipped")
def _zipped() -> Callable[[dict[str, bytes | str]], bytes]:
    return zipped


def below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(name="below")
def _below() -> Callable[[Path], dict[str, bytes]]:
    return below
