"""Checksums as their publishers give them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Checksum:
    """A published digest of a file.

    Attributes
    ----------
    algorithm
        ``"sha256"``, or ``"md5"`` where the publisher gives no better.
    digest
        In hexadecimal, lower case.
    """

    algorithm: Literal["sha256", "md5"]
    digest: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digest}"

    def of(self, path: Path) -> Checksum:
        """The digest of a file's bytes by the same algorithm."""
        with path.open("rb") as file:
            return Checksum(self.algorithm, hashlib.file_digest(file, self.algorithm).hexdigest())
