"""Seconds per training epoch of each preset, as ratios to random negatives in the same run.

    python benchmarks/epoch_time.py DATASET [--threads 1] [--rounds 3] [--json FILE]

Methods take turns, round after round, so that a machine whose speed drifts slows all alike; each
turn trains two epochs and counts the second. Training time only, as in a run's history; the
validation after each epoch is reported beside it.
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
    "default": {"preset": "default"},
    "cnsdiff": {"sampler": "cnsdiff"},
    "cnsdiff paper": {"preset": "paper"},
    "cnsdiff authors": {"preset": "authors"},
    "ssm-lightgcn": {"preset": "ssm-lightgcn"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    dataset = load_dataset(options.dataset)
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    validation: list[float] = []
    for _ in range(options.rounds):
        for name, choice in METHODS.items():
            training = {"epochs": 2, "patience": None}
            model = Recommender(**choice, training=training, threads=options.threads)
            second = model.fit(dataset).history_[1]
            seconds[name].append(second["seconds"])
            validation.append(second["validation_seconds"])
    ratios = {
        name: statistics.median(a / b for a, b in zip(times, seconds["random"], strict=True))
        for name, times in seconds.items()
    }
    print(f"{dataset.name}, {options.threads} thread(s), {options.rounds} rounds, medians")
    print(f"{'method':<16} {'seconds':>8} {'x random':>9}")
    for name, times in seconds.items():
        print(f"{name:<16} {statistics.median(times):>8.2f} {ratios[name]:>9.2f}")
    print(f"{'(validation)':<16} {statistics.median(validation):>8.2f}")
    if options.json:
        result = {"dataset": dataset.name, "threads": options.threads, "seconds": seconds}
        options.json.write_text(json.dumps(result | {"ratio_to_random": ratios}, indent=2) + "\n")


if __name__ == "__main__":
    main()
