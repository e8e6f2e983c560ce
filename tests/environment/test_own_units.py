"""Scores in units of each user's own spread: the units, and what does not depend on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnsdiff import ConfoundedWorld
from cnsdiff.environment import rehearse
from cnsdiff.environment.environment import OwnUnits, in_own_units
from cnsdiff.evaluation import EmbeddingScorer, rank
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.selection import EnvironmentSelection


class Table:
    """A scorer that has all its scores, and is asked for blocks of them."""

    def __init__(self, scores: torch.Tensor) -> None:
        self.scores, (self.n_users, self.n_items) = scores, scores.shape

    def score_block(self, users: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        return self.scores[users, start:stop].clone()


@pytest.fixture(scope="module")
def tables():
    generator = torch.Generator().manual_seed(3)
    users = torch.randn(70, 5, generator=generator) * torch.rand(70, 1, generator=generator) ** 4
    return users, torch.randn(40, 5, generator=generator) + 2


def test_each_user_has_a_standard_deviation_of_1(tables):
    scores = tables[0] @ tables[1].T
    expected = scores.double().numpy()
    expected /= expected.std(axis=1, keepdims=True)
    everyone = torch.arange(70)
    for scorer in (EmbeddingScorer(*tables), Table(scores)):
        own = in_own_units(scorer)
        np.testing.assert_allclose(own.score_block(everyone, 0, 40), expected, rtol=2e-4, atol=1e-5)
        # By blocks, some users again, others for the first time.
        again = in_own_units(scorer)
        for users in ([4, 1], [1, 69, 4]):
            block = again.score_block(torch.tensor(users), 30, 40)
            np.testing.assert_allclose(block, expected[users, 30:], rtol=2e-4, atol=1e-5)
        assert rank(own, everyone, 10)[0].equal(rank(scorer, everyone, 10)[0])
        assert in_own_units(own).score_block(everyone, 0, 40) == pytest.approx(
            own.score_block(everyone, 0, 40), abs=1e-5
        )


def test_what_is_never_recommended_has_no_part_in_the_unit(tables):
    scores = tables[0] @ tables[1].T
    barred = scores.clone()
    barred[:, 7] = -torch.inf
    own = in_own_units(Table(barred)).score_block(torch.arange(70), 0, 40)
    assert bool(own[:, 7].isneginf().all())
    kept = torch.arange(40) != 7
    np.testing.assert_allclose(own[:, kept].double().std(dim=1, correction=0), 1, rtol=1e-5)


def test_scores_that_are_all_alike_stay_as_they_are():
    alike = in_own_units(Table(torch.full((2, 5), 0.25)))
    assert isinstance(alike, OwnUnits)
    assert alike.score_block(torch.arange(2), 0, 5).tolist() == [[0.25] * 5] * 2
    zeros = in_own_units(EmbeddingScorer(torch.zeros(2, 3), torch.ones(5, 3)))
    assert zeros.score_block(torch.arange(2), 0, 5).tolist() == [[0.0] * 5] * 2


@pytest.fixture(scope="module")
def rehearsal():
    world = ConfoundedWorld(n_users=60, n_items=50, exposures=40, seed=1)
    return rehearse(world.dataset(shift="temporal"))


@given(st.integers(0, 2**16), st.booleans())
@settings(max_examples=8, deadline=None)
def test_how_large_a_users_scores_are_changes_no_environment(rehearsal, seed, by_table):
    """Each user's scores times a number of their own: the same choice, at the same value."""
    part = rehearsal.dataset
    generator = torch.Generator().manual_seed(seed)
    users = torch.randn(part.n_users, 6, generator=generator)
    items = torch.randn(part.n_items, 6, generator=generator)
    factors = torch.exp(3 * torch.randn(part.n_users, 1, generator=generator))
    train = part.split("train").csr(part.n_users, part.n_items)
    objective = {"": TrainingConfig(select_on="rehearsal")}
    selection = EnvironmentSelection(objective, part, train, (20,))
    choices = []
    for vectors in (users, factors * users):
        scorer = Table(vectors @ items.T) if by_table else EmbeddingScorer(vectors, items)
        choices.append(selection.choice(scorer, ""))
    first, second = choices
    assert first.environment is not None and second.environment is not None
    assert second.value == pytest.approx(first.value, abs=1e-6)
    assert second.environment.coefficients == pytest.approx(
        first.environment.coefficients, abs=1e-3
    )
