"""What counting false negatives costs: seconds per training epoch with it, over those without.

    python benchmarks/fhn_cost.py DATASET [--threads 1] [--rounds 5] [--epochs 4] [--json FILE]

The two take turns, round after round and in changing order, so that a machine whose speed drifts
slows both alike; each turn trains some epochs and keeps the median of all but the first. The
ratio is the median over rounds. The probe counts in every epoch, with the default sample.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from cnsdiff import Recommender, load_dataset

METHODS: dict[str, dict[str, Any]] = {
    "random": {"sampler": "random"},
    "cnsdiff default": {"preset": "default"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--on", default="valid", help="training.fhn_on")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    dataset = load_dataset(options.dataset)
    result: dict[str, dict[str, Any]] = {}
    for name, choice in METHODS.items():
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for number in range(options.rounds):
            for counts in (number % 2 == 0, number % 2 == 1):
                training = {
                    "epochs": options.epochs,
                    "patience": None,
                    "validate_every": options.epochs,
                    "fhn_every": 1 if counts else None,
                    "fhn_on": options.on,
                }
                model = Recommender(**choice, training=training, threads=options.threads)
                history = model.fit(dataset).history_
                seconds[counts].append(statistics.median(r["seconds"] for r in history[1:]))
        ratios = [a / b for a, b in zip(seconds[True], seconds[False], strict=True)]
        result[name] = {
            "seconds_with": seconds[True],
            "seconds_without": seconds[False],
            "ratio": statistics.median(ratios),
            "ratios": ratios,
        }
    print(f"{dataset.name}, {options.threads} thread(s), {options.rounds} rounds, medians")
    print(f"{'method':<16} {'without':>8} {'with':>8} {'ratio':>7}   (ratios from - to)")
    for name, row in result.items():
        print(
            f"{name:<16} {statistics.median(row['seconds_without']):>8.3f} "
            f"{statistics.median(row['seconds_with']):>8.3f} {row['ratio']:>7.3f}   "
            f"({min(row['ratios']):.3f} - {max(row['ratios']):.3f})"
        )
    if options.json:
        head = {"dataset": dataset.name, "threads": options.threads, "fhn_on": options.on}
        options.json.write_text(json.dumps(head | {"methods": result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
