"""Two replicas of the service on a Ray cluster of this machine, with a store on PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import httpx
import pytest
from service_parts import N_ITEMS, event, train

from cnsdiff.base.errors import ConfigError, InputError
from cnsdiff.serving.config import ServiceConfig
from cnsdiff.serving.ray import _for_elsewhere, _require_listener, _start, replicated
from cnsdiff.serving.store import Store

AT_ONCE = 8


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return train(folder / "first"), train(folder / "second", seed=1)


@pytest.fixture(scope="module")
def store_address(postgresql):
    return postgresql.url("replicated")


@pytest.fixture(scope="module")
def service(runs, store_address, tmp_path_factory):
    """The address of ``cnsdiff serve --ray``, and the mark that its processes carry."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "service.yaml").write_text("follow: 0.2\n")
    mark = f"CNSDIFF_RAY_TEST={folder}"
    name, _, value = mark.partition("=")
    environment = {**os.environ, name: value, "RAY_ADDRESS": "local"}
    command = [sys.executable, "-m", "cnsdiff", "serve", str(runs[0]), "--store", store_address]
    command += ["--ray", "--replicas", "2", "--port", "0", "--config", "service.yaml", "--json"]
    with (folder / "stderr").open("w") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert process.stdout is not None
        lines = []
        while not lines or lines[-1] not in ("", "}\n"):  # at its end, lines are empty
            lines.append(process.stdout.readline())
        text = "".join(lines)
        assert "url" in text, (folder / "stderr").read_text()
        yield json.loads(text)["url"], mark
    finally:
        process.terminate()
        process.wait(60)
        said = (folder / "stderr").read_text()
    assert process.returncode == 130, said
    assert "cnsdiff: interrupted; what was acknowledged is kept" in said
    assert "Traceback" not in said
    assert not processes(mark)


def processes(mark: str, word: bytes = b"ray") -> set[int]:
    """Those with a mark in their environment and a word in their command."""
    numbers = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if mark.encode() in environment.split(b"\0") and word in command:
            numbers.add(int(folder.name))
    return numbers


def together(work, count: int) -> list:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(work, range(count)))


def lists_of_replicas(address: str) -> set[float]:
    """How many lists each of the replicas that answer has made."""

    def lists(_: int) -> float:
        lines = httpx.get(f"{address}/metrics", timeout=60).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("cnsdiff_lists_t"))

    return set(together(lists, 4 * AT_ONCE))


def test_a_port_that_another_takes_first(monkeypatch):
    """Of one that was named it is said, in the place of a free one the next is taken."""
    from ray import serve

    taken, ended = [], []

    def start(*, http_options, **_):
        taken.append(http_options["port"])
        if len(taken) < 3:
            raise RuntimeError(f"ray::ready()\nFailed to bind to address {taken[-1]}.")

    monkeypatch.setattr(serve, "start", start)
    monkeypatch.setattr(serve, "shutdown", lambda: ended.append(1))
    assert _start("127.0.0.1", 0) == taken[2]
    assert len(ended) == 2
    taken.clear()
    with pytest.raises(InputError, match=r"listen there \(Failed to bind to address 81"):
        _start("127.0.0.1", 81)
    assert taken == [81]


def test_several_machines_do_not_share_a_file(tmp_path, monkeypatch):
    import ray

    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}] * 2
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr("cnsdiff.serving.ray.connected", lambda **_: nullcontext())
    place = {"host": "127.0.0.1", "port": 1, "replicas": 1}
    with (
        Store.open(f"sqlite:///{tmp_path}/store.db") as store,
        pytest.raises(ConfigError, match="SQLite is of one machine, and the cluster has 2; name"),
        replicated(store, ServiceConfig(), **place),
    ):
        pass


def test_a_cluster_that_listens_elsewhere_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        _require_listener("127.0.0.1", port)
    with pytest.raises(InputError, match=f"{port}.*: nobody listens there, so Serve was on this"):
        _require_listener("127.0.0.1", port, patience=0)


def test_a_file_is_named_so_that_any_folder_finds_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = ServiceConfig(environment="bias.csv", item_features=Path("items.csv"))
    with Store.open("sqlite:///store.db") as store:
        url, elsewhere = _for_elsewhere(store, config)
    assert url == f"sqlite:///{tmp_path}/store.db"
    assert elsewhere.environment == str(tmp_path / "bias.csv")
    assert elsewhere.item_features == tmp_path / "items.csv"


@pytest.mark.slow
def test_all_replicas_follow_an_activation(service, runs):
    address, _ = service
    client = httpx.Client(timeout=60)

    def version(_: int) -> str:
        return client.post(f"{address}/recommend", json={"user": 1}).json()["version"]

    before = set(together(version, 4 * AT_ONCE))
    assert len(before) == 1
    client.post(f"{address}/versions", json={"path": str(runs[1]), "name": "next"})
    assert client.post(f"{address}/activate", json={"version": "next"}).status_code == 200
    made, ends = 4 * AT_ONCE, time.monotonic() + 30
    while True:
        now = together(version, 4 * AT_ONCE)
        made += len(now)
        assert set(now) <= {*before, "next"}
        if set(now) == {"next"}:
            break
        assert time.monotonic() < ends
    assert set(together(version, 4 * AT_ONCE)) == {"next"}  # no replica goes back
    counts, made = lists_of_replicas(address), made + 4 * AT_ONCE
    # Of two replicas, which may have made as many.
    assert sum(counts) == made if len(counts) == 2 else counts == {made / 2}


@pytest.mark.slow
def test_a_replica_is_killed_under_load(service, store_address):
    """No event is lost, others answer on, and a client sees an error only of what it had sent."""
    address, mark = service
    acknowledged: set[str] = set()
    statuses: Counter[int] = Counter()
    stop, lock = threading.Event(), threading.Lock()

    def send(worker: int) -> None:
        client, number = httpx.Client(timeout=60), 0
        while not stop.is_set():
            number += 1
            sent = event(f"{worker}-{number}", worker, number % N_ITEMS)
            while True:  # until it is acknowledged
                status = client.post(f"{address}/events", json={"events": [sent]}).status_code
                with lock:
                    statuses[status] += 1
                if status == 200:
                    break
            listed = client.post(f"{address}/recommend", json={"user": worker})
            with lock:
                acknowledged.add(sent["event_id"])
                statuses[listed.status_code] += 1
            if listed.status_code == 200:  # reads its writes, whoever answers
                assert listed.json()["source"] == "folded-in"

    def wait_for(condition) -> None:
        ends = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < ends
            time.sleep(0.05)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(send, worker) for worker in range(AT_ONCE)]
        try:
            wait_for(lambda: len(acknowledged) > 100)
            replicas = processes(mark, b"ServeReplica")
            assert len(replicas) == 2
            os.kill(min(replicas), signal.SIGKILL)
            so_far = len(acknowledged)
            wait_for(lambda: len(acknowledged) > so_far + 100)
            wait_for(lambda: len(processes(mark, b"ServeReplica")) == 2)
        finally:
            stop.set()
        for future in futures:
            future.result()
    assert statuses.keys() <= {200, 500}
    assert statuses[500] <= AT_ONCE
    with Store.open(store_address) as store:
        stored = store.events()
        assert len(stored) == len(acknowledged)
        assert store.check() == []
