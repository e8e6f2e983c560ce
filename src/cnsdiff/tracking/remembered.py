"""Where a run is tracked, kept in its directory so that a resumed training goes on there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cnsdiff.base.errors import RunError
from cnsdiff.base.storage import read_json, write_json
from cnsdiff.recommender.run_directory import TRACKING


def remembered(run: Path | None) -> dict[str, dict[str, Any]]:
    """What each tracker wrote down of this run directory, by the tracker's name.

    Raises
    ------
    RunError
        The file is damaged.
    """
    if run is None or not (run / TRACKING).exists():
        return {}
    try:
        known = read_json(run / TRACKING)
        return {str(name): dict(place) for name, place in known.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunError(
            f"{run / TRACKING}: is damaged; delete it to track the run from here on"
        ) from error


def remember(run: Path | None, tracker: str, place: dict[str, Any]) -> None:
    """Write down where ``tracker`` has this run; nothing if there is no run directory."""
    if run is not None:
        write_json(run / TRACKING, {**remembered(run), tracker: place})
