"""Row ``startup``: how long ``cnsdiff --help`` takes, and ``import cnsdiff`` beyond PyTorch's.

Wall time of processes that take turns; an import is counted less that of ``torch``, turn by turn.
``import cnsdiff`` alone may load no more than a name or two, so it is measured as well up to its
main class, which needs the most. The first turn fills the file system's cache and is not counted.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from measurement import Finding, Options, Target, seconds_of

ROW = "startup"
HELP, IMPORT = Target(0.3), Target(1.0)


def measure(options: Options) -> Iterator[Finding]:
    commands = {
        "help": [*_command_line(), "--help"],
        "torch": [sys.executable, "-c", "import torch"],
        "import": [sys.executable, "-c", "import cnsdiff"],
        "class": [sys.executable, "-c", "from cnsdiff import Recommender"],
    }
    turns: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(options.startup_runs + 1):
        for name, command in commands.items():
            seconds = seconds_of(lambda command=command: _run(command))  # type: ignore[misc]
            if number:
                turns[name].append(seconds)
    yield Finding(ROW, "cnsdiff --help", unit="s", target=HELP).of(turns["help"])
    for name, what in (("import", "import cnsdiff"), ("class", "from cnsdiff import Recommender")):
        beyond = [a - b for a, b in zip(turns[name], turns["torch"], strict=True)]
        finding = Finding(ROW, f"{what}, less import torch", unit="s", target=IMPORT)
        finding.details["rounds"] = {"seconds": turns[name], "torch_seconds": turns["torch"]}
        yield finding.of(beyond)


def _run(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def _command_line() -> list[str]:
    """The installed command of this interpreter, else its module."""
    script = Path(sys.executable).with_name("cnsdiff")
    return [str(script)] if script.exists() else [sys.executable, "-m", "cnsdiff"]
