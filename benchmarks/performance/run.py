"""The performance table: every row measured on this machine, as ratios, JSON and figures.

    python benchmarks/performance/run.py --data data [--datasets food yelp2018] [--rows NAME ...]
        [--threads 1 2] [--rounds 3] [--json FILE] [--figures FOLDER]
        [--authors COMMAND] [--recbole COMMAND]

A row is a file beside this one, whose first lines say what it measures and how; ``peers.py`` says
what the two commands must do. What cannot be measured is reported as such. ``--draw FILE`` draws
the figures again from what ``--json`` wrote. Figures need Matplotlib, which comes with
``pip install 'cnsdiff[bench]'``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import authors_epoch
import default_epoch
import environment
import evaluation_floor
import growth
import recbole_epoch
import speedups
import startup
import step_floor
import step_profile
import torch
from measurement import Finding, Options

from cnsdiff.base.storage import atomic_file

Row = Callable[[Options], Iterator[Finding]]
ROWS: dict[str, Row] = {
    module.ROW: module.measure
    for module in (
        startup,
        speedups,
        step_floor,
        step_profile,
        evaluation_floor,
        environment,
        default_epoch,
        recbole_epoch,
        authors_epoch,
        growth,
    )
}
#: Rows that need no prepared data.
WITHOUT_DATA = {startup.ROW, growth.ROW}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.draw is not None:
        if given.figures is None:
            parser.error("--draw needs --figures")
        _draw(json.loads(given.draw.read_text(encoding="utf-8")), given.figures)
        return
    options = _options(parser, given)
    report: dict[str, Any] = {"machine": _machine(), "options": _plain(options), "rows": {}}
    for name in given.rows:
        print(f"{name}:", flush=True)
        records = report["rows"][name] = []
        for finding in _findings(name, options):
            print(finding, flush=True)
            records.append(finding.record())
            if given.json is not None:  # after each, so that a kill costs none of them
                _write(report, given.json)
    if given.figures is not None:
        _draw(report, given.figures)


def _findings(row: str, options: Options) -> Iterator[Finding]:
    """What a row finds; if it breaks, that, and the other rows go on."""
    try:
        yield from ROWS[row](options)
    except Exception as error:
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}"
        if isinstance(error, subprocess.CalledProcessError):  # whose text is the whole command
            said = f"a process of the row ended with {error.returncode}"
        yield Finding(row, "the rest of the row", missing=said)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    usual = Options(datasets={})
    add = parser.add_argument
    add("--data", type=Path, help="folder of prepared datasets")
    add("--datasets", nargs="+", default=["food", "yelp2018"], help="folders in it")
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    add("--threads", nargs="+", type=_positive, default=[1])
    add("--rounds", type=_positive, default=usual.rounds, help="turns of each contestant")
    add("--epochs", type=_positive, default=usual.epochs, help="in a turn; the first warms up")
    add("--steps", type=_positive, default=usual.steps, help="in a turn of single steps")
    add("--memory-users", type=_positive, default=usual.memory_users)
    add("--json", type=Path)
    add("--figures", type=Path, help="folder for the figures")
    add("--draw", type=Path, metavar="JSON", help="measure nothing, draw these findings")
    add("--authors", metavar="COMMAND", help="times the published code")
    add("--recbole", metavar="COMMAND", help="times RecBole")
    add("--peer-epochs", type=_positive, default=usual.peer_epochs, help="epochs of a command")
    add("--growth-sizes", nargs="+", type=_positive, default=list(usual.growth_sizes))
    add("--growth-rounds", type=_positive, default=usual.growth_rounds)
    add("--growth-epochs", type=_positive, default=usual.growth_epochs)
    add("--startup-runs", type=_positive, default=usual.startup_runs)
    return parser


def _positive(text: str) -> int:
    number = int(float(text)) if "e" in text.lower() else int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def _options(parser: argparse.ArgumentParser, given: argparse.Namespace) -> Options:
    datasets: dict[str, Path] = {}
    if set(given.rows) - WITHOUT_DATA:
        if given.data is None:
            parser.error("--data is needed, the folder of prepared datasets")
        datasets = {name: given.data / name for name in given.datasets}
        for path in datasets.values():
            if not (path / "manifest.json").exists():
                parser.error(f"{path} is no prepared dataset; make it with cnsdiff prepare")
    return Options(
        datasets=datasets,
        threads=tuple(given.threads),
        growth_sizes=tuple(given.growth_sizes),
        **{
            name: getattr(given, name)
            for name in (
                *("rounds", "epochs", "steps", "memory_users", "authors", "recbole"),
                *("peer_epochs", "growth_rounds", "growth_epochs", "startup_runs"),
            )
        },
    )


def _plain(options: Options) -> dict[str, Any]:
    """The options without what is of one machine alone: folders and commands."""
    found = dict(vars(options)) | {"datasets": list(options.datasets)}
    return found | {name: found[name] is not None for name in ("authors", "recbole")}


def _machine() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cnsdiff": version("cnsdiff"),
    }


def _processor() -> str:
    """The model as Linux names it, else as Python does."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _write(report: dict[str, Any], path: Path) -> None:
    with atomic_file(path) as file:
        file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _draw(report: dict[str, Any], folder: Path) -> None:
    from figures import draw

    for path in draw(report, folder):
        print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
