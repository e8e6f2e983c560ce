"""A tiny world whose candidates are scored with plain loops."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from cnsdiff.backbones.base import Embeddings
from cnsdiff.data.positives import Positives
from cnsdiff.samplers.base import Batch
from cnsdiff.samplers.candidates import draw_candidates
from cnsdiff.testing import DIM, make_batch, make_context, tiny_positives


class Row(NamedTuple):
    """One negative to choose: the candidates, their scores, and that of the positive."""

    candidates: list[int]
    scores: list[float]
    positive: float


class World(NamedTuple):
    positives: Positives
    batch: Batch
    embeddings: Embeddings

    def score(self, user: int, item: int) -> float:
        pairs = zip(
            self.embeddings.users[user].tolist(), self.embeddings.items[item].tolist(), strict=True
        )
        return sum(a * b for a, b in pairs)

    def rows(self, n: int, candidates: int, seed: int) -> list[list[Row]]:
        """What a sampler draws from the streams of ``make_context(seed)``, per row and negative."""
        stream = make_context(seed).negatives
        drawn = draw_candidates(self.positives, self.batch.users, n, candidates, stream).tolist()
        return [
            [
                Row(one, [self.score(user, item) for item in one], self.score(user, positive))
                for one in of_user
            ]
            for of_user, user, positive in zip(
                drawn, self.batch.users.tolist(), self.batch.positives.tolist(), strict=True
            )
        ]


@pytest.fixture(scope="session")
def world() -> World:
    """66 interactions of 12 users with 17 items, and vectors for them."""
    positives = tiny_positives()
    stream = torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, DIM, generator=stream, dtype=torch.float64) for n in (12, 17))
    return World(positives, make_batch(positives), Embeddings(users, items))
