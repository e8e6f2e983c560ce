"""Validation objectives that anticipate a shift, against loops over pairs."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from cnsdiff.base.errors import CnsdiffWarning, ConfigError, InputError
from cnsdiff.data import Split
from cnsdiff.evaluation import Anticipation, EmbeddingScorer, anticipate, evaluate_split, rank

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


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["inverse-popularity", "drift"]))
@example(3, "worst-slice")  # not for each seed: two slices may be the worst, with other slopes
@example(4, "worst-slice")
def test_what_users_add_has_the_metric_as_mean_and_its_change_as_slope(seed, kind):
    """Against a user who counts a little more: the metric's derivative, times the users."""
    train, valid, scorer = world(seed)
    if len(np.unique(valid.users)) < 2:
        return
    csr = train.csr(9, 12)
    try:
        made = anticipate(kind, valid, csr, ks=KS, slices=2)
    except ConfigError:
        return
    users = torch.from_numpy(np.unique(valid.users))
    lists, _ = rank(scorer, users, max(KS), exclude=csr)
    metrics, of_each = made(users, lists), made.per_user(users, lists)
    assert of_each.keys() == metrics.keys()
    rows = torch.arange(len(users))
    for at in rows:
        few = 2000  # copies of everybody, and one more of this user
        more = torch.cat([rows.repeat(few), at[None]])
        changed = made(users[more], lists[more])
        for key, values in of_each.items():
            assert float(values.mean()) == pytest.approx(metrics[key], abs=1e-12)
            slope = (changed[key] - metrics[key]) * few * len(users)
            assert float(values[at]) - metrics[key] == pytest.approx(slope, abs=5e-3)


def test_strength_zero_is_no_shift_and_one_is_inverse_popularity():
    train, valid, scorer = world(3)
    none, one, inverse = (
        measured(train, valid, scorer, anticipate(kind, valid, train.csr(9, 12), ks=KS, strength=s))
        for kind, s in (("tempered", 0.0), ("tempered", 1.0), ("inverse-popularity", 7.0))
    )
    assert none["ndcg@3 (tempered)"] == pytest.approx(none["ndcg@3"])
    assert one["ndcg@3 (tempered)"] == pytest.approx(inverse["ndcg@3 (inverse-popularity)"])
    assert one["ndcg@3 (tempered)"] != pytest.approx(none["ndcg@3"])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_inverse_exposure_and_propensity_against_a_loop(seed):
    train, valid, scorer = world(seed)
    if not len(valid):
        return
    exposure = np.random.default_rng(seed).integers(0, 9, 12)
    for kind, power in (("inverse-exposure", 1.0), ("inverse-propensity", 0.5)):
        made = anticipate(kind, valid, train.csr(9, 12), ks=KS, exposure=exposure)
        found = measured(train, valid, scorer, made)
        weights = [1 / max(int(exposure[i]), 1) ** power for i in valid.items]
        for k in KS:
            for name, value in by_hand(train, valid, scorer, weights, k).items():
                assert found[f"{name} ({kind})"] == pytest.approx(value, abs=1e-12)


def test_without_exposures_their_inverse_is_that_of_popularity():
    train, valid, scorer = world(3)
    exposure, popularity = (
        measured(train, valid, scorer, anticipate(kind, valid, train.csr(9, 12), ks=KS))
        for kind in ("inverse-exposure", "inverse-popularity")
    )
    assert exposure["ndcg@3 (inverse-exposure)"] == popularity["ndcg@3 (inverse-popularity)"]
    with pytest.raises(InputError, match=r"shape \(11,\), train has 12 items"):
        anticipate("inverse-exposure", valid, train.csr(9, 12), exposure=np.ones(11))


def cycles(users: list[int]) -> list[dict[int, int]]:
    """Every way of handing each user's pairs on to another so that all are in one circle."""
    first, *rest = users
    rings = [(first, *order) for order in itertools.permutations(rest)]
    return [dict(zip(ring, ring[1:] + ring[:1], strict=True)) for ring in rings]


def drifted(train, valid, scorer, to: dict[int, int], share: float) -> dict[str, float]:
    """The mixed metrics when the pairs of ``u`` go to ``to[u]``, less those that train."""
    trained = set(zip(train.users.tolist(), train.items.tolist(), strict=True))
    pairs = zip(valid.users.tolist(), valid.items.tolist(), strict=True)
    handed = [(to[u], i) for u, i in pairs if (to[u], i) not in trained]
    if not handed:
        return {}
    changed = Split("valid", *(np.array(column) for column in zip(*handed, strict=True)))
    found = {}
    for k in KS:
        now = by_hand(train, valid, scorer, [1.0] * len(valid), k)
        then = by_hand(train, changed, scorer, [1.0] * len(changed), k)
        for name in now:
            found[f"{name} (drift)"] = (1 - share) * now[name] + share * then[name]
    return found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1), st.integers(0, 100))
def test_drift_against_every_way_of_handing_pairs_on(seed, share, draw):
    train, valid, scorer = world(seed, n_users=5)
    users = sorted(set(valid.users.tolist()))
    assume(len(users) > 1)
    ways = [drifted(train, valid, scorer, to, share) for to in cycles(users)]
    assume(all(ways))
    made = anticipate("drift", valid, train.csr(5, 12), ks=KS, drift=share, seed=draw)
    found = measured(train, valid, scorer, made)
    # All metrics tell of the same one.
    assert any({name: found[name] for name in way} == pytest.approx(way, abs=1e-12) for way in ways)
    again = anticipate("drift", valid, train.csr(5, 12), ks=KS, drift=share, seed=draw)
    assert measured(train, valid, scorer, again) == found


def test_every_way_of_handing_pairs_on_is_as_likely():
    train, valid, scorer = world(5, n_users=4, n_items=30)
    ways = [drifted(train, valid, scorer, to, 1.0) for to in cycles([0, 1, 2, 3])]
    values = [tuple(round(way[f"ndcg@{k} (drift)"], 9) for k in KS) for way in ways]
    assert len(set(values)) == 6
    counts = dict.fromkeys(values, 0)
    for draw in range(300):
        made = anticipate("drift", valid, train.csr(4, 30), ks=KS, drift=1.0, seed=draw)
        found = measured(train, valid, scorer, made)
        counts[tuple(round(found[f"ndcg@{k} (drift)"], 9) for k in KS)] += 1
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_no_drift_is_the_plain_metric_and_popularity_does_not_drift():
    train, valid, scorer = world(3)
    none = anticipate("drift", valid, train.csr(9, 12), ks=KS, drift=0.0)
    found = measured(train, valid, scorer, none)
    assert found["ndcg@3 (drift)"] == pytest.approx(found["ndcg@3"])
    assert none.effective_pairs == pytest.approx(len(valid))
    # Each of 20 users likes an item of their own and one that all like.
    users = np.arange(20)
    valid = Split("valid", np.tile(users, 2), np.concatenate([users + 1, np.zeros(20, np.int64)]))
    trained = Split("train", users, np.full(20, 21)).csr(20, 22)
    half = anticipate("drift", valid, trained, ks=(1,), drift=0.5)
    own, common = (
        half(torch.from_numpy(users), torch.from_numpy(users + 1)[:, None]),
        half(torch.from_numpy(users), torch.zeros(20, 1, dtype=torch.int64)),
    )
    assert own["ndcg@1 (drift)"] == pytest.approx(0.5)
    assert common["ndcg@1 (drift)"] == pytest.approx(1.0)


def test_what_trains_the_new_user_is_left_out():
    """Two users, so each gets the other's: of 0's items, 1 trains on all but the last."""
    train = Split("train", np.array([1, 1, 0]), np.array([0, 1, 4]))
    valid = Split("valid", np.array([0, 0, 0, 1]), np.array([0, 1, 2, 4]))
    made = anticipate("drift", valid, train.csr(2, 5), ks=(1,), drift=0.25)
    found = made(torch.tensor([0, 1]), torch.tensor([[2], [2]]))
    # Now: a third of 0's, nothing of 1's. Then: 1 has item 2 alone, 0 has nothing to find.
    assert found["recall@1 (drift)"] == pytest.approx(0.75 * (1 / 3 + 0) / 2 + 0.25 * 1)
    weights = [0.75 / 4, 0.75 / 4, 0.75 / 4 + 0.25, 0.75 / 4]
    assert made.effective_pairs == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights))
    swapped = Split("train", valid.users, valid.items)
    held = Split("valid", 1 - valid.users, valid.items)
    with pytest.raises(ConfigError, match="nothing stands for a changed taste"):
        anticipate("drift", held, swapped.csr(2, 5))


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


def test_times_that_are_no_seconds_are_told():
    train, valid, _ = world(1)
    milli = replace(valid, timestamps=np.arange(len(valid)) + 1_577_836_800_000)
    with pytest.warns(CnsdiffWarning, match="valid split look like milliseconds since 1970"):
        anticipate("recency", milli, train.csr(9, 12))


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
