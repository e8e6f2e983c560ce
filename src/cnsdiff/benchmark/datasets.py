"""The datasets of a grid: prepared once, and kept beside the results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnsdiff.base.errors import ConfigError
from cnsdiff.benchmark.grid import DatasetEntry, digest
from cnsdiff.data import Dataset, load_dataset
from cnsdiff.shifts import prepare, prepare_given
from cnsdiff.simulate import ConfoundedWorld
from cnsdiff.simulate.settings import ShiftSettings


def materialise(name: str, entry: DatasetEntry, folder: Path) -> Path:
    """The directory of a grid's dataset, made in ``folder`` unless it is there already.

    Raises
    ------
    InputError
        The source cannot be read or prepared as asked.
    """
    place = place_of(name, entry, folder)
    if entry.path is not None:
        load_dataset(place)  # better now than in a worker
    elif not place.exists():
        _make(name, entry).save(place)
    return place


def place_of(name: str, entry: DatasetEntry, folder: Path) -> Path:
    """Where a grid's dataset is, or will be."""
    if entry.path is not None:
        return Path(entry.path)
    recipe = {"prepare": entry.prepare, "given": entry.given, "simulate": entry.simulate}
    # Another recipe is another directory: what was made by the old one is never taken for it.
    return folder / f"{name}-{digest(recipe)[:8]}"


def _make(name: str, entry: DatasetEntry) -> Dataset:
    try:
        if entry.prepare is not None:
            return prepare(**{"name": name, **entry.prepare})
        if entry.given is not None:
            return prepare_given(**{"name": name, **entry.given})
    except TypeError as error:
        # An argument that the function does not have, or lacks.
        raise ConfigError(f"datasets.{name}: {error}; see docs/benchmark.md") from error
    assert entry.simulate is not None
    try:
        return _simulate(entry.simulate)
    except ConfigError as error:
        raise ConfigError(f"datasets.{name}: {error}") from error


def _simulate(settings: Mapping[str, Any]) -> Dataset:
    shift = {key: value for key, value in settings.items() if key in ShiftSettings.model_fields}
    world = {key: value for key, value in settings.items() if key not in shift}
    return ConfoundedWorld(**world).dataset(**shift)
