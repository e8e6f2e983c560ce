"""DR-GNN against a dense twin whose weights are computed edge by edge."""

from __future__ import annotations

import math

import pytest
import torch

from cnsdiff.backbones.dr_gnn import DRGNN, DRGNNConfig
from cnsdiff.kernels import sparse_matrix
from cnsdiff.testing import check_backbone, tiny_positives

POSITIVES = tiny_positives()
N_USERS, N_ITEMS = POSITIVES.n_users, POSITIVES.n_items


def build(layers=2, robustness=0.1) -> DRGNN:
    config = DRGNNConfig(dim=8, layers=layers, robustness=robustness)
    return DRGNN(POSITIVES, config, torch.Generator().manual_seed(0))


def dense(backbone, robustness) -> torch.Tensor:
    """``Â`` with weights, users first."""
    users, items = (table.detach().double() for table in backbone.layer_zero())
    matrix = torch.zeros(N_USERS + N_ITEMS, N_USERS + N_ITEMS, dtype=torch.float64)
    pairs = POSITIVES.pairs.tolist()
    for user in range(N_USERS):
        own = [item for other, item in pairs if other == user]
        roots = [math.sqrt(len(own) * sum(other == item for _, other in pairs)) for item in own]
        cosines = [torch.cosine_similarity(users[user], items[item], dim=0) for item in own]
        f = [math.exp(-c / (robustness * r)) for c, r in zip(cosines, roots, strict=True)]
        for item, root, factor in zip(own, roots, f, strict=True):
            weight = factor / (sum(f) / len(f)) / root
            matrix[user, N_USERS + item] = matrix[N_USERS + item, user] = weight
    return matrix


def propagated(backbone, matrix, layers):
    state = torch.cat([table.double() for table in backbone.layer_zero()])
    total = state
    for _ in range(layers):
        state = matrix @ state
        total = total + state
    return (total / (layers + 1)).split([N_USERS, N_ITEMS])


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("robustness", [0.02, 0.5])
@pytest.mark.parametrize("cached", [2**25, 64])
def test_forward_and_backward_are_the_dense_twins(layers, robustness, cached, monkeypatch):
    monkeypatch.setattr(sparse_matrix, "CACHED", cached)
    backbone, twin = build(layers, robustness), build(layers, robustness)
    weights = torch.linspace(-1, 2, N_USERS * N_ITEMS).view(N_USERS, N_ITEMS)
    users, items = backbone()
    expected = propagated(twin, dense(twin, robustness), layers)
    for ours, theirs in zip((users, items), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)
    (weights * (20 * users @ items.T).tanh()).sum().backward()
    (weights * (20 * expected[0] @ expected[1].T).tanh()).sum().backward()
    for ours, theirs in zip(backbone.layer_zero(), twin.layer_zero(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_a_users_weights_have_the_mean_one_and_fall_with_likeness():
    backbone = build(robustness=0.05)
    weights = backbone.weights()
    users, items = backbone.layer_zero()
    cosines = torch.cosine_similarity(users[backbone.rows], items[backbone.columns])
    entries = backbone.user_item.csr.values()
    for user in range(N_USERS):
        own = backbone.rows == user
        if own.any():
            assert weights[own].mean().item() == pytest.approx(1.0, abs=1e-5)
            order = (cosines * entries)[own].argsort()
            assert (weights[own][order].diff() <= 0).all()


def test_what_is_served_is_lightgcns_graph():
    backbone = build()
    trained = backbone()
    served = backbone.eval()()
    plain = super(DRGNN, backbone).graph()
    torch.testing.assert_close(backbone.graph()[0].to_dense(), plain[0].to_dense())
    assert not torch.allclose(trained.users, served.users, rtol=1e-3)


def test_without_robustness_it_is_lightgcn():
    backbone = build(robustness=1e6)
    torch.testing.assert_close(backbone().users, backbone.eval()().users)


def test_layers_are_propagated_with_weights():
    backbone = build()
    layers = backbone.layers()
    mean = sum(layer.users for layer in layers) / len(layers)
    torch.testing.assert_close(mean, backbone().users)


def test_it_keeps_the_contract():
    check_backbone(DRGNN)
