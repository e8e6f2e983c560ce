"""How soon methods reach the best validation NDCG@20 of the best heuristic sampler.

    python benchmarks/convergence.py DATASET [--methods dns/spectral default] [--seed 0]
                                     [--threads 1] [--epochs 120] [--dial off] [--json FILE]

Each method is trained once, with early stopping as configured; train and valid are read, no other
split. An epoch is worth what validation says at the dial it chooses, as everywhere else; with
``--dial off``, what the scores are as trained. The reference is the heuristic sampler whose best
value is the largest. Seconds are of the processor, from before the model is built, so that a
spectral start pays for its decomposition, to the end of an epoch's validation: other work on the
machine takes nothing of them. Compare them within one run.
False negatives are not counted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnsdiff import Recommender, load_dataset
from cnsdiff.cli.parsing import parse_assignments
from cnsdiff.data import Dataset
from cnsdiff.recommender.config import merge
from cnsdiff.training.progress import Reporter

METRIC = "ndcg@20"
#: Samplers that choose by score.
HEURISTICS = ("dns", "dns_mn", "mixgcf", "ahns", "softmax_rho")

#: By name: a preset, and what is set on top of it.
METHODS: dict[str, tuple[str, tuple[str, ...]]] = {
    **{
        f"{sampler}/{start}": ("default", (f"sampler.name={sampler}", f"backbone.init={start}"))
        for sampler in (*HEURISTICS, "random", "cnsdiff")
        for start in ("xavier", "spectral")
    },
    "ssm/xavier": ("ssm-lightgcn", ("backbone.init=xavier",)),
    "ssm/spectral": ("ssm-lightgcn", ("backbone.init=spectral",)),
    "authors": ("authors", ()),
    "default": ("default", ()),
}


class Clock(Reporter):
    """Seconds of the processor from its making to the end of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = time.process_time()

    def epoch(self, record: Mapping[str, Any], *, best: bool) -> None:
        self.seconds.append(time.process_time() - self._started)


def train(name: str, dataset: Dataset, options: argparse.Namespace) -> dict[str, list[float]]:
    """Validation values and seconds, epoch by epoch."""
    preset, settings = METHODS[name]
    fixed: dict[str, Any] = {
        "backbone": {},
        "sampler": {},
        "seed": options.seed,
        "threads": options.threads,
        "training": {
            "select_on": "valid",
            "select_metric": METRIC,
            "validate_every": 1,
            "dial": options.dial,
            "fhn_every": None,
        },
    }
    if options.epochs is not None:
        fixed["training"]["epochs"] = options.epochs
    model = Recommender.from_config(merge(fixed, parse_assignments(settings)), preset=preset)
    clock = Clock()
    model.fit(dataset, reporter=clock)
    values = [record["validation"][METRIC] for record in model.history_]
    return {"values": values, "seconds": clock.seconds}


def summarise(run: Mapping[str, list[float]], target: float) -> dict[str, float | int | None]:
    """Best value and its epoch; the first epoch at ``target`` or above, and the seconds to it."""
    values, seconds = run["values"], run["seconds"]
    best = max(values)
    reached = next((k for k, value in enumerate(values) if value >= target), None)
    return {
        "best": best,
        "best_epoch": values.index(best) + 1,
        "epochs": len(values),
        "reached_epoch": None if reached is None else reached + 1,
        "reached_seconds": None if reached is None else seconds[reached],
        "seconds": seconds[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, help="at most, in place of the configured number")
    parser.add_argument(
        "--dial", default="auto", choices=["auto", "off"], help="of an epoch's value"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    dataset = load_dataset(options.dataset)
    print(f"{dataset.name}, valid {METRIC}, seed {options.seed}, {options.threads} thread(s)")
    print(
        "reached: the first epoch at the reference's best or above, seconds to its end, their ratio"
    )
    print(f"{'method':<20} {'best':>7} {'epoch':>6} {'reached':>8} {'seconds':>8} {'ratio':>6}")
    runs = {name: train(name, dataset, options) for name in options.methods}
    heuristics = [name for name in runs if name.partition("/")[0] in HEURISTICS]
    reference = max(heuristics, key=lambda name: max(runs[name]["values"]))
    target = max(runs[reference]["values"])
    found: dict[str, dict[str, Any]] = {
        name: dict(summarise(run, target)) for name, run in runs.items()
    }
    for name, row in found.items():
        seconds = row["reached_seconds"]
        row["ratio"] = seconds and seconds / found[reference]["reached_seconds"]
        reached = (
            f"{'-':>8} {'-':>8} {'-':>6}"
            if seconds is None
            else f"{row['reached_epoch']:>8} {seconds:>8.1f} {row['ratio']:>6.2f}"
        )
        print(f"{name:<20} {row['best']:>7.4f} {row['best_epoch']:>6} {reached}")
    print(f"the reference is {reference}")
    if options.json:
        head = {
            "dataset": dataset.name,
            "metric": METRIC,
            "reference": reference,
            "dial": options.dial,
        }
        head |= {"seed": options.seed, "threads": options.threads}
        result = head | {"summary": found, "runs": runs}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
