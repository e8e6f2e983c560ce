"""Distances against scipy, closed forms and their own laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, wasserstein_distance

from cnsdiff.diagnostics.shift import (
    MAX_JS,
    distances,
    jensen_shannon,
    kullback_leibler,
    quantiles,
    shares,
    total_variation,
    wasserstein,
)


def vectors(n: int):
    return arrays(np.int64, n, elements=st.integers(0, 1000)).filter(lambda counts: counts.sum())


PAIRS = st.integers(1, 12).flatmap(lambda n: st.tuples(vectors(n), vectors(n)))
PLACED = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, n, elements=st.floats(-1e6, 1e6)), vectors(n), vectors(n)
    )
)


@given(PAIRS)
def test_jensen_shannon_is_the_square_of_scipys_distance(pair):
    p, q = pair
    assert jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q) ** 2, abs=1e-9)


@given(PAIRS)
def test_kullback_leibler_is_scipys_entropy_of_smoothed_counts(pair):
    p, q = pair
    assert kullback_leibler(p, q) == pytest.approx(entropy(p + 0.5, q + 0.5), abs=1e-12)
    assert kullback_leibler(p, q, smoothing=2) == pytest.approx(entropy(p + 2, q + 2), abs=1e-12)


@given(PLACED)
def test_wasserstein_is_scipys(placed):
    positions, p, q = placed
    theirs = wasserstein_distance(positions, positions, p, q)
    assert wasserstein(positions, p, q) == pytest.approx(theirs, rel=1e-9, abs=1e-6)


@given(PAIRS)
def test_laws(pair):
    p, q = pair
    for distance in (jensen_shannon, total_variation):
        assert distance(p, q) == pytest.approx(distance(q, p), abs=1e-12)
        assert distance(p, 3 * p) == pytest.approx(0.0, abs=1e-12)
    js, tv = jensen_shannon(p, q), total_variation(p, q)
    assert 0 <= js <= MAX_JS
    assert 0 <= tv <= 1
    # Lin (1991): JS is at most ln 2 times total variation; Pinsker gives the other side.
    assert tv**2 / 2 - 1e-12 <= js <= MAX_JS * tv + 1e-12
    assert kullback_leibler(p, q) >= 0
    assert kullback_leibler(p, p) == 0


@given(PAIRS)
def test_order_of_the_categories_does_not_matter(pair):
    p, q = pair
    there, back = distances(p, q, quantiles(p)), distances(p[::-1], q[::-1], quantiles(p)[::-1])
    for name in ("js", "kl_split_train", "kl_train_split", "tv", "wasserstein"):
        assert getattr(there, name) == pytest.approx(getattr(back, name), abs=1e-9)


def test_by_hand():
    p, q = np.array([1, 1, 0]), np.array([0, 1, 1])
    found = distances(p, q, np.array([0.0, 1.0, 3.0]))
    assert found.js == pytest.approx(math.log(2) / 2)
    assert found.tv == pytest.approx(0.5)
    assert found.wasserstein == pytest.approx(1.5)
    # (1.5, 1.5, .5) / 3.5 against (.5, 1.5, 1.5) / 3.5: ln 3 on the difference of 2 / 7.
    assert found.kl_split_train == found.kl_train_split == pytest.approx(2 / 7 * math.log(3))
    assert distances(p, q).wasserstein is None


def test_directions_of_kullback_leibler():
    train, split = np.array([98, 1, 1]), np.array([1, 1, 98])
    spread = np.array([10, 10, 10])
    assert distances(train, spread).kl_split_train == kullback_leibler(spread, train)
    assert distances(train, spread).kl_train_split == kullback_leibler(train, spread)
    assert kullback_leibler(spread, train) != pytest.approx(kullback_leibler(train, spread), 0.05)
    assert kullback_leibler(train, split, smoothing=0) < math.inf
    assert kullback_leibler(np.array([1, 1]), np.array([1, 0]), smoothing=0) == math.inf


def test_without_common_support():
    p, q = np.array([5, 0]), np.array([0, 7])
    assert jensen_shannon(p, q) == MAX_JS == pytest.approx(math.log(2))
    assert total_variation(p, q) == 1
    assert jensen_shannon(np.array([4]), np.array([9])) == 0
    assert wasserstein(np.array([2.0]), np.array([4]), np.array([9])) == 0


def test_quantiles_are_mid_ranks():
    assert quantiles(np.array([5, 1, 5, 9])).tolist() == [0.5, 0.125, 0.5, 0.875]
    assert quantiles(np.array([3])).tolist() == [0.5]


@given(vectors(9))
def test_quantiles_by_counting(counts):
    wanted = [
        ((counts < own).sum() + ((counts == own).sum() + 1) / 2 - 0.5) / len(counts)
        for own in counts
    ]
    assert quantiles(counts) == pytest.approx(wanted)


@pytest.mark.parametrize("counts", [[0, 0], [-1, 2], [np.nan, 1.0], [np.inf, 1.0], []])
def test_what_is_no_distribution(counts):
    with pytest.raises(ValueError, match="counts must be finite"):
        shares(np.array(counts))
