"""AHNS against a search by hand, at its pole too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from cnsdiff.backbones.base import Embeddings
from cnsdiff.data.positives import Positives
from cnsdiff.samplers.base import Batch
from cnsdiff.samplers.candidates import AHNSConfig, AHNSSampler
from cnsdiff.testing import DIM, check_sampler, make_context


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"candidates": 16, "alpha": 0.1, "beta": 0.4, "n_negatives": 3},
        {"candidates": 1, "alpha": 0.0, "q": -2.7},
        {"q": 0.5},
    ],
)
def test_it_keeps_the_contract(options: dict[str, Any]) -> None:
    check_sampler(AHNSSampler, AHNSConfig(**options))


@pytest.mark.parametrize("candidates", [32, 4])
@pytest.mark.parametrize(
    ("alpha", "beta", "q", "floor"),
    [(1.0, 0.1, -2.0, 0.1), (0.1, 0.4, -2.0, 0.1), (0.5, 2.0, -1.5, 0.7), (1.0, 0.3, 0.0, 1e-3)],
)
def test_it_takes_the_candidate_nearest_to_the_score_aimed_at(
    world: Any, candidates: int, alpha: float, beta: float, q: float, floor: float
) -> None:
    config = AHNSConfig(
        n_negatives=2, candidates=candidates, alpha=alpha, beta=beta, q=q, floor=floor
    )
    sampler = AHNSSampler(world.positives, DIM, config, torch.Generator())
    expected, guarded = [], 0
    for rows in world.rows(2, candidates, seed=2):
        base = rows[0].positive + alpha
        guarded += base < floor
        aim = beta * max(base, floor) ** (q + 1)
        expected.append(
            [
                row.candidates[min(range(candidates), key=lambda k: abs(row.scores[k] - aim))]
                for row in rows
            ]
        )
    assert 0 < guarded < len(world.batch)
    assert sampler(world.batch, world.embeddings, make_context(2)).items.tolist() == expected


def chosen_scores(positive_scores: list[float], **options: Any) -> list[float]:
    """Score of the negative for positives of these scores, among items of -5.0, -4.5 … 5.0."""
    catalogue = [k / 2 for k in range(-10, 11)] + positive_scores
    n = len(positive_scores)
    users = torch.zeros(n, dtype=torch.int64)
    own = torch.arange(len(catalogue) - n, len(catalogue))
    positives = Positives(users.numpy(), own.numpy(), 1, len(catalogue))
    tables = Embeddings(torch.ones(1, 1), torch.tensor(catalogue).unsqueeze(1))
    sampler = AHNSSampler(positives, 1, AHNSConfig(candidates=400, **options), torch.Generator())
    negatives = sampler(Batch(torch.arange(n), users, own), tables, make_context())
    scores: list[float] = tables.items[negatives.items.flatten(), 0].tolist()
    return scores


def test_the_lower_the_positive_the_harder_the_negative_down_to_the_floor() -> None:
    # β / max(s + α, floor) with β 1: 1/4, 1/2, 1, 2, 4, and beyond the floor 4 again.
    scores = chosen_scores(
        [3.0, 1.0, 0.0, -0.5, -0.75, -0.9, -1.0, -3.0], alpha=1.0, beta=1.0, floor=0.25
    )
    assert scores[1:] == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0]
    assert scores[0] in (0.0, 0.5)


def test_at_the_pole_and_beyond_the_negative_is_hard_not_easy() -> None:
    assert chosen_scores([-1.0, -1.5, -9.0]) == [1.0, 1.0, 1.0]


def test_the_floor_can_be_so_low_that_the_hardest_candidate_is_taken() -> None:
    assert chosen_scores([-1.0], floor=1e-6) == [5.0]


@pytest.mark.parametrize("options", [{"beta": 0}, {"beta": -1}, {"floor": 0}, {"alpha": -0.1}])
def test_settings_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        AHNSConfig(**options)
