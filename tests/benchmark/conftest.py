"""A small world on disk, a grid on it, and the number of threads as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_parts import small_grid

from cnsdiff import ConfoundedWorld, load_dataset
from cnsdiff.benchmark.grid import Grid
from cnsdiff.benchmark.plan import Unit, plan
from cnsdiff.benchmark.store import Store
from cnsdiff.data import Dataset

Planned = tuple[Grid, tuple[Unit, ...], Store]


@pytest.fixture(scope="session")
def world_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = ConfoundedWorld(n_users=60, n_items=50, exposures=20, seed=0).dataset("popularity")
    return made.save(tmp_path_factory.mktemp("benchmark") / "world")


@pytest.fixture
def world(world_path: Path) -> Dataset:
    return load_dataset(world_path)


@pytest.fixture
def planned(world_path: Path, tmp_path: Path) -> Callable[..., Planned]:
    """A grid with changes, its units and its opened store."""

    def make(folder: str = "out", **changes: Any) -> Planned:
        grid = small_grid(world_path, **changes)
        store = Store(tmp_path / folder)
        store.open(grid)
        return grid, plan(grid, {"world": world_path}, threads=1), store

    return make


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
