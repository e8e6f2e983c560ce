"""The ranking against a sort of everything, with as many ties as possible."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from cnsdiff.base.errors import CnsdiffError, InputError
from cnsdiff.evaluation import EmbeddingScorer, Scorer, rank


class MatrixScorer:
    """Scores read from a matrix; records the blocks it is asked for."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = torch.from_numpy(np.asarray(scores, dtype=np.float32))
        self.n_users, self.n_items = self.scores.shape
        self.blocks: list[tuple[int, int]] = []

    def score_block(self, users: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        self.blocks.append((len(users), stop - start))
        return self.scores[users][:, start:stop]


def brute_force(
    scores: np.ndarray, users: np.ndarray, k: int, excluded: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sort every row by (-score, index) after masking; -1 and -inf where nothing is left.

    There are at most as many places as items.
    """
    k = min(k, scores.shape[1])
    masked = np.where(excluded, -np.inf, scores)[users]
    index = np.broadcast_to(np.arange(scores.shape[1]), masked.shape)
    order = np.lexsort((index, -masked), axis=1)
    order = order[:, :k]
    best = np.take_along_axis(masked, order, axis=1)
    return np.where(best == -np.inf, -1, order), best


# Signed zeros compare equal and must tie; the smallest subnormal must not tie with them.
HEAVY_TIES = [-np.inf, -2.5, -1.0, -1e-45, -0.0, 0.0, 1e-45, 1.0, 1.0, 2.0, 3e38, np.inf]


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int, int]:
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    few = st.lists(st.sampled_from(HEAVY_TIES), min_size=1, max_size=4)
    values = draw(few | st.sampled_from([HEAVY_TIES, [-0.0, 0.0], [-1e-45, -0.0, 0.0, 1e-45]]))
    scores = rng.choice(np.array(values, dtype=np.float32), (n_users, n_items))
    excluded = rng.random((n_users, n_items)) < draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    users = rng.integers(0, n_users, draw(st.integers(0, 9)))
    return (
        scores,
        excluded,
        users,
        draw(st.integers(1, n_items + 3)),
        draw(st.integers(1, n_items)),
        draw(st.integers(1, 10)),
    )


@settings(max_examples=300, deadline=None)
@given(cases())
def test_equals_a_sort_of_everything(case: tuple) -> None:
    scores, excluded, users, k, item_chunk, user_batch = case
    items, values = rank(
        MatrixScorer(scores),
        torch.from_numpy(users),
        k,
        exclude=csr_array(excluded),
        user_batch=user_batch,
        item_chunk=item_chunk,
    )
    expected_items, expected_values = brute_force(scores, users, k, excluded)
    np.testing.assert_array_equal(items.numpy(), expected_items)
    np.testing.assert_array_equal(values.numpy(), expected_values)
    assert items.dtype == torch.int64
    assert values.dtype == torch.float32


@pytest.mark.parametrize("item_chunk", range(1, 31))
def test_chunk_size_does_not_matter_for_integer_scores(item_chunk: int) -> None:
    rng = np.random.default_rng(7)
    scores = np.tile(rng.integers(0, 4, 30).astype(np.float32), (5, 1))
    excluded = rng.random((5, 30)) < 0.3
    items, _ = rank(
        MatrixScorer(scores),
        torch.arange(5),
        10,
        exclude=csr_array(excluded),
        item_chunk=item_chunk,
    )
    np.testing.assert_array_equal(items.numpy(), brute_force(scores, np.arange(5), 10, excluded)[0])


def test_large_blocks_with_and_without_ties() -> None:
    # Wide enough for the selection algorithm that topk uses on long rows.
    rng = np.random.default_rng(3)
    scores = rng.standard_normal((40, 5000)).astype(np.float32)
    scores[::2] = np.round(scores[::2] * 2)
    excluded = rng.random(scores.shape) < 0.01
    for k, item_chunk in ((20, 5000), (100, 777), (20, 1024)):
        items, _ = rank(
            MatrixScorer(scores),
            torch.arange(40),
            k,
            exclude=csr_array(excluded),
            item_chunk=item_chunk,
            user_batch=16,
        )
        expected, _ = brute_force(scores, np.arange(40), k, excluded)
        np.testing.assert_array_equal(items.numpy(), expected)
    assert not excluded[np.arange(40)[:, None], items.numpy()].any()


def test_blocks_stay_within_bounds_and_cover_the_catalogue() -> None:
    scorer = MatrixScorer(np.zeros((10, 100)))
    rank(scorer, torch.arange(10), 5, user_batch=4, item_chunk=30)
    assert max(users for users, _ in scorer.blocks) == 4
    assert max(items for _, items in scorer.blocks) == 30
    assert sum(users * items for users, items in scorer.blocks) == 10 * 100


@pytest.mark.parametrize("item_chunk", [3, 12])
@pytest.mark.parametrize("where", [0, 5, 11])
@pytest.mark.parametrize("excluded", [False, True])
@pytest.mark.parametrize("nan", [np.nan, -np.nan])
def test_nan_is_an_error(item_chunk: int, where: int, excluded: bool, nan: float) -> None:
    scores = np.ones((2, 12))
    scores[1, where] = nan
    exclude = csr_array(np.isnan(scores)) if excluded else None
    with pytest.raises(CnsdiffError, match="NaN"):
        rank(MatrixScorer(scores), torch.arange(2), 4, exclude=exclude, item_chunk=item_chunk)


@pytest.mark.parametrize("k", [12, 10**9, 10**30])
def test_lists_are_no_longer_than_the_catalogue(k: int) -> None:
    scores = np.random.default_rng(0).integers(0, 3, (2, 12))
    items, values = rank(MatrixScorer(scores), torch.arange(2), k, item_chunk=5)
    assert items.shape == values.shape == (2, 12)
    assert (items.sort(dim=1).values == torch.arange(12)).all()


def test_lists_that_memory_cannot_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnsdiff.evaluation.ranking._MANY_PLACES", 20)
    monkeypatch.setattr("cnsdiff.kernels.memory.free_memory", lambda: 500)
    scorer = MatrixScorer(np.zeros((2, 12)))
    rank(scorer, torch.arange(2), 10)
    with pytest.raises(InputError, match=r"ranking 2 lists of 12 items needs .*lower k"):
        rank(scorer, torch.arange(2), 10**9)


def test_expanded_views_are_not_masked_in_place() -> None:
    class Popularity:
        n_users, n_items = 2, 4
        counts = torch.tensor([1.0, 5.0, 3.0, 2.0])

        def score_block(self, users: torch.Tensor, start: int, stop: int) -> torch.Tensor:
            return self.counts[start:stop].expand(len(users), -1)

    exclude = csr_array(np.array([[0, 1, 0, 0], [0, 0, 1, 0]]))
    items, _ = rank(Popularity(), torch.arange(2), 3, exclude=exclude)
    assert items.tolist() == [[2, 3, 0], [1, 3, 0]]
    assert Popularity.counts.tolist() == [1.0, 5.0, 3.0, 2.0]


def test_embedding_scorer_is_the_inner_product() -> None:
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, 8, generator=generator) for n in (7, 20))
    scorer = EmbeddingScorer(users.requires_grad_(), items)
    assert isinstance(scorer, Scorer)
    ids = torch.tensor([6, 2, 2])
    block = scorer.score_block(ids, 5, 12)
    torch.testing.assert_close(block, users[ids] @ items[5:12].T)
    assert not block.requires_grad
    best, _ = rank(scorer, ids, 20, item_chunk=6)
    torch.testing.assert_close(best, (users[ids] @ items.T).argsort(dim=1, descending=True))


def test_bad_arguments_get_one_sentence() -> None:
    scorer = MatrixScorer(np.zeros((3, 4)))
    everyone = torch.arange(3)
    with pytest.raises(InputError, match="k is 0"):
        rank(scorer, everyone, 0)
    with pytest.raises(InputError, match="item_chunk is 0"):
        rank(scorer, everyone, 1, item_chunk=0)
    with pytest.raises(InputError, match="from 0 to 3, but the model knows 0 to 2"):
        rank(scorer, torch.arange(4), 1)
    with pytest.raises(InputError, match="a vector"):
        rank(scorer, everyone[None], 1)
    with pytest.raises(InputError, match="dataset it was trained on"):
        rank(scorer, everyone, 1, exclude=csr_array((3, 5)))
    with pytest.raises(InputError, match="the same d"):
        EmbeddingScorer(torch.zeros(3, 2), torch.zeros(4, 3))
    scorer.n_items = 5
    with pytest.raises(CnsdiffError, match=r"must return \(3, 5\)"):
        rank(scorer, everyone, 1)
