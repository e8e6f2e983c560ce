"""What an audit is of: kept beside its results, so that no other is taken for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnsdiff.base.errors import RunError
from cnsdiff.base.spelling import parameter
from cnsdiff.base.storage import read_json, write_json

SCHEMA_VERSION = 1
FILE = "settings.json"

#: What a setting is called, where not by its own name.
_TITLES = {
    "log": "LOG",
    "columns": "the names of the columns",
    "checksum": "the content of LOG",
    "users_drawn": "the number of users drawn (by the budget)",
}


def take_up(out: Path, identity: Mapping[str, Any], budget: float) -> float | None:
    """Claim a directory for an audit, or find that it holds this one.

    Parameters
    ----------
    out
        The directory; made if it is not there.
    identity
        All that results depend on, but for time.
    budget
        In seconds.

    Returns
    -------
    float or None
        The budget of the run that this one goes on with; ``None`` if it is the first.

    Raises
    ------
    RunError
        The directory holds something else, or an audit with other settings; the message names the
        first that differs.
    """
    file = out / FILE
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file; choose another directory")
    before: float | None = None
    if file.is_file():
        known, before = _read(file)
        for key in {**known, **identity}:
            if known.get(key) != identity.get(key):
                option = _TITLES.get(key) or parameter(key)
                told = "" if key == "checksum" else (
                    f" ({_short(known.get(key))} there, {_short(identity.get(key))} here)"
                )  # fmt: skip
                raise RunError(
                    f"{out}: holds an audit that differs in {option}{told}; choose another "
                    f"directory, or pass {parameter('overwrite', True)} to start anew"
                )
    elif out.is_dir() and any(out.iterdir()):
        raise RunError(f"{out}: is not empty and holds no audit; choose another directory")
    write_json(
        file, {"schema_version": SCHEMA_VERSION, "identity": dict(identity), "budget": budget}
    )
    return before


def is_audit(out: Path) -> bool:
    """Whether a directory holds an audit, finished or not."""
    return (out / FILE).is_file()


def _read(file: Path) -> tuple[dict[str, Any], float]:
    try:
        found = read_json(file)
        if found["schema_version"] != SCHEMA_VERSION:
            raise RunError(
                f"{file}: is of another version of audits; choose another directory, or pass "
                f"{parameter('overwrite', True)} to start anew"
            )
        return dict(found["identity"]), float(found["budget"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{file}: is damaged; choose another directory, or pass "
            f"{parameter('overwrite', True)} to start anew"
        ) from error


def _short(value: Any) -> str:
    return "none" if value in (None, {}, []) else str(value)
