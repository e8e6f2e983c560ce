"""Real processes, really killed: what is resumed ends as what was left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cnsdiff import Recommender, load_dataset

pytestmark = pytest.mark.slow

EPOCHS = 30
# One thread, here and there: sums over several threads may be taken in another order.
OPTIONS = (
    "--threads", "1",
    "--set", f"training.epochs={EPOCHS}",
    "--set", "training.batch_size=32",
    "--set", "training.patience=null",
)  # fmt: skip


@contextmanager
def process(*arguments: object):
    """``cnsdiff`` in a process of its own, sure to be gone at the end."""
    command = [sys.executable, "-c", "from cnsdiff.cli import main; main()", *map(str, arguments)]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background would hand on that it ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def wait_for_epochs(running: subprocess.Popen, epochs: int) -> int:
    """Read until ``epochs`` more are reported; the last one's number."""
    for line in running.stderr:
        if ": going on after epoch " in line:
            continue
        assert ": epoch " in line, line
        epochs -= 1
        if epochs == 0:
            return int(line.partition(": epoch ")[2].partition("/")[0])
    raise AssertionError("training ended before it could be disturbed")


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """An undisturbed run with the same settings."""
    run = tmp_path_factory.mktemp("killed") / "whole"
    training = {"epochs": EPOCHS, "batch_size": 32, "patience": None}
    before = torch.get_num_threads()
    Recommender(threads=1, training=training).fit(load_dataset(world), run=run)
    torch.set_num_threads(before)
    return run


def assert_same(run, whole):
    ours, theirs = load_file(run / "weights.safetensors"), load_file(whole / "weights.safetensors")
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert sorted(f.name for f in run.iterdir()) == sorted(f.name for f in whole.iterdir())


def test_ended_at_random_moments_and_resumed(cli, world, tmp_path, whole):
    """Killed, then politely ended in both ways; each goes on from where the one before was."""
    random, run, reached = np.random.default_rng(2), tmp_path / "run", 0
    command = ("train", world, "--out", run, *OPTIONS)
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        with process(*command) as running:
            epoch = wait_for_epochs(running, int(random.integers(2, 6)))
            assert epoch > reached
            reached = epoch
            time.sleep(random.uniform(0, 0.2))
            running.send_signal(number)
            out, err = running.communicate(timeout=60)
        assert not (run / "weights.safetensors").exists()
        command = ("train", "--resume", run)
        if number == signal.SIGKILL:
            assert running.returncode == -signal.SIGKILL
            continue
        assert (running.returncode, out) == (130, "")
        assert "Traceback" not in err
        assert err.splitlines()[-1] == (
            "cnsdiff: interrupted; the epochs completed are saved, go on with "
            f"`cnsdiff train --resume {run}`"
        )
    assert cli(*command).code == 0
    assert_same(run, whole)
