"""The control in each user's own units: spreads, and lists that do not change by them alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scripts import load_script

from cnsdiff.evaluation import EmbeddingScorer, rank


@pytest.fixture(scope="module")
def script():
    return load_script("benchmarks/own_units.py")


class Table:
    """A scorer that has all its scores; some are minus infinity."""

    def __init__(self, scores: torch.Tensor) -> None:
        self.scores, (self.n_users, self.n_items) = scores, scores.shape

    def score_block(self, users: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        return self.scores[users, start:stop].clone()


@pytest.fixture
def tables():
    generator = torch.Generator().manual_seed(3)
    users = torch.randn(600, 5, generator=generator) * torch.rand(600, 1, generator=generator)
    return users, torch.randn(40, 5, generator=generator) + 2


def test_spreads_are_standard_deviations(script, tables):
    scores = tables[0] @ tables[1].T
    expected = scores.double().numpy().std(axis=1)
    np.testing.assert_allclose(script.spreads(EmbeddingScorer(*tables)), expected, rtol=1e-5)
    barred = scores.clone()
    barred[:, 7] = -torch.inf
    expected = np.delete(scores.double().numpy(), 7, axis=1).std(axis=1)
    np.testing.assert_allclose(script.spreads(Table(barred)), expected, rtol=1e-5)


def test_own_units_change_no_list(script, tables):
    scorer = EmbeddingScorer(*tables)
    own = script.OwnUnits(scorer)
    np.testing.assert_allclose(script.spreads(own), 1, rtol=1e-4)
    users = torch.arange(600)
    assert rank(own, users, 10)[0].tolist() == rank(scorer, users, 10)[0].tolist()
