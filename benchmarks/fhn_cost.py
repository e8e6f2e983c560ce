"""What counting false negatives costs: a training epoch that counts over one that does not.

    python benchmarks/fhn_cost.py DATASET [--threads 1] [--epochs 40] [--on valid] [--json FILE]

Within one run every other epoch counts, with the default sample, and each is compared with the
one before it; the ratio is the median over these pairs. A machine whose speed drifts slows both
of a pair alike. CPU seconds are given beside the clock's, since other work on the machine moves
them less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnsdiff import Recommender, load_dataset
from cnsdiff.training.progress import Reporter

METHODS: dict[str, dict[str, Any]] = {
    "random": {"sampler": "random"},
    "cnsdiff": {"sampler": "cnsdiff"},
}


class Clock(Reporter):
    """Seconds of each epoch, by the clock and of the CPU."""

    def __init__(self) -> None:
        self.clock: list[float] = []
        self.cpu: list[float] = []
        self._last = 0.0

    def begin(self, first_epoch: int, epochs: int, steps: int) -> None:
        self._last = time.process_time()

    def epoch(self, record: Mapping[str, Any], *, best: bool) -> None:
        now = time.process_time()
        self.clock.append(record["seconds"])
        self.cpu.append(now - self._last)
        self._last = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--on", default="valid", help="training.fhn_on")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    dataset = load_dataset(options.dataset)
    result: dict[str, dict[str, Any]] = {}
    print(f"{dataset.name}, judged by {options.on}, {options.threads} thread(s)")
    print(f"{'method':<16} {'':<5} {'without':>8} {'with':>8} {'ratio':>7}   (quartiles)")
    for name, choice in METHODS.items():
        training = {
            # One epoch more, which validates and counts as the last one always does: not used.
            "epochs": options.epochs + 1,
            "patience": None,
            "validate_every": options.epochs + 1,
            "fhn_every": 2,
            "fhn_on": options.on,
        }
        clock = Clock()
        model = Recommender(**choice, training=training, threads=options.threads)
        model.fit(dataset, reporter=clock)
        counted = ["hard_share" in record["train"] for record in model.history_]
        assert counted[1 : options.epochs : 2] == [True] * (options.epochs // 2)
        assert not any(counted[2 : options.epochs : 2])
        result[name] = {}
        for kind, seconds in (("clock", clock.clock), ("CPU", clock.cpu)):
            # Epoch 1 warms up; from then on each counting epoch is held against the one before.
            without, counting = seconds[2 : options.epochs : 2], seconds[3 : options.epochs : 2]
            ratios = [b / a for a, b in zip(without, counting, strict=False)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            result[name][kind] = {"without": without, "with": counting, "ratio": middle}
            print(
                f"{name:<16} {kind:<5} {statistics.median(without):>8.3f} "
                f"{statistics.median(counting):>8.3f} {middle:>7.3f}   ({low:.3f} - {high:.3f})"
            )
    if options.json:
        head = {"dataset": dataset.name, "threads": options.threads, "fhn_on": options.on}
        options.json.write_text(json.dumps(head | {"seconds": result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
