"""The settings a search tries: where they lie, how they spread, and what they depend on."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare, kstest

from cnsdiff.base.errors import ConfigError
from cnsdiff.base.search_space import Space
from cnsdiff.benchmark.plan import settings_of

LR = Space(low=0.001, high=0.1, log=True)
L2 = Space(low=0.0, high=0.5)
STEPS = Space(low=1, high=6, integer=True)
WIDTH = Space(choices=(None, 20, "all", True, 0.5))


def test_the_first_trial_changes_nothing():
    assert settings_of(0, {"lr": LR, "l2": L2}, seed=3) == {}
    assert settings_of(5, {}, seed=3) == {}


def test_settings_are_a_function_of_seed_trial_and_name():
    space = {"lr": LR, "l2": L2, "steps": STEPS, "width": WIDTH}
    found = settings_of(4, space, seed=7)
    assert list(found) == sorted(space)
    assert settings_of(4, space, seed=7) == found
    assert settings_of(4, dict(reversed(space.items())), seed=7) == found
    np.random.seed(0)  # nothing may depend on it
    for name, one in space.items():
        assert settings_of(4, {name: one}, seed=7) == {name: found[name]}
        # A method that searches something else beside shares the value.
        assert settings_of(4, {name: one, "a": L2, "z": LR}, seed=7)[name] == found[name]
    for other in (settings_of(5, space, seed=7), settings_of(4, space, seed=8)):
        assert other["lr"] != found["lr"] and other["l2"] != found["l2"]
    same = settings_of(4, {"lr": LR, "other": LR}, seed=7)
    assert same["lr"] != same["other"], "names have streams of their own"


@settings(max_examples=40, deadline=None)
@given(
    low=st.floats(1e-6, 1e3),
    factor=st.floats(1.0001, 1e4),
    log=st.booleans(),
    seed=st.integers(0, 2**40),
    trial=st.integers(1, 10**6),
)
def test_inside_the_bounds(low, factor, log, seed, trial):
    space = Space(low=low, high=low * factor, log=log)
    value = settings_of(trial, {"x": space}, seed)["x"]
    assert isinstance(value, float)
    assert low <= value <= low * factor
    short = float(f"{value:.3g}")
    assert value == short or value in (space.low, space.high)


@settings(max_examples=40, deadline=None)
@given(
    low=st.integers(-50, 50),
    width=st.integers(1, 100),
    seed=st.integers(0, 100),
    trial=st.integers(1, 100),
)
def test_whole_numbers(low, width, seed, trial):
    space = Space(low=low, high=low + width, integer=True)
    value = settings_of(trial, {"n": space}, seed)["n"]
    assert type(value) is int
    assert low <= value <= low + width


def drawn(space: Space, n: int = 600) -> list[object]:
    return [settings_of(trial, {"x": space}, seed=11)["x"] for trial in range(1, n + 1)]


def test_logarithms_are_uniform():
    values = np.log(np.asarray(drawn(LR), float))
    low, high = math.log(0.001), math.log(0.1)
    assert kstest((values - low) / (high - low), "uniform").pvalue > 0.01


def test_without_a_logarithm_the_values_are():
    values = np.asarray(drawn(Space(low=2.0, high=5.0)), float)
    assert kstest((values - 2.0) / 3.0, "uniform").pvalue > 0.01


def test_logarithms_of_whole_numbers():
    """Half of them below the geometric mean, not the arithmetic one."""
    values = np.asarray(drawn(Space(low=1, high=1000, integer=True, log=True), 300), float)
    assert binomtest(int((values < 1000**0.5).sum()), len(values)).pvalue > 0.01


@pytest.mark.parametrize("space", [STEPS, WIDTH], ids=["integers", "choices"])
def test_all_choices_come_alike(space):
    values = drawn(space)
    kinds = range(1, 7) if space is STEPS else WIDTH.choices
    counts = [sum(v == k and type(v) is type(k) for v in values) for k in kinds]
    assert sum(counts) == len(values)
    assert chisquare(counts).pvalue > 0.01


def test_a_search_needs_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert settings_of(0, {"lr": LR}, seed=0) == {}
    with pytest.raises(ConfigError, match=r"needs Optuna; install it with: .* install 'cnsdiff"):
        settings_of(1, {"lr": LR}, seed=0)
