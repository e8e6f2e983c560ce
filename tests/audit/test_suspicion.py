"""A recommender that has seen the held-out pairs is told from one that has not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from audit_parts import log_frame
from scipy.sparse import csr_array

from cnsdiff.audit.suspicion import signs
from cnsdiff.evaluation import rank
from cnsdiff.references import EASE, MostPop
from cnsdiff.shifts import prepare

ALL = ("train", "valid", "test_iid", "test_ood")


@pytest.fixture(scope="module")
def dataset():
    return prepare(log_frame(240, 150, 40), "popularity", threshold=4, test_share=0.111)


def matrix(dataset, splits) -> csr_array:
    parts = [dataset.split(name) for name in splits]
    rows = np.concatenate([part.users for part in parts])
    columns = np.concatenate([part.items for part in parts])
    ones = np.ones(len(rows), dtype=np.float32)
    return csr_array((ones, (rows, columns)), shape=(dataset.n_users, dataset.n_items))


def lists_of(model, learnt_from, left_out, dataset):
    """Lists of a model of some splits, without the pairs of others."""
    pairs = matrix(dataset, learnt_from)
    model._fit(pairs)
    model.train_ = pairs
    exclude = matrix(dataset, left_out) if left_out else None
    return rank(model, torch.arange(dataset.n_users), 20, exclude=exclude)[0]


def test_one_that_has_seen_train_alone_gives_no_sign(dataset):
    for left_out in ((), ("train",)):
        found = signs(lists_of(EASE(l2=20.0), ("train",), left_out, dataset), dataset, seed=0)
        assert not found.learnt_from_both
        assert not found.left_out
        assert found.held_out.low > 0
    assert found.n_users > 150


def test_one_that_has_seen_all_finds_held_out_pairs_as_it_finds_train(dataset):
    found = signs(lists_of(EASE(l2=20.0), ALL, (), dataset), dataset, seed=0)
    assert found.learnt_from_both
    assert found.ratio.low < 1 < found.ratio.high


def test_one_that_leaves_out_all_that_it_knows_lacks_held_out_pairs(dataset):
    found = signs(lists_of(EASE(l2=20.0), ALL, ALL, dataset), dataset, seed=0)
    assert found.left_out


def test_popularity_is_no_sign(dataset):
    found = signs(lists_of(MostPop(), ALL, (), dataset), dataset, seed=0)
    assert not found.learnt_from_both
    assert not found.left_out


def test_without_lists_there_is_nothing_to_see(dataset):
    nothing = torch.full((dataset.n_users, 5), -1)
    found = signs(nothing, dataset, seed=0)
    assert found.n_users == 0
    assert not found.learnt_from_both
    assert not found.left_out
