"""Training on a Ray cluster: the same weights as without one, and failures in their own words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from launching import furthest, scalars, train_together

from cnsdiff.base.errors import ConfigError, TrainingError
from cnsdiff.training.cluster import _cause, connected, require_room, train_on_cluster

TRAINING = {"epochs": 2, "batch_size": 200, "patience": None}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of this machine that says it has two CPUs."""
    before = dict(os.environ)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node)
    yield made.address
    made.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.slow
def test_a_cluster_trains_as_torchrun_does(cluster, dataset, tmp_path):
    train_together(dataset, {"there": {"training": TRAINING}}, tmp_path)
    settings = [f"training.{name}={json.dumps(value)}" for name, value in TRAINING.items()]
    words = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "cnsdiff", "train", str(dataset), "--out", "here", *words]
    done = subprocess.run(
        [*command, "--ray", "2", "--json"],
        cwd=tmp_path,  # which is not the cluster's
        env={**os.environ, "RAY_ADDRESS": cluster},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == "here"
    assert done.stderr.count(": epoch 2/2 ") == 1
    assert furthest(tmp_path / "there", tmp_path / "here") == 0
    assert scalars(tmp_path / "there") == scalars(tmp_path / "here")


@pytest.mark.slow
def test_a_failure_is_told_in_its_own_words(cluster):
    def fail() -> str:
        from cnsdiff.training.processes import place

        assert "RANK" in os.environ
        assert place().count == 1
        raise ConfigError("this cannot be trained; train something else")

    with connected(cluster, log_to_driver=False):
        with pytest.raises(ConfigError, match=r"^this cannot be trained; train something else$"):
            train_on_cluster(fail, 1, "cpu", 1)
        for more in ((3, 1), (2, 2), (1, 1, 1)):
            with pytest.raises(ConfigError, match=r"the cluster has room for \d; start fewer"):
                require_room(*more)
        require_room(2, 1)


def test_of_several_failures_the_first_cause_is_told():
    ended = TrainingError("another of the training processes has ended; its own message says why")
    wrong = SimpleNamespace(cause=ConfigError("wrong"))  # as Ray wraps it
    assert _cause({0: ended, 1: wrong}) is wrong.cause
    assert _cause({0: ended, 1: RuntimeError("killed\nby somebody")}) is not ended
    said = str(_cause({1: RuntimeError("killed\nby somebody")}))
    assert said == "a process of the cluster failed: RuntimeError: killed"
