"""The directory of a study, opened by one command at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnsdiff.base.errors import ConfigError, DataError, RunError
from cnsdiff.base.storage import locked, remove_leftovers
from cnsdiff.tuning.study import BEST_CONFIG, BEST_RUN, DATABASE, STUDY_FILE


@contextmanager
def opened(folder: Path | None) -> Iterator[None]:
    """A directory that holds a study or nothing, and that nobody else writes to."""
    if folder is None:
        yield
        return
    own = {DATABASE, STUDY_FILE, BEST_CONFIG, BEST_RUN}
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; choose another directory")
    if folder.is_dir() and not (folder / DATABASE).exists():
        others = sorted(e.name for e in folder.iterdir() if not e.name.startswith("."))
        if others:
            raise RunError(
                f"{folder}: is not empty and holds no study ({DATABASE}); choose another directory"
            )
    fresh = not (folder / DATABASE).exists()
    busy = RunError(
        f"{folder}: another tuning is running here; wait for it, or choose another directory"
    )
    with locked(folder, busy):
        remove_leftovers(folder, own)
        try:
            yield
        except (ConfigError, DataError):
            if fresh:  # refused before anything was tried: a mended command begins anew
                for name in (DATABASE, STUDY_FILE):
                    (folder / name).unlink(missing_ok=True)
            raise
