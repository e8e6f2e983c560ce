"""Lengths of time, and how they are shared."""

from __future__ import annotations

import pytest

from cnsdiff.audit.budget import Clock
from cnsdiff.base.errors import ConfigError
from cnsdiff.display.wording import in_words, parse_budget


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("2h", 7200), ("1.5m", 90), ("1H 2m 3s", 3723)],
)
def test_lengths_of_time(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("90", "write 90s for seconds or 90m for minutes"),
        ("soon", "90s, 10m or 1h30m"),
        ("", "90s, 10m or 1h30m"),
        ("m", "90s, 10m or 1h30m"),
        ("30m1h", "90s, 10m or 1h30m"),
        ("-5m", "90s, 10m or 1h30m"),
        ("2s", "too short"),
        ("0m", "too short"),
        ("9" * 400 + "h", "over a year"),
    ],
)
def test_what_is_no_length_of_time(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_budget(text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(45, "45 s"), (600, "10 min"), (150, "2 min 30 s"), (5400, "1 h 30 min"), (7203, "2 h")],
)
def test_time_in_words(seconds, words):
    assert in_words(seconds) == words


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
