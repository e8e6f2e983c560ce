"""The example plugin as an installed package: every command takes what it adds.

It is built into a wheel and unpacked, which is all that installing does; a folder on the path with
the package and its ``dist-info``.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from cnsdiff import Recommender, load_dataset
from cnsdiff.base.storage import sha256, write_json, write_text

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin"


@pytest.fixture(scope="session")
def plugin_folder(tmp_path_factory) -> Path:
    """The example, built and unpacked."""
    pytest.importorskip("hatchling")
    wheels, folder = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    subprocess.run(build, cwd=EXAMPLE, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def plugin(plugin_folder, monkeypatch) -> Path:
    """The example, installed for one test; for processes that it starts, too."""
    monkeypatch.syspath_prepend(plugin_folder)
    monkeypatch.setenv("PYTHONPATH", str(plugin_folder))
    before = set(sys.modules)
    yield plugin_folder
    for name in set(sys.modules) - before:
        if name.startswith("cnsdiff_example"):
            del sys.modules[name]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a package that offers things: ``package("shop", {"cnsdiff.samplers": …}, code)``."""

    def install(name: str, offers: dict[str, dict[str, str]], code: str = "") -> None:
        folder = tmp_path / f"site-{name}"
        about = folder / f"{name.replace('-', '_')}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = []
        for group, points in offers.items():
            lines += [f"[{group}]", *(f"{key} = {where}" for key, where in points.items())]
        (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
        (folder / f"{name.replace('-', '_')}.py").write_text(code)
        monkeypatch.syspath_prepend(folder)

    return install


@pytest.fixture
def log(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    file = tmp_path / "log.csv"
    pl.DataFrame(
        {
            "user": rng.integers(60, size=2500),
            "item": rng.integers(50, size=2500),
            "timestamp": rng.integers(1_600_000_000, 1_610_000_000, size=2500),
        }
    ).write_csv(file)
    return file


GRID = """
name: plugged
datasets:
  evening: {{path: {data}}}
methods:
  mixed: {{set: {{sampler.name: mixed, backbone.name: projected, sampler.candidates: 4}}}}
seeds: [0]
budget: {{epochs: 1}}
select_on: [valid]
"""


@pytest.mark.slow
def test_every_command_takes_what_a_plugin_adds(cli, plugin, log, fast, tmp_path):
    data, run = tmp_path / "evening", tmp_path / "run"
    options = ("--scenario", "time-of-day", "--set", "start=18", "--set", "hours=3")
    made = cli("prepare", log, *options, "--out", data, "--json").json
    assert (made["scenario"], made["settings"]["hours"]) == ("time-of-day", 3)
    hours = load_dataset(data).split("test_ood").timestamps // 3600 % 24
    assert set(np.unique(hours)) == {18, 19, 20}
    cli("prepare", log, "--scenario", "time-of-day", "--set", "star=3", "--out", data).refused(
        "time-of-day", "unknown setting 'star'", "did you mean 'start'"
    )
    chosen = ("--sampler", "mixed", "--backbone", "projected", "--set", "sampler.share=0.25")
    cli("train", data, *fast[2:], *chosen, "--out", run, "--json").json  # noqa: B018
    config = Recommender.load(run).config_
    assert (config.sampler.share, config.sampler.candidates) == (0.25, 8)
    plugins = json.loads((run / "manifest.json").read_text())["plugins"]
    assert plugins == {"mixed": "cnsdiff-example 0.1.0", "projected": "cnsdiff-example 0.1.0"}
    cli("train", data, *chosen, "--set", "sampler.shaer=1", "--out", tmp_path / "no").refused(
        "unknown key 'sampler.shaer'", "did you mean 'share'"
    )
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID.format(data=data))
    out = tmp_path / "results"
    done = cli("benchmark", grid, "--out", out, "--workers", 1, "--threads", 1)
    assert done.code == 0, done.err
    assert "mixed" in done.out


def test_a_run_is_served_where_the_plugin_is_not(cli, world, plugin, tmp_path, monkeypatch):
    training = {"epochs": 1, "batch_size": 64}
    model = Recommender("projected", "mixed", training=training, threads=1)
    model.fit(load_dataset(world), run=tmp_path / "run")
    expected = model.recommend(model.users_[:3], 4)
    monkeypatch.undo()  # and the plugin is gone
    gone = Recommender.load(tmp_path / "run")
    assert gone.recommend(gone.users_[:3], 4).equals(expected)
    assert gone.evaluate(load_dataset(world)).splits
    assert cli("evaluate", tmp_path / "run").code == 0
    done = cli("evaluate", tmp_path / "run", "--false-negatives", "valid")
    assert (done.code, "OOD test" in done.out) == (
        2,
        True,
    )  # what was measured is shown
    assert "no sampler is called 'mixed'" in done.err


def test_a_run_is_served_where_the_plugin_is_broken(cli, run, package, monkeypatch):
    """As after an upgrade that went wrong."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["sampler"] = {**config["sampler"], "name": "mended", "strength": 3}
    write_text(run / "config.yaml", yaml.safe_dump(config))
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["sha256"]["config.yaml"] = sha256(run / "config.yaml")
    write_json(run / "manifest.json", manifest)
    package("shop", {"cnsdiff.samplers": {"mended": "shop:Mended"}}, "import no_such_module")
    assert cli("recommend", run, "--all-users", "--json").json


def test_the_list_of_plugins(cli, plugin, package):
    package(
        "shop",
        {"cnsdiff.samplers": {"broken": "shop:Sampler", "random": "shop:Sampler"}},
        "import no_such_module",
    )
    listed = {record["name"]: record for record in cli("plugins", "--json").json}
    assert {name: record["kind"] for name, record in listed.items()} == {
        "mixed": "sampler",
        "broken": "sampler",
        "random": "sampler",
        "projected": "backbone",
        "time-of-day": "scenario",
    }
    assert listed["mixed"]["package"] == "cnsdiff-example 0.1.0"
    assert listed["mixed"]["settings"] == {"candidates": 8, "share": 0.5}
    assert listed["time-of-day"]["settings"]["start"] == 18
    assert "No module named 'no_such_module'" in listed["broken"]["problem"]
    assert "offers a sampler 'random' too" in listed["random"]["problem"]
    assert listed["projected"]["problem"] is None
    done = cli("plugins")
    said = " ".join(done.out.split())
    assert "share = 0.5" in said
    assert "broken: the sampler 'broken' of the package shop 1.0" in said


def test_no_plugins(cli):
    assert "No package adds" in cli("plugins").out
    assert cli("plugins", "--json").json == []


def test_help_names_them(cli, plugin):
    for command, name in (("train", "mixed"), ("train", "projected"), ("prepare", "time-of-day")):
        assert name in cli(command, "--help").out


def test_a_broken_package_breaks_nothing_else(cli, world, package, fast, tmp_path):
    package(
        "shop",
        {
            "cnsdiff.samplers": {"broken": "shop:Sampler"},
            "cnsdiff.scenarios": {"broken": "shop:Scenario"},
        },
        "import no_such_module",
    )
    assert cli("--help").code == 0
    assert "broken" in cli("train", "--help").out
    assert cli("train", world, *fast, "--out", tmp_path / "run").code == 0
    cli("train", world, "--sampler", "broken", "--out", tmp_path / "no").refused(
        "the sampler 'broken' of the package shop 1.0", "No module named 'no_such_module'"
    )
    cli("prepare", world / "train.parquet", "--scenario", "broken", "--out", "x").refused(
        "the scenario 'broken' of the package shop 1.0"
    )


def test_a_name_of_ours_stays_ours_and_is_told_in_one_line(package, log, tmp_path):
    package("shop", {"cnsdiff.scenarios": {"noise": "shop:Noise"}}, "import no_such_module")
    command = [sys.executable, "-m", "cnsdiff", "prepare", log, "--scenario", "noise", "--out", "x"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site-shop")},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith("cnsdiff: the package shop 1.0 offers a scenario 'noise' too, and ")
    assert load_dataset(tmp_path / "x").scenario == "noise"


def test_the_example_keeps_its_contracts(plugin):
    tests = runpy.run_path(str(EXAMPLE / "tests" / "test_contracts.py"))
    checks = [check for name, check in tests.items() if name.startswith("test_")]
    assert checks
    for check in checks:
        check()
