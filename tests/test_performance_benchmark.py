"""The performance table on a tiny simulated world: what is in it, not how fast anything is."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from cnsdiff import ConfoundedWorld

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "performance" / "run.py"
ROWS = ["step_floor", "profile", "evaluation_floor", "recbole", "authors_epoch", "growth"]
ROWS += ["environment"]
SECONDS = [900.0, 500.0]  # the first epoch warms up

#: A command of the protocol that trains nothing, but insists on the pairs that it was given.
PEER = f"""
import argparse, json, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--dataset", type=pathlib.Path)
parser.add_argument("--threads", type=int)
parser.add_argument("--epochs", type=int)
given = parser.parse_args()
for name in ("train.txt", "test.txt"):
    for line in (given.dataset / name).read_text().splitlines():
        user, item, one = map(int, line.split(" "))
        assert user >= 0 and item >= 0 and one == 1
assert (given.threads, given.epochs) == (1, 2)
print("talks of this and that")
print(json.dumps({{"epoch_seconds": {SECONDS}, "evaluation_seconds": [7.0, 7.0]}}))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("performance")
    ConfoundedWorld(n_users=80, n_items=100, seed=0).dataset().save(folder / "tiny")
    return folder


@pytest.fixture
def beside_the_script(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Its rows can be imported, as they are where it is run, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before, threads = set(sys.modules), torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for name in {path.stem for path in SCRIPT.parent.glob("*.py")} - before:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def peer(data: Path) -> str:
    (data / "peer.py").write_text(PEER, encoding="utf-8")
    return f"'{sys.executable}' '{data / 'peer.py'}'"


@pytest.mark.slow
@pytest.mark.usefixtures("beside_the_script")
def test_every_row_is_there_and_a_missing_peer_is_named(
    data: Path, peer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = importlib.import_module("run")
    folder, file = data / "figures", data / "report.json"
    small = "--datasets tiny --rounds 1 --epochs 2 --steps 1 --memory-users 300 --growth-sizes 3000"
    places = ["--data", str(data), "--json", str(file), "--figures", str(folder)]
    run.main([*small.split(), *places, "--authors", peer, "--rows", *ROWS])
    printed = capsys.readouterr().out
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert list(rows) == ROWS
    assert all(rows.values())
    for name in ("step_floor", "evaluation_floor"):
        for finding in rows[name]:
            assert finding["low"] <= finding["value"] <= finding["high"]
            target = finding["target"]
            expected = None if target is None else finding["value"] <= target["bound"]
            assert finding["met"] == expected
    for finding in rows["profile"]:
        shares = finding["details"]["shares"]
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["propagation forward"] > 0
        assert shares["propagation backward"] > 0
    assert {finding["unit"] for finding in rows["growth"]} == {"×", "GiB"}
    covariates, share = rows["environment"]
    assert covariates["value"] == pytest.approx(
        covariates["seconds"] / covariates["reference_seconds"]
    )
    assert 0 < share["value"] == share["seconds"] / share["reference_seconds"] < 1
    assert len(rows["recbole"]) == 2
    for finding in rows["recbole"]:
        assert finding["value"] is finding["met"] is None
        assert finding["missing"] == "--recbole not given"
    assert printed.count("not measured: --recbole not given") == 2
    # The command's own numbers are over ours, in the ratio.
    assert len(rows["authors_epoch"]) == 2
    for finding in rows["authors_epoch"]:
        assert finding["reference_seconds"] == SECONDS[1]
        assert finding["value"] == pytest.approx(SECONDS[1] / finding["seconds"])
    for name in ("ratios", "step", "growth"):
        ElementTree.parse(folder / f"performance-{name}.svg")


@pytest.mark.usefixtures("beside_the_script")
@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("no-such-command-here", "cannot be run"),
        (f"'{sys.executable}' -c 'raise SystemExit(\"broken\")'", "failed with 1 and said: broken"),
        (f"'{sys.executable}' -c 'print(1)'", "has no list 'epoch_seconds'"),
        (f"'{sys.executable}' -c 'print({{\"epoch_seconds\": [1]}})'", "has no list"),
        (f"""'{sys.executable}' -c 'print("{{\\"epoch_seconds\\": [1]}}")'""", "1 numbers for 2"),
    ],
)
def test_a_command_that_fails_is_no_number(tmp_path: Path, command: str, reason: str) -> None:
    peers = importlib.import_module("peers")
    with pytest.raises(peers.PeerError, match=reason):
        peers.Peer(command, tmp_path, threads=1, epochs=2).turn(["epoch_seconds"])
