"""Parts of a split, against a measurement pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnsdiff.base.errors import InputError
from cnsdiff.data import Split
from cnsdiff.evaluation.slices import cut_counts, cut_times, sliced_accuracy


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(1, 6))
def test_counts_are_cut_into_ranges_that_hold_their_values(counts, n):
    counts = np.array(counts)
    if not counts.any():
        with pytest.raises(InputError, match="cannot be divided"):
            cut_counts(counts, n)
        return
    cut = cut_counts(counts, n)
    present = counts[counts > 0]
    parts = cut.part_of(present)
    assert 1 <= len(cut) <= n
    assert set(parts) == set(range(len(cut)))  # none is empty
    for part, name in enumerate(cut.names):
        low, _, high = name.replace(",", "").partition("–")
        own = present[parts == part]
        assert int(low) <= own.min() <= own.max() <= int(high or low)


def test_equal_numbers_of_items_fall_into_each_range():
    cut = cut_counts(np.arange(1, 101), 5)
    assert np.bincount(cut.part_of(np.arange(1, 101))).tolist() == [20] * 5
    assert cut.names == ("1–20", "21–40", "41–60", "61–80", "81–100")
    # What train has not, or has more often than anything, is in the first and in the last.
    assert cut.part_of(np.array([0, 5000])).tolist() == [0, 4]


def test_equal_counts_stay_together():
    assert cut_counts(np.array([1, 1, 1, 1, 1, 1, 1, 2, 9]), 3).names == ("1", "2–9")
    assert cut_counts(np.array([3, 3, 3]), 3).names == ("3",)


def test_times_are_named_by_their_day_or_minute():
    days = np.arange(10) * 86_400
    assert cut_times(days, 2).names == ("1970-01-01", "1970-01-06")
    assert cut_times(np.arange(10) * 60, 2).names == (
        "1970-01-01 00:00",
        "1970-01-01 00:05",
    )
    assert len(cut_times(np.full(7, 3.5), 5)) == 1


def test_nothing_cannot_be_divided():
    with pytest.raises(InputError, match="some of both"):
        cut_times(np.array([]), 3)
    with pytest.raises(InputError, match="some of both"):
        cut_counts(np.array([1]), 0)


@given(st.integers(0, 10_000), st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_accuracy_of_parts_is_that_of_their_pairs_alone(seed, n_parts):
    rng = np.random.default_rng(seed)
    n_users, n_items, k = 7, 12, 5
    pairs = rng.permutation(n_users * n_items)[: rng.integers(1, 40)]
    split = Split("test_ood", pairs // n_items, pairs % n_items)
    parts = rng.integers(0, n_parts, len(split))
    users = torch.arange(n_users)
    lists = torch.from_numpy(np.stack([rng.permutation(n_items)[:k] for _ in range(n_users)]))
    found = sliced_accuracy(users, lists, split, parts, (n_users, n_items), ks=(k,))
    expected = {}
    for part in set(parts.tolist()):
        for user in set(split.users[parts == part].tolist()):
            relevant = {
                int(item)
                for item, of, at in zip(split.items, split.users, parts, strict=True)
                if of == user and at == part
            }
            listed = enumerate(lists[user].tolist())
            gains = [1 / math.log2(r + 2) for r, item in listed if item in relevant]
            ideal = sum(1 / math.log2(r + 2) for r in range(min(len(relevant), k)))
            hits = len(gains) / len(relevant)
            expected[part, user] = (len(relevant), sum(gains) / ideal, hits)
    got = {
        (row["part"], row["user"]): (row["n_relevant"], row[f"ndcg@{k}"], row[f"recall@{k}"])
        for row in found.iter_rows(named=True)
    }
    assert got.keys() == expected.keys()
    for key, values in expected.items():
        assert got[key] == pytest.approx(values)


def test_parts_of_users_are_the_users_themselves():
    """Parts by user give every user the accuracy of the whole split."""
    split = Split("test_iid", np.array([0, 0, 1, 2]), np.array([0, 3, 1, 2]))
    lists = torch.tensor([[3, 1], [1, 0], [0, 1]])
    of_user = np.array([0, 1, 0])
    whole = sliced_accuracy(torch.arange(3), lists, split, np.zeros(4, int), (3, 4), ks=(2,))
    parts = sliced_accuracy(torch.arange(3), lists, split, of_user[split.users], (3, 4), ks=(2,))
    assert parts.drop("part").sort("user").equals(whole.drop("part"))


def test_every_pair_needs_a_part():
    split = Split("test_iid", np.array([0]), np.array([0]))
    with pytest.raises(InputError, match="as many parts"):
        sliced_accuracy(torch.arange(1), torch.tensor([[0]]), split, np.zeros(2, int), (1, 1))
