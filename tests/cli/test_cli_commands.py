"""Help, version, doctor and quickstart."""

from __future__ import annotations

import sys
from functools import partial

import pytest

from cnsdiff import ConfoundedWorld, Recommender, load_dataset
from cnsdiff.base.text import install_command

COMMANDS = ["quickstart", "simulate", "prepare", "train", "evaluate", "recommend", "doctor"]
DATA_COMMANDS = ["data list", "data fetch", "data describe"]


@pytest.mark.parametrize("command", [*COMMANDS, *DATA_COMMANDS])
def test_help_has_an_example(cli, command):
    done = cli(*command.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert f"Example: cnsdiff {command}" in done.out
    assert "--json" in done.out


def test_help_lists_every_command(cli):
    done = cli("--help")
    assert done.code == 0
    for command in [*COMMANDS, "data"]:
        assert command in done.out
    assert "cnsdiff quickstart" in done.out
    listed = cli("data", "--help").out
    assert all(command.removeprefix("data ") in listed for command in DATA_COMMANDS)


def test_version(cli):
    import importlib.metadata

    done = cli("--version")
    assert (done.code, done.out) == (0, f"cnsdiff {importlib.metadata.version('cnsdiff')}\n")


@pytest.mark.parametrize("arguments", [["trian"], ["train", "--nonsense"], ["prepare"]])
def test_wrong_usage(cli, arguments):
    done = cli(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert "Traceback" not in done.err


def test_doctor(cli):
    report = cli("doctor", "--json").json
    assert report["missing"]["core"] == []
    assert report["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"cnsdiff", "torch", "polars"} <= report["versions"].keys()
    assert report["compute"]["auto_device"] in ("cpu", "cuda")
    done = cli("doctor")
    assert done.code == 0
    for word in ("torch", "threads", "core", "complete"):
        assert word in done.out


def test_doctor_names_what_an_extra_lacks(cli, monkeypatch):
    needed = ["torch>=2.5", 'no-such-part[x]>=1; extra == "bench"', "numpy; extra == 'serve'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: needed)
    missing = cli("doctor", "--json").json["missing"]
    assert missing == {"core": [], "bench": ["no-such-part"], "serve": []}
    lines = {line.split()[0]: line for line in cli("doctor").out.splitlines()}
    assert f"missing no-such-part  ({install_command('bench')})" in lines["bench"]
    assert lines["serve"].split() == ["serve", "complete"]


@pytest.mark.slow
def test_quickstart(cli, tmp_path):
    out = tmp_path / "quick"
    done = cli("quickstart", "--epochs", 1, "--out", out)
    assert done.code == 0, done.err
    for word in ("mostpop", "random", "exposure", "IID test", "OOD test", "Kept in"):
        assert word in done.out
    assert "exposure: epoch 1/1" in done.err
    dataset = load_dataset(out / "dataset")
    for name in ("random", "exposure"):
        model = Recommender.load(out / name)
        assert model.config_.sampler.name == name
        assert model.dataset_path_ == (out / "dataset").resolve()
        model.evaluate(dataset, ["valid"])
    assert cli("recommend", out / "exposure", "--users", "0,1", "--json").json
    before = sorted(entry.name for entry in out.iterdir())
    cli("quickstart", "--out", out).refused("already exists", "another --out")
    assert sorted(entry.name for entry in out.iterdir()) == before


@pytest.mark.slow
def test_quickstart_json_keeps_nothing(cli, tmp_path, monkeypatch):
    def out_of_memory(self, train):
        raise MemoryError

    small = partial(ConfoundedWorld, n_users=200, n_items=100, exposures=30)
    monkeypatch.setattr("cnsdiff.simulate.ConfoundedWorld", small)
    monkeypatch.setattr("cnsdiff.references.MostPop._fit", out_of_memory)
    monkeypatch.chdir(tmp_path)
    report = cli("quickstart", "--epochs", 1, "--json").json
    read_twice = ["random, even exposure", "exposure, even exposure"]
    models = report["models"]
    assert list(models) == ["random", "exposure", *read_twice]
    assert report["left_out"] == {"mostpop": "there is not enough memory for it"}
    assert models["random"] != models["random, even exposure"]
    assert {"valid", "test_iid", "test_ood"} == models["exposure"]["splits"].keys()
    assert report["path"] is None
    assert not list(tmp_path.iterdir())
