"""What a tuning shows: lines, a live table, or nothing."""

from __future__ import annotations

import io

import pytest

from cnsdiff.tuning import tune
from cnsdiff.tuning.progress import (
    PlainReporter,
    Reporter,
    RichReporter,
    in_brief,
    outcome_in_words,
    reporter_for_terminal,
)
from cnsdiff.tuning.study import Trial

SETTING = {"training.lr": 0.0123456, "backbone.dim": None}
REACHED = {"setting": SETTING, "value": 0.25, "best_epoch": 4, "epochs": 9}
DONE = Trial(number=3, state="completed", curve=((4, 0.25), (9, 0.2)), **REACHED)
PRUNED = Trial(
    number=4,
    state="pruned",
    setting=SETTING,
    value=0.125,
    best_epoch=2,
    epochs=6,
    curve=((2, 0.125),),
)
FAILED = Trial(number=5, state="failed", setting=SETTING, error="a loss became NaN")


@pytest.mark.parametrize(
    ("trial", "words"),
    [
        (DONE, "0.2500 in epoch 4 of 9"),
        (PRUNED, "0.1250 pruned in epoch 6"),
        (FAILED, "FAILED: a loss became NaN"),
        (
            Trial(number=6, state="completed", same_as=3, **REACHED),
            "0.2500 in epoch 4 of 9 as trial 3, the same setting",
        ),
    ],
)
def test_outcomes_in_words(trial, words):
    assert outcome_in_words(trial) == words


def test_a_plain_line_per_trial():
    stream = io.StringIO()
    reporter = PlainReporter("mine", stream)
    reporter.begin(20, [DONE])
    reporter.trial_begins(3, SETTING)
    reporter.validated(4, 9, 0.25)
    reporter.trial_ends(DONE, best=True)
    assert stream.getvalue().splitlines() == [
        "mine: 20 trials, 1 of them done before",
        "mine: trial 3 (4/20)  0.2500 in epoch 4 of 9  best  training.lr=0.0123  "
        "backbone.dim=None  0.0 s",
    ]


@pytest.mark.parametrize("columns", ["40", "100"])
def test_the_live_table(world, quick, monkeypatch, capsys, columns):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", columns)
    tune(quick(), world, trials=3, reporter=RichReporter("mf + random"))
    shown = capsys.readouterr().err
    assert "3 trials in 0:" in shown
    assert "in trial" in shown


def test_the_live_table_shows_what_is_under_way_and_what_is_done(monkeypatch):
    from cnsdiff.display.screen import Screen

    monkeypatch.delenv("COLUMNS", raising=False)
    reporter = RichReporter("mf + random")
    screen = Screen(width=120, file=io.StringIO(), force_terminal=False)
    screen.print(reporter.picture(screen))
    reporter.begin(20, [])
    for trial in (DONE, PRUNED):
        reporter.trial_ends(trial, best=False)
    reporter.trial_begins(7, SETTING)
    reporter.validated(1, 9, 0.0625)
    reporter.validated(2, 9, 0.03125)
    screen.print(reporter.picture(screen))
    text = screen.file.getvalue()
    assert "trial 3/20" in text
    assert "0.0625" in text
    assert "2/9" in text
    assert "6 pruned" in text
    assert "lr=0.0123  dim=None" in text


def test_settings_in_brief_stay_apart():
    setting = {"objective.temperature": 0.2, "sampler.temperature": 2, "training.lr": 0.01234}
    assert in_brief(setting) == "objective.temperature=0.2  sampler.temperature=2  lr=0.0123"


def test_nothing_by_default_and_lines_where_there_is_no_terminal(world, quick, capsys):
    tune(quick(), world, trials=1)
    tune(quick(), world, trials=1, reporter=Reporter())
    assert capsys.readouterr() == ("", "")
    assert isinstance(reporter_for_terminal(), PlainReporter)
