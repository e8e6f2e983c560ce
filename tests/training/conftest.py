"""A small world to train on, and reporters that watch or disturb."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnsdiff import ConfoundedWorld
from cnsdiff.data import Dataset
from cnsdiff.training.progress import Reporter


@pytest.fixture(scope="session")
def world() -> Dataset:
    return ConfoundedWorld(n_users=60, n_items=50, exposures=20, seed=0).dataset()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """A saved one, of as many users and items as two processes cannot share evenly."""
    path = tmp_path_factory.mktemp("data") / "world"
    ConfoundedWorld(n_users=63, n_items=51, exposures=20, seed=0).dataset().save(path)
    return path


class Interrupting(Reporter):
    """Presses Ctrl-C once ``epochs`` are recorded and ``steps`` more are done."""

    def __init__(self, epochs: int, steps: int = 0) -> None:
        self.epochs, self.steps = epochs, steps

    def epoch(self, record, *, best):
        if record["epoch"] == self.epochs and self.steps == 0:
            raise KeyboardInterrupt

    def step(self, epoch, scalars):
        if epoch == self.epochs + 1:
            self.steps -= 1
            if self.steps == 0:
                raise KeyboardInterrupt


@pytest.fixture
def interrupting() -> type[Interrupting]:
    return Interrupting


class Noting(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.best: list[bool] = []
        self.begun: tuple[int, int, int] | None = None

    def begin(self, first_epoch, epochs, steps):
        self.begun = (first_epoch, epochs, steps)

    def epoch(self, record, *, best):
        self.best.append(best)

    def note(self, message):
        self.notes.append(message)


@pytest.fixture
def noting() -> Noting:
    return Noting()
