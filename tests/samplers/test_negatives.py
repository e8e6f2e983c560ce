"""What samplers return: some of its rows, and what a row is dealt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.samplers import Items, Negatives, SharedItems, SharedVectors, Vectors

WEIGHTS = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.7, 0.0, 0.1], [5.0, 5.0, 5.0, 5.0]])
ITEMS = torch.arange(12).view(3, 4) + 20
ADDED: dict[str, Any] = {
    "loss": torch.tensor(1.0),
    "diagnostics": {"length": torch.tensor(2.0)},
}
SHARED = torch.tensor([4, 5, 6])


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vectors_of(items: Tensor) -> Tensor:
    """Vectors ``(…, 2)`` that say which item they stand for."""
    return torch.stack([items.double(), -items.double()], dim=-1)


def test_some_rows_are_those_asked_for_without_what_the_sampler_adds() -> None:
    index = torch.tensor([2, 0, 2])
    by_item = Items(ITEMS, WEIGHTS, **ADDED).rows(index)
    assert by_item.weights is not None
    assert by_item.items.tolist() == [ITEMS[k].tolist() for k in (2, 0, 2)]
    assert by_item.weights.tolist() == [WEIGHTS[k].tolist() for k in (2, 0, 2)]
    by_vector = Vectors(vectors_of(ITEMS), torch.ones(2, 5), **ADDED).rows(index)
    assert torch.equal(by_vector.vectors, vectors_of(by_item.items))
    assert by_vector.pool is None
    for part in (by_item, by_vector):
        assert (part.loss, part.diagnostics) == (None, {})


@pytest.mark.parametrize("scale", [1.0, 1e-4, 300.0])
def test_a_row_is_dealt_one_item_in_proportion_to_its_weight(scale: float) -> None:
    times = 20_000
    rows = Items(ITEMS, scale * WEIGHTS).rows(torch.arange(3).repeat(times))
    dealt = rows.deal(3 * times, stream()).items
    assert dealt.shape == (3 * times, 1)
    for row, (items, weights) in enumerate(zip(ITEMS, WEIGHTS, strict=True)):
        counts = torch.stack([(dealt[row::3] == item).sum() for item in items])
        expected = weights / weights.sum() * times
        possible = weights > 0
        assert counts.sum() == times
        assert counts[~possible].sum() == 0
        assert chisquare(counts[possible].numpy(), expected[possible].numpy()).pvalue > 1e-4


def test_what_is_dealt_has_no_weight_and_nothing_added() -> None:
    dealt = Items(ITEMS, WEIGHTS, **ADDED).deal(3, stream())
    assert dealt.n == 1
    assert (dealt.weights, dealt.loss, dealt.diagnostics) == (None, None, {})


@pytest.mark.parametrize("negatives", [Items(ITEMS), Vectors(vectors_of(ITEMS))])
def test_all_that_count_alike_stay(negatives: Items | Vectors) -> None:
    assert negatives.deal(3, stream()) is negatives


def test_half_precision_weights_can_be_dealt_by() -> None:
    assert Items(ITEMS, WEIGHTS.to(torch.bfloat16)).deal(3, stream()).n == 1


def test_shared_negatives_are_all_a_rows_or_one_of_them_is_dealt_to_it() -> None:
    by_item, by_vector = SharedItems(SHARED), SharedVectors(vectors_of(SHARED), SHARED)
    assert by_item.rows(torch.tensor([7, 0])).items.tolist() == [[4, 5, 6], [4, 5, 6]]
    assert torch.equal(by_vector.rows(torch.arange(2)).vectors[1], vectors_of(SHARED))
    dealt = by_item.deal(3000, stream()).items
    assert dealt.shape == (3000, 1)
    assert chisquare(torch.bincount(dealt[:, 0] - 4).numpy()).pvalue > 1e-4
    assert torch.equal(by_vector.deal(3000, stream()).vectors, vectors_of(dealt))


@pytest.mark.parametrize(
    "negatives",
    [
        Items(ITEMS[:, :3]),
        SharedItems(SHARED),
        Vectors(vectors_of(ITEMS[:, :3])),
        SharedVectors(vectors_of(SHARED), SHARED),
    ],
)
def test_each_says_how_many_a_row_has(negatives: Negatives) -> None:
    assert negatives.n == 3


def test_items_embed_as_their_rows_of_the_table() -> None:
    table = torch.arange(12.0).view(4, 3)
    embedded = Items(torch.tensor([[3, 0]])).embed(Embeddings(table, table))
    assert embedded.tolist() == [[[9, 10, 11], [0, 1, 2]]]
