"""Time and peak memory of each scenario on a large synthetic log.

    python benchmarks/scenarios.py [--rows 10000000] [--rounds 3] [--scenarios popularity temporal]
                                   [--json FILE]

Each measurement is a process of its own, so that its peak memory (resident set, everything
included: interpreter, libraries, the log itself) is its own. Beside each, in the same process, the
same log is sorted by user and time in Polars: the ratio to that is what can be compared between
machines. Items follow a Zipf law, users are equally active, times are uniform over ten years.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

GIB = 2**30


def synthetic_log(rows: int, seed: int = 0) -> Any:
    """``rows`` interactions, a fiftieth as many users, a two-hundredth as many items."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(seed)
    n_users, n_items = max(rows // 50, 2), max(rows // 200, 2)
    chance = np.cumsum(1 / np.arange(10, n_items + 10))
    return pl.DataFrame(
        {
            "user": rng.integers(n_users, size=rows),
            "item": np.searchsorted(chance, rng.random(rows) * chance[-1]),
            "timestamp": rng.integers(1_400_000_000, 1_700_000_000, size=rows),
        }
    )


def measure(scenario: str, rows: int) -> dict[str, Any]:
    """One scenario in this process."""
    from cnsdiff.data import Interactions
    from cnsdiff.shifts import SCENARIOS

    frame = synthetic_log(rows)
    start = time.perf_counter()
    frame.sort("user", "timestamp")
    sorting = time.perf_counter() - start
    log = Interactions(frame, "synthetic")
    del frame
    start = time.perf_counter()
    dataset = SCENARIOS.find(scenario)()(log)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "sort_seconds": sorting,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "splits": {name: counts.rows for name, counts in dataset.manifest.splits.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scenarios", nargs="+", default=["popularity", "temporal"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options.rows)))
        return
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in options.scenarios}
    for _ in range(options.rounds):
        for name in options.scenarios:
            command = [sys.executable, __file__, "--child", name, "--rows", str(options.rows)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results[name].append(json.loads(done.stdout))
    print(f"{options.rows:,} interactions, {options.rounds} round(s), medians (memory: highest)")
    print(f"{'scenario':<12} {'seconds':>8} {'rows/s':>12} {'x sort':>7} {'peak GiB':>9}")
    summary = {}
    for name, rounds in results.items():
        seconds = statistics.median(one["seconds"] for one in rounds)
        ratio = statistics.median(one["seconds"] / one["sort_seconds"] for one in rounds)
        peak = max(one["peak_bytes"] for one in rounds) / GIB
        summary[name] = {"seconds": seconds, "ratio_to_sort": ratio, "peak_gib": peak}
        speed = options.rows / seconds
        print(f"{name:<12} {seconds:>8.2f} {speed:>12,.0f} {ratio:>7.2f} {peak:>9.2f}")
    if options.json:
        report = {"rows": options.rows, "summary": summary, "rounds": results}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
