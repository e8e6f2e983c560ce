"""Partial generation: ladders, grids of starting steps, full chains."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cnsdiff.diffusion.process import GaussianDiffusion, cosine, ladder

Z_0 = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NOISE = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class FixedNoise(GaussianDiffusion):
    """The noise that begins a chain is the same for every starting step."""

    def add_noise(self, z_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return super().add_noise(z_0, t, NOISE.expand_as(z_0))


def prediction(z_t: Tensor, t: Tensor) -> Tensor:
    return (z_t * 1.3 + t.double() / 10).tanh()


class Recorder:
    """A denoiser that depends on vector and step, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, z_t: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (len(z_t), 1)
        self.asked.append(t.flatten().tolist())
        return prediction(z_t, t.unsqueeze(-1))


def stream(seed: int = 2) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chain(start: int, noised_to: int, calls: int | None) -> Tensor:
    """One deterministic chain, step by step."""
    process = FixedNoise(cosine(20))
    z = process.add_noise(Z_0, torch.tensor(noised_to), NOISE)
    for t, s in pairwise(map(torch.tensor, ladder(start, calls))):
        z = process.posterior(prediction(z, t), z, t, s)[0]
    return z


@given(start=st.integers(0, 300), calls=st.none() | st.integers(1, 300))
@settings(deadline=None, max_examples=300)
def test_a_ladder_descends_from_its_start_to_zero(start: int, calls: int | None) -> None:
    steps = ladder(start, calls)
    assert steps[0] == start
    assert steps[-1] == 0
    assert all(above > below for above, below in pairwise(steps))


@given(start=st.integers(0, 300), calls=st.integers(1, 300))
@settings(deadline=None, max_examples=300)
def test_a_ladder_has_as_many_even_steps_as_calls(start: int, calls: int) -> None:
    strides = [above - below for above, below in pairwise(ladder(start, calls))]
    assert len(strides) == min(start, calls)
    # Both ends of a stride are rounded, each by at most one half.
    assert all(abs(stride - start / len(strides)) <= 1 for stride in strides)


def test_without_a_limit_every_step_is_called() -> None:
    assert ladder(4, None) == [4, 3, 2, 1, 0]


def test_one_call_jumps_to_the_data() -> None:
    assert ladder(14, 1) == [14, 0]


@pytest.mark.parametrize("calls", [None, 1, 4])
@pytest.mark.parametrize("full_chain", [False, True])
def test_a_grid_of_starts_equals_each_start_alone(calls: int | None, full_chain: bool) -> None:
    starts = (3, 20, 0, 11)
    process = FixedNoise(cosine(20))
    options = {"calls": calls, "stochastic": False, "full_chain": full_chain}
    grid = process.generate(Recorder(), Z_0, starts, stream(), **options)
    assert grid.shape == (4, 6, 4)
    for start, together in zip(starts, grid, strict=True):
        alone = process.generate(Recorder(), Z_0, [start], stream(), **options)[0]
        torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-14)
        expected = chain(20 if full_chain else start, start, calls)
        torch.testing.assert_close(together, expected, rtol=1e-12, atol=1e-14)


def test_starting_at_zero_returns_the_data() -> None:
    generated = GaussianDiffusion(cosine(20)).generate(Recorder(), Z_0, [0], stream())
    assert torch.equal(generated[0], Z_0)


def test_a_partial_chain_calls_the_denoiser_from_its_own_start_only() -> None:
    recorder = Recorder()
    GaussianDiffusion(cosine(20)).generate(recorder, Z_0, (2, 4), stream())
    assert recorder.asked == [[2, 4], [1, 3], [2], [1]]


def test_a_full_chain_calls_the_denoiser_from_the_last_step_for_every_start() -> None:
    recorder = Recorder()
    GaussianDiffusion(cosine(20)).generate(recorder, Z_0, (2, 4), stream(), full_chain=True)
    assert recorder.asked == [[t, t] for t in range(20, 0, -1)]


def test_one_call_for_all_starts_is_one_call() -> None:
    recorder = Recorder()
    GaussianDiffusion(cosine(20)).generate(recorder, Z_0, (10, 14, 18), stream(), calls=1)
    assert recorder.asked == [[10, 14, 18]]


def test_the_same_stream_generates_the_same_vectors_and_another_stream_others() -> None:
    process = GaussianDiffusion(cosine(20))
    one, again, other = (
        process.generate(Recorder(), Z_0, (5, 15), stream(seed)) for seed in (2, 2, 3)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_chains_of_a_grid_get_noise_of_their_own() -> None:
    generated = GaussianDiffusion(cosine(20)).generate(Recorder(), Z_0, (9, 9), stream())
    assert not torch.equal(generated[0], generated[1])


def test_only_stochastic_chains_draw_noise_after_the_start() -> None:
    process = FixedNoise(cosine(20))
    chains = {
        stochastic: [
            process.generate(Recorder(), Z_0, [9], stream(seed), stochastic=stochastic)
            for seed in (2, 3)
        ]
        for stochastic in (True, False)
    }
    assert torch.equal(*chains[False])
    assert not torch.equal(*chains[True])


def test_a_denoiser_that_knows_the_data_brings_it_back_exactly() -> None:
    generated = GaussianDiffusion(cosine(20)).generate(
        lambda z_t, t: Z_0.expand_as(z_t), Z_0, (1, 10, 20), stream()
    )
    torch.testing.assert_close(generated, Z_0.expand(3, 6, 4), rtol=1e-12, atol=1e-12)
