"""Environments: labels as given, or strata of equal mass that never split equal values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnsdiff.base.errors import ConfigError
from cnsdiff.data.positives import Positives
from cnsdiff.samplers.environment import environment_labels


def logged(times: list[float]) -> Positives:
    """One user's interactions with as many items, at these times."""
    n = len(times)
    return Positives(np.zeros(n, dtype=np.int64), np.arange(n), 1, n + 1, np.array(times))


def by_popularity(counts: list[int]) -> Positives:
    """Items with these numbers of interactions, by as many users as needed."""
    items = np.repeat(np.arange(len(counts)), counts)
    users = np.concatenate([np.arange(count) for count in counts])
    return Positives(users, items, max(counts), len(counts))


@given(
    times=st.lists(st.integers(-1000, 1000), min_size=1, max_size=80, unique=True),
    n=st.integers(2, 6),
)
@settings(deadline=None, max_examples=100)
def test_distinct_times_fall_into_strata_of_equal_mass(times: list[int], n: int) -> None:
    labels = environment_labels(logged([float(t) for t in times]), "time", n)
    mass = torch.bincount(labels, minlength=n)
    assert len(mass) == n
    assert int(mass.max() - mass.min()) <= 1


@given(
    times=st.lists(st.integers(0, 9), min_size=1, max_size=80),
    n=st.integers(2, 6),
)
@settings(deadline=None, max_examples=150)
def test_ties_share_a_stratum_and_strata_follow_the_order(times: list[int], n: int) -> None:
    labels = environment_labels(logged([float(t) for t in times]), "time", n).tolist()
    assert all(0 <= label < n for label in labels)
    by_value = sorted(zip(times, labels, strict=True))
    assert [label for _, label in by_value] == sorted(labels)
    assert len(set(by_value)) == len(set(times))


def test_a_tie_group_goes_where_its_middle_is() -> None:
    # Value 1 five times, 2 three times: mid-ranks 2.5/8 and 6.5/8, in the halves 0 and 1, though
    # the last of the first group is in the second half.
    labels = environment_labels(logged([2, 1, 1, 2, 1, 1, 2, 1]), "time", 2)
    assert labels.tolist() == [1, 0, 0, 1, 0, 0, 1, 0]


def test_popularity_ranks_interactions_by_their_items_count() -> None:
    # 12 interactions: 4 with singletons, 4 with pairs, 4 with the hit; thirds of equal mass.
    positives = by_popularity([4, 1, 2, 1, 2, 1, 1])
    labels = environment_labels(positives, "popularity", 3)
    stratum = {4: 2, 2: 1, 1: 0}
    counts = positives.item_counts[positives.pairs[:, 1]]
    assert labels.tolist() == [stratum[int(count)] for count in counts]


def test_equal_popularity_is_one_environment() -> None:
    assert len(set(environment_labels(by_popularity([3, 3, 3]), "popularity", 4).tolist())) == 1


def test_time_without_timestamps_is_an_error_that_names_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"needs timestamps.*choose 'popularity'"):
        environment_labels(by_popularity([2, 1]), "time", 2)


def test_given_labels_are_taken_as_they_are() -> None:
    labels = np.array([2, 0, 2])
    positives = Positives(np.zeros(3, np.int64), np.arange(3), 1, 4, periods=labels)
    assert environment_labels(positives, "given", 2).tolist() == [2, 0, 2]
    with pytest.raises(ConfigError, match=r"needs labels of periods.*period="):
        environment_labels(by_popularity([2, 1]), "given", 2)
