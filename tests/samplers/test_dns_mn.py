"""DNS(M, N): one of the best M at random, or all of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import chisquare

from cnsdiff.base.errors import ConfigError
from cnsdiff.objectives.losses import bpr
from cnsdiff.recommender.config import resolve_config
from cnsdiff.samplers.base import Items
from cnsdiff.samplers.candidates import DNSMNConfig, DNSMNSampler
from cnsdiff.testing import DIM, check_sampler, make_batch, make_context


def build(world: Any, **options: Any) -> DNSMNSampler:
    return DNSMNSampler(world.positives, DIM, DNSMNConfig(**options), torch.Generator())


def best(row: Any, top: int) -> list[int]:
    """The ``top`` best candidates of a row, from the best down."""
    order = sorted(range(len(row.scores)), key=row.scores.__getitem__, reverse=True)
    return [row.candidates[k] for k in order[:top]]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"candidates": 5, "top": 5, "n_negatives": 3},
        {"candidates": 1, "top": 1},
        {"use": "all"},
        {"use": "all", "candidates": 6, "top": 6},
        {"use": "all", "candidates": 1, "top": 1},
    ],
)
def test_it_keeps_the_contract(options: dict[str, Any]) -> None:
    check_sampler(DNSMNSampler, DNSMNConfig(**options))


@pytest.mark.parametrize(("candidates", "top"), [(32, 2), (32, 5), (8, 3), (4, 4), (3, 1)])
def test_all_are_the_best_of_the_candidates_each_with_weight_one(
    world: Any, candidates: int, top: int
) -> None:
    sampler = build(world, use="all", candidates=candidates, top=top)
    negatives = sampler(world.batch, world.embeddings, make_context(2))
    expected = [best(rows[0], top) for rows in world.rows(1, candidates, seed=2)]
    assert [sorted(row) for row in negatives.items.tolist()] == [sorted(row) for row in expected]
    assert sampler.n_negatives == top
    assert torch.equal(negatives.weights, torch.ones(len(world.batch), top))


def test_bpr_of_all_is_the_sum_of_their_losses(world: Any) -> None:
    negatives = build(world, use="all", candidates=8, top=3)(
        world.batch, world.embeddings, make_context(2)
    )
    users, positives = world.batch.users, world.batch.positives
    table = world.embeddings.users @ world.embeddings.items.T
    own, others = table[users, positives], table[users.unsqueeze(1), negatives.items]
    expected = -(own.unsqueeze(1) - others).sigmoid().log().sum(dim=1).mean()
    torch.testing.assert_close(bpr(own, others, negatives.weights), expected)


@pytest.mark.parametrize(("candidates", "top"), [(32, 2), (8, 3), (4, 1)])
def test_one_is_among_the_best_of_its_own_candidates(world: Any, candidates: int, top: int) -> None:
    sampler = build(world, candidates=candidates, top=top, n_negatives=2)
    items = sampler(world.batch, world.embeddings, make_context(2)).items.tolist()
    for chosen, rows in zip(items, world.rows(2, candidates, seed=2), strict=True):
        for item, row in zip(chosen, rows, strict=True):
            assert item in best(row, top)


def test_each_of_the_best_is_equally_likely(world: Any) -> None:
    """Over many negatives of one row, by their rank in their own candidates."""
    n, candidates, top = 6000, 6, 3
    world = world._replace(batch=make_batch(world.positives, torch.tensor([0])))
    negatives: Items = build(world, candidates=candidates, top=top, n_negatives=n)(
        world.batch, world.embeddings, make_context(2)
    )
    ranks: Counter[int] = Counter()
    for item, row in zip(negatives.items[0].tolist(), world.rows(n, candidates, 2)[0], strict=True):
        kept = best(row, top)
        if len(set(kept)) == top:
            ranks[kept.index(item)] += 1
    assert sum(ranks.values()) > 3000
    assert chisquare([ranks[rank] for rank in range(top)]).pvalue > 1e-4


def test_more_cannot_be_kept_than_are_drawn() -> None:
    with pytest.raises(ValidationError, match="top=7 of candidates=4 cannot be kept"):
        DNSMNConfig(candidates=4, top=7)
    with pytest.raises(ConfigError, match=r"sampler: top=300 .* raise candidates to 300"):
        resolve_config({"sampler": {"name": "dns_mn", "top": 300}})


def test_all_fixes_the_number_of_negatives() -> None:
    with pytest.raises(ValidationError, match="leave n_negatives at 1"):
        DNSMNConfig(use="all", n_negatives=2)
