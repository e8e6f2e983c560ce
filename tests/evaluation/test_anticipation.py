"""Validation objectives that anticipate a shift, against loops over pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnsdiff.data import Split
from cnsdiff.errors import ConfigError
from cnsdiff.evaluation import Anticipation, EmbeddingScorer, anticipate, evaluate_split

KS = (1, 3, 5)


def world(seed: int, n_users: int = 9, n_items: int = 12) -> tuple[Split, Split, EmbeddingScorer]:
    """Train and validation pairs without overlap, times, and a model."""
    rng = np.random.default_rng(seed)
    draw = rng.random((n_users, n_items)) * np.linspace(0.4, 1.6, n_items)
    train = np.argwhere(draw > 0.8)
    valid = np.argwhere((draw > 0.5) & (draw <= 0.8))
    valid = valid[np.isin(valid[:, 1], train[:, 1])]  # as in every dataset
    times = rng.integers(0, 1000, len(valid)).astype(np.float64)
    scorer = EmbeddingScorer(
        torch.from_numpy(rng.normal(size=(n_users, 4))).float(),
        torch.from_numpy(rng.normal(size=(n_items, 4))).float(),
    )
    return (
        Split("train", train[:, 0], train[:, 1]),
        Split("valid", valid[:, 0], valid[:, 1], times),
        scorer,
    )


def lists(train: Split, scorer: EmbeddingScorer, users: list[int], k: int) -> dict[int, list[int]]:
    scores = (scorer.user_embeddings @ scorer.item_embeddings.T).numpy().copy()
    scores[train.users, train.items] = -np.inf
    best = {u: np.argsort(-scores[u], kind="stable")[:k].tolist() for u in users}
    return {u: [i for i in items if scores[u, i] > -np.inf] for u, items in best.items()}


def by_hand(train, valid, scorer, weights, k) -> dict[str, float]:
    """The two weighted metrics, pair by pair."""
    pairs = list(zip(valid.users.tolist(), valid.items.tolist(), weights, strict=True))
    users = sorted({u for u, _, _ in pairs})
    ranked = lists(train, scorer, users, k)
    hit = total = dcg_sum = weight_sum = 0.0
    for u in users:
        own = {i: w for v, i, w in pairs if v == u}
        n = len(own)
        hit += sum(own.get(i, 0.0) for i in ranked[u]) / n
        total += sum(own.values()) / n
        dcg = sum(own.get(i, 0.0) / math.log2(r + 2) for r, i in enumerate(ranked[u]))
        best = sorted(own.values(), reverse=True)[:k]
        ideal = sum(w / math.log2(r + 2) for r, w in enumerate(best))
        mean = sum(own.values()) / n
        dcg_sum += mean * (dcg / ideal if ideal else 0.0)
        weight_sum += mean
    return {f"recall@{k}": hit / total, f"ndcg@{k}": dcg_sum / weight_sum}


def measured(train, valid, scorer, anticipation) -> dict[str, float]:
    csr = train.csr(scorer.n_users, scorer.n_items)
    return evaluate_split(scorer, valid, csr, ks=KS, anticipations=[anticipation]).metrics


def weights_of(kind, train, valid, n_items, strength) -> np.ndarray:
    popularity = np.array([(train.items == i).sum() for i in valid.items], dtype=float)
    if kind == "inverse-popularity":
        return 1 / popularity
    if kind == "tempered":
        return popularity**-strength
    span = valid.timestamps.max() - valid.timestamps.min()
    return 0.5 ** ((valid.timestamps.max() - valid.timestamps) / (0.1 * span))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(["inverse-popularity", "tempered", "recency"]),
    st.floats(-1, 2),
)
def test_weighted_metrics_against_a_loop(seed, kind, strength):
    train, valid, scorer = world(seed)
    if len(valid) < 2 or np.ptp(valid.timestamps) == 0:
        return
    made = anticipate(kind, valid, train.csr(9, 12), ks=KS, strength=strength)
    found = measured(train, valid, scorer, made)
    for k in KS:
        expected = by_hand(
            train, valid, scorer, weights_of(kind, train, valid, 12, strength).tolist(), k
        )
        for name, value in expected.items():
            assert found[f"{name} ({kind})"] == pytest.approx(value, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 100))
def test_equal_weights_give_the_plain_metric(seed, weight):
    train, valid, scorer = world(seed)
    if not len(valid):
        return
    made = Anticipation("same", valid, 9, 12, np.full((1, len(valid)), weight), KS)
    found = measured(train, valid, scorer, made)
    for k in KS:
        for metric in (f"recall@{k}", f"ndcg@{k}"):
            assert found[f"{metric} (same)"] == pytest.approx(found[metric], abs=1e-12)
    assert made.effective_pairs == pytest.approx(len(valid))


def test_strength_zero_is_no_shift_and_one_is_inverse_popularity():
    train, valid, scorer = world(3)
    none, one, inverse = (
        measured(train, valid, scorer, anticipate(kind, valid, train.csr(9, 12), ks=KS, strength=s))
        for kind, s in (("tempered", 0.0), ("tempered", 1.0), ("inverse-popularity", 7.0))
    )
    assert none["ndcg@3 (tempered)"] == pytest.approx(none["ndcg@3"])
    assert one["ndcg@3 (tempered)"] == pytest.approx(inverse["ndcg@3 (inverse-popularity)"])
    assert one["ndcg@3 (tempered)"] != pytest.approx(none["ndcg@3"])


def test_the_weighted_item_distribution_is_uniform():
    """Validation that follows train's popularity counts all its items alike."""
    counts = np.array([8, 4, 2])
    train = Split("train", np.arange(14), np.repeat([0, 1, 2], counts))
    valid = Split("valid", np.arange(14), np.repeat([2, 1, 0], counts[::-1]))
    made = anticipate("inverse-popularity", valid, train.csr(14, 3), ks=(1,))
    # One pair a user, so the recall of "always item i" is that item's share.
    shares = []
    for item in range(3):
        lists_ = torch.full((14, 1), item)
        shares.append(made(torch.arange(14), lists_)["recall@1 (inverse-popularity)"])
    assert shares == pytest.approx([1 / 3] * 3)
    assert made.effective_pairs < len(valid)


def test_the_worst_slice_is_the_least_of_the_slices():
    train, valid, scorer = world(5, 30, 20)
    made = anticipate("worst-slice", valid, train.csr(30, 20), ks=KS, slices=3, slice_by="time")
    found = measured(train, valid, scorer, made)
    order = np.sort(valid.timestamps)
    below = np.searchsorted(order, valid.timestamps)
    up_to = np.searchsorted(order, valid.timestamps, side="right")
    stratum = np.minimum((below + up_to) / (2 * len(order)) * 3, 2).astype(int)
    for k in KS:
        slices = [
            by_hand(train, valid, scorer, (stratum == s).astype(float).tolist(), k)
            for s in range(3)
        ]
        for name in slices[0]:
            least = min(values[name] for values in slices)
            assert found[f"{name} (worst-slice)"] == pytest.approx(least)


@pytest.mark.parametrize("by", ["popularity", "activity", "time"])
def test_every_way_of_slicing(by):
    train, valid, scorer = world(6, 30, 20)
    made = anticipate("worst-slice", valid, train.csr(30, 20), ks=KS, slice_by=by)
    found = measured(train, valid, scorer, made)
    # The plain recall is a mean of the slices' recalls.
    assert 0 <= found["recall@3 (worst-slice)"] <= found["recall@3"]


def test_what_cannot_be_anticipated():
    train, valid, _ = world(1)
    with pytest.raises(ConfigError, match=r"'recent'.*did you mean 'recency'"):
        anticipate("recent", valid, train.csr(9, 12))  # type: ignore[arg-type]
    timeless = Split("valid", valid.users, valid.items)
    with pytest.raises(ConfigError, match="needs timestamps, which the valid split lacks"):
        anticipate("recency", timeless, train.csr(9, 12))
    alike = Split("train", np.repeat(np.arange(9), 12), np.tile(np.arange(12), 9))
    with pytest.raises(ConfigError, match="about the same popularity"):
        anticipate("worst-slice", valid, alike.csr(9, 12))
