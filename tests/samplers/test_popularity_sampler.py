"""Popularity sampling: the exact law over the free items, unit by unit and by χ²."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.stats import chisquare

from cnsdiff.backbones.base import Embeddings
from cnsdiff.data.positives import Positives
from cnsdiff.samplers import static
from cnsdiff.samplers.base import Batch
from cnsdiff.samplers.static import PopularityConfig, PopularitySampler, mass_bits, units
from cnsdiff.testing import DIM, check_sampler, make_context

#: Random 0/1 matrices with at least one positive, and an item that each user lacks.
matrices = hnp.arrays(
    np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=8)
).filter(lambda observed: bool(observed.any() and not observed.all(axis=1).any()))


def of(observed: NDArray[np.bool_]) -> Positives:
    users, items = np.nonzero(observed)
    order = np.random.default_rng(0).permutation(len(users))
    return Positives(users[order], items[order], *observed.shape)


def build(positives: Positives, **options: Any) -> PopularitySampler:
    return PopularitySampler(positives, DIM, PopularityConfig(**options), torch.Generator())


def draw(sampler: PopularitySampler, users: list[int]) -> NDArray[np.int64]:
    index = torch.tensor(users)
    batch = Batch(index=index, users=index, positives=index)
    nowhere = Embeddings(torch.empty(0, DIM), torch.empty(0, DIM))
    items: NDArray[np.int64] = sampler(batch, nowhere, make_context(1)).items.numpy()
    return items


@pytest.mark.parametrize("options", [{}, {"exponent": 0.0}, {"exponent": 3.0, "n_negatives": 4}])
def test_it_keeps_the_contract(options: dict[str, Any]) -> None:
    check_sampler(PopularitySampler, PopularityConfig(**options))


@pytest.mark.parametrize("exponent", [0.0, 0.75, 1.0, 2.0])
def test_items_are_drawn_by_their_popularity_to_the_exponent(exponent: float) -> None:
    """Users with one positive, with some, and with nearly all; popularities from 1 to 40."""
    rng = np.random.default_rng(1)
    observed = rng.random((40, 30)) < np.geomspace(0.9, 0.02, 30)
    observed[np.arange(30), np.arange(30)] = True
    observed[0] = np.arange(30) == 3
    observed[1] = True
    observed[1, [2, 9, 10, 28, 29]] = False
    positives = of(observed)
    sampler = build(positives, exponent=exponent, n_negatives=30_000)
    users = [0, 1, 2, 39]
    for user, drawn in zip(users, draw(sampler, users), strict=True):
        counts = np.bincount(drawn, minlength=30)
        free = ~observed[user]
        assert counts[~free].sum() == 0
        law = observed.sum(axis=0)[free].astype(float) ** exponent
        assert chisquare(counts[free], law / law.sum() * 30_000).pvalue > 1e-4 / len(users)


@given(observed=matrices, exponent=st.sampled_from([0.0, 0.75, 1.0, 4.0]), bits=st.integers(0, 9))
@settings(deadline=None, max_examples=150)
def test_each_free_item_has_exactly_its_units_and_a_positive_none(
    observed: NDArray[np.bool_], exponent: float, bits: int
) -> None:
    """With so few units that all can be asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(static, "_MOST_BITS", bits)
        sampler = build(of(observed), exponent=exponent)
    mass = units(observed.sum(axis=0), exponent, bits)
    for user in range(len(observed)):
        free = int(sampler.free_mass(torch.tensor(user)))
        assert free == mass[~observed[user]].sum()
        found = sampler.item_at(torch.tensor(user), torch.arange(free)).tolist()
        expected = [item for item in np.flatnonzero(~observed[user]) for _ in range(mass[item])]
        assert found == expected


def test_units_are_shares_of_the_power_of_popularity() -> None:
    counts = np.array([1, 10, 1000, 100_000, 3])
    for exponent in (0.0, 0.75, 1.0):
        mass = units(counts, exponent, 40)
        law = counts**exponent / (counts**exponent).sum()
        np.testing.assert_allclose(mass / mass.sum(), law, rtol=1e-6)


def test_an_item_nobody_has_keeps_a_unit() -> None:
    assert units(np.array([5, 0, 10**6]), 1.0, 12).tolist() == [1, 1, 4096]
    assert units(np.array([5, 0, 2, 1]), 0.0, 12).tolist() == [1024] * 4


@given(n_users=st.integers(1, 10**9), n_items=st.integers(1, 10**9))
def test_the_keys_fit_in_an_int64(n_users: int, n_items: int) -> None:
    bits = mass_bits(n_users, n_items)
    assert n_users * (2**bits + n_items + 1) < 2**63
    assert bits == 40 or n_users * (2 ** (bits + 1) + n_items + 1) >= 2**63


def test_ten_million_users_leave_enough_bits_for_a_million_items() -> None:
    assert mass_bits(10**7, 10**6) >= 39


def test_the_last_unit_of_the_last_user_belongs_to_the_last_free_item() -> None:
    """With all 40 bits: the ends of the range, where an error of one would show."""
    observed = np.zeros((50, 7), dtype=bool)
    observed[:, 3] = True
    observed[49, [0, 6]] = True
    sampler = build(of(observed))
    user = torch.tensor([49])
    free = sampler.free_mass(user)
    assert 0 < int(free) < 2**41
    ends = torch.stack([torch.zeros(1, dtype=torch.int64), free - 1])
    assert sampler.item_at(user, ends).flatten().tolist() == [1, 5]


def test_draws_of_a_user_are_independent() -> None:
    observed = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=bool)
    sampler = build(of(observed), exponent=1.0, n_negatives=2)
    drawn = draw(sampler, [0] * 30_000)
    law = np.array([2.0, 1.0]) / 3
    counts = np.bincount((drawn[:, 0] - 1) * 2 + drawn[:, 1] - 1, minlength=4)
    assert chisquare(counts, np.outer(law, law).ravel() * 30_000).pvalue > 1e-4


def test_nothing_of_it_is_saved() -> None:
    assert not build(of(np.eye(4, dtype=bool))).state_dict()


def test_a_negative_exponent_is_refused() -> None:
    with pytest.raises(ValidationError, match="exponent"):
        PopularityConfig(exponent=-0.5)
