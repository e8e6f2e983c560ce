"""The datasets of a grid: made once, kept, and never taken for one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cnsdiff import ConfoundedWorld, load_dataset, prepare
from cnsdiff.base.errors import ConfigError, DataError
from cnsdiff.benchmark.grid import DatasetEntry
from cnsdiff.benchmark.plan import materialise

WORLD = {"n_users": 40, "n_items": 30, "exposures": 15, "seed": 2}


def entry(**source: Any) -> DatasetEntry:
    return DatasetEntry(**source)


@pytest.fixture
def log(tmp_path) -> Path:
    """The clicks of a small world as a CSV file."""
    world = ConfoundedWorld(**WORLD)
    path = tmp_path / "log.csv"
    world.clicks(world.periods).select("user", "item", "timestamp").write_csv(path)
    return path


def test_a_prepared_directory_is_taken_as_it_is(world_path, tmp_path):
    data = tmp_path / "data"
    assert materialise("w", entry(path=str(world_path)), data) == world_path
    assert not data.exists()
    with pytest.raises(DataError):
        materialise("w", entry(path=str(tmp_path / "gone")), data)


def test_a_simulated_world(tmp_path):
    place = materialise("w", entry(simulate={**WORLD, "shift": "popularity"}), tmp_path)
    expected = ConfoundedWorld(**WORLD).dataset("popularity")
    found = load_dataset(place)
    assert found.fingerprint == expected.fingerprint
    assert place.parent == tmp_path and place.name.startswith("w-")


def test_a_prepared_log(log, tmp_path):
    recipe = {"log": str(log), "scenario": "popularity", "seed": 4}
    place = materialise("shop", entry(prepare=recipe), tmp_path / "data")
    found, expected = load_dataset(place), prepare(log, "popularity", seed=4)
    assert (found.name, found.fingerprint) == ("shop", expected.fingerprint)


def test_given_files(log, tmp_path):
    frame = pl.read_csv(log)
    files = {}
    for number, name in enumerate(("train", "valid", "test_ood")):
        files[name] = str(tmp_path / f"{name}.csv")
        frame.filter(pl.int_range(pl.len()) % 3 == number).write_csv(files[name])
    found = load_dataset(materialise("shop", entry(given=files), tmp_path / "data"))
    assert found.split_names == ("train", "valid", "test_ood")
    assert found.name == "shop"


def test_it_is_made_once(tmp_path):
    source = entry(simulate={**WORLD, "shift": "popularity"})
    first = materialise("w", source, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in first.iterdir()}
    assert materialise("w", source, tmp_path) == first
    assert {file: file.stat().st_mtime_ns for file in first.iterdir()} == before


def test_what_is_not_the_source_makes_no_other(tmp_path):
    source = {"simulate": {**WORLD, "shift": "popularity"}}
    places = {
        materialise("w", entry(**source, **more), tmp_path)
        for more in ({}, {"anticipate": "recency"}, {"scenario": "x"}, {"budget": {"epochs": 1}})
    }
    assert len(places) == 1


def test_another_recipe_is_another_dataset(tmp_path):
    recipes = ({"shift": "popularity"}, {"shift": "exposure"}, {"shift": "popularity", "seed": 3})
    places = {materialise("w", entry(simulate={**WORLD, **recipe}), tmp_path) for recipe in recipes}
    places.add(materialise("v", entry(simulate={**WORLD, "shift": "popularity"}), tmp_path))
    assert len(places) == 4
    assert len({load_dataset(place).fingerprint for place in places}) == 3


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"prepare": {"log": "x"}}, r"datasets\.w: .*'scenario'"),
        ({"given": {"train": "x", "tset": "y"}}, r"datasets\.w: .*'tset'"),
        ({"simulate": {"n_user": 5}}, r"datasets\.w: .*'n_user' \(did you mean 'n_users'"),
        ({"simulate": {"shift": "popularty"}}, r"datasets\.w: .*'popularty'"),
        ({"simulate": {"n_users": 1, "n_items": 3, "exposures": 1}}, r"datasets\.w: "),
    ],
)
def test_impossible_sources(tmp_path, source, words):
    with pytest.raises(ConfigError, match=words):
        materialise("w", entry(**source), tmp_path / "data")
    assert not list(tmp_path.iterdir())
