"""What a search may choose: possible spaces, and those declared beside the settings."""

from __future__ import annotations

import itertools
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from cnsdiff.backbones import BACKBONES
from cnsdiff.base.search_space import (
    Searched,
    Space,
    declared_spaces,
    takes_whole_numbers_only,
    value_at,
)
from cnsdiff.base.settings import Settings
from cnsdiff.recommender.config import resolve_config
from cnsdiff.recommender.presets import PRESETS
from cnsdiff.samplers import SAMPLERS


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "give choices, or low and high"),
        ({"choices": [1], "low": 0, "high": 1}, "give choices, or low and high"),
        ({"choices": [1], "high": 1}, "give choices, or low and high"),
        ({"low": 0}, "low and high must both be there"),
        ({"low": 1, "high": 1}, "low below high"),
        ({"low": 0, "high": 1, "log": True}, "log needs a low above 0"),
        ({"low": 0.5, "high": 3, "integer": True}, "integer needs whole"),
        ({"low": 0, "high": float("inf")}, "finite"),
        ({"low": float("nan"), "high": 1}, "finite"),
        ({"choices": [1], "log": True}, "log and integer go with low and high"),
    ],
)
def test_impossible_spaces(given, words):
    with pytest.raises(ValidationError, match=words):
        Space(**given)


class Inner(Settings):
    weight: Annotated[float | None, Searched(low=0.1, high=1.0, log=True)] = Field(None, gt=0)


class Outer(Settings):
    inner: Inner = Inner()
    steps: Annotated[int, Searched(low=1, high=6, integer=True)] = Field(2, ge=1)
    size: Annotated[int, Field(ge=1)] | str = 3
    rate: float = 0.5
    either: int | float = 1


def test_spaces_are_found_beside_the_settings():
    found = declared_spaces(Outer())
    assert found == {
        "inner.weight": Space(low=0.1, high=1.0, log=True),
        "steps": Space(low=1, high=6, integer=True),
    }
    assert Outer(inner=Inner(weight=0.3)).inner.weight == 0.3, "a declaration changes no field"
    with pytest.raises(ValidationError, match="greater than 0"):
        Inner(weight=-1)


def test_values_and_kinds_by_dotted_key():
    assert value_at(Outer(), "inner.weight") is None
    assert value_at(Outer(), "steps") == 2
    for key in ("inner.wait", "outer.weight", "steps.weight", ""):
        with pytest.raises(KeyError):
            value_at(Outer(), key)
    whole = {"steps": True, "size": True, "rate": False, "either": False, "inner.weight": False}
    assert {key: takes_whole_numbers_only(Outer(), key) for key in whole} == whole


@pytest.mark.parametrize(
    ("space", "within", "outside"),
    [
        (Space(low=0.1, high=1.0), [0.1, 0.5, 1, 1.0], [0.0, 1.1, None, True, "0.5"]),
        (Space(low=1, high=4, integer=True), [1, 2, 4, 3.0], [0, 5, 2.5, True, None]),
        (Space(choices=(None, 1, "a", 0.5)), [None, 1, "a", 0.5], [True, 0, "b", 1.5]),
    ],
)
def test_what_lies_within(space, within, outside):
    assert [value for value in within if value not in space] == []
    assert [value for value in outside if value in space] == []


def test_sizes_and_words():
    real, whole = Space(low=1e-4, high=0.1, log=True), Space(low=2, high=9, integer=True)
    some = Space(choices=(None, 1, "a"))
    assert (real.size, whole.size, some.size) == (None, 8, 3)
    assert (real.ends(), whole.ends(), some.ends()) == ((1e-4, 0.1), (2, 9), (None, 1, "a"))
    assert type(whole.ends()[0]) is int
    assert (str(real), str(whole), str(some)) == ("0.0001..0.1:log", "2..9", "null,1,a")


CONFIGURATIONS = [
    *({"preset": name} for name in PRESETS),
    *({"sampler": name} for name in SAMPLERS.names()),
    *({"backbone": name} for name in BACKBONES.names()),
]


@pytest.mark.parametrize(
    "given", CONFIGURATIONS, ids=["-".join(*given.items()) for given in CONFIGURATIONS]
)
def test_every_declared_space_lies_within_what_the_field_accepts(given):
    """All ends of all spaces of a section together, so that no draw of a search is refused."""
    preset = given.get("preset", "default")
    chosen = {section: {"name": name} for section, name in given.items() if section != "preset"}
    config = resolve_config(chosen, preset=preset)
    spaces = declared_spaces(config)
    assert "training.lr" in spaces
    for section in ("backbone", "sampler", "objective", "training"):
        # What a configuration has turned off stays off: it is not searched.
        used = {
            key: space
            for key, space in spaces.items()
            if key.startswith(f"{section}.") and value_at(config, key) in space
        }
        for corner in itertools.product(*(space.ends() for space in used.values())):
            tree = config.model_dump()
            for key, value in zip(used, corner, strict=True):
                assert takes_whole_numbers_only(config, key) == used[key].integer, key
                *path, leaf = key.split(".")
                place = tree
                for part in path:
                    place = place[part]
                place[leaf] = value
            found = resolve_config(tree)
            assert [value_at(found, key) for key in used] == list(corner)


def test_the_default_and_the_plain_settings_lie_within_their_spaces():
    for given in ({}, {"sampler": {"name": "dns"}}):
        config = resolve_config(given)
        used = {k for k, space in declared_spaces(config).items() if value_at(config, k) in space}
        assert {"training.lr", "objective.l2", "backbone.layers"} <= used
