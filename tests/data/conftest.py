"""Reading a text that a test writes down."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import pytest

from cnsdiff.data import Interactions, read_interactions


class Read(Protocol):
    """Write a text to a file and read it."""

    def __call__(
        self, content: str | bytes, name: str = "log.txt", **options: Any
    ) -> Interactions: ...


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(content: str | bytes, name: str = "log.txt", **options: Any) -> Interactions:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_interactions(path, **options)

    return read
