"""What training shows: lines, a live table, or nothing."""

from __future__ import annotations

import contextlib
import io
import re
import signal
import time
from typing import Any

import pytest
import torch

from cnsdiff import Recommender
from cnsdiff.display.screen import Screen
from cnsdiff.training.progress import (
    PlainReporter,
    Reporter,
    RichReporter,
    SparseReporter,
    describe,
    reporter_for_terminal,
)
from cnsdiff.training.selection import EarlyStopping

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


def test_one_training_of_many_says_something_now_and_then():
    now, stream = [100.0], io.StringIO()
    reporter = SparseReporter("mine", stream, clock=lambda: now[0])

    def train(epochs: int, *, seconds_each: float) -> list[str]:
        before = len(stream.getvalue())
        reporter.begin(0, epochs, 2)
        for step in range(2 * epochs):
            now[0] += seconds_each / 2
            reporter.step(step // 2 + 1, None)
        return stream.getvalue()[before:].splitlines()

    assert train(4, seconds_each=7.0) == [], "28 s"
    # A second training of the same task, of long epochs: its steps tell.
    assert train(2, seconds_each=50.0) == [
        "mine: epoch 1 of at most 2, 53 s",
        "mine: epoch 2 of at most 2, 103 s",
    ]
    # Lines are 30 s apart however late the one before came.
    assert train(70, seconds_each=1.0) == [
        "mine: epoch 5 of at most 70, 133 s",
        "mine: epoch 35 of at most 70, 163 s",
        "mine: epoch 65 of at most 70, 193 s",
    ]


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


# --- the start of the tables


class Started(Reporter):
    """Keeps what it is told of the start; interrupts it after so many blocks."""

    def __init__(self, blocks: int | None = None) -> None:
        self.told: list[tuple[int, int]] = []
        self.blocks = blocks

    @contextlib.contextmanager
    def starting(self):
        def tell(found: int, most: int) -> None:
            self.told.append((found, most))
            if len(self.told) == self.blocks:
                signal.raise_signal(signal.SIGINT)

        yield tell


def started_at(init: str) -> Recommender:
    training = {**TRAINING, "epochs": 1}
    return Recommender("mf", training=training, backbone_options={"dim": 4, "init": init})


def test_a_spectral_start_tells_how_far_it_is(world):
    started = Started()
    watched = started_at("spectral").fit(world, reporter=started)
    found, most = zip(*started.told, strict=True)
    assert list(found) == sorted(set(found)) and len(found) > 1
    assert set(most) == {min(world.n_users, world.n_items)}
    assert found[-1] <= most[0]
    alone = started_at("spectral").fit(world)
    assert torch.equal(watched.item_embeddings_, alone.item_embeddings_)
    started.told.clear()
    started_at("xavier").fit(world, reporter=started)
    started_at("spectral").fit(world)
    assert started.told == [], "neither of another start nor of another's training"


def test_ctrl_c_ends_a_spectral_start(world, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        started_at("spectral").fit(world, run=tmp_path / "run", reporter=Started(blocks=2))
    assert not any(tmp_path.iterdir())


def test_a_library_call_shows_nothing_of_the_start(world, capfd):
    started_at("spectral").fit(world)
    assert capfd.readouterr() == ("", "")


def test_a_slow_start_is_a_line_now_and_then(monkeypatch):
    stream, clock = io.StringIO(), [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with PlainReporter("mine", stream).starting() as tell:
        for block in range(1, 9):
            clock[0] += 2
            tell(64 * block, 1024)
    assert stream.getvalue().splitlines() == [
        "mine: spectral start: 192 of at most 1,024 vectors",
        "mine: spectral start: 384 of at most 1,024 vectors",
    ]


def test_a_start_is_a_bar_that_goes_away(terminal, capsys):
    with RichReporter("mine").starting() as tell:
        tell(64, 1024)
        tell(128, 1024)
    text = capsys.readouterr().err
    assert "spectral start" in text and "128 of at most 1,024 vectors" in text
    with pytest.raises(KeyboardInterrupt), RichReporter("mine").starting() as tell:
        tell(64, 1024)
        raise KeyboardInterrupt
    assert capsys.readouterr().err.endswith("\x1b[?25h\r\x1b[1A\x1b[2K")


def record(epoch: int, **more: float) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "train": {"loss": 1 / epoch, "bpr": 0.5 / epoch, "fhn": 0.05, "hardness": 0.4, **more},
        "validation": {"ndcg@20": 0.1 * epoch, "recall@20": 0.2},
        "seconds": 0.5,
        "validation_seconds": 0.25,
    }


def reporter_after(epochs: int, *, of: int = 12, first: int = 0) -> RichReporter:
    """A live reporter in the middle of an epoch; ``first`` epochs were before its start."""
    reporter, stopping = RichReporter("lightgcn + cnsdiff"), EarlyStopping(["ndcg@20"], 7)
    history = [record(epoch) for epoch in range(1, epochs + 1)]
    for entry in history:
        stopping.update(entry["epoch"], entry["validation"])
    reporter.before(history[:first], stopping)
    reporter.begin(first, of, 10)
    for entry in history[first:]:
        for _ in range(10):
            reporter.step(entry["epoch"], None)
        reporter.epoch(entry, best=True)
    for _ in range(5):
        reporter.step(epochs + 1, {"loss": 0.1234})
    return reporter


def drawn(reporter: RichReporter, width: int, *, closing: bool = False) -> list[str]:
    reporter.console.width = width
    console = Screen(record=True, width=width, height=30, file=io.StringIO())
    console.print(reporter.closing() if closing else reporter.picture(console))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_live_table(width):
    lines = drawn(reporter_after(8), width)
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("lightgcn + cnsdiff ━")
    assert lines[0].endswith("epoch 9/12")
    assert re.fullmatch(r"0:0\d gone, at most 0:0\d left, patience 7/7 validations", lines[1])
    rows = {line[:16].strip(): line for line in lines[3:]}
    assert list(rows) == [
        "ndcg@20", "loss", "bpr", "false negatives", "hardness", "seconds an epoch"
    ]  # fmt: skip
    assert rows["ndcg@20"].split() == ["ndcg@20", "0.8000", "0.8000", "8", "▁▂▃▄▅▆▇█"]
    assert rows["loss"].split()[1:] == ["0.1234", "█▄▂▂▁▁▁▁"], "of the step under way"
    assert rows["false negatives"].split()[2:] == ["5.00%", "▄" * 8]
    assert rows["seconds an epoch"].split()[3:] == ["0.75", "▄" * 8]


def test_a_very_narrow_terminal_has_no_curves():
    lines = drawn(reporter_after(8), 42)
    assert max(map(len, lines)) <= 42
    assert any(line.split() == ["ndcg@20", "0.8000", "0.8000", "8"] for line in lines)


def test_a_resumed_run_shows_the_epochs_before(monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    reporter = reporter_after(8, first=6)
    now = 125.0
    lines = drawn(reporter, 80)
    assert "▁▂▃▄▅▆▇█" in lines[3]
    # 25 steps in 25 s, and 35 of the 60 steps from epoch 7 to 12 to go.
    assert lines[1].startswith("0:25 gone, at most 0:35 left")


def test_before_the_first_epoch_is_done():
    reporter = RichReporter("mf + random")
    assert drawn(reporter, 80) == ["mf + random"]
    reporter.before([], EarlyStopping(["ndcg@20"], None))
    reporter.begin(0, 5, 4)
    lines = drawn(reporter, 80)
    assert lines[0].endswith("epoch 1/5")
    assert lines[1] == "0:00 gone"
    assert lines[3].split() == ["ndcg@20", "-", "-", "-"]


def test_what_stays_is_one_line():
    (line,) = drawn(reporter_after(8), 120, closing=True)
    assert re.fullmatch(
        r"lightgcn \+ cnsdiff: 8 epochs in 0:0\d, best ndcg@20 0\.8000 in epoch 8  ▁▂▃▄▅▆▇█", line
    )
    (resumed,) = drawn(reporter_after(8, first=7), 120, closing=True)
    assert "cnsdiff: 1 epoch in 0:00 after 7 before, best" in resumed
    (narrow,) = drawn(reporter_after(8), 70, closing=True)
    assert narrow.endswith("in epoch 8"), "no room for a course"
    (unbegun,) = drawn(RichReporter("x"), 80, closing=True)
    assert unbegun == "x: 0 epochs in 0:00"


@pytest.fixture
def terminal(monkeypatch):
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm-256color"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_the_live_table_runs(world, terminal, capsys):
    training = {**TRAINING, "select_on": "test_ood", "dial": "off"}
    reporter = RichReporter("lightgcn + random")
    # An epoch of a few milliseconds is over before the table is drawn again.
    slowly = {"stop": lambda record: time.sleep(0.3)}
    Recommender(sampler="random", training=training).fit(world, reporter=reporter, **slowly)
    written = capsys.readouterr().err
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)
    assert "WARNING: select_on=test_ood" in shown
    assert re.search(r"epoch \d/3", shown)
    assert "lightgcn + random: 3 epochs in 0:0" in shown
    assert re.search(r"best recall@10 0\.\d{4} in epoch \d", shown)
    assert written.endswith("\x1b[?25h"), "the cursor is shown again"


def test_no_color_is_respected(terminal, monkeypatch, capsys):
    monkeypatch.setenv("NO_COLOR", "1")
    with reporter_after(3):
        pass
    written = capsys.readouterr().err
    assert "▁▄█" in written
    assert not re.search(r"\x1b\[[0-9;]*3\dm", written)


def test_the_live_table_lets_errors_through(terminal, capsys):
    with pytest.raises(KeyboardInterrupt), RichReporter() as reporter:
        reporter.begin(0, 3, 2)
        raise KeyboardInterrupt
    assert "training: 0 epochs in 0:00" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("terminal", "term", "kind"),
    [
        (True, "xterm-256color", RichReporter),
        (True, "dumb", PlainReporter),
        (False, "xterm-256color", PlainReporter),
    ],
)
def test_the_table_is_for_terminals(monkeypatch, terminal, term, kind):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", term)
    assert type(reporter_for_terminal("x")) is kind
