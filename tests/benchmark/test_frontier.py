"""The walk along the dial and the sensitivity, against the grid's own tasks; and the figure."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from benchmark_parts import small_grid

from cnsdiff.base.errors import ConfigError
from cnsdiff.benchmark.plan import plan
from cnsdiff.benchmark.task import Task, run_task
from cnsdiff.data import Dataset
from cnsdiff.evaluation import evaluate
from cnsdiff.evaluation.dial import FINE
from cnsdiff.references import EASE

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
SHIFTED = "inverse-popularity+dial"
METHODS = {
    "mostpop": {"reference": "mostpop", "group": "reference"},
    "ease": {"reference": "ease", "group": "reference"},
    "mf": {"group": "sampler"},
    "exposure": {"group": "ours", "set": {"objective.temperature": 0.5}},
}


@pytest.fixture(scope="module", autouse=True)
def _scripts() -> Any:
    """The scripts import one another as they do when they are run."""
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def grid_file(world_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Another selection than the one that the script reads at, and a search it does without.
    grid = small_grid(world_path, methods=METHODS, select_on=["valid"], search={"trials": 2})
    path = tmp_path_factory.mktemp("frontier") / "grid.yaml"
    path.write_text(yaml.safe_dump(grid.model_dump(mode="json")), encoding="utf-8")
    return path


def run(world_path: Path, grid_file: Path, *options: str) -> dict[str, Any]:
    """What the script writes; beside the grid."""
    import frontier

    out = grid_file.with_name("found.json")
    fixed = [str(world_path), "--grid", str(grid_file), "--dataset", "world", "--json", str(out)]
    frontier.main([*fixed, *options])
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found(world_path: Path, grid_file: Path) -> dict[str, Any]:
    options = ("--methods", "exposure,mf,ease", "--seed", "1")
    knobs = ("--sensitivity", "objective.temperature=0.5,0.1", "backbone.dim=2")
    return run(world_path, grid_file, *options, *knobs)


def by_the_grid(task: Task, selection: str) -> dict[tuple[str, str], float]:
    """What a final of the grid finds by one selection, by split and metric; also the epoch."""
    rows = run_task(replace(task, kind="final", seed=1, selections=(selection,), threads=1)).rows
    values = {(row["split"], row["metric"]): row["value"] for row in rows.iter_rows(named=True)}
    return values | {("train", "epoch"): rows["epoch"][0]}


def task_of(world_path: Path, method: str) -> Task:
    grid = small_grid(world_path, methods=METHODS)
    return next(
        unit.trials[0]
        for unit in plan(grid, {"world": world_path})
        if unit.trials[0].method.name == method
    )


@pytest.mark.parametrize("name", ["exposure", "mf", "ease", "mostpop"])
def test_the_dial_picked_is_that_of_the_grid(found, world_path, name) -> None:
    expected = by_the_grid(task_of(world_path, name), SHIFTED)
    method = found["methods"][name]
    at = {point["gamma"]: point for point in method["walk"]}[method["gamma"]]
    assert method["gamma"] == expected["valid", "dial"]
    assert method["value"] == pytest.approx(expected["valid", "ndcg@20 (selected)"])
    assert method["epoch"] == expected["train", "epoch"]
    for short, split in (("iid", "test_iid"), ("ood", "test_ood")):
        for metric in ("ndcg@20", "recall@20"):
            assert at[short][metric] == pytest.approx(expected[split, metric])


def test_the_plain_dial_is_that_of_the_grid_for_the_same_weights(found, world_path) -> None:
    # A reference has no epochs to pick, so plain validation has these very weights.
    expected = by_the_grid(task_of(world_path, "ease"), "valid+dial")
    ease = found["methods"]["ease"]
    assert ease["plain_gamma"] == expected["valid", "dial"]
    assert ease["plain_value"] == pytest.approx(expected["valid", "ndcg@20 (selected)"])


def test_every_dial_is_measured_and_zero_is_the_model_as_fitted(found, world: Dataset) -> None:
    walk = found["methods"]["ease"]["walk"]
    assert [point["gamma"] for point in walk] == list(FINE)
    fitted = evaluate(EASE().fit(world), world, ["test_iid", "test_ood"], ks=(20,)).splits
    at_zero = walk[FINE.index(0.0)]
    assert at_zero["iid"]["ndcg@20"] == pytest.approx(fitted["test_iid"].metrics["ndcg@20"])
    assert at_zero["ood"]["recall@20"] == pytest.approx(fitted["test_ood"].metrics["recall@20"])
    assert len({point["ood"]["ndcg@20"] for point in walk}) > 10


def test_mostpop_joins_as_one_point(found) -> None:
    assert [point["gamma"] for point in found["methods"]["mostpop"]["walk"]] == [0.0]


def test_sensitivity_is_the_grid_with_one_setting_changed(found, world_path) -> None:
    rows = {(row["setting"], row["value"]): row for row in found["sensitivity"]}
    assert len(rows) == 4
    assert rows["own", ""]["choices"] == rows["objective.temperature", "0.5"]["choices"]
    own = task_of(world_path, "exposure")
    changes: dict[tuple[str, str], dict[str, Any]] = {
        ("own", ""): {},
        ("objective.temperature", "0.1"): {"objective.temperature": 0.1},
        ("backbone.dim", "2"): {"backbone.dim": 2},
    }
    for key, setting in changes.items():
        changed = replace(own, method=own.method.with_setting(setting))
        for selection in ("valid+dial", SHIFTED):
            expected = by_the_grid(changed, selection)
            choice = rows[key]["choices"][selection]
            assert choice["value"] == pytest.approx(expected["valid", "ndcg@20 (selected)"])
            assert choice["gamma"] == expected["valid", "dial"]
            assert choice["epoch"] == expected["train", "epoch"]
            assert choice["ood"]["ndcg@20"] == pytest.approx(expected["test_ood", "ndcg@20"])
            assert choice["iid"]["recall@20"] == pytest.approx(expected["test_iid", "recall@20"])


def test_wrong_names_are_refused_before_anything_is_trained(
    world_path, grid_file, monkeypatch
) -> None:
    import frontier

    monkeypatch.setattr(frontier, "fit_task", lambda *_: pytest.fail("trained"))
    for options, message in (
        (("--methods", "exposur"), "exposure"),
        (("--methods", "", "--sensitivity", "objective.temprature=1"), "temperature"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(world_path, grid_file, *options)


def test_the_figure_has_every_method_a_ring_and_a_dot(found) -> None:
    from frontier_figure import draw

    (axes,) = draw(found).axes
    drawn = [list(zip(*line.get_data(), strict=True)) for line in axes.lines]
    for method in found["methods"].values():
        at = {p["gamma"]: (p["ood"]["ndcg@20"], p["iid"]["ndcg@20"]) for p in method["walk"]}
        curve = list(at.values())
        assert drawn.count(curve) == 1
        if len(curve) > 1:
            rings = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
            assert [at[0.0]] in [list(zip(*ring.get_data(), strict=True)) for ring in rings]
        assert [at[method["gamma"]]] in drawn


def test_the_file_is_small_the_same_again_and_its_text_is_text(found, tmp_path) -> None:
    from frontier_figure import save

    save(found, tmp_path / "a.svg")
    save(found, tmp_path / "b.svg")
    content = (tmp_path / "a.svg").read_bytes()
    assert content == (tmp_path / "b.svg").read_bytes()
    assert len(content) < 60_000
    texts = {element.text for element in ElementTree.fromstring(content).iter() if element.text}
    assert set(found["methods"]) <= texts


def test_the_figure_of_convergence_has_a_curve_per_method_and_the_reference_as_a_line() -> None:
    from convergence_figure import draw

    runs = {
        "dns/xavier": {"values": [0.1, 0.3, 0.2], "seconds": [1.0, 2.0, 3.0]},
        "default": {"values": [0.2, 0.4], "seconds": [1.5, 2.5]},
    }
    (axes,) = draw(
        {
            "dataset": "world",
            "metric": "ndcg@20",
            "reference": "dns/xavier",
            "summary": {"dns/xavier": {"best": 0.3}},
            "runs": runs,
        }
    ).axes
    *curves, reference = axes.lines
    for curve, (name, run) in zip(curves, runs.items(), strict=True):
        assert curve.get_label() == name
        assert [list(at) for at in curve.get_data()] == [run["seconds"], run["values"]]
    assert set(reference.get_ydata()) == {0.3}
