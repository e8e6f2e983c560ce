"""The commands that repeat what an audit recommends."""

from __future__ import annotations

import shlex
from pathlib import Path

from cnsdiff.audit.log import Log, Reading
from cnsdiff.audit.methods import METHODS
from cnsdiff.audit.shifts import Shift
from cnsdiff.base.visible import shell_word

_COLUMNS = ("user", "item", "rating", "timestamp", "environment")


def prepare_command(reading: Reading, log: Log, shift: Shift, seed: int, out: Path) -> str | None:
    """``cnsdiff prepare …`` for the splits of a shift; ``None`` where no file holds them so."""
    if shift.name == "exposure" and reading.randomised is None and Path(reading.log).is_file():
        return None  # the rows shown at random are in the log itself
    parts = ["cnsdiff", "prepare", reading.log, "--scenario", shift.name]
    for key, value in shift.settings.items():
        parts += ["--set", f"{key}={value}"]
    parts += ["--seed", str(seed)] if seed else []
    options = {
        "randomised": reading.randomised if shift.name == "exposure" else None,
        "user-features": reading.user_features,
        "item-features": reading.item_features,
        "threshold": None if log.threshold is None else f"{log.threshold:g}",
        "user-core": reading.user_core or None,
        "item-core": reading.item_core or None,
        "format": None if reading.format == "auto" else reading.format,
        "delimiter": reading.delimiter,
        "time-unit": None if reading.time_unit == "auto" else reading.time_unit,
        **{f"{role}-col": reading.columns.get(role) for role in _COLUMNS},
    }
    for name, given in options.items():
        parts += [] if given is None else [f"--{name}", str(given)]
    if reading.header is not None:
        parts.append("--header" if reading.header else "--no-header")
    parts += ["--skip-bad"] if reading.skip_bad else []
    parts += ["--literal-ids"] if reading.literal_ids else []
    return " ".join(map(shell_word, [*parts, "--out", str(out)]))


def train_command(method: str, shift: Shift | None, dataset: Path, out: Path) -> str | None:
    """``cnsdiff train …`` for a method; ``None`` for a reference, which has no such command.

    Parameters
    ----------
    shift
        Expected; ``None`` if none is.
    """
    kind = METHODS[method]
    if kind.train is None:
        return None
    parts = ["cnsdiff", "train", str(dataset), *shlex.split(kind.train)]
    if shift is not None:
        parts += shift.options
    return " ".join(map(shell_word, [*parts, "--out", str(out)]))


def reference_code(method: str, dial: float | None, dataset: Path) -> str:
    """Python that fits a reference on a dataset and reads it at a dial."""
    class_name = METHODS[method].title
    lines = [
        "import torch",
        "",
        "import cnsdiff",
        "from cnsdiff.evaluation import Dialled, exposure_score, rank",
        f"from cnsdiff.references import {class_name}",
        "",
        f"data = cnsdiff.load_dataset({str(dataset)!r})",
        f"model = {class_name}().fit(data)",
    ]
    if dial:
        lines.append(f"model = Dialled(model, exposure_score(data), {dial:g})")
    else:
        lines[3] = "from cnsdiff.evaluation import rank"
    lines += [
        'seen = data.split("train").csr(data.n_users, data.n_items)',
        "users = torch.arange(data.n_users)",
        "items, scores = rank(model, users, 20, exclude=seen)  # rows of data.users, data.items",
    ]
    return "\n".join(lines) + "\n"
