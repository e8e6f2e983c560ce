"""The command line called in this process, exactly as the installed script calls it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from cnsdiff import ConfoundedWorld, Recommender, load_dataset
from cnsdiff.cli import main

#: What training says on the way.
PROGRESS = re.compile(r": (epoch|going on after epoch) \d+")


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON document and nothing else."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    def refused(self, *words: str, code: int = 2) -> str:
        """The one sentence of a refusal, which must hold all ``words``."""
        assert (self.code, self.out) == (code, ""), (self.code, self.out, self.err)
        lines = [line for line in self.err.splitlines() if not PROGRESS.search(line)]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("cnsdiff: ")
        for word in words:
            assert word in lines[0], (word, lines[0])
        return lines[0]


@pytest.fixture
def cli(monkeypatch, capsys) -> Iterator[Callable[..., Outcome]]:
    handler, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["cnsdiff", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        else:
            code = 0
        return Outcome(int(code), *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, handler)
    torch.set_num_threads(threads)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every entry below a folder and every file's content."""
    return {
        str(entry.relative_to(folder)): entry.read_bytes() if entry.is_file() else None
        for entry in sorted(folder.rglob("*"))
    }


@pytest.fixture
def untouched(tmp_path) -> Iterator[Callable[[], None]]:
    """Call it to assert that nothing below ``tmp_path`` changed since the call before."""
    state: list[dict[str, bytes | None]] = []

    def check() -> None:
        state.append(snapshot(tmp_path))
        if len(state) > 1:
            before, after = state[-2:]
            assert before.keys() == after.keys()
            assert not [name for name in before if before[name] != after[name]]

    return check


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A small dataset directory."""
    made = ConfoundedWorld(n_users=60, n_items=50, exposures=20, seed=0).dataset()
    return made.save(tmp_path_factory.mktemp("cli") / "world")


@pytest.fixture(scope="session")
def kept_run(world, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("cli") / "run"
    training = {"epochs": 2, "batch_size": 64}
    Recommender("mf", "random", training=training).fit(load_dataset(world), run=run)
    return run


@pytest.fixture
def run(kept_run, tmp_path) -> Path:
    """A finished run of one's own."""
    return shutil.copytree(kept_run, tmp_path / "run")


FAST = ("--sampler", "random", "--threads", 1, "--set", "training.batch_size=64")


@pytest.fixture
def fast() -> tuple[object, ...]:
    """Options of ``train`` for a quick one."""
    return (*FAST, "--set", "training.epochs=2")
