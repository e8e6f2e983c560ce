"""``cnsdiff serve`` as a process: it answers, ends when it is asked to, and says what is wrong."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys

import httpx
import pytest

import cnsdiff


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    world = cnsdiff.ConfoundedWorld(n_users=60, n_items=40, exposures=20, seed=0)
    model = cnsdiff.Recommender("mf", training={"epochs": 1}).fit(world.dataset("temporal"))
    return model.save(tmp_path_factory.mktemp("runs") / "run")


def serve(run, tmp_path, *options):
    command = [sys.executable, "-m", "cnsdiff", "serve", str(run), "--port", "0", *options]
    return subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def started(process):
    """What it prints once it listens."""
    text = ""
    for line in process.stdout:
        text += line
        if line.startswith("}"):
            return json.loads(text)
    raise AssertionError(process.stderr.read())


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_what_was_acknowledged_is_there_after_the_end(run, tmp_path, end):
    with serve(run, tmp_path, "--json") as process:
        place = started(process)["url"]
        assert httpx.get(f"{place}/health/ready").json() == {"status": "ready"}
        refused = httpx.get(f"{place}/versions", headers={"Host": "evil.example"})
        assert (refused.status_code, "is none of this service's" in refused.text) == (400, True)
        body = {"event_id": "e", "user": "new", "item": "26", "timestamp": 1e9}
        assert httpx.post(f"{place}/events", json={"events": [body]}).json()["new"] == 1
        process.send_signal(end)
        process.wait(timeout=30)
        if end != signal.SIGKILL:
            assert "Traceback" not in process.stderr.read()
    with serve(run, tmp_path, "--json", "--store", "cnsdiff.db") as process:
        place = started(process)["url"]
        answer = httpx.post(f"{place}/recommend", json={"user": "new"}).json()
        assert answer["source"] == "folded-in"
        again = httpx.post(f"{place}/events", json={"events": [body]}).json()
        assert again == {"new": 0, "repeated": 1}
        process.kill()


def test_what_is_wrong_is_told_before_anything_is_served(cli, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("serve", run, "--host", "0.0.0.0")
    assert done.code == 2
    assert "other machines could write without a token" in done.err
    done = cli("serve", run, "--replicas", 2)
    assert (done.code, "--replicas is for --ray" in done.err) == (2, True)
    done = cli("serve", tmp_path / "none", "--port", 0)
    assert (done.code, "is not a run directory" in done.err) == (2, True)
    (tmp_path / "wrong.yaml").write_text("refrehs: 5\n")
    done = cli("serve", run, "--config", "wrong.yaml")
    assert done.code == 2
    assert "wrong.yaml: unknown setting 'refrehs' (did you mean 'refresh'?)" in done.err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = cli("serve", run, "--port", taken.getsockname()[1])
    assert done.code == 2
    assert "cannot be listened at" in done.err
    done = cli("serve", run, "--store", "mysql://x/y", "--port", 0)
    assert done.code == 2


def test_the_name_that_it_listens_at_is_one_of_its_hosts(cli, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("hosts: [shop.example]\n")
    served = []
    monkeypatch.setattr(
        "uvicorn.Server.run", lambda server, sockets: served.append(server.config.app.state.service)
    )
    done = cli("serve", run, "--host", "localhost", "--port", 0, "--config", "own.yaml")
    assert done.code == 0, done.err
    assert served[0].config.hosts == ("shop.example", "localhost")
