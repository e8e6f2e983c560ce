"""How numbers and names read."""

from __future__ import annotations

import pytest

from cnsdiff.base.errors import ConfigError
from cnsdiff.cli.parsing import parse_budget
from cnsdiff.display.wording import (
    byte_size,
    clock,
    count,
    duration,
    listed,
    metric_title,
    number,
    number_span,
    percent,
    percent_span,
)

NAN = float("nan")


def test_numbers():
    assert number(0.04321) == "0.0432"
    assert number(1.5, 2) == "1.50"
    assert number(12345, 0) == "12,345"
    assert number(0.012, signed=True) == "+0.0120"
    assert number(-0.012) == number(-0.012, signed=True) == "-0.0120"
    assert number(NAN) == number(None) == "-"
    assert number_span(-0.003, 0.004, signed=True) == "-0.0030 to +0.0040"


def test_per_cent():
    assert percent(0.624) == "62%"
    assert percent(0.0042) == "0.4%"
    assert percent(0.0042, 0) == "0%"
    assert percent(0.12345, 1, signed=True) == "+12.3%"
    assert percent(NAN) == percent(None) == "-"
    assert percent_span(0.55, 0.69) == "55–69%"
    assert percent_span(-0.2, -0.1) == "-20 to -10%"


def test_counts_and_lists():
    assert [count(n, "trial") for n in (0, 1, 2000)] == ["0 trials", "1 trial", "2,000 trials"]
    assert [listed("abc"[:n]) for n in (0, 1, 2, 3)] == ["", "a", "a and b", "a, b, and c"]
    assert listed("ab", "or") == "a or b"


def test_metrics():
    titles = [metric_title(name) for name in ("ndcg@20", "recall@5", "hitrate@10", "mrr")]
    assert titles == ["NDCG@20", "Recall@5", "HitRate@10", "MRR"]
    assert metric_title("ndcg@20[dial]") == "NDCG@20[dial]"


def test_clock():
    assert [clock(seconds) for seconds in (0, 75.2, 3723)] == ["0:00", "1:15", "1:02:03"]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_345, "12 kB"),
        (4_924_029, "4.9 MB"),
        (431_964_858, "432 MB"),
        (4_300_000_000, "4.3 GB"),
        (5_000_000_000_000, "5000.0 GB"),
    ],
)
def test_sizes(size, text):
    assert byte_size(size) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("2h", 7200), ("1.5m", 90), ("1H 2m 3s", 3723)],
)
def test_durations_are_read(text, seconds):
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
def test_what_is_not_a_duration(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_budget(text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (45, "45 s"),
        (600, "10 min"),
        (150, "2 min 30 s"),
        (5400, "1 h 30 min"),
        (7203, "2 h"),
        (86_400, "24 h"),
        (604_800, "7 d"),
        (180_000, "2 d 2 h"),
    ],
)
def test_time_duration(seconds, words):
    assert duration(seconds) == words
