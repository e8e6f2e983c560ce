"""How candidates are drawn and scored, against loops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chisquare
from torch import Tensor

from cnsdiff.samplers import candidates as module
from cnsdiff.samplers.candidates import (
    CandidateConfig,
    CandidateSampler,
    candidate_scores,
    draw_candidates,
    pick,
)
from cnsdiff.testing import DIM, make_batch, make_context, tiny_positives

POSITIVES = tiny_positives()
USERS = torch.arange(12)
PATHS = ["_whole_product", "_sampled_product", "_gathered"]


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=stream(seed), dtype=dtype)


@pytest.mark.parametrize(("n", "candidates"), [(1, 1), (3, 5), (2, 40)])
def test_candidates_have_their_shape_and_are_never_positives(n: int, candidates: int) -> None:
    drawn = draw_candidates(POSITIVES, USERS, n, candidates, stream())
    assert drawn.shape == (12, n, candidates)
    assert not POSITIVES.contains(USERS.view(-1, 1, 1), drawn).any()


def test_candidates_are_uniform_and_drawn_afresh_for_each_negative() -> None:
    user = torch.tensor([0])
    drawn = draw_candidates(POSITIVES, user, 20_000, 2, stream())[0]
    free = torch.arange(17)[~POSITIVES.contains(user, torch.arange(17))]
    pairs = torch.bincount(drawn[:, 0] * 17 + drawn[:, 1], minlength=17 * 17).view(17, 17)
    cells = pairs[free][:, free]
    assert cells.sum() == 20_000
    assert chisquare(cells.flatten().numpy()).pvalue > 1e-4


def by_loop(users: Tensor, items: Tensor, candidates: Tensor) -> Tensor:
    return torch.tensor(
        [
            [
                [sum(a * b for a, b in zip(u, items[i].tolist(), strict=True)) for i in one]
                for one in of_user
            ]
            for u, of_user in zip(users.tolist(), candidates.tolist(), strict=True)
        ],
        dtype=users.dtype,
    )


@given(
    rows=st.integers(1, 4),
    n=st.integers(1, 3),
    candidates=st.integers(1, 6),
    items=st.integers(1, 20),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=60)
def test_scores_are_inner_products(
    rows: int, n: int, candidates: int, items: int, seed: int
) -> None:
    """With repeated candidates, in any order, more or fewer than items."""
    users, table = normal(rows, 5, seed=seed), normal(items, 5, seed=seed + 1)
    drawn = torch.randint(items, (rows, n, candidates), generator=stream(seed))
    torch.testing.assert_close(candidate_scores(users, table, drawn), by_loop(users, table, drawn))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_ways_to_score_agree(path: str, dtype: torch.dtype) -> None:
    users, items = normal(12, DIM, dtype=dtype), normal(17, DIM, seed=1, dtype=dtype)
    drawn = draw_candidates(POSITIVES, USERS, 1, 9, stream())
    way: Callable[..., Tensor] = getattr(module, path)
    scores = way(users, items, drawn.flatten(1)).view(drawn.shape)
    torch.testing.assert_close(scores, by_loop(users, items, drawn))


@pytest.mark.parametrize(
    ("n", "candidates", "dtype", "path"),
    [
        (2, 9, torch.float32, "_whole_product"),
        (1, 17, torch.float32, "_whole_product"),
        (2, 8, torch.float32, "_sampled_product"),
        (1, 16, torch.float64, "_sampled_product"),
        (2, 8, torch.bfloat16, "_gathered"),
    ],
)
def test_the_way_is_chosen_by_size_and_type(
    n: int, candidates: int, dtype: torch.dtype, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []

    def watched(name: str) -> Callable[..., Tensor]:
        way: Callable[..., Tensor] = getattr(module, name)

        def spy(*arguments: Tensor) -> Tensor:
            taken.append(name)
            return way(*arguments)

        return spy

    for name in PATHS:
        monkeypatch.setattr(module, name, watched(name))
    users, items = normal(12, DIM).to(dtype), normal(17, DIM, seed=1).to(dtype)
    drawn = draw_candidates(POSITIVES, USERS, n, candidates, stream())
    scores = candidate_scores(users, items, drawn)
    assert (taken, scores.dtype) == ([path], dtype)
    tolerance = 0.1 if dtype == torch.bfloat16 else 1e-5
    expected = by_loop(users.double(), items.double(), drawn)
    torch.testing.assert_close(scores.double(), expected, rtol=tolerance, atol=tolerance)


def test_scores_carry_no_gradient_and_leave_the_tables_alone() -> None:
    users, items = normal(12, DIM).requires_grad_(), normal(17, DIM, seed=1).requires_grad_()
    for candidates in (3, 30):
        drawn = draw_candidates(POSITIVES, USERS, 1, candidates, stream())
        assert not candidate_scores(users, items, drawn).requires_grad
    assert torch.equal(users, normal(12, DIM))
    assert torch.equal(items, normal(17, DIM, seed=1))


def test_no_warning_of_the_sparse_layout_gets_out(recwarn: pytest.WarningsRecorder) -> None:
    drawn = draw_candidates(POSITIVES, USERS, 1, 3, stream())
    candidate_scores(normal(12, DIM), normal(17, DIM), drawn)
    assert not recwarn.list


def test_the_candidate_picked_is_the_one_worth_most() -> None:
    candidates, worth = torch.randint(50, (7, 3, 5), generator=stream()), normal(7, 3, 5)
    expected = [
        [ids[max(range(5), key=values.__getitem__)] for ids, values in zip(*row, strict=True)]
        for row in zip(candidates.tolist(), worth.tolist(), strict=True)
    ]
    assert pick(candidates, worth).tolist() == expected


def test_a_sampler_gets_as_many_candidates_as_configured_or_asked_for() -> None:
    config = CandidateConfig(n_negatives=2, candidates=4)
    sampler = CandidateSampler(POSITIVES, DIM, config, stream())
    batch = make_batch(POSITIVES)
    tables = module.Embeddings(normal(12, DIM), normal(17, DIM, seed=1))
    for n, size in ((None, 4), (3, 3)):
        drawn, scores = sampler.score_candidates(batch, tables, make_context(2), n)
        again = draw_candidates(POSITIVES, batch.users, 2, size, make_context(2).negatives)
        assert torch.equal(drawn, again)
        torch.testing.assert_close(scores, by_loop(tables.users[batch.users], tables.items, drawn))


def test_there_is_at_least_one_candidate() -> None:
    with pytest.raises(ValidationError, match="candidates"):
        CandidateConfig(candidates=0)
