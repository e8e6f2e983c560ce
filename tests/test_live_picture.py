"""A picture drawn again in place: through a real terminal of changing width."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from rich.text import Text

from cnsdiff.display.screen import LivePicture

UP = "\x1b[1A\x1b[2K"


class Terminal(io.StringIO):
    """Standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def erased(live: LivePicture, stream: Terminal) -> int:
    """Lines above the cursor that a refresh takes away."""
    before = len(stream.getvalue())
    live.refresh()
    return stream.getvalue()[before:].count(UP)


def test_it_takes_away_what_it_drew_also_where_a_narrower_terminal_broke_it(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    with LivePicture(lambda: Text("a" * 30 + "\n" + "b" * 12), per_second=0.01) as live:
        live.refresh()
        assert erased(live, stream) == 1
        live.console.width = 10
        # Thirty characters now stand in three lines, twelve in two: five, of which four are above.
        assert erased(live, stream) == 4
        assert erased(live, stream) == 4, "drawn in five lines, and none of them broken"
        live.console.width = 40
        assert erased(live, stream) == 4
        assert erased(live, stream) == 1


PROGRAM = """
from cnsdiff.training.progress import reporter_for_terminal
with reporter_for_terminal("mine") as reporter:
    reporter.begin(0, 2, 2)
    for _ in range(2):
        reporter.step(1, {"loss": 0.5})
    reporter.note("a note")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_on_a_terminal_that_can_and_one_that_cannot(term):
    import pty

    reading, writing = pty.openpty()
    environment = {**os.environ, "TERM": term, "PYTHONIOENCODING": "ascii"}
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", PROGRAM], stderr=writing, env=environment)
    os.close(writing)
    shown = b""
    while True:
        try:
            part = os.read(reading, 4096)
        except OSError:  # the end, on Linux
            break
        if not part:
            break
        shown += part
    os.close(reading)
    text = shown.decode("ascii")
    assert done.returncode == 0
    assert "a note" in text
    assert ("\x1b[" in text) == (term != "dumb")
    assert ("mine: 0 epochs in 0:00" in text) == (term != "dumb")
