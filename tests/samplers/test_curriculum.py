"""The curriculum: DNS over ever fewer candidates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from cnsdiff.samplers.candidates import CandidateConfig, CurriculumSampler
from cnsdiff.testing import DIM, check_sampler, make_batch, make_context


@pytest.mark.parametrize("options", [{}, {"candidates": 1}, {"candidates": 5, "n_negatives": 3}])
def test_it_keeps_the_contract(options: dict[str, int]) -> None:
    check_sampler(CurriculumSampler, CandidateConfig(**options))


@pytest.mark.parametrize(
    ("candidates", "progress", "left"),
    [
        (32, 0.0, 32),
        (32, 0.25, 24),
        (32, 0.5, 16),
        (32, 0.99, 1),
        (32, 1.0, 1),
        (5, 0.0, 5),
        (5, 0.25, 3),
        (5, 0.5, 2),
        (5, 0.75, 1),
        (1, 0.5, 1),
    ],
)
def test_it_is_dns_over_those_that_are_left(
    world: Any, candidates: int, progress: float, left: int
) -> None:
    config = CandidateConfig(n_negatives=2, candidates=candidates)
    sampler = CurriculumSampler(world.positives, DIM, config, torch.Generator())
    expected = [
        [row.candidates[row.scores.index(max(row.scores))] for row in rows]
        for rows in world.rows(2, left, seed=2)
    ]
    drawn = sampler(world.batch, world.embeddings, make_context(2, progress)).items
    assert drawn.tolist() == expected


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_the_items_follow_the_law_of_the_best_of_those_drawn(world: Any, progress: float) -> None:
    """The best of k uniform draws of m free items is the r-th worst with (r^k - (r-1)^k) / m^k."""
    config = CandidateConfig(n_negatives=20_000, candidates=6)
    sampler = CurriculumSampler(world.positives, DIM, config, torch.Generator())
    batch = make_batch(world.positives, torch.tensor([0]))
    user = int(batch.users)
    drawn = sampler(batch, world.embeddings, make_context(2, progress)).items.flatten()
    met = world.positives.contains(batch.users, torch.arange(17))
    free = [item for item in range(17) if not met[item]]
    free.sort(key=lambda item: world.score(user, item))
    k = {0.0: 6, 0.5: 3, 1.0: 1}[progress]
    m = len(free)
    share = [(r**k - (r - 1) ** k) / m**k for r in range(1, m + 1)]
    counts = torch.bincount(drawn, minlength=17)
    kept = [r for r in range(m) if share[r] * len(drawn) > 5]
    observed = [int(counts[free[r]]) for r in kept]
    observed.append(len(drawn) - sum(observed))
    wanted = [share[r] * len(drawn) for r in kept]
    wanted.append(len(drawn) - sum(wanted))
    if len(kept) == m:
        observed, wanted = observed[:-1], wanted[:-1]
    assert chisquare(observed, wanted).pvalue > 1e-4
