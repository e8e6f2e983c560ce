"""Which settings are searched, and what is said of those that cannot be."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import Field

from cnsdiff import Recommender
from cnsdiff.base.errors import ConfigError
from cnsdiff.base.search_space import Searched, Space
from cnsdiff.cli.parsing import read_searches
from cnsdiff.samplers import SamplerConfig
from cnsdiff.samplers.static import RandomSampler
from cnsdiff.tuning.searches import Variants, choose_searches, leaves


class OwnConfig(SamplerConfig):
    share: Annotated[float, Searched(low=0.1, high=0.9)] = Field(0.5, ge=0, le=1)
    off: Annotated[float, Searched(low=0.1, high=0.9)] = Field(0.0, ge=0, le=1)


class Own(RandomSampler):
    Config = OwnConfig


def variants(*arguments, **config) -> Variants:
    return Variants(Recommender(*arguments, **config))


def test_what_the_settings_declare_is_searched():
    found = choose_searches(variants())
    assert list(found.spaces) == [
        "backbone.layers",
        "objective.l2",
        "objective.repulsion",
        "objective.temperature",
        "sampler.exponent",
        "training.lr",
    ]
    assert found.given == {
        "backbone.layers": 2,
        "objective.l2": 1e-4,
        "objective.repulsion": 0.3,
        "objective.temperature": 0.2,
        "sampler.exponent": 0.5,
        "training.lr": 0.002,
    }
    assert found.left_out == ()


def test_what_is_switched_off_stays_off_and_what_is_on_is_searched():
    plain = choose_searches(variants("mf", "random")).spaces
    assert list(plain) == ["objective.l2", "objective.repulsion", "training.lr"]
    ips = choose_searches(variants(preset="ips-lightgcn")).spaces
    assert "objective.propensity.exponent" in ips


def test_a_users_own_sampler_declares_its_spaces_alike():
    found = choose_searches(variants("mf", Own))
    assert found.spaces["sampler.share"] == Space(low=0.1, high=0.9)
    assert "sampler.off" not in found.spaces


def test_fixed_settings_are_not_searched():
    fixed = ["training.lr", "training.epochs", "objective.l2"]
    assert list(choose_searches(variants("mf", "random"), fixed=fixed).spaces) == [
        "objective.repulsion"
    ]


def test_a_value_outside_its_space_is_not_searched_and_that_is_said():
    found = choose_searches(variants(training={"lr": 0.5}))
    assert "training.lr" not in found.spaces
    (said,) = found.left_out
    assert said.startswith("training.lr is not searched: 0.5 is outside 0.0005..0.02:log")


def test_a_space_that_goes_ill_with_the_rest_is_left_aside():
    options = {"sampler_options": {"steps": 60}}
    found = choose_searches(variants("mf", "exposure_diffusion", **options))
    assert "sampler.start" not in found.spaces
    assert any(said.startswith("sampler.start is not searched: ") for said in found.left_out)


def test_a_search_that_is_asked_for_comes_in_any_case():
    given = variants("mf", "random", training={"lr": 0.5})
    wanted = {"training.lr": Space(low=0.01, high=0.1), "backbone.dim": Space(choices=(4, 8))}
    found = choose_searches(given, search=wanted, fixed=["training.lr"])
    assert found.spaces["training.lr"] == wanted["training.lr"]
    assert found.given["training.lr"] == 0.5
    assert found.given["backbone.dim"] == 64
    assert "objective.l2" in found.spaces


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (["training.lr"], ["training.lr"]),
        (["objective"], ["objective.l2", "objective.repulsion", "objective.temperature"]),
        (["sampler", "training.lr"], ["sampler.exponent", "training.lr"]),
        (["objective.log_q"], ["objective.log_q"]),
    ],
)
def test_only_these(only, expected):
    assert list(choose_searches(variants(), only=only).spaces) == expected


def test_only_and_a_search_beside_it():
    search = {"backbone.dim": Space(choices=(4, 8))}
    found = choose_searches(variants(), only=["training.lr"], search=search)
    assert list(found.spaces) == ["backbone.dim", "training.lr"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"only": ["training.rate"]}, r"only training.rate: no such setting declares a space"),
        ({"only": ["samplr.exponent"]}, r"did you mean 'sampler.exponent'"),
        ({"search": {"training.lrr": Space(low=1, high=2)}}, r"did you mean 'training.lr'"),
        ({"search": {"seed": Space(low=1, high=2)}}, r"seed is not searched; .* luck"),
        ({"search": {"sampler.name": Space(choices=("a", "b"))}}, "cnsdiff benchmark"),
        ({"search": {"training.dial": Space(low=0, high=1)}}, "every trial finds its own"),
        ({"search": {"training.select_on": Space(choices=("valid",))}}, "the same for all trials"),
        ({"search": {"evaluation.ks": Space(low=1, high=2)}}, "the same for all trials"),
        ({"search": {"training.lr": Space(low=-1, high=0.1)}}, r"training.lr=-1.*greater than 0"),
        (
            {"only": ["objective.log_q"], "search": {"objective.log_q": Space(choices=("x",))}},
            "number",
        ),
        ({"only": ["sampler"], "fixed": ["sampler.exponent"]}, "nothing is left to search"),
    ],
)
def test_what_cannot_be_searched(arguments, words):
    with pytest.raises(ConfigError, match=words):
        choose_searches(variants(), **arguments)


def test_spaces_from_the_command_line():
    config = Recommender().resolve()
    texts = [
        "training.lr=0.001..0.1:log",
        "objective.repulsion = 0..1",
        "backbone.layers=1..4",
        "backbone.dim=32,64",
        "training.patience=null,5",
        "objective.score=inner,cosine",
        "objective.l2=1e-4,1e-2",
    ]
    assert read_searches(texts, config) == {
        "training.lr": Space(low=0.001, high=0.1, log=True),
        "objective.repulsion": Space(low=0, high=1),
        "backbone.layers": Space(low=1, high=4, integer=True),
        "backbone.dim": Space(choices=(32, 64)),
        "training.patience": Space(choices=(None, 5)),
        "objective.score": Space(choices=("inner", "cosine")),
        "objective.l2": Space(choices=(1e-4, 1e-2)),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training.lr", "write it as KEY=LOW..HIGH"),
        ("=1..2", "write it as KEY=LOW..HIGH"),
        ("training.lr=", "write it as KEY=LOW..HIGH"),
        ("training.lr=a..2", "'a..2' is not an interval of two numbers"),
        ("training.lr=2..1", "low below high"),
        ("training.lr=0..1:log", "log needs a low above 0"),
        ("training.lr=1..2:ln", "only 'log' can stand, not 'ln'"),
        ("backbone.layers=1.5..3", "integer needs whole low and high"),
        ("backbone.dim=8,8", "a choice is named twice"),
        ("backbone.dim=[,2", "is not a list of values"),
        ("training.lrr=1..2", "did you mean 'training.lr'"),
        ("training=1..2", "has no setting 'training'"),
        ("threads=1,2", "threads is not searched"),
    ],
)
def test_spaces_that_are_none(text, words):
    with pytest.raises(ConfigError) as caught:
        read_searches([text], Recommender().resolve())
    assert str(caught.value).startswith(f"--search {text}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_leaves():
    assert leaves({"a": {"b": 1, "c": {"d": None}}, "e": [2]}) == ["a.b", "a.c.d", "e"]
