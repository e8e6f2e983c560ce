"""DropoutNet and CLCRec of the benchmark of new items, against their formulas in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scripts import load_script

from cnsdiff.backbones.base import Embeddings
from cnsdiff.content.choice import HeldOut
from cnsdiff.content.model import Learnt
from cnsdiff.data import Split


@pytest.fixture(scope="module")
def rivals():
    return load_script("benchmarks/content_rivals.py")


def test_dropoutnet_keeps_inner_products(rivals):
    users, items = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0], [2.0, 3.0]])
    target = torch.tensor([2.0, 5.0])
    expected = ((2 - 3) ** 2 + (5 - 3) ** 2) / 2
    assert float(rivals.dropout_net_loss(target, users, items)) == pytest.approx(expected)


def test_clcrec_is_its_two_contrasts(rivals):
    generator = torch.Generator().manual_seed(0)
    n, drawn, weight, temperature = 3, 4, 0.7, 0.5
    users = torch.randn(n, 2, generator=generator)
    items, told = (torch.randn(n + drawn, 2, generator=generator) for _ in range(2))
    by_features = torch.rand(n + drawn, 1, generator=generator) < 0.5

    def contrast(anchor, others):
        scores = [math.exp(float(anchor @ other) / temperature) for other in others]
        return -math.log(scores[0] / sum(scores))

    expected = 0.0
    for pair in range(n):
        places = [pair, *range(n, n + drawn)]
        own = items[pair] / items[pair].norm()
        of_item = contrast(own, [told[j] / told[j].norm() for j in places])
        mixed = [told[j] if by_features[j] else items[j] for j in places]
        expected += weight * of_item + (1 - weight) * contrast(users[pair], mixed)
    found = rivals.clcrec_loss(users, items, told, by_features, weight, temperature)
    assert float(found) == pytest.approx(expected / n, rel=1e-5)


@pytest.fixture(scope="module")
def held_out():
    """Two tastes; features tell which of them an item is of, and a fifth of the items is new."""
    rng = np.random.default_rng(0)
    n_users, n_items = 80, 50
    taste, kind = np.arange(n_users) % 2, np.arange(n_items) % 2
    liked = rng.random((n_users, n_items)) < np.where(taste[:, None] == kind, 0.4, 0.02)
    new = np.arange(n_items) >= 40
    held = rng.random(liked.shape) < 0.2
    users, items = np.nonzero(liked & ~new & held)
    warm = Split("valid", users, items)
    users, items = np.nonzero(liked & new)
    features = torch.zeros(n_items, 3)
    features[torch.arange(n_items), torch.from_numpy(kind)] = 1.0
    axes = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    tables = Embeddings(axes[torch.from_numpy(taste)], axes[torch.from_numpy(kind)])
    train = csr_array((liked & ~new & ~held).astype(np.float32))
    learnt = Learnt(tables, train, torch.zeros(n_items), features)
    some = np.ones(len(users), dtype=bool)
    return HeldOut(learnt, warm, Split("valid", users, items), "ndcg@5", some)


@pytest.mark.parametrize(("name", "setting"), [("dropout_net", 0.5), ("clcrec", (0.5, 0.2))])
def test_new_items_are_told_from_their_features(rivals, held_out, monkeypatch, name, setting):
    monkeypatch.setattr(rivals, "EPOCHS", 20)
    monkeypatch.setattr(rivals, "PATIENCE", 20)
    rival = getattr(rivals, name)
    chosen = rivals.choose(rival, (setting,), held_out, 0)
    assert chosen == rivals.choose(rival, (setting,), held_out, 0)
    scorer = rivals.learn(rival, chosen, held_out.learnt, 0)
    # Half of the new items are of a taste; without features the others are as likely.
    scores = scorer.score_block(torch.arange(80), 40, 50)
    of_own = scores.argmax(dim=1) % 2 == torch.arange(80) % 2
    assert of_own.float().mean() > 0.9
