"""Metrics against trec_eval (through ir-measures) and against brute force."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, P, R, Success, nDCG
from scipy.sparse import csr_array

from cnsdiff.base.errors import ConfigError, DataError, InputError
from cnsdiff.data import Split
from cnsdiff.evaluation import Relevance, SplitEvaluation, evaluate_split, metrics
from cnsdiff.evaluation.ranking import Scorer

KS = (1, 3, 10)


class Fixed:
    def __init__(self, scores: np.ndarray) -> None:
        self.scores = torch.from_numpy(scores)
        self.n_users, self.n_items = scores.shape

    def score_block(self, users: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        return self.scores[users][:, start:stop]


def split_of(relevant: np.ndarray) -> Split:
    users, items = np.nonzero(relevant)
    return Split("valid", users.astype(np.int64), items.astype(np.int64))


def run(scores: np.ndarray, train: np.ndarray, relevant: np.ndarray, **kw: int) -> SplitEvaluation:
    scorer: Scorer = Fixed(scores)
    return evaluate_split(scorer, split_of(relevant), csr_array(train), ks=KS, per_user=True, **kw)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of few distinct values, train and test pairs; some users have no test pair."""
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(1, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = rng.integers(0, draw(st.integers(1, 8)), (n_users, n_items)).astype(np.float32)
    train = rng.random(scores.shape) < draw(st.sampled_from([0.0, 0.2, 0.7]))
    relevant = (rng.random(scores.shape) < draw(st.sampled_from([0.1, 0.5]))) & ~train
    relevant[rng.random(n_users) < 0.3] = False
    pairs = np.argwhere(~train)
    if len(pairs) and not relevant.any():
        relevant[tuple(pairs[0])] = True
    return scores, train, relevant


def rankings(scores: np.ndarray, train: np.ndarray) -> list[list[int]]:
    items = np.arange(scores.shape[1])
    return [
        [int(i) for i in np.lexsort((items, -row)) if not seen[i]]
        for row, seen in zip(scores, train, strict=True)
    ]


@settings(max_examples=80, deadline=None)
@given(cases())
def test_agrees_with_trec_eval(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, train, relevant = case
    if not relevant.any():
        return
    qrels = {str(u): {str(i): 1 for i in np.flatnonzero(r)} for u, r in enumerate(relevant)}
    qrels = {user: items for user, items in qrels.items() if items}
    lists = rankings(scores, train)
    result = run(scores, train, relevant, user_batch=4, item_chunk=7)
    assert result.n_users == len(qrels)
    assert result.n_users_without_test == len(scores) - len(qrels)
    assert result.per_user is not None
    assert result.per_user["user"].to_list() == sorted(int(user) for user in qrels)
    for k in KS:
        # Scores that only say the rank, so that the oracle has no ties to break its own way.
        best = {u: {str(i): -float(at) for at, i in enumerate(lists[int(u)][:k])} for u in qrels}
        names = {
            "recall": R @ k,
            "precision": P @ k,
            "ndcg": nDCG @ k,
            "map": AP @ k,
            "hitrate": Success @ k,
            "mrr": RR,  # of lists cut at k already
        }
        oracle = ir_measures.pytrec_eval.evaluator(list(names.values()), qrels)
        values = {(str(v.measure), v.query_id): v.value for v in oracle.iter_calc(best)}
        for name, measure in names.items():
            expected = [values.get((str(measure), user), 0.0) for user in qrels]
            np.testing.assert_allclose(
                result.per_user[f"{name}@{k}"].to_numpy(), expected, atol=1e-9, err_msg=name
            )
            assert result[f"{name}@{k}"] == pytest.approx(np.mean(expected), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_list_level_by_brute_force(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, train, relevant = case
    if not relevant.any():
        return
    result = run(scores, train, relevant)
    n_items = scores.shape[1]
    lists = [ranked for ranked, r in zip(rankings(scores, train), relevant, strict=True) if r.any()]
    for k in KS:
        shown = [item for ranked in lists for item in ranked[:k]]
        assert result[f"coverage@{k}"] == pytest.approx(len(set(shown)) / n_items)
        mean = np.mean([train[:, item].sum() for item in shown])
        assert result[f"popularity@{k}"] == pytest.approx(mean)
        counts = np.bincount(shown, minlength=n_items)
        # Half the mean absolute difference over all pairs, relative to the mean.
        gini = np.abs(counts[:, None] - counts).sum() / (2 * n_items * counts.sum())
        assert result[f"gini@{k}"] == pytest.approx(gini, abs=1e-12)


def test_values_by_hand() -> None:
    hits = torch.tensor([[False, True, True], [False, False, False]])
    n_relevant = torch.tensor([4, 1])
    values = {name: metric(hits, n_relevant).tolist() for name, metric in metrics.ACCURACY.items()}
    ideal = 1 + 1 / np.log2(3) + 0.5
    assert values["recall"] == [0.5, 0.0]
    assert values["precision"] == pytest.approx([2 / 3, 0.0])
    assert values["hitrate"] == [1.0, 0.0]
    assert values["mrr"] == [0.5, 0.0]
    assert values["map"] == pytest.approx([(1 / 2 + 2 / 3) / 4, 0.0])
    assert values["ndcg"] == pytest.approx([(1 / np.log2(3) + 0.5) / ideal, 0.0])


def test_gini_at_its_ends() -> None:
    assert metrics.gini(torch.tensor([3, 3, 3, 3])) == pytest.approx(0.0)
    assert metrics.gini(torch.tensor([0, 0, 8, 0])) == pytest.approx(0.75)
    assert np.isnan(metrics.gini(torch.zeros(3, dtype=torch.int64)))
    assert np.isnan(metrics.popularity(torch.zeros(2, dtype=torch.int64), torch.ones(2)))


def test_padding_is_no_hit() -> None:
    # The key of "user 1, item -1" is that of "user 0, the last item".
    relevance = Relevance(np.array([0]), np.array([4]), 2, 5)
    hits = relevance.hits(torch.tensor([0, 1]), torch.tensor([[4, -1], [-1, 4]]))
    assert hits.tolist() == [[True, False], [False, False]]


def test_a_pair_given_twice_counts_once() -> None:
    relevance = Relevance(np.array([1, 1, 1]), np.array([2, 2, 0]), 3, 3)
    assert relevance.counts.tolist() == [0, 2, 0]
    assert relevance.users.tolist() == [1]


def test_bad_input_gets_one_sentence() -> None:
    scores, nothing = np.zeros((2, 3), np.float32), np.zeros((2, 3), bool)
    with pytest.raises(DataError, match="no interactions"):
        run(scores, nothing, nothing)
    with pytest.raises(InputError, match="dataset it was trained on"):
        run(scores, np.zeros((2, 4), bool), ~nothing)
    with pytest.raises(DataError, match="item indices from 0 to 3"):
        run(scores, nothing, np.ones((2, 4), bool))
    with pytest.raises(ConfigError, match="cut-offs"):
        evaluate_split(Fixed(scores), split_of(~nothing), csr_array(nothing), ks=())
