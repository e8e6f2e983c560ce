"""Negatives: a part of their rows, and one of each row by its weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.samplers.base import Negatives

WEIGHTS = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.7, 0.0, 0.1], [5.0, 5.0, 5.0, 5.0]])
ITEMS = torch.arange(12).view(3, 4) + 20
ADDED: dict[str, Any] = {
    "pool": torch.ones(2, 5),
    "loss": torch.tensor(1.0),
    "diagnostics": {"length": torch.tensor(2.0)},
}


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vectors_of(items: Tensor) -> Tensor:
    """Vectors ``(…, 2)`` that say which item they stand for."""
    return torch.stack([items.double(), -items.double()], dim=-1)


def test_some_rows_are_those_asked_for_without_what_the_sampler_adds() -> None:
    index = torch.tensor([2, 0, 2])
    by_item = Negatives(items=ITEMS, weights=WEIGHTS, **ADDED).rows(index)
    assert by_item.items is not None
    assert by_item.weights is not None
    assert by_item.items.tolist() == [ITEMS[k].tolist() for k in (2, 0, 2)]
    assert by_item.weights.tolist() == [WEIGHTS[k].tolist() for k in (2, 0, 2)]
    by_vector = Negatives(vectors=vectors_of(ITEMS), **ADDED).rows(index)
    assert by_vector.vectors is not None
    assert torch.equal(by_vector.vectors, vectors_of(by_item.items))
    assert by_vector.weights is None
    for part in (by_item, by_vector):
        assert (part.pool, part.loss, part.diagnostics) == (None, None, {})


@pytest.mark.parametrize("scale", [1.0, 1e-4, 300.0])
def test_a_rows_negatives_are_drawn_in_proportion_to_their_weights(scale: float) -> None:
    times = 20_000
    negatives = Negatives(items=ITEMS, weights=scale * WEIGHTS)
    drawn = negatives.rows(torch.arange(3).repeat(times)).drawn(stream()).items
    assert drawn is not None
    assert drawn.shape == (3 * times, 1)
    for row, (items, weights) in enumerate(zip(ITEMS, WEIGHTS, strict=True)):
        counts = torch.stack([(drawn[row::3] == item).sum() for item in items])
        expected = weights / weights.sum() * times
        possible = weights > 0
        assert counts.sum() == times
        assert counts[~possible].sum() == 0
        assert chisquare(counts[possible].numpy(), expected[possible].numpy()).pvalue > 1e-4


def test_vectors_are_drawn_as_the_items_are() -> None:
    index = torch.arange(3).repeat(500)
    by_item = Negatives(items=ITEMS, weights=WEIGHTS).rows(index).drawn(stream()).items
    made = Negatives(vectors=vectors_of(ITEMS), weights=WEIGHTS)
    by_vector = made.rows(index).drawn(stream()).vectors
    assert by_item is not None
    assert by_vector is not None
    assert torch.equal(by_vector, vectors_of(by_item))


def test_what_is_drawn_has_no_weight_and_nothing_added() -> None:
    drawn = Negatives(items=ITEMS, weights=WEIGHTS, **ADDED).drawn(stream())
    assert drawn.per_row == 1
    assert drawn.weights is None
    assert (drawn.pool, drawn.loss, drawn.diagnostics) == (None, None, {})


def test_without_weights_all_count_alike_and_all_stay() -> None:
    negatives = Negatives(items=ITEMS)
    assert negatives.drawn(stream()) is negatives


def test_half_precision_weights_can_be_drawn_from() -> None:
    drawn = Negatives(items=ITEMS, weights=WEIGHTS.to(torch.bfloat16)).drawn(stream())
    assert drawn.per_row == 1


@pytest.mark.parametrize("n_items", [5, 5000])
def test_scores_are_inner_products_with_gradient_by_either_way(n_items: int) -> None:
    generator = stream()
    users = torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    table = torch.randn(n_items, 4, generator=generator, dtype=torch.float64).requires_grad_()
    items = torch.randint(n_items, (3, 2), generator=generator)
    scores = Negatives(items=items).scores(users, Embeddings(users, table))
    expected = torch.stack([table[row] @ user for row, user in zip(items, users, strict=True)])
    torch.testing.assert_close(scores, expected)
    upstream = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad((scores * upstream).sum(), (users, table))
    theirs = torch.autograd.grad((expected * upstream).sum(), (users, table))
    torch.testing.assert_close(ours, theirs)
