"""What a download shows."""

from __future__ import annotations

import io

import pytest

from cnsdiff.catalogue.progress import PlainReporter, RichReporter, reporter_for_terminal
from cnsdiff.display.screen import Screen


def test_plain_lines():
    stream = io.StringIO()
    with PlainReporter("cnsdiff", every=0.0, stream=stream) as report:
        report.begin("a.zip", 0, 2000)
        report.advance(500)
        report.begin("a.zip", 500, None)
        report.advance(500)
        report.note("done")
    assert stream.getvalue().splitlines() == [
        "cnsdiff: downloading a.zip (2.0 kB)",
        "cnsdiff: a.zip: 500 B (25%)",
        "cnsdiff: downloading a.zip (of unknown size, going on after 500 B)",
        "cnsdiff: a.zip: 1.0 kB",
        "cnsdiff: done",
    ]


def test_plain_lines_are_few():
    stream = io.StringIO()
    with PlainReporter("cnsdiff", every=60.0, stream=stream) as report:
        report.begin("a.zip", 0, 10**6)
        for _ in range(1000):
            report.advance(1000)
    assert len(stream.getvalue().splitlines()) == 1


def test_a_bar(monkeypatch):
    report = RichReporter()
    report._progress.live.console = screen = Screen(
        file=io.StringIO(), force_terminal=True, width=100
    )
    with report:
        report.begin("a.zip", 500, 2000)
        report.advance(1500)
        report.note("[again] in 1 s")
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "a.zip" in text
    assert "2.0/2.0 kB" in text
    assert "[again] in 1 s" in text


@pytest.mark.parametrize(("terminal", "kind"), [(True, RichReporter), (False, PlainReporter)])
def test_which(monkeypatch, terminal, kind):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    assert type(reporter_for_terminal()) is kind
