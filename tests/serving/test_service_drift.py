"""What a service says of an environment that moves, and which lists were taken."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest
from service_parts import train

from cnsdiff.evaluation.fhn import wilson
from cnsdiff.serving.monitor import Arms, HitRate
from cnsdiff.serving.schemas import EventBody
from cnsdiff.serving.service import Service


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.parametrize("moved", [False, True])
def test_drift_is_told_where_there_is_some(run, store, moved):
    rng = np.random.default_rng(0)
    expected = {name: f"expected of {name}" for name in ("temporal", "popularity", "user-group")}
    service = Service(store, expected=expected)
    service.serve(run)
    model = service._now().arm_of(None)[1].snapshot.model
    late = model.activity.decayed[:, 0]
    weights = late[::-1] ** 3 if moved else late
    items = rng.choice(len(late), 2000, p=weights / weights.sum())
    times = model.activity.moment + np.arange(2000)
    service.add_events(
        [
            EventBody(event_id=str(n), user=f"v{n}", item=model.items[int(item)], timestamp=at)
            for n, (item, at) in enumerate(zip(items, times, strict=True))
        ]
    )
    service.refresh()
    drift = service.drift
    assert drift.alarm is moved
    assert drift.unknown_users == 1.0
    assert (drift.js > drift.bound) is moved
    if moved:
        assert drift.message.endswith(expected[drift.scenario])
    assert service.status().drift == drift


def test_lists_that_were_taken_from():
    def answers(*rows):
        columns = ("seq", "at", "user", "arm", "version", "items")
        return pl.DataFrame(rows, schema=columns, orient="row")

    def events(*rows):
        return pl.DataFrame(rows, schema=("seq", "timestamp", "user", "item"), orient="row")

    arms, none = Arms(), pl.DataFrame()
    arms.take(
        answers(
            (1, 10.0, "a", "main", "v", ["x", "y"]),
            (2, 20.0, "a", "main", "v", ["z"]),
            (3, 30.0, "b", "canary", "w", ["x"]),
            (4, 30.0, "c", "shadow", "w", ["x"]),
        ),
        events((1, 15.0, "a", "y"), (2, 16.0, "a", "x"), (3, 25.0, "a", "y"), (4, 31.0, "c", "x")),
    )
    arms.take(none, events((5, 30.0 + 90_000, "b", "x")))  # a day is over
    main = next(taken for taken in arms.figures() if taken.arm == "main")
    assert (main.lists, main.taken, main.rate) == (2, 1, 0.5)
    canary = next(taken for taken in arms.figures() if taken.arm == "canary")
    assert (canary.lists, canary.taken) == (1, 0)
    assert len(arms.figures()) == 2
    arms.restart(25.0)
    arms.take(answers((5, 24.0, "a", "main", "v", ["x"])), none)
    assert not arms.figures()


def test_the_hit_rate_falls():
    """As many false alarms as ADWIN is allowed, none of a rise, one of a fall, until it is back."""
    rate, generator = HitRate(), np.random.default_rng(0)
    assert rate.figures() is None

    def follow(share, n):
        for hit in generator.random(n) < share:
            rate.add(bool(hit))
        return rate.figures()

    still = follow(0.2, 20_000)
    assert (still.events, still.before, still.message) == (20_000, None, "")
    assert still.rate == pytest.approx(0.2, abs=0.02)
    assert follow(0.3, 5_000).before is None
    fallen = follow(0.1, 5_000)
    assert fallen.before == pytest.approx(0.3, abs=0.03)
    assert fallen.rate == pytest.approx(0.1, abs=0.03)
    assert fallen.message.startswith("Lists hold less of what their users take next: ")
    assert follow(0.35, 10_000).before is None


def test_only_the_next_event_after_a_list_of_the_active_version_is_a_hit():
    generator, n = np.random.default_rng(0), 3_000
    users = [f"u{user}" for user in generator.integers(0, 50, n)]
    arms = generator.choice(["main", "canary", "shadow"], n).tolist()
    kinds = generator.random(n) < 0.4  # whether a row is a list
    items = [f"i{item}" for item in generator.integers(0, 6, n)]
    shown = [
        (seq, float(seq), user, arm, "v", [item, "x"])
        for seq, (user, arm, item, kind) in enumerate(zip(users, arms, items, kinds, strict=True))
        if kind
    ]
    done = [
        (seq, float(seq), user, item)
        for seq, (user, item, kind) in enumerate(zip(users, items, kinds, strict=True))
        if not kind
    ]
    arms_counted = Arms()
    arms_counted.take(
        pl.DataFrame(shown, schema=("seq", "at", "user", "arm", "version", "items"), orient="row"),
        pl.DataFrame(done, schema=("seq", "timestamp", "user", "item"), orient="row"),
    )
    # By hand: each list that is followed before the user sees another.
    hits, lists = [], [row for row in shown if row[3] != "shadow"]
    for user in set(users):
        own = [row for row in lists if row[2] == user]
        ends = [row[0] for row in own[1:]] + [n]
        for (seq, *_, arm, _, items_shown), end in zip(own, ends, strict=True):
            after = [row[3] for row in done if row[2] == user and seq < row[0] < end]
            if after and arm == "main":
                hits.append(after[0] in items_shown)
    figures = arms_counted.hits.figures()
    assert (figures.events, figures.rate) == (len(hits), pytest.approx(np.mean(hits)))
    assert 0 < figures.rate < 1 and figures.events > 100


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (3, 10), (10, 10), (41, 1000)])
def test_an_interval_is_wilsons(hits, n):
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-6)
