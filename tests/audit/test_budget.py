"""How a budget of time is shared."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from cnsdiff.audit import training
from cnsdiff.audit.training import REFERENCE_SHARE, Clock, run_in_time
from cnsdiff.benchmark.task import Method, Task


class Now:
    """A clock that is set by hand."""

    at = 0.0

    def __call__(self) -> float:
        return self.at


def test_what_one_training_does_not_use_goes_to_the_next():
    now = Now()
    clock = Clock(100, reserve=10, spent=15, now=now)
    assert clock.allot(5) == 15
    now.at = 5.0
    assert clock.allot(4) == 17.5
    now.at = 75.0
    assert clock.allot(3) is None


def test_what_a_training_takes_beyond_its_share_is_taken_off():
    now = Now()
    clock = Clock(100, now=now)
    clock.overran(8)
    clock.overran(2)  # the longest counts
    assert clock.allot(5) == 12
    now.at = 80.0
    assert clock.allot(5) == 1  # at least so much, while there is time to end an epoch
    now.at = 93.0
    assert clock.allot(1) is None


def test_the_budget_may_have_begun_before_the_clock():
    now = Now()
    now.at = 30.0
    assert Clock(100, started=10.0, now=now).left == 80


def task(method: str, shift: str, reference: str | None = None) -> Task:
    return Task(
        kind="final",
        dataset=shift,
        path="",
        fingerprint="",
        method=Method(method, reference, {}),
        setting={},
        trial=0,
        seed=0,
        selections=("valid",),
        metric="ndcg@20",
        ks=(20,),
    )


class Taking:
    """Workers whose tasks take the seconds that a method is said to take, by a clock set by hand.

    A training takes what it was given.
    """

    def __init__(self, now: Now, seconds: dict[str, float]) -> None:
        self.now, self.seconds = now, seconds
        self.given: dict[tuple[str, str], float | None] = {}

    def submit(self, task: Task) -> Future[None]:
        self.given[task.dataset, task.method.name] = task.seconds
        self.now.at += self.seconds.get(task.method.name) or task.seconds or 0.0
        future: Future[None] = Future()
        future.set_result(None)
        return future


@pytest.fixture
def run(monkeypatch):
    """Run tasks within a budget: what each was given, what was left out, and when it ended."""

    def run(tasks, budget, **seconds):
        now = Now()
        workers = Taking(now, seconds)
        store = SimpleNamespace(status=lambda _: None, read=lambda _: None)
        monkeypatch.setattr(training, "settle", lambda *_: None)
        monkeypatch.setattr(training.time, "monotonic", now)
        left_out = run_in_time(tasks, store, workers, Clock(budget, now=now))
        return workers.given, {(t.dataset, t.method.name) for t in left_out}, now.at

    return run


def test_references_have_a_share_of_the_budget(run):
    shifts = ("temporal", "popularity", "user-group")
    tasks = [
        task(name, shift, name) for shift in shifts for name in ("mostpop", "itemknn", "ease")
    ] + [task("usual", shift) for shift in shifts]
    given, left_out, _ = run(tasks, 100.0, mostpop=1.0, itemknn=5.0, ease=9.0)
    # 15 s under the first shift, 6 under the second; EASE would make 30, ItemKNN again 27.
    assert left_out == {("popularity", "ease"), ("user-group", "ease")}
    of_references = [key for key in given if key[1] != "usual"]
    assert sum({"mostpop": 1, "itemknn": 5, "ease": 9}[name] for _, name in of_references) <= (
        REFERENCE_SHARE * 100
    )


def test_mostpop_is_never_left_out(run):
    tasks = [task(name, "popularity", name) for name in ("mostpop", "itemknn", "ease")]
    given, left_out, _ = run(tasks, 1.0, mostpop=5.0)
    assert list(given) == [("popularity", "mostpop")]
    assert {name for _, name in left_out} == {"itemknn", "ease"}


def test_the_certain_shift_gets_twice_the_time_and_all_of_it_is_used(run):
    tasks = [task("usual", shift) for shift in ("temporal", "popularity", "user-group")]
    given, _, ended = run(tasks, 80.0)
    assert given == {
        ("temporal", "usual"): 40.0,
        ("popularity", "usual"): 20.0,
        ("user-group", "usual"): 20.0,
    }
    assert ended == 80.0
