"""Measure the structure of the source: how many doors a reader opens.

::

    python tools/house.py                         # this checkout
    python tools/house.py --src OTHER/src --json  # another one, to compare

Counts files, files that only one other file imports, loose modules at the top, lines, and
``dict[str, Any]`` by reading the source; then runs each main verb on a small simulated world and
counts the files and functions of cnsdiff that it enters, and how often it opens each split.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import json
import os
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve()
SPLITS = ("train.parquet", "valid.parquet", "test_iid.parquet", "test_ood.parquet")
#: The words of each command that is run.
COMMANDS = {
    "prepare": "prepare LOG --scenario popularity --out OUT/prepared",
    "train": "train DATA --set training.epochs=2 --out OUT/run",
    "recommend": "recommend RUN --users 0,1,2 --k 10",
    "evaluate": "evaluate RUN",
    "evaluate --references": "evaluate RUN --references",
    "report": "report RUN --out OUT/report.html",
}
#: What is measured: calls in Python, which :func:`trace` has, and the commands.
VERBS = ("Recommender.fit", "Recommender.recommend", "Recommender.load, recommend", *COMMANDS)


def module_name(file: Path, src: Path) -> str:
    parts = file.relative_to(src).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(file: Path, modules: set[str]) -> set[str]:
    """The modules of the package that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                names.add(submodule if submodule in modules else node.module)
    return names & modules


def lines_of_code(text: str) -> int:
    """Lines that hold code: neither blank, nor only a comment, nor part of a docstring."""
    skipped = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                assert first.end_lineno is not None
                lines -= set(range(first.lineno, first.end_lineno + 1))
    return len(lines)


def structure(src: Path) -> dict[str, int]:
    """Counts that the source alone tells."""
    files = sorted((src / "cnsdiff").rglob("*.py"))
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    modules = {module_name(file, src) for file in files}
    clients: Counter[str] = Counter()
    for file in files:
        clients.update(imported_modules(file, modules) - {module_name(file, src)})
    return {
        "files": len(files),
        "files with one client": sum(count == 1 for count in clients.values()),
        "packages": sum(file.name == "__init__.py" for file in files),
        "loose modules at the top": sum(
            file.parent == src / "cnsdiff" and not file.name.startswith("__") for file in files
        ),
        "dict[str, Any]": sum(text.count("dict[str, Any]") for text in texts.values()),
        "lines": sum(text.count("\n") for text in texts.values()),
        "lines not blank": sum(
            bool(line.strip()) for text in texts.values() for line in text.splitlines()
        ),
        "lines of code": sum(map(lines_of_code, texts.values())),
    }


@dataclass(frozen=True)
class Trace:
    """What one verb entered, as ``file:function``, and how often it read each split."""

    entered: list[str]
    opens: dict[str, int]

    @property
    def files(self) -> int:
        return len({name.partition(":")[0] for name in self.entered})

    def __str__(self) -> str:
        opens = ", ".join(f"{split} {times}" for split, times in sorted(self.opens.items()))
        doors = f"{self.files:4} files {len(self.entered):4} functions"
        return f"{doors}; opens {opens}" if opens else doors


def traced(call: Callable[[], object]) -> Trace:
    """What a call enters and opens."""
    import cnsdiff

    package = str(Path(cnsdiff.__file__).parent)
    entered: set[tuple[str, str, int]] = set()
    opened: Counter[str] = Counter()
    listening = True

    def enter(frame: object, event: str, arg: object) -> None:
        code = frame.f_code  # type: ignore[attr-defined]
        if (
            event == "call"
            and code.co_filename.startswith(package)
            # Neither modules being imported nor class bodies, comprehensions and lambdas.
            and not code.co_name.startswith("<")
            and code.co_flags & inspect.CO_OPTIMIZED
        ):
            entered.add((code.co_filename, code.co_qualname, code.co_firstlineno))

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if (
            listening  # Python never takes such a hook back
            and event == "open"
            and isinstance(arguments[0], str | bytes | os.PathLike)
        ):
            path, flags = Path(os.fsdecode(arguments[0])), arguments[2]
            written = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
            if path.name in SPLITS and not written:
                # A run has a train.parquet of its own, of the pairs that lists leave out.
                of_run = (path.parent / "config.yaml").exists()
                opened[("run's " if of_run else "") + path.stem] += 1

    sys.addaudithook(audit)
    sys.setprofile(enter)
    try:
        call()
    except SystemExit as end:
        assert not end.code, end
    finally:
        sys.setprofile(None)
        listening = False
    names = sorted(f"{Path(file).relative_to(package)}:{name}" for file, name, _ in entered)
    return Trace(names, dict(opened))


def trace(verb: str) -> None:
    """Run one verb in this process, and write what it entered and opened as JSON."""
    import cnsdiff

    data, run, out = (Path(os.environ[name]) for name in ("DATA", "RUN", "OUT"))
    call: Callable[[], object]
    if verb == "Recommender.fit":
        dataset = cnsdiff.load_dataset(data)
        call = partial(cnsdiff.Recommender(training={"epochs": 2}).fit, dataset)
    elif verb == "Recommender.recommend":
        call = partial(cnsdiff.Recommender.load(run).recommend, [0, 1, 2], k=10)
    elif verb == "Recommender.load, recommend":
        call = lambda: cnsdiff.Recommender.load(run).recommend([0, 1, 2], k=10)  # noqa: E731
    else:
        from cnsdiff.cli import main as call

        places = {"DATA": data, "RUN": run, "LOG": data / "../log.csv"}
        words = [
            str(places.get(word, word)).replace("OUT", str(out)) for word in COMMANDS[verb].split()
        ]
        sys.argv = ["cnsdiff", *words]
    (out / "trace.json").write_text(json.dumps(asdict(traced(call))))


def behaviour(src: Path, verbs: list[str]) -> dict[str, Trace]:
    """Files and functions entered, and splits opened, by each verb."""
    results: dict[str, Trace] = {}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        environment = {
            **os.environ,
            "PYTHONPATH": str(src),
            "DATA": str(base / "data"),
            "RUN": str(base / "run"),
        }

        def cnsdiff(*words: object) -> None:
            command = [sys.executable, "-m", "cnsdiff", *map(str, words)]
            subprocess.run(command, env=environment, check=True, capture_output=True)

        world = ("--users", 120, "--items", 80, "--exposures", 20)
        cnsdiff("simulate", "--out", base / "data", *world)
        cnsdiff("train", base / "data", "--set", "training.epochs=2", "--out", base / "run")
        subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys, polars as pl\n"
                "t = pl.read_parquet(sys.argv[1] + '/train.parquet')\n"
                "t.select(t.columns[:2]).write_csv(sys.argv[2])",
                str(base / "data"),
                str(base / "log.csv"),
            ],
            env=environment,
            check=True,
        )
        for number, verb in enumerate(verbs):
            out = base / f"out{number}"
            out.mkdir()
            done = subprocess.run(
                [sys.executable, str(HERE), "--trace", verb],
                env={**environment, "OUT": str(out)},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                sys.exit(f"{verb}: {done.stderr[-2000:]}")
            results[verb] = Trace(**json.loads((out / "trace.json").read_text()))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--src", type=Path, default=HERE.parent.parent / "src")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--static", action="store_true", help="read the source only, run nothing")
    parser.add_argument("--verb", action="append", choices=VERBS, help="only these verbs")
    parser.add_argument("--names", action="store_true", help="list what is entered, too")
    parser.add_argument("--trace", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trace:
        trace(options.trace)
        return
    src = options.src.resolve()
    counts = structure(src)
    verbs = {} if options.static else behaviour(src, options.verb or list(VERBS))
    if options.json:
        traces = {verb: asdict(result) for verb, result in verbs.items()}
        print(json.dumps({"structure": counts, "verbs": traces}, indent=2))
        return
    for name, count in counts.items():
        print(f"{name:26} {count:7,}")
    for verb, result in verbs.items():
        print(f"{verb:27} {result}")
        if options.names:
            print("\n".join(f"    {name}" for name in result.entered))


if __name__ == "__main__":
    main()
