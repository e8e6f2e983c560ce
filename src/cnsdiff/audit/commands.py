"""The commands that repeat what an audit recommends."""

from __future__ import annotations

from pathlib import Path

from cnsdiff.audit.log import Log, Reading
from cnsdiff.audit.methods import METHODS
from cnsdiff.audit.shifts import Shift
from cnsdiff.base.spelling import Command

_COLUMNS = ("user", "item", "rating", "timestamp", "period")


def prepare_command(reading: Reading, log: Log, shift: Shift, seed: int, out: Path) -> str | None:
    """``cnsdiff prepare …`` for the splits of a shift; ``None`` where no file holds them so."""
    if shift.name == "exposure" and reading.randomised is None and Path(reading.log).is_file():
        return None  # the rows shown at random are in the log itself
    columns: dict[str, object] = {f"{role}_col": reading.columns.get(role) for role in _COLUMNS}
    command = Command(
        "prepare",
        reading.log,
        scenario=shift.name,
        set=shift.settings,
        seed=seed or None,
        randomised=reading.randomised if shift.name == "exposure" else None,
        user_features=reading.user_features,
        item_features=reading.item_features,
        threshold=None if log.threshold is None else f"{log.threshold:g}",
        user_core=reading.user_core or None,
        item_core=reading.item_core or None,
        format=None if reading.format == "auto" else reading.format,
        delimiter=reading.delimiter,
        time_unit=None if reading.time_unit == "auto" else reading.time_unit,
        **columns,
        header=reading.header,
        skip_bad=reading.skip_bad or None,
        literal_ids=reading.literal_ids or None,
        out=out,
    )
    return str(command)


def train_command(method: str, shift: Shift | None, dataset: Path, out: Path) -> str | None:
    """``cnsdiff train …`` for a method; ``None`` for a reference, which is fitted from Python.

    Parameters
    ----------
    shift
        Expected; ``None`` if none is.
    """
    kind = METHODS[method]
    if kind.train is None:
        return None
    expecting = {} if shift is None else shift.options
    settings = {**kind.train.get("set", {}), **expecting.get("set", {})}
    options = {**kind.train, **expecting, "set": settings, "out": out}
    return str(Command("train", dataset, **options))


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
