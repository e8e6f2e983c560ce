"""Grids as people write them, and what is said of those that are wrong."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmark_parts import SMALL
from pydantic import ValidationError

from cnsdiff.base.errors import ConfigError
from cnsdiff.benchmark.grid import Grid, digest, dump_grid, read_grid
from cnsdiff.recommender.config import nested

FULL = """
name: all.of_it-1
seeds: [3, 1]
select_on: [anticipated, valid]
select_metric: recall@5
ks: [5, 20]
budget: {epochs: 7, minutes: 0.5}
search: {trials: 4, seed: 9}
search_space:
  training.lr: {low: 0.001, high: 0.01, log: true}
  objective.l2: {choices: [0, 0.1]}
set:
  backbone.dim: 8
  backbone: {name: mf}
  training: {batch_size: 64}
  training.patience: null
datasets:
  here: {path: data/here, anticipate: recency, scenario: temporal}
  made:
    prepare: {log: ml-100k, scenario: popularity, strength: 2}
    methods: [ease, ours]
    budget: {epochs: 2}
    search: {trials: 1}
    set: {training.batch_size: 32}
  files: {given: {train: ../train.txt, test_ood: /far/test.txt, skip_bad: true}}
  world: {simulate: {n_users: 50, shift: hybrid}}
methods:
  ease: {reference: ease, options: {l2: 10}, search: {l2: {low: 1, high: 9, integer: true}}}
  ours: {}
  theirs: {preset: authors, shared: false, group: published, set: {sampler.steps: 5}}
"""


def write(folder: Path, text: str | dict[str, Any]) -> Path:
    path = folder / "grid.yaml"
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text), encoding="utf-8")
    return path


def changed(place: str, value: Any) -> dict[str, Any]:
    """:data:`FULL` with something at a place written with slashes; ``None`` removes it."""
    tree = yaml.safe_load(FULL)
    *sections, leaf = place.split("/")
    branch = tree
    for section in sections:
        branch = branch.setdefault(section, {})
    if value is None:
        del branch[leaf]
    else:
        branch[leaf] = value
    return tree


def refusal(folder: Path, text: str | dict[str, Any]) -> str:
    """The one sentence said of a wrong grid, without the path it begins with."""
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        read_grid(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_a_full_grid_reads(tmp_path):
    grid = read_grid(write(tmp_path, FULL))
    assert (grid.name, grid.seeds, grid.ks) == ("all.of_it-1", (3, 1), (5, 20))
    assert grid.set == {
        "backbone": {"dim": 8, "name": "mf"},
        "training": {"batch_size": 64, "patience": None},
    }
    assert grid.methods["theirs"].set == {"sampler": {"steps": 5}}
    assert grid.datasets["made"].set == {"training": {"batch_size": 32}}
    assert grid.datasets["made"].budget.epochs == 2
    assert grid.methods["ease"].search["l2"].high == 9
    assert grid.methods_on("made") == ("ease", "ours")
    assert grid.methods_on("here") == ("ease", "ours", "theirs")
    assert grid.selections("here") == ("recency", "valid")


@pytest.mark.parametrize(
    ("select_on", "anticipate", "expected"),
    [
        (["valid", "anticipated"], "recency", ("valid", "recency")),
        (["valid", "anticipated"], None, ("valid",)),
        (["anticipated"], "tempered", ("tempered",)),
        (["anticipated"], None, ("valid",)),
        (["valid"], "recency", ("valid",)),
        (
            ["valid", "anticipated", "valid+dial", "anticipated+dial"],
            "inverse-popularity",
            ("valid", "inverse-popularity", "valid+dial", "inverse-popularity+dial"),
        ),
        (["anticipated+dial", "valid+dial", "anticipated"], None, ("valid+dial",)),
        (["anticipated+dial"], None, ("valid+dial",)),
        (["anticipated+dial", "anticipated"], None, ("valid+dial", "valid")),
    ],
)
def test_what_selects(select_on, anticipate, expected):
    grid = Grid(
        name="g",
        datasets={"d": {"path": "d", "anticipate": anticipate}},
        methods={"m": {}},
        select_on=select_on,
    )
    assert grid.selections("d") == expected


# --- dotted keys


@pytest.mark.parametrize(
    "written",
    [
        {"a.b": 1, "a.c.d": 2},
        {"a": {"b": 1}, "a.c.d": 2},
        {"a.c.d": 2, "a": {"b": 1}},
        {"a": {"b": 1, "c": {"d": 2}}},
        {"a": {"b": 1, "c.d": 2}},
        {"a.c": {"d": 2}, "a.b": 1},
        {"a.c": {}, "a": {"c": {"d": 2}}, "a.b": 1},
    ],
)
def test_dotted_and_nested_settings_are_the_same(written):
    before = repr(written)
    assert nested(written) == {"a": {"b": 1, "c": {"d": 2}}}
    assert repr(written) == before


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ({"a": 1, "a.b": 2}, "a"),
        ({"a.b": 2, "a": 1}, "a"),
        ({"a": {"b": 1}, "a.b": 1}, "a.b"),
        ({"a.b": 5, "a": {"b": {"c": 1}}}, "a.b"),
        ({"a": None, "a.b": 1}, "a"),
    ],
)
def test_nothing_is_set_twice(tmp_path, written, place):
    with pytest.raises(ValueError, match=f"'{place}' is set twice"):
        nested(written)
    assert refusal(tmp_path, changed("set", written)) == f"set: {place!r} is set twice"


# --- wrong keys and values


@pytest.mark.parametrize(
    ("place", "nearest"),
    [
        ("select_metrics", "select_metric"),
        ("datasets/here/anticipated", "anticipate"),
        ("datasets/made/budget/epoch", "epochs"),
        ("datasets/made/search/trial", "trials"),
        ("methods/ours/presets", "preset"),
        ("methods/ease/search/l2/hihg", "high"),
        ("search_space/training.lr/logs", "log"),
        ("budget/minuts", "minutes"),
        ("search/sed", "seed"),
    ],
)
def test_unknown_keys_name_the_nearest(tmp_path, place, nearest):
    dotted = place.replace("/", ".")
    said = refusal(tmp_path, changed(place, 1))
    assert said == f"unknown key {dotted!r} (did you mean {nearest!r}?)"


def test_names_of_datasets_and_methods_confuse_no_hint(tmp_path):
    tree = changed("datasets/search", {"path": "x", "anticipated": "recency"})
    assert refusal(tmp_path, tree).endswith("(did you mean 'anticipate'?)")
    tree = changed("methods/datasets", {"shred": False})
    assert refusal(tmp_path, tree).endswith("(did you mean 'shared'?)")


def test_a_key_like_no_other_lists_those_there_are(tmp_path):
    said = refusal(tmp_path, changed("budget/zzz", 1))
    assert said == "unknown key 'budget.zzz'; known keys: epochs, minutes, cpu_minutes"


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("name", None, ["name: field required"]),
        ("name", "../up", ["name: ", "'../up'"]),
        ("name", ".hidden", ["name: "]),
        ("name", "n" * 81, ["name: is longer than 80 bytes"]),
        (f"datasets/{'é' * 41}", {"path": "x"}, ["dataset 'é", "is longer than 80 bytes"]),
        (f"methods/{'m' * 300}", {}, ["method 'm", "is longer than 80 bytes"]),
        ("datasets", {}, ["datasets: "]),
        ("datasets", 5, ["datasets: ", "5"]),
        ("datasets/a/b", {"path": "x"}, ["datasets.a.b", "path"]),
        ("datasets/.hid", {"path": "x"}, ["dataset '.hid'", "letters"]),
        ("datasets/a b", {"path": "x"}, ["dataset 'a b'", "letters"]),
        ("methods/mf+dns", {}, ["method 'mf+dns'", "letters"]),
        ("methods", None, ["methods: field required"]),
        ("methods/ours", 7, ["methods.ours: ", "7"]),
        ("seeds", [0, 1, 0], ["seeds names one seed twice"]),
        ("seeds", [-1], ["seeds.0: ", "0", "-1"]),
        ("seeds", [], ["seeds: ", "at least 1"]),
        ("seeds", ["x"], ["seeds.0: ", "integer", "'x'"]),
        ("budget/epochs", 0, ["budget.epochs: ", "1", "got 0"]),
        ("budget/minutes", 0, ["budget.minutes: ", "greater than 0"]),
        ("search/trials", 0, ["search.trials: "]),
        ("select_metric", "ndcg@10", ["select_metric 'ndcg@10' needs its cut-off in ks"]),
        ("select_metric", "mrr@5", ["select_metric: "]),
        ("select_on", ["valid", "valid"], ["select_on names one objective twice"]),
        ("select_on", ["valid+dail"], ["select_on.0: ", "'valid+dial'", "'valid+dail'"]),
        ("select_on", ["valid+dial", "valid+dial"], ["select_on names one objective twice"]),
        (
            "set",
            {"training.dial": "off"},
            ["set: training.dial is the same", "say it in select_on"],
        ),
        ("select_on", ["test_ood"], ["select_on.0: ", "'valid'", "'test_ood'"]),
        ("ks", [0], ["ks.0: "]),
        ("datasets/here/path", None, ["datasets.here: give exactly one of path, prepare"]),
        ("datasets/here/given", {"train": "x"}, ["datasets.here: give exactly one of path"]),
        ("datasets/here/anticipate", "vaild", ["datasets.here.anticipate: ", "'vaild'"]),
        ("datasets/here/methods", [], ["datasets.here.methods: "]),
        ("datasets/here/methods", ["ours", "ours"], ["datasets.here: methods names one method"]),
        (
            "datasets/here/methods",
            ["our"],
            ["dataset 'here' names the method 'our', which is not", "did you mean 'ours'?"],
        ),
        ("methods/ours/options", {"l2": 1}, ["methods.ours: options are the arguments of a ref"]),
        ("methods/ease/set", {"training.lr": 1}, ["methods.ease: a reference takes options"]),
        ("methods/ours/set", 5, ["methods.ours.set: ", "mapping"]),
        ("search_space/training.lr", {"low": 1}, ["search_space.training.lr: low and high"]),
        ("search_space/training.lr", {"choices": []}, ["search_space.training.lr.choices: "]),
        ("methods/ours/search", {"x": {"low": 2, "high": 1}}, ["methods.ours.search.x: low and"]),
    ],
)
def test_wrong_values(tmp_path, place, value, words):
    said = refusal(tmp_path, changed(place, value))
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "name: field required"),
        ("- a\n- b\n", "must hold sections"),
    ],
)
def test_files_that_are_no_grid(tmp_path, text, words):
    assert words in refusal(tmp_path, text)


def test_files_that_are_no_yaml(tmp_path):
    with pytest.raises(ConfigError, match=r"grid\.yaml, line 2: not valid YAML"):
        read_grid(write(tmp_path, "name: x\nseeds: ]\n"))
    with pytest.raises(ConfigError, match="no such configuration file"):
        read_grid(tmp_path / "nothing.yaml")


# --- sources


def test_paths_are_relative_to_the_grid(tmp_path, monkeypatch):
    """Also where the current directory has a file of that name."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "train.txt").touch()
    (elsewhere / "plain").mkdir()
    monkeypatch.chdir(elsewhere)
    folder = tmp_path / "grids"
    folder.mkdir()
    (folder / "log.csv").touch()
    tree = changed("datasets/plain", {"path": "plain"})
    tree["datasets"]["bare"] = {"given": {"train": "train.txt"}}
    tree["datasets"]["log"] = {"prepare": {"log": "log.csv", "scenario": "popularity"}}
    features = {"": "items.csv", "image": "/far/image.npy"}
    tree["datasets"]["seen"] = {"given": {"train": "train.txt", "item_features": features}}
    found = read_grid(write(folder, tree)).datasets
    assert found["here"].path == str(folder / "data/here")
    assert found["plain"].path == str(folder / "plain")
    assert found["bare"].given == {"train": str(folder / "train.txt")}
    assert found["log"].prepare == {"log": str(folder / "log.csv"), "scenario": "popularity"}
    located = {"": str(folder / "items.csv"), "image": "/far/image.npy"}
    assert found["seen"].given["item_features"] == located
    assert found["files"].given == {
        "train": str(folder / "../train.txt"),
        "test_ood": "/far/test.txt",
        "skip_bad": True,
    }
    # A data set fetched before goes by its name; settings that name no file are left alone.
    assert found["made"].prepare == {"log": "ml-100k", "scenario": "popularity", "strength": 2}
    assert found["world"].simulate == {"n_users": 50, "shift": "hybrid"}


def test_variables_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("A_FOLDER", str(tmp_path / "data"))
    monkeypatch.delenv("NO_FOLDER", raising=False)
    for text in ("$A_FOLDER/log.csv", "${A_FOLDER}/log.csv"):
        tree = changed("datasets/made/prepare/log", text)
        assert read_grid(write(tmp_path, tree)).datasets["made"].prepare["log"] == str(
            tmp_path / "data" / "log.csv"
        )
    for text in ("$NO_FOLDER/log.csv", "${NO_FOLDER}/log.csv"):
        said = refusal(tmp_path, changed("datasets/made/prepare/log", text))
        assert said.startswith("datasets.made: the variable NO_FOLDER is not set; export")
    assert "NO_FOLDER" not in os.environ


def test_a_world_may_have_no_settings(tmp_path):
    tree = changed("datasets/world", {"simulate": {}})
    assert read_grid(write(tmp_path, tree)).datasets["world"].simulate == {}


# --- written


def test_what_is_dumped_reads_the_same(tmp_path):
    grid = read_grid(write(tmp_path, FULL))
    again = read_grid(write(tmp_path, dump_grid(grid)))
    assert again == grid
    assert yaml.safe_load(dump_grid(grid))["datasets"]["here"]["budget"] is None
    assert list(again.methods) == list(grid.methods), "tables keep the order"


def test_a_digest_takes_what_yaml_gives():
    assert digest({"a": 1, "b": [1]}) == digest({"b": [1], "a": 1}) != digest({"a": 1, "b": [2]})
    assert digest(yaml.safe_load("2020-01-01")) != digest(yaml.safe_load("2020-01-02"))


# --- several cuts


def with_cuts(**entry):
    tree = copy.deepcopy(SMALL)
    tree["datasets"] = {"shop": {"prepare": {"log": "shop.csv", "scenario": "temporal"}, **entry}}
    return tree


def test_cuts_are_datasets_of_one_pool():
    grid = Grid.model_validate(with_cuts(cuts=3, anticipate="recency"))
    assert list(grid.datasets) == ["shop-cut-1", "shop-cut-2", "shop-cut-3"]
    assert grid.pools == {"shop": list(grid.datasets)}
    assert [entry.prepare["back"] for entry in grid.datasets.values()] == [2, 1, 0]
    assert {entry.anticipate for entry in grid.datasets.values()} == {"recency"}
    # What is written is read as the same.
    assert Grid.model_validate(yaml.safe_load(dump_grid(grid))) == grid


@pytest.mark.parametrize("first", [None, "temporal", {"quantile": 0.7}])
def test_cuts_of_a_hybrid_are_of_its_first_part(first):
    recipe = {"log": "shop.csv", "scenario": "hybrid", **({"first": first} if first else {})}
    grid = Grid.model_validate(with_cuts(cuts=2, prepare=recipe))
    parts = [entry.prepare["first"] for entry in grid.datasets.values()]
    given = first if isinstance(first, dict) else {}
    assert parts == [{"name": "temporal", **given, "back": back} for back in (1, 0)]


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"cuts": 1}, "greater than or equal to 2"),
        ({"cuts": 2, "prepare": {"log": "x", "scenario": "noise"}}, "cuts in time.*not noise"),
        ({"cuts": 2, "prepare": {"log": "x", "scenario": "temporal", "back": 1}}, "'back'"),
        ({"cuts": 2, "prepare": None, "path": "x"}, "cuts are of a dataset with prepare"),
        ({"cuts": 2, "pool": "x"}, "make a pool of their own"),
        ({"pool": "shop"}, "pool 'shop' is called like a dataset"),
    ],
)
def test_cuts_that_cannot_be(entry, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Grid.model_validate(with_cuts(**entry))


def test_what_is_pooled_was_run_alike():
    tree = with_cuts(cuts=2)
    tree["datasets"]["shop-cut-2"] = {"path": "x"}
    with pytest.raises(ValidationError, match="'shop-cut-2' is a dataset already"):
        Grid.model_validate(tree)
    tree["datasets"] = {
        "a": {"path": "x", "pool": "both", "anticipate": "recency"},
        "b": {"path": "x", "pool": "both"},
    }
    with pytest.raises(ValidationError, match="pool 'both' differ in anticipate or methods"):
        Grid.model_validate(tree)
