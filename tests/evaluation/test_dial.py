"""The dial against loops in NumPy, and what it must and must not change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from cnsdiff.base.errors import InputError
from cnsdiff.data import Split
from cnsdiff.evaluation import Dialled, EmbeddingScorer, Scorer, anticipate, rank, ranking, readings
from cnsdiff.evaluation.dial import (
    COARSE,
    FINE,
    best_reading,
    dial_bias,
    in_words,
    lists_at,
    prudent_dial,
    spread,
    standardised_log,
)


class Matrix:
    """Scores read from a matrix."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = torch.from_numpy(np.asarray(scores, dtype=np.float32))
        self.n_users, self.n_items = self.scores.shape

    def score_block(self, users: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        return self.scores[users][:, start:stop]


def embeddings(seed: int, n_users: int = 12, n_items: int = 15) -> EmbeddingScorer:
    rng = np.random.default_rng(seed)
    return EmbeddingScorer(
        torch.from_numpy(rng.normal(size=(n_users, 4))).float(),
        torch.from_numpy(rng.normal(size=(n_items, 4))).float(),
    )


def everyone(scorer: Scorer) -> np.ndarray:
    """All scores ``(U, I)``."""
    return scorer.score_block(torch.arange(scorer.n_users), 0, scorer.n_items).numpy()


def std_by_hand(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))


# -- the environment ---------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_the_standardised_log_by_hand(exposure):
    logs = [math.log(max(x, 1.0)) for x in exposure]
    mean, deviation = sum(logs) / len(logs), std_by_hand(logs)
    assume(deviation == 0 or deviation > 1e-6)
    found = standardised_log(torch.tensor(exposure, dtype=torch.float64))
    assert found.dtype == torch.float32
    expected = [(value - mean) / (deviation or 1.0) for value in logs]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_standardised_log_of_counts():
    counts = torch.tensor([5, 0, 1, 40, 7])
    found = standardised_log(counts)
    assert found[1] == found[2], "unexposed counts as exposed once"
    assert found.mean().abs() < 1e-6
    assert found.double().square().mean().sqrt() == pytest.approx(1.0, abs=1e-6)
    assert found.argsort().tolist()[2:] == [0, 4, 3]
    assert standardised_log(torch.full((4,), 9)).tolist() == [0.0] * 4


# -- the spread --------------------------------------------------------------------------------


@pytest.mark.parametrize("n_users", [1, 5, 40, 256])
def test_the_spread_is_the_mean_standard_deviation_of_a_user(n_users):
    scores = np.random.default_rng(n_users).normal(3.0, 2.0, (n_users, 9)).astype(np.float32)
    expected = sum(std_by_hand(row.tolist()) for row in scores) / n_users
    assert spread(Matrix(scores)) == pytest.approx(expected, rel=1e-6)


def test_the_spread_of_many_users_is_over_some_of_all_of_them():
    """Users of two kinds, one after the other, are met in equal number."""
    scores = np.tile(np.array([[-1.0, 1.0]]), (5000, 1))
    scores[2500:] *= 3
    assert spread(Matrix(scores)) == pytest.approx(2.0, rel=1e-2)
    whole = np.random.default_rng(0).normal(size=(5000, 50))
    assert spread(Matrix(whole)) == pytest.approx(whole.std(axis=1).mean(), rel=0.02)


def test_the_spread_leaves_out_what_is_never_recommended():
    scores = [[1.0, 3.0, -math.inf], [0.0, -math.inf, -math.inf], [-math.inf] * 3]
    assert spread(Matrix(np.array(scores))) == pytest.approx((1.0 + 0.0 + 0.0) / 3)


# -- reading -----------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(-3, 3))
def test_a_dialled_score_by_hand(seed, gamma):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(6, 8)).astype(np.float32)
    e = standardised_log(torch.from_numpy(rng.integers(1, 100, 8)))
    sigma = sum(std_by_hand(row.tolist()) for row in scores) / 6
    expected = [
        [float(scores[u, i]) + gamma * sigma * float(e[i]) for i in range(8)] for u in range(6)
    ]
    dialled = Dialled(Matrix(scores), e, gamma)
    assert isinstance(dialled, Scorer)
    np.testing.assert_allclose(everyone(dialled), expected, rtol=1e-4, atol=1e-5)
    block = dialled.score_block(torch.tensor([4, 1]), 3, 7)
    np.testing.assert_allclose(block, np.array(expected)[[4, 1], 3:7], rtol=1e-4, atol=1e-5)


def test_zero_is_the_model_as_trained():
    scorer = embeddings(0)
    e = standardised_log(torch.arange(1, 16))
    assert np.array_equal(everyone(Dialled(scorer, e, 0.0)), everyone(scorer))


@pytest.mark.parametrize("sign", [1, -1])
def test_turned_up_far_enough_only_the_environment_is_left(sign):
    """The order of popularity, or its reverse, for every user."""
    scorer = embeddings(1)
    counts = np.random.default_rng(1).permutation(15) * 3 + 1
    dialled = Dialled(scorer, standardised_log(torch.from_numpy(counts)), sign * 1e4)
    lists, _ = rank(dialled, torch.arange(12), 15)
    assert lists.tolist() == [np.argsort(-sign * counts).tolist()] * 12


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(FINE), st.floats(1e-2, 1e2))
def test_the_scale_of_the_scores_changes_no_list(seed, gamma, scale):
    scorer = embeddings(seed)
    e = standardised_log(torch.from_numpy(np.random.default_rng(seed).integers(1, 99, 15)))
    larger = EmbeddingScorer(scorer.user_embeddings * scale, scorer.item_embeddings)
    ours, theirs = everyone(Dialled(scorer, e, gamma)), everyone(Dialled(larger, e, gamma))
    np.testing.assert_allclose(theirs / scale, ours, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [0.125, 64.0])
def test_a_power_of_two_changes_no_bit(scale):
    scorer = embeddings(3)
    e = standardised_log(torch.arange(1, 16))
    larger = EmbeddingScorer(scorer.user_embeddings * scale, scorer.item_embeddings)
    for gamma in FINE:
        ours, theirs = (
            rank(Dialled(s, e, gamma), torch.arange(12), 15)[0] for s in (scorer, larger)
        )
        assert torch.equal(ours, theirs)


def test_a_scorer_with_a_bias_is_the_same_reading():
    scorer = embeddings(4)
    share = spread(scorer) * standardised_log(torch.arange(1, 16))
    biased = EmbeddingScorer(
        scorer.user_embeddings, scorer.item_embeddings, dial_bias(share, -0.35)
    )
    dialled = Dialled(scorer, standardised_log(torch.arange(1, 16)), -0.35)
    assert np.array_equal(everyone(biased), everyone(dialled))


def test_what_cannot_be_a_dial():
    scorer = embeddings(5)
    for gamma in (math.nan, math.inf, -math.inf, 1e39):
        with pytest.raises(InputError, match=r"the dial is .*; give a finite number"):
            Dialled(scorer, torch.ones(15), gamma)
    with pytest.raises(InputError, match=r"shape \(3,\), the model knows 15 items"):
        Dialled(scorer, torch.ones(3), 1.0)
    with pytest.raises(InputError, match=r"the item bias has shape \(14,\)"):
        EmbeddingScorer(scorer.user_embeddings, scorer.item_embeddings, torch.ones(14))


# -- lists at several dials ---------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.sampled_from([1, 3, 50]), st.booleans())
def test_lists_with_biases_are_those_of_a_whole_ranking(seed, k, values, multiples):
    """Each bias ranked by itself, over few values and so many ties, and items ruled out."""
    rng = np.random.default_rng(seed)
    n_users, n_items = int(rng.integers(1, 6)), int(rng.integers(k, 90))
    scores = rng.integers(-values, values + 1, (n_users, n_items)) / 4.0
    scores[rng.random(scores.shape) < rng.choice([0.0, 0.2, 0.98])] = -np.inf
    steps = rng.integers(-3, 4, (3, n_items)) / 4.0
    biases = {
        float(at): torch.from_numpy(float(at) * steps[0 if multiples else at]).float()
        for at in range(3)
    }
    train = csr_array(rng.random(scores.shape) < 0.1)
    users = torch.arange(n_users)
    with pytest.MonkeyPatch.context() as patched:
        for name, value in (("_GROUP", 3), ("_BANDS", 2), ("_FEW", int(rng.choice([1, 128])))):
            patched.setattr(ranking, name, value)
        found = lists_at(Matrix(scores), biases | {9.0: None}, users, k, exclude=train)
    for at, lists in found.items():
        biased = scores if at == 9.0 else scores + biases[at].numpy()
        expected, _ = rank(Matrix(biased), users, k, exclude=train)
        assert torch.equal(lists, expected)


def test_a_few_groups_are_looked_into(monkeypatch):
    """Not all items are ranked at each dial, or reading them all would be as dear as ten times."""
    scorer = embeddings(0, n_users=4, n_items=3000)
    step = standardised_log(torch.from_numpy(np.random.default_rng(0).zipf(1.5, 3000)))
    ranked: list[int] = []
    packed = ranking._pack
    monkeypatch.setattr(ranking, "_pack", lambda s, i: ranked.append(s.numel()) or packed(s, i))
    none = csr_array((4, 3000), dtype=bool)
    lists_at(scorer, {g: g * step for g in COARSE}, torch.arange(4), 5, exclude=none)
    assert len(ranked) == len(COARSE)
    assert max(ranked) < 4 * 3000 / 10


# -- choosing ----------------------------------------------------------------------------------


def test_readings_by_hand():
    """Recall and NDCG at each dial from sorted lists, plain and weighted by inverse popularity."""
    rng = np.random.default_rng(6)
    scorer = embeddings(6)
    draw = rng.random((12, 15)) * np.linspace(0.4, 1.6, 15)
    train, valid = (draw > 0.7), (draw > 0.35) & (draw <= 0.7)
    valid[:, ~train.any(axis=0)] = False
    split = Split("valid", *np.nonzero(valid))
    csr = Split("train", *np.nonzero(train)).csr(12, 15)
    counts = train.sum(axis=0)
    e = standardised_log(torch.from_numpy(counts))
    even = anticipate("inverse-popularity", split, csr, ks=(3,))
    found = readings(scorer, e, split, csr, gammas=COARSE, ks=(3,), anticipations=[even])
    assert tuple(found) == COARSE
    scores = everyone(scorer).astype(np.float64)
    sigma = scores.std(axis=1).mean()
    logs = np.log(np.maximum(counts, 1))
    for gamma, metrics in found.items():
        read = scores + gamma * sigma * (logs - logs.mean()) / logs.std()
        read[train] = -np.inf
        ndcg, weighted, total = [], 0.0, 0.0
        for u in np.flatnonzero(valid.any(axis=1)):
            own = np.flatnonzero(valid[u])
            best = np.argsort(-read[u], kind="stable")[:3]
            gain = sum(1 / math.log2(r + 2) for r, i in enumerate(best) if valid[u, i])
            ndcg.append(gain / sum(1 / math.log2(r + 2) for r in range(min(len(own), 3))))
            weighted += sum(1 / counts[i] for i in best if valid[u, i]) / len(own)
            total += sum(1 / counts[i] for i in own) / len(own)
        assert metrics["ndcg@3"] == pytest.approx(np.mean(ndcg), rel=1e-9)
        assert metrics["recall@3 (inverse-popularity)"] == pytest.approx(weighted / total, rel=1e-9)
    assert len({m["ndcg@3"] for m in found.values()}) > 3, "the dial matters here"


def test_readings_beyond_the_catalogue():
    scorer = embeddings(3)
    train = np.random.default_rng(0).random((12, 15)) < 0.3
    valid = Split("valid", *np.nonzero(~train))
    csr = Split("train", *np.nonzero(train)).csr(12, 15)
    weighted = anticipate("inverse-popularity", valid, csr, ks=[10**9])
    found = readings(
        scorer,
        torch.linspace(-1, 1, 15),
        valid,
        csr,
        gammas=(0.0, 1.0),
        ks=[10**9],
        anticipations=[weighted],
    )
    for values in found.values():
        assert values["recall@1000000000"] == 1
        assert values["ndcg@1000000000 (inverse-popularity)"] <= 1
        assert values["recall@1000000000 (inverse-popularity)"] == pytest.approx(1)


def test_the_best_reading_and_of_equal_ones_the_nearest_to_zero():
    def found(values: dict[float, float]) -> dict[float, dict[str, float]]:
        return {gamma: {"ndcg@20": value, "other": -value} for gamma, value in values.items()}

    values = {-1.0: 0.2, -0.5: 0.4, 0.0: 0.3, 2.0: 0.4}
    assert best_reading(found(values), "ndcg@20") == (-0.5, 0.4)
    assert best_reading(found(values), "other") == (-1.0, -0.2)
    assert best_reading(found(dict.fromkeys(FINE, 0.1)), "ndcg@20") == (0.0, 0.1)
    assert best_reading(found({-0.5: 1.0, 0.5: 1.0, 2.0: 1.0}), "ndcg@20") == (0.5, 1.0)
    assert 0.0 in COARSE
    assert set(COARSE) <= set(FINE)


def prudent_by_hand(measured: dict[float, list[float]]) -> float:
    """Mode after mode, user after user."""
    gammas = sorted(measured)
    means = [sum(measured[gamma]) / len(measured[gamma]) for gamma in gammas]
    best = max(zip(means, gammas, strict=True), key=lambda pair: (pair[0], -abs(pair[1]), pair[1]))
    good = []
    for at, (mean, gamma) in enumerate(zip(means, gammas, strict=True)):
        # A mode falls off on both sides, once what is level with it is passed.
        left = [other for other in means[:at] if other != mean or min(means[:at]) != mean]
        right = means[at + 1 :]
        while left and left[-1] == mean:
            left.pop()
        while right and right[0] == mean:
            right.pop(0)
        if (left and left[-1] > mean) or (right and right[0] > mean):
            continue
        behind = [x - y for x, y in zip(measured[best[1]], measured[gamma], strict=True)]
        n, gap = len(behind), sum(behind) / len(behind)
        variance = sum((value - gap) ** 2 for value in behind) / (n - 1) if n > 1 else 0.0
        if gap <= math.sqrt(variance / n):
            good.append(gamma)
    return max(good, key=lambda gamma: (-abs(gamma), gamma))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([1, 2, 40]))
@example(479, 2, 40)  # behind by one standard error exactly
def test_the_prudent_dial_by_hand(seed, n_users, values):
    """Values of eighths, so that equal means are equal."""
    rng = np.random.default_rng(seed)
    measured = {
        gamma: rng.integers(0, values + 1, 2 ** int(np.log2(n_users))) / 8.0
        for gamma in rng.choice(FINE, int(rng.integers(1, 9)), replace=False).tolist()
    }
    assert prudent_dial(measured) == prudent_by_hand({g: m.tolist() for g, m in measured.items()})


def test_of_modes_that_cannot_be_told_apart_the_one_nearer_zero():
    users = np.arange(100)
    noise = np.where(users % 2, 1.0, -1.0)

    def at(mean: float, spread: float = 0.0) -> np.ndarray:
        return mean + spread * noise

    near, far = {-2.0: at(0.5), -1.0: at(0.1), 0.0: at(0.49, 0.2), 1.0: at(0.2)}, {}
    assert prudent_dial(near) == 0.0, "half a standard error behind"
    far = near | {0.0: at(0.47, 0.2)}
    assert prudent_dial(far) == -2.0, "one and a half behind"
    slope = {-2.0: at(0.5), -1.0: at(0.495, 0.2), 0.0: at(0.49, 0.2)}
    assert prudent_dial(slope) == -2.0, "what is on the slope of the best is no mode"


def test_in_words():
    assert in_words(-0.25) == "-0.25 (popularity counts for less than in training)"
    assert in_words(1.0) == "1 (popularity counts for more than in training)"
    assert in_words(0.0) == "0 (scores as trained)"
