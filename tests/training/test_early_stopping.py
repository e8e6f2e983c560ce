"""Which epoch is the best, and when to stop."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from cnsdiff.training.config import PUBLISHED_METRICS
from cnsdiff.training.selection import EarlyStopping


def run(stopping: EarlyStopping, values: list[float]) -> list[bool]:
    return [stopping.update(n, {"ndcg@20": v, "x": -v}) for n, v in enumerate(values, start=1)]


def test_one_metric_must_rise_strictly():
    stopping = EarlyStopping(["ndcg@20"], patience=3)
    assert run(stopping, [0.0, 0.0, 0.2, 0.2, 0.1]) == [True, False, True, False, False]
    assert (stopping.best_epoch, stopping.best, stopping.stale) == (3, {"ndcg@20": 0.2}, 2)
    assert not stopping.should_stop
    assert stopping.update(6, {"ndcg@20": 0.2}) is False
    assert stopping.should_stop


def test_an_improvement_starts_the_wait_again():
    stopping = EarlyStopping(["ndcg@20"], patience=2)
    run(stopping, [0.1, 0.1, 0.2, 0.1])
    assert stopping.stale == 1
    assert not stopping.should_stop


@pytest.mark.parametrize("patience", [1, 5])
def test_patience_counts_validations(patience):
    stopping = EarlyStopping(["ndcg@20"], patience=patience)
    run(stopping, [1.0] + [0.5] * (patience - 1))
    assert not stopping.should_stop
    run(stopping, [0.5])
    assert stopping.should_stop


def test_no_patience_never_stops():
    stopping = EarlyStopping(["ndcg@20"], patience=None)
    run(stopping, [1.0] + [0.0] * 500)
    assert not stopping.should_stop


def published(*values: float) -> dict[str, float]:
    return dict(zip(PUBLISHED_METRICS, values, strict=True))


def test_the_published_rule_lets_no_metric_fall():
    stopping = EarlyStopping(PUBLISHED_METRICS, patience=10)
    assert stopping.update(1, published(0.1, 0.1, 0.1, 0.1))
    assert not stopping.update(2, published(0.9, 0.9, 0.9, 0.09))
    assert stopping.update(3, published(0.1, 0.1, 0.1, 0.1)), "equal in all four counts as well"
    assert stopping.update(4, published(0.1, 0.2, 0.1, 0.1))
    assert stopping.best_epoch == 4
    assert stopping.best == published(0.1, 0.2, 0.1, 0.1)


def test_the_state_is_plain():
    stopping = EarlyStopping(["ndcg@20"], patience=3)
    run(stopping, [0.1, 0.0])
    state = asdict(stopping)
    assert {"best_epoch": 1, "best": {"ndcg@20": 0.1}, "stale": 1}.items() <= state.items()
