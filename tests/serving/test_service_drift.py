"""What a service says of an environment that moves, and which lists were taken."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest
from service_parts import train

from cnsdiff.evaluation.fhn import wilson
from cnsdiff.serving.monitor import Arms
from cnsdiff.serving.schemas import EventBody
from cnsdiff.serving.service import Service
from cnsdiff.serving.store import Store


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.parametrize("moved", [False, True])
def test_drift_is_told_where_there_is_some(run, tmp_path, moved):
    rng = np.random.default_rng(0)
    expected = {name: f"expected of {name}" for name in ("temporal", "popularity", "user-group")}
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store:
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


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (3, 10), (10, 10), (41, 1000)])
def test_an_interval_is_wilsons(hits, n):
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-6)
