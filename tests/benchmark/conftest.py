"""A small world on disk, and the number of threads as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cnsdiff import ConfoundedWorld, load_dataset
from cnsdiff.data import Dataset


@pytest.fixture(scope="session")
def world_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = ConfoundedWorld(n_users=60, n_items=50, exposures=20, seed=0).dataset("popularity")
    return made.save(tmp_path_factory.mktemp("benchmark") / "world")


@pytest.fixture
def world(world_path: Path) -> Dataset:
    return load_dataset(world_path)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
