"""How a budget of time is shared."""

from __future__ import annotations

from cnsdiff.audit.training import Clock


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
