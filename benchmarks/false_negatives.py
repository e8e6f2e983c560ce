"""The share of false negatives, over training or at the epoch that validation keeps.

    python benchmarks/false_negatives.py --world 0 1 2 --dataset data/yahoo-r3-exposure
    python benchmarks/false_negatives.py --world 1.5 --shift hybrid --chosen --seeds 0 1 2

In the simulated world the truth judges, for each confounding ``b``; a dataset directory is judged
by its randomised experiment. Over training, every method trains for the same number of epochs
without early stopping, and counts are pooled over windows of epochs. With ``--chosen`` validation
picks the epoch, and the sampler as it then stands is asked for negatives of random interactions;
counts are pooled over the seeds, each with a world of its own. The samplers of BPR begin at the
spectral embedding, as the default does.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnsdiff import ConfoundedWorld, Dataset, Recommender, load_dataset
from cnsdiff.evaluation.fhn import FalseNegatives, wilson

#: Training with BPR on one negative per positive, but for `default`.
BPR = (
    "random", "popularity", "dns", "dns_mn", "softmax_rho", "mixgcf", "srns", "dens", "ahns",
    "curriculum", "adversarial", "adar", "cnsdiff",
)  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    **{name: {"sampler": name, "backbone_options": {"init": "spectral"}} for name in BPR},
    **{
        f"screened {share:g}": {
            "sampler": "screened",
            "sampler_options": {"share": share, "candidates": 16},
            "backbone_options": {"init": "spectral"},
        }
        for share in (0.1, 0.3, 0.5)
    },
    **{
        f"dns {candidates}": {
            "sampler": "dns",
            "sampler_options": {"candidates": candidates},
            "backbone_options": {"init": "spectral"},
        }
        for candidates in (2, 4, 16)
    },
    "default": {"preset": "default"},
    "default screened": {"preset": "default", "objective": {"screen": 0.3}},
    "paper": {"preset": "paper"},
    "authors": {"preset": "authors"},
}


def measure_chosen(
    make: Callable[[int], Dataset], method: str, judge: str, options: argparse.Namespace
) -> dict[str, Any]:
    """The false negatives of the model that validation keeps, pooled over seeds."""
    training = {"epochs": options.epochs, "fhn_every": None, "select_on": options.select_on}
    total, by_seed, kept, ndcg = FalseNegatives(), [], [], []
    for seed in options.seeds:
        dataset = make(seed)
        model = Recommender(
            **METHODS[method], seed=seed, threads=options.threads, training=training
        ).fit(dataset)
        found = model.false_negatives(
            dataset, judge, n=options.sample, neighbours=options.neighbours, seed=seed
        )
        total += found
        by_seed.append(found.fhn_hard)
        kept.append(model.best_epoch_)
        on_tests = model.evaluate(dataset).metrics
        ndcg.append([on_tests[test]["ndcg@20"] for test in ("test_iid", "test_ood")])
    low, high = total.interval()
    hard_low, hard_high = total.interval(hard=True)
    return {
        "epochs": ", ".join(map(str, kept)),
        "fhn": total.fhn,
        "low": low,
        "high": high,
        "judged": total.judged,
        "fhn_hard": total.fhn_hard,
        "hard_low": hard_low,
        "hard_high": hard_high,
        "hard_judged": total.hard_judged,
        "fhn_hard_by_seed": by_seed,
        "hard_share": total.hard_share,
        "known_positive": total.known_positive_share,
        "ndcg": ndcg,
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
        **METHODS[method], seed=options.seeds[0], threads=options.threads, training=training
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
    parser.add_argument("--shift", default="exposure", help="of the worlds")
    parser.add_argument("--dataset", type=Path, nargs="*", default=[], help="with an experiment")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--window", type=int, default=10, help="epochs pooled in a row")
    parser.add_argument("--sample", type=int, default=8192, help="negatives an epoch")
    parser.add_argument("--neighbours", type=int, default=1, help="k of synthesised negatives")
    parser.add_argument("--chosen", action="store_true", help="at the epoch validation keeps")
    parser.add_argument("--select-on", default="valid", help="what keeps it")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="the first, or all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()

    sources: list[tuple[str, Callable[[int], Dataset], str]] = [
        (f"world b={b:g}", lambda seed, b=b: _world(b, options.shift, seed), "truth")
        for b in options.world
    ]
    sources += [(p.name, lambda seed, p=p: load_dataset(p), "experiment") for p in options.dataset]
    found = []
    print(
        "| data | method | epochs | FHN % (95 %) | judged | FHN % of hard | hard % | positive % "
        "| NDCG@20 IID, OOD |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, make, judge in sources:
        for method in options.methods:
            rows = (
                [measure_chosen(make, method, judge, options)]
                if options.chosen
                else measure(make(options.seeds[0]), method, judge, options)
            )
            for row in rows:
                found.append({"data": name, "method": method, **row})
                interval = f"({_percent(row['low'])}–{_percent(row['high'])})"
                hard = _percent(row["fhn_hard"])
                seeds = list(zip(*row.get("ndcg", ()), strict=True))
                accuracy = ", ".join(f"{sum(own) / len(own):.4f}" for own in seeds) or "-"
                if "hard_low" in row:
                    hard += f" ({_percent(row['hard_low'])}–{_percent(row['hard_high'])})"
                print(
                    f"| {name} | {method} | {row['epochs']} | {_percent(row['fhn'])} {interval} "
                    f"| {row['judged']:,} | {hard} "
                    f"| {_percent(row['hard_share'])} | {_percent(row['known_positive'])} "
                    f"| {accuracy} |",
                    flush=True,
                )
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _world(confounding: float, shift: str, seed: int) -> Dataset:
    return ConfoundedWorld(confounding=confounding, seed=seed).dataset(shift)


if __name__ == "__main__":
    main()
