"""Components by name: built in, of a script, and of packages, sound and broken."""

from __future__ import annotations

import warnings
from importlib.metadata import EntryPoint

import pytest

from cnsdiff.backbones import BACKBONES
from cnsdiff.base import registry
from cnsdiff.base.errors import CnsdiffWarning, ConfigError
from cnsdiff.recommender.config import resolve_config
from cnsdiff.samplers import SAMPLERS, RandomSampler, Sampler
from cnsdiff.shifts import SCENARIOS, Noise


class Dist:
    """What an installed package says of itself."""

    def __init__(self, name: str) -> None:
        self.name, self.version = name, "1.2"


class Theirs(RandomSampler):
    """A sampler of another package."""


@pytest.fixture
def offer(monkeypatch):
    """Have packages offer components: (kind, name, where, package)…"""

    def these(*offers):
        points = {}
        for kind, name, where, package in offers:
            point = EntryPoint(name, where, f"cnsdiff.{kind}s")
            if package is not None:
                point = point._for(Dist(package))
            points.setdefault(point.group, []).append(point)
        monkeypatch.setattr(registry, "installed", lambda group: tuple(points.get(group, ())))

    for kind in (SAMPLERS, BACKBONES, SCENARIOS):
        monkeypatch.setattr(kind, "_classes", dict(kind._classes))
    return these


HERE = f"{__name__}:Theirs"


def test_one_of_a_package(offer):
    offer(("sampler", "theirs", HERE, "shop-samplers"))
    assert SAMPLERS.find("theirs") is Theirs
    assert "theirs" in SAMPLERS.names()
    assert "theirs" not in BACKBONES.names()
    assert (
        resolve_config({"sampler": {"name": "theirs", "n_negatives": 2}}).sampler.n_negatives == 2
    )
    with pytest.raises(ConfigError, match=r"no sampler is called 'their' \(did you mean 'theirs'"):
        SAMPLERS.find("their")


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("no_such_module:Sampler", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("cnsdiff.samplers:NoSuchSampler", "AttributeError: .*NoSuchSampler"),
    ],
)
def test_a_broken_package_is_named_and_troubles_nobody_else(offer, where, why):
    offer(
        ("sampler", "broken", where, "shop-samplers"),
        ("sampler", "theirs", HERE, "other-samplers"),
    )
    assert SAMPLERS.find("theirs") is Theirs
    assert SAMPLERS.find("random") is RandomSampler
    assert not SAMPLERS.at_hand("broken")
    sentence = rf"the sampler 'broken' of the package shop-samplers 1.2 cannot be loaded \({why}"
    with pytest.raises(ConfigError, match=sentence):
        SAMPLERS.find("broken")


@pytest.mark.parametrize("where", ["cnsdiff.shifts:prepare", "cnsdiff.shifts:Noise"])
def test_what_is_no_sampler(offer, where):
    offer(("sampler", "odd", where, "shop-samplers"))
    with pytest.raises(
        ConfigError, match=r"shop-samplers 1.2 is not a class .* cnsdiff.samplers.Sampler"
    ):
        SAMPLERS.find("odd")


def test_a_scenario_has_one_name(offer):
    offer(("scenario", "plugged", "cnsdiff.shifts:Noise", "shop-shifts"))
    with pytest.raises(ConfigError, match=r"shop-shifts 1.2 calls itself 'noise'"):
        SCENARIOS.find("plugged")


def test_a_built_in_one_is_never_replaced_and_says_so(offer):
    offer(("sampler", "random", HERE, "shop-samplers"))
    with pytest.warns(
        CnsdiffWarning, match="the package shop-samplers 1.2 offers a sampler 'random'"
    ):
        assert SAMPLERS.find("random") is RandomSampler


def test_what_a_package_registers_in_both_ways_is_no_conflict(offer):
    offer(("sampler", "theirs", HERE, "shop-samplers"))
    SAMPLERS.register("theirs")(Theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SAMPLERS.find("theirs") is Theirs


def test_two_packages_of_one_mind(offer):
    offer(("sampler", "theirs", HERE, "shop-samplers"), ("sampler", "theirs", HERE, "a-fork"))
    with pytest.raises(ConfigError, match=r"packages a-fork 1.2 and shop-samplers 1.2; uninstall"):
        SAMPLERS.find("theirs")


def test_a_module_without_a_package(offer):
    offer(("sampler", "broken", "no_such_module:Sampler", None))
    with pytest.raises(ConfigError, match="of the package no_such_module cannot be loaded"):
        SAMPLERS.find("broken")


def test_names_are_registered_once(offer):
    with pytest.raises(ConfigError, match=r"a sampler is called 'random' already .*RandomSampler"):
        SAMPLERS.register("random")(Theirs)
    with pytest.raises(ConfigError, match=r"not a class derived from cnsdiff.samplers.Sampler"):
        SAMPLERS.register("noisy")(Noise)

    def cell() -> type[Sampler]:
        @SAMPLERS.register("mine")
        class Mine(Sampler):
            """Defined anew each time, as in a notebook."""

        return Mine

    first, second = cell(), cell()
    assert first is not second
    assert SAMPLERS.find("mine") is second
