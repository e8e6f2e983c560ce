"""Every command that writes, killed before each change that it makes to a file.

A process is forked from one that has imported everything, and dies (``os._exit``, as ``kill -9``)
before the n-th file is opened to write, flushed, renamed, exchanged or removed. Then:

- what a command replaces is there under its own name, the old or the new, never a mixture;
- the same command, given again, ends with what an undisturbed one leaves, and with nothing else.

    python benchmarks/reliability/kills.py                 # every point of every command
    python benchmarks/reliability/kills.py --points 5      # five of each, drawn by --seed
    python benchmarks/reliability/kills.py --only train export

Exits with 1 if anything is lost, or left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import pickle
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.dont_write_bytecode = True  # what is compiled is no file of a command's

T = TypeVar("T")

#: What changes the disk, as Python tells of it; ``open`` counts where it is to write.
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}
#: Says how long something took, or when and of what size it is because of that.
TIMED = ("seconds", "sha256", "bytes", "fetched", "created_by")
QUICK = ("--threads", "1", "--set", "training.batch_size=64", "--set", "backbone.dim=4")


@dataclass(frozen=True)
class Case:
    """A command that writes.

    Attributes
    ----------
    name
        In the table.
    arguments
        Of ``cnsdiff``, in a folder that holds what :func:`prepare` made.
    target
        What it replaces, if anything: before and after each kill the old or the new is there.
    finished
        What the command says, given again, of work that a kill let it finish.
    """

    name: str
    arguments: tuple[str, ...]
    target: str | None = None
    finished: str | None = None


BENCHMARK = ("benchmark", "grid.yaml", "--out", "results", "--threads", "1")
EXPORT = ("export", "run", "--to", "numpy", "--out", "vectors")
TABLES = ("data", "export", "data-old", "--to", "csv", "--out", "tables")
PREPARE = ("prepare", "log.csv", "--scenario", "popularity", "--seed", "1", "--out")
FETCH = ("data", "fetch", "ml-100k", "--accept-terms", "--from", "published", "--home")
CASES = (
    Case("prepare", (*PREPARE, "new"), finished="already exists"),
    Case("prepare --overwrite", (*PREPARE, "data-old", "--overwrite"), "data-old"),
    Case(
        "train",
        ("train", "data", "--out", "new", *QUICK, "--set", "training.epochs=2"),
        finished="holds a finished run",
    ),
    Case("train --resume", ("train", "--resume", "unfinished"), finished="this run is finished"),
    Case("export", EXPORT, finished="already exists"),
    Case("export --overwrite", (*EXPORT[:-1], "vectors-old", "--overwrite"), "vectors-old"),
    Case("data export", TABLES, finished="already exists"),
    Case("data export --overwrite", (*TABLES[:-1], "tables-old", "--overwrite"), "tables-old"),
    Case("evaluate", ("evaluate", "run"), "run"),
    Case("recommend --out", ("recommend", "run", "--all-users", "--out", "lists.csv"), "lists.csv"),
    Case("report", ("report", "run"), "run"),
    Case("benchmark", BENCHMARK),
    Case("benchmark --keep-weights", (*BENCHMARK, "--keep-weights")),
    Case(
        "tune",
        ("tune", "data", "--out", "study", "--trials", "3", *QUICK, "--set", "training.epochs=1"),
    ),
    Case("data fetch --from", (*FETCH, "new")),
    Case("data fetch --force", (*FETCH, "home", "--force"), "home/ml-100k"),
)

GRID = """
name: grid
datasets: {tiny: {simulate: {n_users: 60, n_items: 50, exposures: 20}}}
methods: {mostpop: {reference: mostpop}, random: {set: {sampler.name: random}}}
seeds: [0]
budget: {epochs: 1}
set: {backbone: {name: mf, dim: 4}, training: {batch_size: 64}}
"""


def prepare(folder: Path, words: set[str]) -> None:
    """What commands of these words start from; in a process of its own, as are its threads."""
    draw = random.Random(0)
    pairs = {(draw.randrange(40), int(30 * draw.random() ** 2)) for _ in range(900)}
    rows = "".join(f"{user},{item},5\n" for user, item in sorted(pairs))
    (folder / "log.csv").write_text(f"user,item,rating\n{rows}")
    (folder / "grid.yaml").write_text(GRID)
    published = folder / "published"
    published.mkdir()
    for name in ("u.data", "u.user", "u.item"):
        (published / name).write_text("1\t1\t5\t0\n")
    command((*PREPARE[:-2], "2", "--out", "data-old"), folder)
    command((*FETCH, "home"), folder)
    if words & {"train", "run", "unfinished", "tune", "vectors-old", "tables-old"}:
        train(folder)


def train(folder: Path) -> None:
    """A dataset, a run, an unfinished one, and exports of them."""
    from cnsdiff import ConfoundedWorld, Recommender, load_dataset
    from cnsdiff.export import dataset_to_csv, to_numpy
    from cnsdiff.training.progress import Reporter

    world = ConfoundedWorld(n_users=60, n_items=50, exposures=20, seed=0).dataset()
    dataset = load_dataset(world.save(folder / "data"))
    dataset_to_csv(dataset, folder / "tables-old")

    class Stop(Reporter):
        def epoch(self, record: Any, *, best: bool) -> None:
            raise KeyboardInterrupt

    training = {"epochs": 2, "batch_size": 64}
    model = Recommender("mf", "random", threads=1, training=training, backbone_options={"dim": 4})
    with contextlib.suppress(KeyboardInterrupt):
        model.fit(dataset, run=folder / "unfinished", reporter=Stop())
    model.fit(dataset, run=folder / "run")
    to_numpy(model, folder / "vectors-old", dial=-0.5)


def command(arguments: tuple[str, ...], folder: Path) -> tuple[int, str]:
    """Run ``cnsdiff`` in this process; its exit code, and what it said on standard error."""
    from cnsdiff.cli import main

    os.chdir(folder)
    sys.argv = ["cnsdiff", *arguments]
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as out:
        kept = os.dup(1), os.dup(2)
        os.dup2(out.fileno(), 1)
        os.dup2(said.fileno(), 2)
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 70
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for handle, number in zip(kept, (1, 2), strict=True):
                os.dup2(handle, number)
        said.seek(0)
        return int(code), said.read().decode(errors="replace")


def in_process(action: Callable[[], T]) -> T | None:
    """What ``action`` returns in a forked process; ``None`` if that was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            data = pickle.dumps(action())
        except BaseException:
            traceback.print_exc()
            os._exit(70)
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(data)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 70:
        raise RuntimeError("the process failed; see above")
    return pickle.loads(data) if data else None


def count_changes(left: int | None) -> Callable[[], int]:
    """Count changes of files from now on; the process dies before the one after ``left``."""
    from cnsdiff.base import storage

    counted = 0

    def change() -> None:
        nonlocal counted
        if counted == left:
            os._exit(9)
        counted += 1

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if arguments[2] & (os.O_WRONLY | os.O_RDWR) and str(arguments[0]) != os.devnull:
                change()
        elif event in CHANGES:
            there = arguments[-1] != -1 or os.path.lexists(arguments[0])  # -1: no folder beside
            if there != (event == "os.mkdir"):  # else it changes nothing
                change()

    exchange, flush = storage._exchange, os.fsync

    def counted_exchange(*names: Path) -> bool:
        change()
        return exchange(*names)

    def counted_flush(handle: int) -> None:
        change()
        if left is None:
            flush(handle)  # else in vain: it is the process that dies, not the machine

    storage._exchange = counted_exchange
    os.fsync = counted_flush
    sys.addaudithook(listen)
    return lambda: counted


def here() -> None:
    """Benchmarks run their tasks in this process, which spares the start of others."""
    import cnsdiff.cli.commands.benchmark
    from cnsdiff.benchmark.workers import ThisProcess

    cnsdiff.cli.commands.benchmark._workers = lambda *given: ThisProcess()


def run(case: Case, folder: Path, left: int | None = None) -> tuple[int, str, int]:
    """Carry a command out; exit code, what it said, and how many changes it made."""
    if case.arguments[0] == "benchmark":
        here()
    counted = count_changes(left)
    code, said = command(case.arguments, folder)
    return code, said, counted()


# -- what is there -----------------------------------------------------------------------------


def content(path: Path) -> dict[str, str]:
    """Every entry below ``path``, hidden ones too, with a digest of all that no clock changes."""
    if path.is_file():
        return {path.name: digest(path)}
    entries = sorted(path.rglob("*"))
    return {str(e.relative_to(path)): digest(e) if e.is_file() else "" for e in entries}


def digest(file: Path) -> str:
    import polars as pl

    if file.suffix == ".html":  # holds times, among others
        return "whole" if file.read_text().rstrip().endswith("</html>") else "torn"
    if file.suffix == ".db":
        return "a database, which looks after itself"
    data = file.read_bytes()
    if file.suffix == ".parquet":
        table = pl.read_parquet(data)
        timeless = table.drop([name for name in table.columns if "seconds" in name])
        data = repr((timeless.schema, timeless.rows())).encode()
    elif file.suffix == ".json":
        data = json.dumps(timeless_json(json.loads(data)), sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()[:12]


def timeless_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: timeless_json(v) for k, v in value.items() if not k.endswith(TIMED)}
    return [timeless_json(item) for item in value] if isinstance(value, list) else value


# -- kills -------------------------------------------------------------------------------------


@dataclass
class Row:
    """What became of a command."""

    name: str
    changes: int
    tried: int = 0
    survived: int = 0
    first_left: int = 0
    left: int = 0
    problems: list[str] = field(default_factory=list)


def kill(case: Case, base: Path, work: Path, points: int | None, draw: random.Random) -> Row:
    """Kill a command before its changes: all of them, or so many of them."""
    folder = fresh(base, work)
    before = in_process(lambda: content(base / (case.target or "none")))
    code, said, _ = warm(lambda: run(case, folder))  # what it imports changes files, too, once
    assert code == 0, said
    folder = fresh(base, work)
    undisturbed = in_process(lambda: run(case, folder))
    assert undisturbed is not None
    changes = undisturbed[2]
    expected = in_process(lambda: content(folder))
    after = in_process(lambda: content(folder / (case.target or "none")))
    row = Row(case.name, changes)
    chosen = range(changes)
    if points is not None and points < changes:
        chosen = sorted(draw.sample(chosen, points))  # type: ignore[assignment]
    for left in chosen:
        row.tried += 1
        folder = fresh(base, work)
        killed = in_process(lambda left=left, folder=folder: run(case, folder, left))  # type: ignore[misc]
        assert killed is None, f"{case.name}: was not killed before change {left}"
        problem = lost(case, folder, before, after)
        row.first_left += bool(hidden(folder))
        again = in_process(lambda folder=folder: (*run(case, folder), content(folder)))  # type: ignore[misc]
        assert again is not None and expected is not None
        finished = case.finished is not None and case.finished in again[1]
        if problem is None and again[0] != 0 and not finished:
            problem = f"the next run fails: {again[1].strip().splitlines()[-1:]}"
        found = again[-1]
        if found.keys() - expected.keys():
            row.left += 1
            row.problems.append(f"before change {left}: left {found.keys() - expected.keys()}")
        other = [name for name in expected if found.get(name) != expected[name]]
        if problem is None and other:
            problem = f"the next run ends with another {other}"
        row.survived += problem is None
        if problem is not None:
            row.problems.append(f"before change {left}: {problem}")
    return row


def fresh(base: Path, work: Path) -> Path:
    """A copy of what the commands start from, always of the same name."""
    folder = work / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(base, folder))


def lost(case: Case, folder: Path, before: Any, after: Any) -> str | None:
    """What is wrong with what the command replaces, right after the kill."""
    if case.target is None:
        return None
    try:
        found = in_process(lambda: content(folder / case.target))
    except RuntimeError:
        return f"{case.target} cannot be read"
    assert found is not None
    shown = {name: value for name, value in found.items() if not Path(name).name.startswith(".")}
    return None if shown in (before, after) else f"{case.target} is neither the old nor the new"


def hidden(folder: Path) -> list[Path]:
    return list(folder.rglob(".*"))


@contextlib.contextmanager
def workplace(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    # In memory where there is such a place: nothing here is to outlive the machine.
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder).resolve()


def warm(action: Callable[[], T]) -> T:
    """What ``action`` returns in a forked process, and here what it imported there.

    Here nothing is carried out: polars, for one, starts threads, which no fork would have.
    """

    def carried_out() -> tuple[T, list[str]]:
        known = set(sys.modules)
        return action(), sorted(set(sys.modules) - known)

    done = in_process(carried_out)
    assert done is not None
    for name in done[1]:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    return done[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="COMMAND", help="of the table, by its name")
    parser.add_argument("--points", type=int, help="kills of each command (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of which points are drawn")
    parser.add_argument("--work", type=Path, help="folder to work in (default: in memory)")
    given = parser.parse_args()
    cases = [case for case in CASES if given.only is None or case.name in given.only]
    rows = []
    print("| command | changes | kills | survived | left by the kill | left after the next run |")
    print("|---|---|---|---|---|---|", flush=True)
    started = time.monotonic()
    with workplace(given.work) as work:
        base = work / "base"
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir()
        import cnsdiff.cli.app
        import cnsdiff.recommender.recommender
        import cnsdiff.shifts  # noqa: F401 (here, and not once more in a process)

        words = {word for case in cases for word in case.arguments}
        warm(lambda: prepare(base, words))
        for case in cases:
            row = kill(case, base, work, given.points, random.Random(given.seed))
            rows.append(row)
            print(
                f"| `{row.name}` | {row.changes} | {row.tried} | {row.survived} | "
                f"{row.first_left} | {row.left} |",
                flush=True,
            )
    tried, survived = sum(row.tried for row in rows), sum(row.survived for row in rows)
    left = sum(row.left for row in rows)
    print(
        f"\n{survived} of {tried} survived, {left} left something; "
        f"{time.monotonic() - started:.0f} s"
    )
    for row in rows:
        for problem in row.problems:
            print(f"{row.name}: {problem}", file=sys.stderr)
    sys.exit(survived < tried or left > 0)


if __name__ == "__main__":
    main()
