"""Membership and exact negative sampling against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.stats import chisquare

from cnsdiff.base.errors import DataError
from cnsdiff.data.positives import Positives

Observed = NDArray[np.bool_]

#: Random 0/1 matrices with at least one positive.
matrices = hnp.arrays(
    np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
).filter(lambda observed: bool(observed.any()))


def of(observed: Observed, seed: int = 0) -> Positives:
    users, items = np.nonzero(observed)
    order = np.random.default_rng(seed).permutation(len(users))
    return Positives(users[order].astype(np.int64), items[order].astype(np.int64), *observed.shape)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(observed=matrices)
@settings(deadline=None, max_examples=100)
def test_contains_is_membership_for_every_pair(observed: Observed) -> None:
    users, items = torch.arange(observed.shape[0]), torch.arange(observed.shape[1])
    answer = of(observed).contains(users.unsqueeze(1), items)
    assert np.array_equal(answer.numpy(), observed)


@given(observed=matrices)
@settings(deadline=None, max_examples=50)
def test_counts_are_row_and_column_sums(observed: Observed) -> None:
    positives = of(observed)
    assert np.array_equal(positives.user_counts.numpy(), observed.sum(axis=1))
    assert np.array_equal(positives.item_counts.numpy(), observed.sum(axis=0))
    assert len(positives) == observed.sum()


def test_pairs_and_timestamps_stay_in_the_order_given() -> None:
    users, items = np.array([2, 0, 1, 0]), np.array([1, 2, 0, 0])
    times = np.array([5.0, 1.5, 9.0, 2.0])
    positives = Positives(users, items, 3, 3, times)
    assert positives.pairs.tolist() == [[2, 1], [0, 2], [1, 0], [0, 0]]
    assert positives.timestamps is not None
    assert positives.timestamps.tolist() == times.tolist()


def test_there_are_no_timestamps_unless_given() -> None:
    assert of(np.eye(2, dtype=bool)).timestamps is None


@given(observed=matrices, seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=150)
def test_a_sampled_negative_is_never_a_positive_and_always_an_item(
    observed: Observed, seed: int
) -> None:
    free = torch.from_numpy(np.flatnonzero(~observed.all(axis=1)))
    items = of(observed).sample_negatives(free, 20, stream(seed))
    assert items.shape == (len(free), 20)
    assert bool(((items >= 0) & (items < observed.shape[1])).all())
    assert not observed[free.unsqueeze(1).numpy(), items.numpy()].any()


@given(observed=matrices)
@settings(deadline=None, max_examples=50)
def test_each_user_draws_all_of_the_free_items(observed: Observed) -> None:
    positives = of(observed)
    for user in np.flatnonzero(~observed.all(axis=1)):
        free = np.flatnonzero(~observed[user])
        drawn = positives.sample_negatives(torch.tensor([user]), 60 * len(free), stream())
        # A free item is missed with chance (1 - 1/k)^(60 k) < e^-60.
        assert np.array_equal(np.unique(drawn.numpy()), free)


def test_negatives_are_uniform_over_each_users_free_items() -> None:
    rng = np.random.default_rng(3)
    observed = rng.random((8, 30)) < np.linspace(0.02, 0.9, 8)[:, None]
    observed[:, 4] = False
    n = 30_000
    drawn = of(observed).sample_negatives(torch.arange(8), n, stream(4)).numpy()
    for user in range(8):
        counts = np.bincount(drawn[user], minlength=30)
        free = ~observed[user]
        assert counts[~free].sum() == 0
        if free.sum() > 1:
            # A false alarm once in 10^4 seeds, for any of eight users.
            assert chisquare(counts[free]).pvalue > 1e-4 / 8


def test_draws_of_a_user_are_independent() -> None:
    observed = np.zeros((1, 4), dtype=bool)
    observed[0, 1] = True
    drawn = of(observed).sample_negatives(torch.zeros(90_000, dtype=torch.int64), 2, stream(5))
    cells = np.bincount((drawn[:, 0] * 4 + drawn[:, 1]).numpy(), minlength=16).reshape(4, 4)
    pairs = cells[np.ix_([0, 2, 3], [0, 2, 3])]
    assert pairs.sum() == 90_000
    assert chisquare(pairs.ravel()).pvalue > 1e-4


def test_a_user_with_one_free_item_always_gets_it() -> None:
    observed = np.ones((5, 5), dtype=bool)
    np.fill_diagonal(observed, False)
    items = of(observed).sample_negatives(torch.arange(5), 50, stream())
    assert torch.equal(items, torch.arange(5).unsqueeze(1).expand(5, 50))


def test_a_user_without_positives_can_get_any_item() -> None:
    observed = np.zeros((2, 6), dtype=bool)
    observed[0, 2] = True
    items = of(observed).sample_negatives(torch.tensor([1]), 400, stream())
    # Six items, 400 draws: one is missed with chance below 6 (5/6)^400 < 1e-30.
    assert set(items.flatten().tolist()) == set(range(6))


def test_the_largest_uniform_number_still_gives_an_item() -> None:
    """``rank = ⌊u · free⌋`` stays below ``free`` for the largest ``u`` below one."""
    u = 1 - 2.0**-53
    assert all(int(u * free) < free for free in range(1, 100_000))


def test_the_same_stream_gives_the_same_negatives() -> None:
    positives = of(np.eye(6, dtype=bool))
    one, again, other = (
        positives.sample_negatives(torch.arange(6), 30, stream(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_no_free_item_at_all_is_an_error_that_says_so() -> None:
    observed = np.array([[True, True], [False, False], [True, True]])
    with pytest.raises(DataError, match=r"every user interacted with all 2 items"):
        of(observed).require_negatives()
    observed[1, 0] = True
    of(observed).require_negatives()


def test_rows_of_users_that_lack_an_item() -> None:
    observed = np.array([[True, True], [True, False], [True, True]])
    positives = of(observed)
    assert positives.full_users.tolist() == [0, 2]
    rows = positives.rows_with_negatives()
    assert positives.pairs[rows].tolist() == [[1, 0]]
    drawn = positives.sample_negatives(torch.arange(3), 5, stream(0))
    assert drawn.min() >= 0 and drawn.max() < 2  # items, if not negatives, of the others too
    assert (drawn[1] == 1).all()
    lacking = of(np.array([[True, False], [False, True]]))
    assert lacking.rows_with_negatives() is None
