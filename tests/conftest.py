"""Fixtures for all tests."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # As many processes as cores: each with threads of its own would only be in the others' way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# Modules are compiled once, when a test first imports them, and not by each of many processes.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of published data sets; tests that need it are skipped where there is none."""
    named = os.environ.get("CNSDIFF_DATA")
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(named) if named else beside
    if not folder.is_dir():
        pytest.skip(f"needs the published data sets: set CNSDIFF_DATA (looked in {folder})")
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One browser for all tests of a process: a thread can have no second."""
    from chromium import launched

    with launched() as browser:
        yield browser


@pytest.fixture
def full_disk() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """``with full_disk(n):`` — no file can grow beyond ``n`` bytes, as on a disk that is full."""

    @contextlib.contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test keeps fetched data sets; nothing is there yet."""
    monkeypatch.setenv("CNSDIFF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CNSDIFF_MIRROR", raising=False)
    return tmp_path / "home"


_opened: list[str] = []
_listening = False


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if _listening and event == "open" and isinstance(arguments[0], str | Path):
        _opened.append(Path(arguments[0]).name)


sys.addaudithook(_listen)  # for good: Python has no way to take one back


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Names of all files that Python opens during a test."""
    global _listening
    _opened.clear()
    _listening = True
    yield _opened
    _listening = False
