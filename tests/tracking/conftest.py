"""A small world to train on, and a place for local stores."""

from __future__ import annotations

import pytest

from cnsdiff import ConfoundedWorld, Recommender
from cnsdiff.training.progress import Reporter

TRAINING = {"epochs": 4, "batch_size": 64, "validate_every": 2, "patience": None}


class Interrupting(Reporter):
    """Presses Ctrl-C once an epoch is recorded."""

    def __init__(self, epoch: int) -> None:
        self.at = epoch

    def epoch(self, record, *, best):
        if record["epoch"] == self.at:
            raise KeyboardInterrupt


@pytest.fixture(scope="session")
def world():
    return ConfoundedWorld(n_users=60, n_items=50, exposures=20, seed=0).dataset()


@pytest.fixture(scope="session")
def dated():
    """One whose shift in time can be rehearsed."""
    return ConfoundedWorld(n_users=150, n_items=100, seed=0).dataset(shift="temporal")


@pytest.fixture
def recommender():
    """Makes one that counts false negatives and hardness too."""
    return lambda **options: Recommender("mf", "cnsdiff", training=TRAINING, **options)


@pytest.fixture
def interrupting() -> type[Interrupting]:
    return Interrupting


class Noting(Reporter):
    """Keeps what it is told to say."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message):
        self.notes.append(message)


@pytest.fixture
def noting() -> Noting:
    return Noting()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Stores that are not told where to be are in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
