"""From a YAML file to a grid: places, variables, and what is wrong in one sentence."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from cnsdiff.base.errors import ConfigError, did_you_mean
from cnsdiff.base.settings import Settings, first_problem, shown
from cnsdiff.benchmark.grid import Grid
from cnsdiff.recommender.config import read_config_file


def read_grid(path: Path) -> Grid:
    """The grid in a YAML file.

    ``$NAME`` in the sources of datasets is taken from the environment, and their paths are
    relative to the file's folder.

    Raises
    ------
    ConfigError
        The file cannot be read or a key or value is wrong; one sentence with the place.
    """
    tree = read_config_file(path)
    try:
        grid = Grid.model_validate(tree)
    except ValidationError as error:
        problem = first_problem(error)
        place = ".".join(map(str, problem.keys))
        if problem.unknown:
            known = _known(problem.keys)
            hint = did_you_mean(str(problem.keys[-1]), known)
            hint = hint or f"; known keys: {', '.join(known)}"
            raise ConfigError(f"{path}: unknown key {shown(place)}{hint}") from error
        got = (
            "" if isinstance(problem.given, (dict, Settings)) else f" (got {shown(problem.given)})"
        )
        where = f"{place}: " if place else ""
        raise ConfigError(f"{path}: {where}{problem.message}{got}") from error
    datasets = {
        name: entry.model_copy(
            update={
                source: _located(getattr(entry, source), path, f"datasets.{name}")
                for source in ("path", "prepare", "given", "simulate")
            }
        )
        for name, entry in grid.datasets.items()
    }
    return grid.model_copy(update={"datasets": datasets})


def _known(keys: tuple[int | str, ...]) -> list[str]:
    """The keys there are where the last of ``keys`` stands."""
    model: type[Settings] = Grid
    outer = iter(keys[:-1])
    for key in outer:
        annotation = model.model_fields[str(key)].annotation
        kinds = [annotation, *get_args(annotation)]
        model = next(k for k in kinds if isinstance(k, type) and issubclass(k, Settings))
        if get_origin(annotation) is dict:
            next(outer, None)  # the name of a dataset, method or setting
    return list(model.model_fields)


#: Arguments that name a file, in the sources of datasets.
_FILES = {
    "path", "log", "randomised", "user_features", "item_features",
    "train", "valid", "test_iid", "test_ood",
}  # fmt: skip


def _located(source: Any, grid: Path, place: str) -> Any:
    """A dataset's source with variables and relative paths resolved."""
    if isinstance(source, str):
        return _file(source, grid, place)
    if isinstance(source, Mapping):
        return {
            key: _file(value, grid, place, named=key == "log")
            if key in _FILES and isinstance(value, str)
            else value
            for key, value in source.items()
        }
    return source


def _file(text: str, grid: Path, place: str, *, named: bool = False) -> str:
    expanded = os.path.expandvars(text)
    missing = re.search(r"\$\{?(\w+)", expanded)
    if missing:
        raise ConfigError(
            f"{grid}: {place}: the variable {missing.group(1)} is not set; export "
            f"{missing.group(1)}=FOLDER, or write the path into the grid"
        )
    here = grid.parent / expanded
    # A log that is no file may be the name of a data set fetched before.
    is_name = named and "/" not in expanded and not here.exists()
    return expanded if is_name else str(here)
