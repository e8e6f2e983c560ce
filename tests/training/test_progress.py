"""What training shows: lines, a live bar, or nothing."""

from __future__ import annotations

import io
import re

import pytest

from cnsdiff import Recommender
from cnsdiff.training.progress import (
    PlainReporter,
    RichReporter,
    describe,
    reporter_for_terminal,
)

TRAINING = {"epochs": 3, "batch_size": 8}


def test_a_plain_line_per_epoch(world):
    stream = io.StringIO()
    reporter = PlainReporter("mine", stream)
    Recommender(sampler="cnsdiff", training=TRAINING).fit(world, reporter=reporter)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    for number, line in enumerate(lines, start=1):
        assert re.fullmatch(
            rf"mine: epoch {number}/3  loss \d+\.\d{{4}}  bpr \d+\.\d{{4}}  sampler \d+\.\d{{4}}  "
            r"ndcg@20 0\.\d{4}  \d+\.\d s  at most \d+ s left(  best)?",
            line,
        ), line
    assert lines[0].endswith("best")
    assert "at most 0 s left" in lines[2]


def test_a_resumed_run_estimates_from_its_own_epochs():
    stream = io.StringIO()
    reporter = PlainReporter(stream=stream)
    reporter.begin(7, 10, 1)
    record = {"epoch": 8, "train": {"loss": 1.0}, "validation": {}, "seconds": 0.5}
    reporter.epoch(record, best=False)
    assert stream.getvalue().startswith("epoch 8/10  loss 1.0000  0.5 s  at most 0 s left")


def test_describe_is_short():
    record = {
        "train": {"loss": 1.0, "bpr": 0.5, "hardness": 0.1},
        "validation": {"ndcg@20": 0.25, "recall@20": 0.5},
    }
    assert describe(record) == "loss 1.0000  bpr 0.5000  ndcg@20 0.2500"


def test_the_live_bar_runs(world, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    training = {**TRAINING, "select_on": "test_ood", "dial": "off"}
    reporter = RichReporter("lightgcn + random")
    Recommender(sampler="random", training=training).fit(world, reporter=reporter)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    assert "WARNING: select_on=test_ood" in shown
    assert "lightgcn + random" in shown
    assert "3/3" in shown
    assert "recall@10 0." in shown


def test_the_live_bar_lets_errors_through(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with pytest.raises(KeyboardInterrupt), RichReporter() as reporter:
        reporter.begin(0, 3, 2)
        raise KeyboardInterrupt


@pytest.mark.parametrize(("terminal", "kind"), [(True, RichReporter), (False, PlainReporter)])
def test_the_bar_is_for_terminals(monkeypatch, terminal, kind):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr("sys.stderr", stream)
    assert type(reporter_for_terminal("x")) is kind
