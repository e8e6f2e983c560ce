"""How many doors a reader opens; what was made smaller must not grow again."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts import load_script

import cnsdiff
from cnsdiff.simulate import ConfoundedWorld

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def house():
    """The module ``tools/house.py``."""
    return load_script("tools/house.py")


def test_the_source_does_not_grow_again(house):
    counts = house.structure(Path(cnsdiff.__file__).parents[1])
    assert counts["loose modules at the top"] <= 6
    assert counts["files"] <= 266, "a file with one client belongs into that client"
    assert counts["files with one client"] <= 60
    assert counts["dict[str, Any]"] <= 20, "name what is in it: a dataclass, a model, a TypedDict"


def test_recommending_stays_a_short_walk(house, tmp_path):
    world = ConfoundedWorld(n_users=50, n_items=40, exposures=20, seed=0).dataset("popularity")
    cnsdiff.Recommender("mf", training={"epochs": 1}).fit(world).save(tmp_path / "run")
    model = cnsdiff.Recommender.load(tmp_path / "run")
    walk = house.traced(lambda: model.recommend([0, 1, 2], k=10))
    assert "recommender/recommender.py:Recommender.recommend" in walk.entered
    assert walk.files <= 10
    assert len(walk.entered) <= 35, walk.entered
    assert not walk.opens
