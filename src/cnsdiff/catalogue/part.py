"""The first bytes of a file whose download was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cnsdiff.base.storage import read_json, write_json


class Part:
    """The bytes received so far, and what it takes to go on with them.

    ``NAME.part`` holds the bytes, ``NAME.part.json`` their address, the validator that the server
    gave (an ETag or a date) and the length of the whole.
    """

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self._notes = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        """Bytes received; 0 if there are none."""
        return self.path.stat().st_size if self.path.exists() else 0

    def notes(self, address: str) -> dict[str, Any]:
        """What is known of the received part, if it came from ``address``."""
        try:
            notes = read_json(self._notes)
        except (OSError, ValueError):
            return {}
        same = isinstance(notes, dict) and notes.get("address") == address
        return notes if same and self.size else {}

    def begin(self, address: str, validator: str | None, total: int | None) -> None:
        """Forget what was there; the body starts at its first byte."""
        self.remove()
        write_json(self._notes, {"address": address, "validator": validator, "total": total})
        self.path.touch()

    def remove(self) -> None:
        """Forget it all."""
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        """The bytes are complete: put them in place in one step."""
        self.path.replace(target)
        self._notes.unlink(missing_ok=True)
