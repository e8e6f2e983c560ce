"""Streams are pure functions of seed, purpose and indices, and differ in each."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnsdiff.base.seeding import derive_seed, numpy_generator, torch_generator

PURPOSES = ("order", "negatives", "noise", "backbone", "sampler")
keys = st.tuples(
    st.integers(0, 2**63), st.sampled_from(PURPOSES), st.lists(st.integers(0, 10**6), max_size=3)
)


@given(key=keys)
def test_equal_keys_give_equal_seeds_of_63_bits(key: tuple[int, str, list[int]]) -> None:
    seed, purpose, indices = key
    derived = derive_seed(seed, purpose, *indices)
    assert derived == derive_seed(seed, purpose, *indices)
    assert 0 <= derived < 2**63


def test_seeds_stay_the_same_across_versions() -> None:
    """A change here changes every published number and breaks resuming old runs."""
    assert derive_seed(0, "order", 1) == 219_923_109_298_569_256
    assert derive_seed(7, "noise") == 1_127_692_867_031_263_543


def test_seeds_differ_in_seed_purpose_and_index() -> None:
    seeds = [
        derive_seed(seed, purpose, *indices)
        for seed in range(20)
        for purpose in PURPOSES
        for indices in ((), (0,), (1,), (0, 1), (1, 0), *((epoch,) for epoch in range(2, 30)))
    ]
    # The chance that any two of n 63-bit numbers meet is n²/2^64: 10^-12 here.
    assert len(set(seeds)) == len(seeds)


def test_torch_streams_repeat_and_differ() -> None:
    one, again, other_purpose, other_index = (
        torch.rand(5, generator=torch_generator(3, *key))
        for key in (("noise", 1), ("noise", 1), ("order", 1), ("noise", 2))
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other_purpose)
    assert not torch.equal(one, other_index)


def test_numpy_streams_repeat_and_differ() -> None:
    one, again, other = (numpy_generator(3, p).random(5) for p in ("noise", "noise", "order"))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_streams_of_neighbouring_epochs_are_uncorrelated() -> None:
    n = 20_000
    one, next_one = (torch.randn(n, generator=torch_generator(0, "noise", e)) for e in (1, 2))
    # Standard error of a correlation of independent normals: 1/sqrt(n); z = 4.
    assert abs(torch.corrcoef(torch.stack([one, next_one]))[0, 1].item()) < 4 / n**0.5


def test_drawing_from_a_stream_leaves_the_global_one_alone() -> None:
    before = torch.random.get_rng_state()
    torch.rand(5, generator=torch_generator(0, "noise"))
    assert torch.equal(torch.random.get_rng_state(), before)
