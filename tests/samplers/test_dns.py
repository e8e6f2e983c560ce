"""DNS against a search by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cnsdiff.samplers.candidates import CandidateConfig, DNSSampler
from cnsdiff.testing import DIM, check_sampler, make_context


@pytest.mark.parametrize("options", [{}, {"candidates": 1}, {"candidates": 5, "n_negatives": 3}])
def test_it_keeps_the_contract(options: dict[str, int]) -> None:
    check_sampler(DNSSampler, CandidateConfig(**options))


@pytest.mark.parametrize(("n", "candidates"), [(1, 32), (1, 4), (3, 5), (2, 1)])
def test_it_takes_the_candidate_that_scores_highest(world: Any, n: int, candidates: int) -> None:
    config = CandidateConfig(n_negatives=n, candidates=candidates)
    sampler = DNSSampler(world.positives, DIM, config, torch.Generator())
    expected = [
        [row.candidates[row.scores.index(max(row.scores))] for row in rows]
        for rows in world.rows(n, candidates, seed=2)
    ]
    assert sampler(world.batch, world.embeddings, make_context(2)).items.tolist() == expected
