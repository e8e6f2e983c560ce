"""Starting several processes as a user would, and comparing the runs that they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from cnsdiff import Recommender

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    """``torchrun`` with two processes, to its end."""
    return subprocess.run(
        list(map(str, (*TORCHRUN, *arguments))),
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
        timeout=300,
    )


def forked(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same, where how the processes are started is not what is tested."""
    server, words = _server(), list(map(str, arguments))
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        print(json.dumps([words, list(map(str, files))]), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(words, code, *(file.read_text() for file in files))


@cache
def _server() -> subprocess.Popen[str]:
    """What ``forked`` asks for processes; it ends with its input, which is ours."""
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("forked.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def train_together(dataset: Path, variants: dict[str, dict[str, Any]], out: Path) -> None:
    """Every variant by two processes, each into the run directory ``out / name``."""
    file = out.with_suffix(".json")
    file.write_text(json.dumps(variants))
    done = forked(Path(__file__).with_name("several.py"), dataset, file, out)
    assert done.returncode == 0, done.stderr


def furthest(one: Path, other: Path) -> float:
    """The largest difference of any weight of two runs, which have the same ones."""
    ours, theirs = (load_file(run / "weights.safetensors") for run in (one, other))
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def scalars(run: Path, *, without: tuple[str, ...] = ()) -> list[dict[str, float]]:
    """What a run's history records of each epoch, but for times and names that begin so."""
    return [
        {
            f"{kind}/{name}": value
            for kind in ("train", "validation")
            for name, value in record[kind].items()
            if not name.startswith(without)
        }
        for record in Recommender.load(run).history_
    ]
