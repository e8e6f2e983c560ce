"""Random choices for all users and items at once, against loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from cnsdiff.shifts.drawing import anchors, draw, others, rank_within, rounded

groups = st.lists(st.integers(0, 6), max_size=40).map(lambda g: np.array(g, dtype=np.int64))


@given(groups, st.integers(0, 9))
def test_ranks_are_an_order_of_each_group(numbers, seed):
    ranks = rank_within(numbers, np.random.default_rng(seed))
    for group in set(numbers.tolist()):
        own = ranks[numbers == group]
        assert sorted(own.tolist()) == list(range(len(own)))


def test_every_order_of_a_group_is_equally_likely():
    rng = np.random.default_rng(0)
    numbers = np.array([0, 1, 0, 1, 0])
    seen = [tuple(rank_within(numbers, rng)[[0, 2, 4]]) for _ in range(1200)]
    counts = np.unique(seen, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert chisquare(counts).pvalue > 1e-3


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30))
def test_anchors_hold_every_user_and_item_and_few_more(pairs):
    users, items = np.array(pairs).T
    marked = anchors(users, items, np.random.default_rng(0))
    assert set(users[marked]) == set(users)
    assert set(items[marked]) == set(items)
    assert marked.sum() <= len(set(users)) + len(set(items)) - 1


def test_the_anchor_of_a_user_is_any_of_the_rows():
    rng = np.random.default_rng(0)
    users, items = np.array([0, 0, 0]), np.array([0, 0, 0])
    counts = sum(anchors(users, items, rng).astype(int) for _ in range(900))
    assert counts.sum() == 900
    assert chisquare(counts).pvalue > 1e-3


def test_draw_takes_each_row_equally_often_and_keeps_the_order():
    rng = np.random.default_rng(0)
    rows = np.array([3, 5, 8, 9])
    drawn = [draw(rows, 2, rng) for _ in range(1200)]
    assert all(first < second for first, second in drawn)
    counts = np.unique(np.concatenate(drawn), return_counts=True)[1]
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    ("share", "n", "size"), [(0.5, 3, 2), (0.1, 4, 0), (0.25, 2, 1), (0.8, 10, 8)]
)
def test_rounded(share, n, size):
    assert rounded(share, n) == size


def test_others():
    assert others(np.array([1, 3]), 5).tolist() == [0, 2, 4]
