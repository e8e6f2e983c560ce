"""The share of false negatives over training: ``random`` and cnsdiff's three presets.

    python benchmarks/false_negatives.py --world 0 1 2 --dataset data/yahoo-r3-exposure

In the simulated world the truth judges, for each confounding ``b``; a dataset directory is judged
by its randomised experiment. Every method trains for the same number of epochs without early
stopping; counts are pooled over windows of epochs.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from cnsdiff import ConfoundedWorld, Dataset, Recommender, load_dataset
from cnsdiff.evaluation.fhn import wilson

METHODS: dict[str, dict[str, Any]] = {
    "random": {"sampler": "random"},
    "default": {"preset": "default"},
    "paper": {"preset": "paper"},
    "authors": {"preset": "authors"},
}


def measure(
    dataset: Dataset, method: str, judge: str, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """The false negatives in each window of epochs."""
    training = {
        "epochs": options.epochs,
        "patience": None,
        "validate_every": options.epochs,
        "fhn_on": judge,
        "fhn_sample": options.sample,
        "fhn_neighbours": options.neighbours,
    }
    model = Recommender(
        **METHODS[method], seed=options.seed, threads=options.threads, training=training
    ).fit(dataset)
    rows = []
    for first in range(0, options.epochs, options.window):
        epochs = [record["train"] for record in model.history_[first : first + options.window]]
        seen = [epoch for epoch in epochs if "fhn" in epoch]
        judged = sum(int(epoch["fhn_judged"]) for epoch in seen)
        false = sum(round(epoch["fhn"] * epoch["fhn_judged"]) for epoch in seen)
        low, high = wilson(false, judged)
        rows.append(
            {
                "epochs": f"{first + 1}-{first + len(epochs)}",
                "fhn": false / judged if judged else None,
                "low": low,
                "high": high,
                "judged": judged,
                "fhn_hard": _mean(epochs, "fhn_hard"),
                "hard_share": _mean(epochs, "hard_share"),
                "known_positive": _mean(epochs, "known_positive"),
            }
        )
    return rows


def _mean(epochs: list[dict[str, float]], name: str) -> float | None:
    values = [epoch[name] for epoch in epochs if not math.isnan(epoch.get(name, math.nan))]
    return sum(values) / len(values) if values else None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", type=float, nargs="*", default=[], help="confounding b")
    parser.add_argument("--dataset", type=Path, nargs="*", default=[], help="with an experiment")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--window", type=int, default=10, help="epochs pooled in a row")
    parser.add_argument("--sample", type=int, default=8192, help="negatives an epoch")
    parser.add_argument("--neighbours", type=int, default=1, help="k of synthesised negatives")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()

    worlds = [(f"world b={b:g}", b) for b in options.world]
    sources = [(name, lambda b=b: _world(b, options.seed), "truth") for name, b in worlds]
    sources += [(p.name, lambda p=p: load_dataset(p), "experiment") for p in options.dataset]
    found = []
    print(
        "| data | method | epochs | FHN % (95 %) | judged | FHN % of hard | hard % | positive % |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, make, judge in sources:
        dataset = make()
        for method in options.methods:
            for row in measure(dataset, method, judge, options):
                found.append({"data": name, "method": method, **row})
                interval = f"({_percent(row['low'])}–{_percent(row['high'])})"
                print(
                    f"| {name} | {method} | {row['epochs']} | {_percent(row['fhn'])} {interval} "
                    f"| {row['judged']:,} | {_percent(row['fhn_hard'])} "
                    f"| {_percent(row['hard_share'])} | {_percent(row['known_positive'])} |",
                    flush=True,
                )
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _world(confounding: float, seed: int) -> Dataset:
    return ConfoundedWorld(confounding=confounding, seed=seed).dataset()


if __name__ == "__main__":
    main()
