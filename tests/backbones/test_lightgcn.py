"""LightGCN against a dense twin and against PyTorch Geometric's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.backbones.lightgcn import LightGCN, LightGCNConfig, normalised_adjacency
from cnsdiff.data.positives import Positives
from cnsdiff.testing import check_backbone, tiny_positives

LAYERS = [0, 1, 2, 3]


def build(positives: Positives, layers: int, dim: int = 8) -> LightGCN:
    config = LightGCNConfig(dim=dim, layers=layers)
    return LightGCN(positives, config, torch.Generator().manual_seed(0))


def dense_normalised(positives: Positives) -> Tensor:
    """``Â = D^-1/2 A D^-1/2`` of the whole graph, users first."""
    n = positives.n_users + positives.n_items
    adjacency = torch.zeros(n, n, dtype=torch.float64)
    for user, item in positives.pairs.tolist():
        adjacency[user, positives.n_users + item] = 1
        adjacency[positives.n_users + item, user] = 1
    root = adjacency.sum(dim=1).rsqrt()
    return root[:, None] * adjacency * root[None, :]


def dense_forward(positives: Positives, tables: Embeddings, layers: int) -> Embeddings:
    normalised = dense_normalised(positives)
    state = torch.cat([table.double() for table in tables])
    total = state
    for _ in range(layers):
        state = normalised @ state
        total = total + state
    users, items = (total / (layers + 1)).split([positives.n_users, positives.n_items])
    return Embeddings(users, items)


def functional(embeddings: Embeddings) -> Tensor:
    """A non-linear function of all embeddings, to differentiate."""
    users, items = (table.double() for table in embeddings)
    scores = users @ items.T
    weights = torch.linspace(-1, 2, scores.numel(), dtype=torch.float64).view_as(scores)
    return (weights * (20 * scores).tanh()).sum()


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_forward_is_the_dense_twins(layers: int, seed: int) -> None:
    positives = tiny_positives(seed=seed)
    backbone = build(positives, layers)
    expected = dense_forward(positives, backbone.layer_zero(), layers)
    for ours, theirs in zip(backbone(), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layers", LAYERS)
def test_backward_is_the_dense_twins(layers: int) -> None:
    positives = tiny_positives(n_users=9, n_items=23)
    backbone = build(positives, layers)
    functional(backbone()).backward()
    twin = Embeddings(*(t.detach().clone().requires_grad_() for t in backbone.layer_zero()))
    functional(dense_forward(positives, twin, layers)).backward()
    for ours, theirs in zip(backbone.layer_zero(), twin, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_forward_and_backward_are_pytorch_geometrics(layers: int) -> None:
    peers = pytest.importorskip("torch_geometric.nn.models")
    positives = tiny_positives()
    ours = build(positives, layers)
    n_users = positives.n_users
    peer = peers.LightGCN(n_users + positives.n_items, 8, layers)
    with torch.no_grad():
        peer.embedding.weight.copy_(torch.cat(ours.layer_zero()))
    users, items = positives.pairs.T
    one_way = torch.stack([users, items + n_users])
    edges = torch.cat([one_way, one_way.flip(0)], dim=1)
    theirs = Embeddings(*peer.get_embedding(edges).split([n_users, positives.n_items]))
    for mine, other in zip(ours(), theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    functional(ours()).backward()
    functional(theirs).backward()
    gradient = torch.cat([table.grad for table in ours.layer_zero()])  # type: ignore[misc]
    torch.testing.assert_close(gradient, peer.embedding.weight.grad, rtol=1e-4, atol=1e-5)


def test_both_adjacency_blocks_are_transposes_of_each_other() -> None:
    matrix, transpose = normalised_adjacency(tiny_positives())
    assert torch.equal(matrix.to_dense().T, transpose.to_dense())


def test_the_order_of_the_pairs_does_not_matter() -> None:
    positives = tiny_positives()
    users, items = positives.pairs.numpy()[::-1].T.copy()
    turned = Positives(users, items, positives.n_users, positives.n_items)
    for one, other in zip(build(positives, 2)(), build(turned, 2)(), strict=True):
        assert torch.equal(one, other)


def test_an_item_without_positives_keeps_a_share_of_its_own_embedding() -> None:
    users, items = np.array([0, 0, 1]), np.array([0, 1, 1])
    backbone = build(Positives(users, items, 2, 3), layers=2)
    lonely = backbone().items[2]
    torch.testing.assert_close(lonely, backbone.item_embedding[2] / 3)


def test_adjacency_is_not_saved_with_the_weights() -> None:
    assert set(build(tiny_positives(), 2).state_dict()) == {"user_embedding", "item_embedding"}


def test_tables_start_as_xavier_uniform() -> None:
    backbone = build(tiny_positives(n_users=40, n_items=60), 2, dim=64)
    for table in backbone.layer_zero():
        bound = (6 / (table.shape[0] + table.shape[1])) ** 0.5
        assert table.abs().max().item() <= bound
        # Variance of a uniform: bound²/3, its estimate's relative standard error sqrt(0.8/n); z=4.
        error = 4 * (0.8 / table.numel()) ** 0.5
        assert table.var().item() == pytest.approx(bound**2 / 3, rel=error)


@pytest.mark.parametrize("layers", LAYERS)
def test_it_keeps_the_contract(layers: int) -> None:
    check_backbone(LightGCN, LightGCNConfig(dim=5, layers=layers))
