"""Row ``growth``: seconds of an epoch per interaction as the log grows, and the memory it takes.

Synthetic logs of 10^5, 10^6 and 10^7 interactions: a tenth as many users, a hundredth as many
items, users equally active, items by a Zipf law, no pair twice, and a hundredth as many validation
pairs. The preset ``default`` trains on each, at the batch it chooses itself. Every size is a
process of its own, so that its peak memory (interpreter, libraries and log included) is its own.

    python benchmarks/performance/growth.py SIZE [--threads 1] [--epochs 2]

is one of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from measurement import Finding, Options, Target, peak_resident

ROW = "growth"
PACE, MEMORY = Target(1.2), Target(12)
GIB = 2**30
LARGEST = 10**7
SEED = 0


def measure(options: Options) -> Iterator[Finding]:
    sizes = sorted(options.growth_sizes)
    for threads in options.threads:
        runs: dict[int, list[dict[str, Any]]] = {size: [] for size in sizes}
        for _ in range(options.growth_rounds):
            for size, turns in runs.items():
                command = [sys.executable, __file__, str(size), "--threads", str(threads)]
                command += ["--epochs", str(options.growth_epochs)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                turns.append(json.loads(done.stdout))
        for size in sizes:
            yield _pace(size, runs[size], runs[sizes[0]], sizes[0], threads)
        for size in sizes:
            yield _memory(size, runs[size], threads)


def _pace(
    size: int, runs: list[dict[str, Any]], least: list[dict[str, Any]], smallest: int, threads: int
) -> Finding:
    what = f"seconds per interaction, {size:,} over {smallest:,}"
    finding = Finding(ROW, what, threads=threads, details={"interactions": size, "runs": runs})
    finding.target = None if size == smallest else PACE
    each = [run["seconds"] / run["interactions"] for run in runs]
    of_least = [run["seconds"] / run["interactions"] for run in least]
    finding.seconds, finding.reference_seconds = map(statistics.median, (each, of_least))
    return finding.of([a / b for a, b in zip(each, of_least, strict=True)])


def _memory(size: int, runs: list[dict[str, Any]], threads: int) -> Finding:
    finding = Finding(ROW, f"peak memory, {size:,}", threads=threads, unit="GiB")
    finding.target = MEMORY if size == LARGEST else None
    finding.details["interactions"] = size
    return finding.of([run["peak_bytes"] / GIB for run in runs])


def synthetic(size: int) -> Any:
    """A dataset with ``size`` training pairs."""
    import numpy as np
    import polars as pl

    from cnsdiff.data import Dataset, Interactions

    rng = np.random.default_rng(SEED)
    n_users, n_items, wanted = size // 10, size // 100, size + size // 100
    chance = np.cumsum(1 / np.arange(10, n_items + 10))
    keys = np.empty(0, dtype=np.int64)
    while len(keys) < wanted:
        n = wanted - len(keys) + wanted // 4
        users = rng.integers(n_users, size=n)
        items = np.searchsorted(chance, rng.random(n) * chance[-1])
        keys = np.unique(np.concatenate([keys, users * n_items + items]))
    rng.shuffle(keys)
    splits = {}
    for name, some in (("train", keys[:size]), ("valid", keys[size:wanted])):
        frame = pl.DataFrame({"user": some // n_items, "item": some % n_items})
        splits[name] = Interactions(frame, "synthetic")
    return Dataset.from_splits(splits, name=f"synthetic-{size}", scenario="given")


def run(size: int, threads: int, epochs: int) -> dict[str, Any]:
    """Train on one size in this process."""
    import torch
    from training import train

    torch.set_num_threads(threads)
    started = time.perf_counter()
    dataset = synthetic(size)
    made = time.perf_counter()
    epoch = train(dataset, epochs, threads, preset="default")
    return {
        "interactions": dataset.manifest.splits["train"].rows,
        "users": dataset.n_users,
        "items": dataset.n_items,
        "seconds": epoch.seconds,
        "validation_seconds": epoch.validation_seconds,
        "steps": epoch.steps,
        "making_seconds": made - started,
        "fit_seconds": time.perf_counter() - made,
        "peak_bytes": peak_resident(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("size", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    print(json.dumps(run(options.size, options.threads, options.epochs)))


if __name__ == "__main__":
    main()
