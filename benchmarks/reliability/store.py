"""A store whose writer is killed (``kill -9``) at random moments, again and again.

A process opens the store and adds batches of events from several threads; each thread notes the
batches that were acknowledged. It is killed while it opens the store, or while it writes. Then:

- every acknowledged event is there, exactly once, and no event twice;
- a batch is there whole or not at all;
- ``Store.check`` finds nothing.

    python benchmarks/reliability/store.py                              # SQLite, 200 kills
    python benchmarks/reliability/store.py --url postgresql+psycopg://user@host/database

The process is what dies, not the machine: what reached the system's cache stays there.

Exits with 1 if anything is lost, doubled or torn.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import polars as pl

from cnsdiff.serving.store import Event, Store

THREADS, BATCH = 8, 5
#: Seconds until a kill: of a process that opens a new store, and of one that writes.
OPENING, WRITING = 0.1, 0.5


def write(url: str, name: str, acknowledged: int) -> None:
    """Add batches until killed, and write the name of each that was acknowledged to a pipe."""
    store = Store.open(url)

    def add(thread: int) -> None:
        number = 0
        while True:
            batch = f"{name}-{thread}-{number}"
            events = [Event(f"{batch}/{n}", batch, str(n), float(n)) for n in range(BATCH)]
            assert store.add_events(events) == BATCH
            os.write(acknowledged, f"{batch}\n".encode())
            number += 1

    for thread in range(THREADS):
        threading.Thread(target=add, args=(thread,)).start()
    signal.pause()


def killed(url: str, name: str, seconds: float) -> list[str]:
    """The batches that a writer was told are kept, until it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            write(url, name, writing)
        finally:
            os._exit(70)
    os.close(writing)
    watch = threading.Timer(seconds, os.kill, (child, signal.SIGKILL))
    watch.start()
    with os.fdopen(reading) as pipe:
        lines = pipe.read().splitlines(keepends=True)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    watch.join()
    return [line[:-1] for line in lines if line.endswith("\n")]


def require_whole(url: str, acknowledged: set[str]) -> int:
    """End with 1 if anything is lost, doubled or torn; else the number of events."""
    with Store.open(url) as store:
        events, problems = store.events(), store.check()
    batches = events.group_by("user").agg(pl.len(), pl.col("item").n_unique().alias("items"))
    there = dict(zip(batches["user"], batches["items"], strict=True))
    counts = {
        "lost": sum(there.get(batch, 0) != BATCH for batch in acknowledged),
        "doubled": batches.filter(pl.col("len") > pl.col("items")).height,
        "torn": batches.filter(pl.col("items") != BATCH).height,
        "problems": len(problems),
    }
    if any(counts.values()):
        print(f"{url}: {counts} {problems}")
        sys.exit(1)
    return events.height


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", help="an empty database (default: SQLite, in a folder of its own)")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, help="folder for SQLite (default: a temporary one)")
    given = parser.parse_args()
    draw, acknowledged, silent = random.Random(given.seed), set[str](), 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        url = given.url or f"sqlite:///{folder}/events.db"
        for number in range(given.kills):
            # A tenth of the kills meets a store that is being made.
            opening = given.url is None and draw.random() < 0.1
            place = f"sqlite:///{folder}/{number}.db" if opening else url
            batches = killed(place, str(number), draw.uniform(0, OPENING if opening else WRITING))
            silent += not batches
            if opening:
                require_whole(place, set(batches))
                continue
            acknowledged |= set(batches)
            if number % 20 == 19:
                require_whole(url, acknowledged)
        height = require_whole(url, acknowledged)
    print(
        f"{given.kills} kills, {silent} of them before the first answer: "
        f"{len(acknowledged):,} batches of {BATCH} acknowledged, {height:,} events there; "
        f"none lost, doubled or torn, and no problems ({time.monotonic() - started:.0f} s)"
    )


if __name__ == "__main__":
    main()
