"""The grids behind our own results can be read, and every method in them be built."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnsdiff import ConfoundedWorld
from cnsdiff.benchmark.grid import read_grid
from cnsdiff.benchmark.plan import plan
from cnsdiff.recommender.config import resolve_config
from cnsdiff.references import REFERENCES
from cnsdiff.samplers import SAMPLERS

GRIDS = sorted((Path(__file__).parents[2] / "benchmarks" / "accuracy").glob("*.yaml"))


def test_there_are_some() -> None:
    assert GRIDS


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_method_of_a_grid_can_be_built(path, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CNSDIFF_DATA", str(tmp_path))
    grid = read_grid(path)
    # Any dataset does: what is checked are configurations, not data.
    stand_in = tmp_path / "world"
    ConfoundedWorld(n_users=40, n_items=30, exposures=10).dataset().save(stand_in)
    units = plan(grid, dict.fromkeys(grid.datasets, stand_in))
    planned = {(unit.trials[0].dataset, unit.trials[0].method.name) for unit in units}
    assert planned == {(name, method) for name in grid.datasets for method in grid.methods_on(name)}
    for unit in units:
        assert len({task.key for task in unit.trials}) == len(unit.trials)


def test_the_main_grid_has_every_sampler_and_reference(monkeypatch) -> None:
    monkeypatch.setenv("CNSDIFF_DATA", "nowhere")
    methods = read_grid(next(path for path in GRIDS if path.stem == "all")).methods.values()
    trained = [entry for entry in methods if entry.reference is None]
    # A method that names no sampler has that of its preset.
    samplers = {resolve_config(entry.set, preset=entry.preset).sampler.name for entry in trained}
    samplers |= {setting.get("sampler.name") for entry in trained for setting in entry.tries}
    assert set(SAMPLERS.names()) <= samplers
    assert set(REFERENCES) <= {entry.reference for entry in methods}
