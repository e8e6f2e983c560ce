"""How other people's code takes part: as a command of yours, in an environment of its own.

The command is called with

    --dataset FOLDER --threads N --epochs K

where ``FOLDER`` has ``train.txt`` and ``test.txt``, a line ``USER ITEM 1`` for each pair, with
users and items numbered from 0 and known to train. It trains ``K`` epochs on ``N`` CPU threads,
evaluates on the pairs of ``test.txt`` after each, and prints, as the last line of its standard
output, a JSON object with a list of ``K`` numbers for each thing it was asked to time:

    {"epoch_seconds": [25.9, 27.6], "evaluation_seconds": [0.84, 0.84]}

Loading data is in none of them. The first epoch warms up unless it is the only one. ``test.txt``
holds the *validation* pairs: those that our own training ranks after each epoch.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from measurement import Place

from cnsdiff.data import Dataset


class PeerError(Exception):
    """A command did not do what it should, in one sentence."""


class Peer:
    """A command that times other people's code on one dataset.

    Parameters
    ----------
    command
        As a shell would read it; it is run without one.
    folder
        With ``train.txt`` and ``test.txt``.
    threads, epochs
        What it is asked for.
    """

    def __init__(self, command: str, folder: Path, threads: int, epochs: int) -> None:
        asked = ["--dataset", str(folder), "--threads", str(threads), "--epochs", str(epochs)]
        self._command = [*shlex.split(command), *asked]
        self._epochs = epochs
        # Libraries that start their threads as they are imported read these.
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        self._environment = os.environ | {name: str(threads) for name in names}

    def turn(self, names: Sequence[str]) -> dict[str, float]:
        """Run it once; the median of each list of seconds it prints under ``names``.

        Raises
        ------
        PeerError
            It cannot be run, fails, or prints something else.
        """
        try:
            done = subprocess.run(
                self._command, env=self._environment, capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise PeerError(f"the command cannot be run: {error.strerror}") from error
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise PeerError(f"the command failed with {done.returncode} and said: {said}")
        return {name: self._median(done.stdout, name) for name in names}

    def _median(self, printed: str, name: str) -> float:
        line = (printed.strip().splitlines() or [""])[-1]
        try:
            seconds = [float(value) for value in json.loads(line)[name]]
        except (ValueError, TypeError, KeyError) as error:
            raise PeerError(f"the command's last line has no list {name!r}: {line!r}") from error
        if len(seconds) != self._epochs:
            raise PeerError(f"{name} has {len(seconds)} numbers for {self._epochs} epochs")
        return statistics.median(seconds[1:] or seconds)


@contextmanager
def peer(command: str, place: Place, epochs: int) -> Iterator[Peer]:
    """The command, and the pairs it is given while it is in use."""
    with tempfile.TemporaryDirectory() as folder:
        write_pairs(place.dataset, Path(folder))
        yield Peer(command, Path(folder), place.threads, epochs)


def write_pairs(dataset: Dataset, folder: Path) -> None:
    """Write train and validation pairs as ``train.txt`` and ``test.txt``."""
    for split, name in (("train", "train.txt"), ("valid", "test.txt")):
        pairs = dataset.split(split)
        lines = (f"{user} {item} 1\n" for user, item in zip(pairs.users, pairs.items, strict=True))
        (folder / name).write_text("".join(lines), encoding="utf-8")
