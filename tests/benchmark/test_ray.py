"""The same grid on a Ray cluster: the same table, failures alone, nothing left behind."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import polars as pl
import pytest
from benchmark_parts import Broken, Deadly, Inline, small_grid, values_of
from polars.testing import assert_frame_equal

from cnsdiff.base.errors import ConfigError
from cnsdiff.benchmark.findings import Results, collect
from cnsdiff.benchmark.plan import plan
from cnsdiff.benchmark.run import run
from cnsdiff.benchmark.store import Store
from cnsdiff.benchmark.workers import RayWorkers

pytestmark = pytest.mark.slow

MEMORY = 100 * 2**20


def ray_processes() -> set[int]:
    """Processes of Ray that this one and its children started."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        own = f"CNSDIFF_RAY_TEST={os.getpid()}".encode()
        if own in environment.split(b"\0") and (b"ray" in command) and command:
            found.add(int(folder.name))
    return found - {os.getpid()}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two nodes with one CPU each."""
    before = dict(os.environ)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["CNSDIFF_RAY_TEST"] = str(os.getpid())
    # Its processes find the misbehaving methods, as they find an installed package.
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node)
    try:
        made.add_node(num_cpus=1, object_store_memory=MEMORY)
        made.wait_for_nodes()
        assert ray_processes(), "the test of what is left behind would see nothing"
        yield made.address
    finally:
        made.shutdown()
        os.environ.clear()
        os.environ.update(before)
        end = time.monotonic() + 20
        while ray_processes() and time.monotonic() < end:
            time.sleep(0.2)
        assert not ray_processes()


def workers(address: str) -> RayWorkers:
    return RayWorkers(address, 1, log_to_driver=False)


class Found(NamedTuple):
    """What the same connection to the cluster made of a grid, and of one with misfits."""

    same: tuple[pl.DataFrame, pl.DataFrame]
    failures: Results
    gone: Path


@pytest.fixture(scope="module")
def found(cluster, world_path, tmp_path_factory) -> Found:
    """Both grids, one after the other: the cluster's processes take seconds to import PyTorch."""
    import ray

    folder = tmp_path_factory.mktemp("ray")
    grid = small_grid(world_path)
    units = plan(grid, {"world": world_path}, threads=1)
    methods = {name: {"reference": "mostpop"} for name in "abcd"}
    other = small_grid(world_path, methods=methods)
    misfits = []
    for unit in plan(other, {"world": world_path}, threads=1):
        task = unit.trials[0]
        name = task.method.name
        if name in "bd":
            method = {"b": Deadly, "d": Broken}[name](name, "mostpop", {})
            task = replace(task, method=method)
        if name == "c":
            task = replace(task, path=str(folder / "gone"))
        misfits.append(replace(unit, trials=(task,)))
    stores = {name: Store(folder / name) for name in ("inline", "ray", "misfits")}
    stores["inline"].open(grid)
    with Inline() as pool:
        run(units, stores["inline"], pool)
    stores["ray"].open(grid)
    stores["misfits"].open(other)
    with workers(cluster) as pool:
        run(units, stores["ray"], pool)
        run(tuple(misfits), stores["misfits"], pool)
    assert not ray.is_initialized()
    here, there = (values_of(grid, units, stores[name]) for name in ("inline", "ray"))
    return Found((here, there), collect(other, tuple(misfits), stores["misfits"]), folder / "gone")


def test_a_cluster_finds_the_same(found):
    here, there = found.same
    assert_frame_equal(there, here)


def test_failures_there_are_failures_here(found):
    """With their own sentences, whether an error is ours, anybody's, or the process's end."""
    results = found.failures
    assert results.missing == 0
    assert set(results.table["method"]) == {"a"}
    said = dict(results.failures.select("method", "error").iter_rows())
    assert said.keys() == {"b", "c", "d"}
    assert said["b"].startswith("its process died")
    assert said["c"].startswith(f"{found.gone}: ")
    assert said["d"] == "ZeroDivisionError: nothing"
    assert not any("\n" in sentence for sentence in said.values())


@pytest.mark.parametrize("asked", [{"threads": 2}, {"threads": 1, "gpus": 1}])
def test_tasks_that_no_machine_can_take_are_refused(cluster, asked):
    """The cluster has two CPUs, but no machine with both."""
    import ray

    with pytest.raises(ConfigError, match="none of the 2 machines of the cluster has as many"):
        RayWorkers(cluster, **asked, log_to_driver=False)
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:1", "ray://127.0.0.1:1", "no.such.host.invalid:6379", "host:port"],
)
def test_no_cluster_there(address):
    started = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        RayWorkers(address, 1, log_to_driver=False)
    assert time.monotonic() - started < 15
    said = str(caught.value)
    assert said.startswith(f"ray {address}: no cluster answers (")
    assert "\n" not in said


def test_ray_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"ray needs Ray; install it with: .* install"):
        RayWorkers("auto", 1)


def test_what_ray_is_told(monkeypatch):
    """A cluster of this process alone is quiet, also towards its makers."""
    told = {}

    def init(**options: object) -> None:
        told.update(options, calls_home=os.environ.get("RAY_USAGE_STATS_ENABLED"))

    def remote(**options: object) -> object:
        told.update(options)
        return lambda function: function

    def nodes() -> list[dict[str, object]]:
        return [{"Alive": True, "Resources": {"CPU": 6.0, "GPU": 1.0}}]

    def shutdown() -> None:
        told.update(down=True)

    fake = SimpleNamespace(init=init, remote=remote, shutdown=shutdown, nodes=nodes)
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    with RayWorkers("local", 3, gpus=0.5, num_cpus=6):
        assert "down" not in told
    assert told == {
        **{"address": "local", "log_to_driver": False, "include_dashboard": False},
        **{"num_cpus": 3, "num_gpus": 0.5, "max_retries": 0, "calls_home": "0", "down": True},
    }
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
