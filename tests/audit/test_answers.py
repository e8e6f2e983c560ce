"""Lists that a service has shown: what came of them, and what other lists would have had."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnsdiff.audit.answers import Shown, arms_of, mean_of, off_policy
from cnsdiff.base.errors import DataError
from cnsdiff.evaluation.significance import clustered, seed_interval

FAR = pl.DataFrame({"user": ["nobody"], "item": ["none"], "timestamp": [1e9]})


def answers(rows) -> pl.DataFrame:
    """Of ``(user, at, items, propensities, arm, version)``."""
    names = ["user", "at", "items", "propensities", "arm", "version"]
    schema = {
        "user": pl.String,
        "at": pl.Float64,
        "items": pl.List(pl.String),
        "propensities": pl.List(pl.Float64),
        "arm": pl.String,
        "version": pl.String,
    }
    frame = pl.DataFrame([dict(zip(names, row, strict=True)) for row in rows], schema=schema)
    return frame.with_columns(k=pl.col("items").list.len().cast(pl.Int64))


def events(rows) -> pl.DataFrame:
    schema = {"user": pl.String, "item": pl.String, "timestamp": pl.Float64}
    return pl.concat([pl.DataFrame(rows, schema=schema, orient="row"), FAR])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_event_belongs_to_the_latest_list_with_its_item(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    window = float(data.draw(st.integers(1, 30)))
    lists = [
        (f"u{rng.integers(3)}", float(at), list(map(str, rng.permutation(5)[:2])), [1.0, 1.0])
        for at in rng.choice(1000, 20, replace=False) / 10
    ]
    clicks = [
        (f"u{rng.integers(3)}", str(rng.integers(5)), float(t)) for t in rng.integers(0, 110, 40)
    ]
    shown = Shown.of(answers([(*row, "active", "v") for row in lists]), events(clicks), window)
    lists.sort(key=lambda row: row[1])
    twin = set()
    for user, item, time in clicks:
        before = [
            n for n, (u, at, i, _) in enumerate(lists) if u == user and at <= time and item in i
        ]
        if before and time - lists[before[-1]][1] <= window:
            twin.add((before[-1], item))
    clicked = shown.items.filter(pl.col("clicked") > 0).select("answer", "item").rows()
    assert set(clicked) == twin and len(clicked) == len(twin)
    assert shown.clicks.sum() == len(twin)


def test_lists_that_are_open_or_a_shadow_are_left_out():
    rows = [
        ("a", 0.0, ["1"], [1.0], "active", "v"),
        ("a", 1.0, ["2"], [1.0], "shadow", "w"),
        ("a", 95.0, ["1"], [1.0], "active", "v"),
    ]
    done = pl.DataFrame(
        {"user": ["a", "a", "b"], "item": ["2", "1", "1"], "timestamp": [2.0, 96.0, 100.0]}
    )
    shown = Shown.of(answers(rows), done, 10.0)
    assert (len(shown.answers), shown.n_open, shown.clicks.sum()) == (1, 1, 0)
    with pytest.raises(DataError, match="older than the window of 16 min 40 s in which"):
        Shown.of(answers(rows), done, 1000.0)
    with pytest.raises(DataError, match="no answers yet"):
        Shown.of(answers(rows[1:2]), done, 10.0)


def test_only_events_of_some_types_count():
    rows = [("a", 0.0, ["1", "2"], [1.0, 1.0], "active", "v")]
    done = pl.DataFrame(
        {"user": "a", "item": ["1", "2", "2"], "timestamp": [1.0, 2.0, 99.0]}
    ).with_columns(type=pl.Series(["view", "purchase", None]))
    clicks = {
        types: Shown.of(answers(rows), done, 10.0, types).items["clicked"].to_list()
        for types in (None, ("purchase",), ("view", "purchase"))
    }
    assert list(clicks.values()) == [[1, 1], [0, 1], [1, 1]]
    with pytest.raises(DataError, match=r"type 'vew' \(did .* 'view'.*have purchase, view"):
        Shown.of(answers(rows), done, 10.0, ("vew",))


def test_some_of_the_lists_are_those_lists():
    rows = [(f"u{n}", float(n), [str(n), "x"], [1.0, 0.5], "active", "v") for n in range(4)]
    done = events([("u1", "x", 1.5), ("u3", "3", 3.5)])
    some = Shown.of(answers(rows), done, 1.0).only(np.array([False, True, False, True]))
    alone = Shown.of(answers([rows[1], rows[3]]), done, 1.0)
    assert some.answers.equals(alone.answers) and some.items.equals(alone.items)
    assert some.clicks.tolist() == [1, 1]


def test_an_interval_of_single_lists_is_students_and_of_equal_clusters_that_of_their_means():
    values = np.random.default_rng(0).normal(size=12)
    alone, known = mean_of(values, np.arange(12)), seed_interval(values)
    assert (alone.low, alone.high) == pytest.approx((known.low, known.high))
    together, of_means = (
        mean_of(values, np.arange(12) // 3),
        seed_interval(values.reshape(4, 3).mean(1)),
    )
    assert (together.low, together.high) == pytest.approx((of_means.low, of_means.high))
    assert np.isnan(clustered(1.0, [0.0, 0.0], [0, 0]).low)


def test_arms_are_compared_over_the_time_that_they_share():
    rng = np.random.default_rng(1)
    rows, clicks = [], []
    for n in range(400):
        arm, at = ("canary", "w") if n % 4 == 0 else ("active", "v"), float(n)
        if arm[0] == "canary" and n < 200:
            continue
        rows.append((f"{arm[0]}{n % 40}", at, ["1", "2"], [1.0, 1.0], *arm))
        # Before they share a time, everything is clicked.
        for item in ("1", "2"):
            if n < 200 or rng.random() < (0.6 if arm[0] == "canary" else 0.2):
                clicks.append((rows[-1][0], item, at + 0.5))
    shown = Shown.of(answers(rows), events(clicks), 1.0)
    arms, (difference,) = arms_of(shown)
    assert [(a.arm, a.answers) for a in arms] == [("active", 300), ("canary", 50)]
    late = [n for n, row in enumerate(rows) if 200 <= row[1] <= 396]
    mine = [shown.clicks[n] for n in late if rows[n][4] == "canary"]
    others = [shown.clicks[n] for n in late if rows[n][4] == "active"]
    assert difference.clicks.value == pytest.approx(np.mean(mine) - np.mean(others))
    assert difference.answers == len(late)
    assert difference.hit_rate.low > 0
    assert arms[0].hit_rate.value == pytest.approx(
        np.mean(shown.clicks[[r[4] == "active" for r in rows]] > 0)
    )


# --- a policy that was not served

#: Two places, two items to explore, every second list explores: eight equally likely lists.
LISTED, POOL = ("a", "b"), ("c", "d")
RATES = {"a": 0.5, "b": 0.25, "c": 0.75, "d": 0.125, "e": 0.9}
EVERY = [(("a", 0.75), ("b", 0.75))] * 4 + [
    tuple((new, 0.25) if own == out else (own, 0.75) for own in LISTED)
    for out, new in itertools.product(LISTED, POOL)
]


def expected(n_users: int) -> Shown:
    """Every list that could be, as often as it is likely, its clicks in expectation."""
    lists = [(user, pairs) for user in range(n_users) for pairs in EVERY]
    items = [(n, item, p, RATES[item]) for n, (_, pairs) in enumerate(lists) for item, p in pairs]
    names = ["answer", "item", "propensity", "clicked"]
    owners = pl.DataFrame({"user": [f"u{user}" for user, _ in lists]})
    return Shown(owners, pl.DataFrame(items, schema=names, orient="row"), 0)


@pytest.mark.parametrize("target", [("a", "b"), ("c", "a"), ("d", "c"), ("c",)])
def test_with_support_every_estimate_is_the_truth_in_expectation(target):
    shown = expected(10)
    estimate = off_policy(shown, [list(target)] * len(shown.answers))
    truth = sum(RATES[item] for item in target)
    assert estimate.ips.value == pytest.approx(truth)
    assert estimate.dr.value == pytest.approx(truth)
    assert estimate.snips.value == pytest.approx(truth)
    assert estimate.support == pytest.approx(1.0)
    served = sum(RATES[i] * (0.75 if i in LISTED else 0.25) for i in (*LISTED, *POOL))
    assert estimate.served.value == pytest.approx(served)
    assert estimate.gain.value == pytest.approx(truth - served)


def test_without_support_ips_loses_it_and_says_so():
    shown = expected(10)
    estimate = off_policy(shown, [["c", "e"]] * len(shown.answers))
    assert estimate.support == pytest.approx(0.5)
    assert estimate.ips.value == pytest.approx(RATES["c"])
    assert estimate.snips.value == pytest.approx(2 * RATES["c"])  # as if e were as c is
    assert "only 50%" in estimate.warnings[0]
    nothing = off_policy(shown, [["e"]] * len(shown.answers))
    assert nothing.ips.value == 0 and nothing.support == 0 and np.isnan(nothing.snips.value)
    assert len(nothing.warnings) == 2


def test_intervals_cover_the_truth():
    """Users click more or less throughout, so that their lists are no independent ones."""
    rng = np.random.default_rng(0)
    target, covered = ("c", "a"), dict.fromkeys(("ips", "snips", "dr", "gain"), 0)
    truth = dict.fromkeys(covered, RATES["c"] + RATES["a"])
    truth["gain"] -= 0.75 * (RATES["a"] + RATES["b"]) + 0.25 * (RATES["c"] + RATES["d"])
    trials, n_users, each = 200, 60, 6
    for _ in range(trials):
        users = np.repeat(np.arange(n_users), each)
        keen = rng.choice([0.7, 1.3], n_users)
        rows = []
        for n, user in enumerate(users):
            for item, p in EVERY[rng.integers(len(EVERY))]:
                rows.append((n, item, p, float(rng.random() < RATES[item] * keen[user])))
        names = ["answer", "item", "propensity", "clicked"]
        owners = pl.DataFrame({"user": [f"u{user}" for user in users]})
        shown = Shown(owners, pl.DataFrame(rows, schema=names, orient="row"), 0)
        estimate = off_policy(shown, [list(target)] * len(users))
        for name in covered:
            interval = getattr(estimate, name)
            covered[name] += interval.low <= truth[name] <= interval.high
    for name, n in covered.items():
        assert 0.9 <= n / trials <= 0.99, (name, n)
