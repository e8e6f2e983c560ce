"""Counter-based uniforms against the published generator and against chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cnsdiff.base.seeding import splitmix64, uniforms

MASK = 2**64 - 1


def reference(seed: int, count: int) -> list[int]:
    """SplitMix64 as published, one output after the other, in Python integers."""
    found, state = [], seed
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        found.append(z ^ (z >> 31))
    return found


def test_published_outputs():
    """The five outputs for the seed 1234567 that implementations are checked by."""
    assert splitmix64(1234567, np.arange(5)).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(st.integers(0, MASK), st.integers(1, 40))
def test_any_key_is_the_sequential_generator(key, count):
    assert splitmix64(key, np.arange(count)).tolist() == reference(key, count)


def test_large_counters_wrap_around():
    last = 2**62
    state = (5 + (last + 1) * 0x9E3779B97F4A7C15) & MASK
    assert (
        int(splitmix64(5, np.array(last))) == reference((state - 0x9E3779B97F4A7C15) & MASK, 1)[0]
    )


def test_shape_and_order_do_not_matter():
    grid = np.arange(6).reshape(2, 3)
    flat = uniforms(9, np.arange(6))
    assert np.array_equal(uniforms(9, grid), flat.reshape(2, 3))
    assert np.array_equal(uniforms(9, grid[::-1, ::2]), flat.reshape(2, 3)[::-1, ::2])
    assert uniforms(9, np.array(4)) == flat[4]
    assert grid.dtype == np.int64  # the counters given are left alone
    assert np.array_equal(grid.ravel(), np.arange(6))


@pytest.mark.parametrize("key", [0, 1, 2**63, MASK])
def test_uniform(key):
    draws = uniforms(key, np.arange(100_000))
    assert draws.min() >= 0
    assert draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > 1e-3
    counts = np.histogram(draws, bins=256, range=(0, 1))[0]
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("lag", [1, 2, 800, 65_536])
def test_neighbours_are_independent(lag):
    """Neighbouring counters, neighbouring users of 800 items, and neighbouring keys."""
    draws = uniforms(7, np.arange(100_000 + lag))
    for one, other in (
        (draws[:-lag], draws[lag:]),
        (draws, uniforms(7 + lag, np.arange(len(draws)))),
    ):
        assert stats.pearsonr(one, other).pvalue > 1e-3
        cells = np.histogram2d(one, other, bins=16, range=((0, 1), (0, 1)))[0]
        assert stats.chisquare(cells.ravel()).pvalue > 1e-3
