"""The weights of Softmax-v(ρ, N) against their formula, candidate by candidate."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cnsdiff.backbones.base import Embeddings
from cnsdiff.samplers.candidates import SoftmaxRhoConfig, SoftmaxRhoSampler
from cnsdiff.testing import DIM, check_sampler, make_batch, make_context, tiny_positives


def build(positives: Any, **options: Any) -> SoftmaxRhoSampler:
    return SoftmaxRhoSampler(positives, DIM, SoftmaxRhoConfig(**options), torch.Generator())


@pytest.mark.parametrize("options", [{}, {"candidates": 2}, {"candidates": 40, "rho": 5.0}])
def test_it_keeps_the_contract(options: dict[str, Any]) -> None:
    check_sampler(SoftmaxRhoSampler, SoftmaxRhoConfig(**options))


@pytest.mark.parametrize(("candidates", "rho"), [(40, 1.0), (8, 1.0), (8, 0.2), (2, 3.0)])
def test_candidates_weigh_by_their_losses_over_the_temperature(
    world: Any, candidates: int, rho: float
) -> None:
    sampler = build(world.positives, candidates=candidates, rho=rho)
    negatives = sampler(world.batch, world.embeddings, make_context(2))
    assert sampler.n_negatives == candidates
    rows = [rows[0] for rows in world.rows(1, candidates, seed=2)]
    assert negatives.items.tolist() == [row.candidates for row in rows]
    for weights, row in zip(negatives.weights.tolist(), rows, strict=True):
        losses = [math.log1p(math.exp(score - row.positive)) for score in row.scores]
        spread = statistics.variance(losses)
        tau = math.sqrt(spread / (2 * rho)) if len(set(row.candidates)) > 1 else 1.0
        exponentials = [math.exp((loss - max(losses)) / tau) for loss in losses]
        expected = [x / sum(exponentials) for x in exponentials]
        assert weights == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(scale=st.sampled_from([0.0, 1e-12, 1e-6, 1e-3, 1.0, 30.0, 1e4]), rho=st.floats(0.01, 100))
@settings(deadline=None, max_examples=40)
def test_weights_are_shares_whatever_the_size_of_scores(scale: float, rho: float) -> None:
    positives = tiny_positives()
    stream = torch.Generator().manual_seed(0)
    tables = Embeddings(*(scale * torch.randn(n, DIM, generator=stream) for n in (12, 17)))
    weights = build(positives, candidates=9, rho=rho)(
        make_batch(positives), tables, make_context()
    ).weights
    assert weights.isfinite().all()
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(positives)))


@pytest.mark.parametrize("candidates", [4, 40])
def test_candidates_that_score_alike_weigh_alike(world: Any, candidates: int) -> None:
    items = world.embeddings.items[:1].expand(17, -1)
    for dtype in (torch.float32, torch.float64):
        tables = Embeddings(*(table.to(dtype) for table in (world.embeddings.users, items)))
        sampler = build(world.positives, candidates=candidates)
        weights = sampler(world.batch, tables, make_context()).weights
        alike = torch.full_like(weights, 1 / candidates)
        torch.testing.assert_close(weights, alike, rtol=1e-6, atol=0)


def test_a_larger_rho_puts_more_weight_on_the_hardest(world: Any) -> None:
    largest = [
        build(world.positives, candidates=40, rho=rho)(
            world.batch, world.embeddings, make_context()
        )
        .weights.max(dim=1)
        .values
        for rho in (0.1, 1.0, 10.0)
    ]
    assert (largest[0] < largest[1]).all()
    assert (largest[1] < largest[2]).all()


def test_weights_carry_no_gradient(world: Any) -> None:
    tables = Embeddings(*(table.clone().requires_grad_() for table in world.embeddings))
    assert not build(world.positives)(world.batch, tables, make_context()).weights.requires_grad


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_negatives": 2}, "leave n_negatives at 1 and set candidates"),
        ({"candidates": 1}, "candidates"),
        ({"rho": 0}, "rho"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SoftmaxRhoConfig(**options)
