"""What a rehearsal is made of, and how long its gain lasts, on a dataset with times.

    python benchmarks/rehearsal.py DATASET --seeds 0 1 2 3 4 --json FILE --figure FIGURE.svg

The default is trained twice a seed: on train, its epoch and dial chosen on validation; and by a
rehearsal, after which it learns everything. Readings of both, each chosen inside the training data:

- ``valid+dial``: without a rehearsal and without an environment.
- ``recency on valid``: the environment, fitted to random validation pairs.
- ``rehearsal alone``, ``+ dial``: the epoch alone; the dial, too, chosen on the rehearsal.
- ``+ one half-life``: the environment of count, age, idle time and one half-life, the best of them.
- ``+ all``: the environment.

The OOD test is cut into parts of equal length in time, and the gain of ``+ all`` over
``valid+dial`` in each is what the figure shows, with a 95% interval over users of all seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cnsdiff import Recommender, load_dataset
from cnsdiff.data import Dataset, Split
from cnsdiff.environment import HALF_LIVES, Choices, covariates_at, rehearse
from cnsdiff.environment.covariates import Covariates
from cnsdiff.environment.environment import SCALES, OwnUnits
from cnsdiff.evaluation import EmbeddingScorer, Scorer, evaluate_split
from cnsdiff.evaluation.dial import FINE, best_reading, exposure_score, readings_at, spread
from cnsdiff.evaluation.significance import bootstrap_means
from cnsdiff.recommender.config import resolve_config
from cnsdiff.recommender.fitting import Training, for_so_long
from cnsdiff.training.processes import make_fabric
from cnsdiff.training.progress import Reporter

METRIC, KS = "ndcg@20", (20,)
PLAIN, WHOLE = "valid+dial", "+ all"
#: A bias per item as a function of the covariates now, for scores in own units.
Bias = Callable[[Covariates], torch.Tensor]


def environments(
    scorer: Scorer, part: Dataset, columns: Sequence[Sequence[str]]
) -> list[tuple[float, Bias]]:
    """The value on the valid split of a part, and the bias, of an environment of these columns."""
    log, valid, scorer = part.split("train"), part.split("valid"), OwnUnits(scorer)
    train = log.csr(part.n_users, part.n_items)
    covariates = covariates_at(log.items, log.timestamps, part.n_items)
    found = []
    for names in columns:
        rows = [covariates.names.index(name) for name in names]
        own = covariates._replace(values=covariates.values[:, rows], names=tuple(names))
        coefficients = Choices(valid, train, own).coefficients(scorer).numpy()
        biases = {
            scale: torch.from_numpy(scale * own.values @ coefficients).float() for scale in SCALES
        }
        at = readings_at(scorer, biases, valid, train, ks=KS)
        scale, value = best_reading(at, METRIC)

        def bias(now: Covariates, rows: Any = rows, g: Any = scale * coefficients) -> torch.Tensor:
            return torch.from_numpy(now.values[:, rows] @ g).float()

        found.append((value, bias))
    return found


def dial_on(scorer: Scorer, part: Dataset) -> float:
    """The dial that the valid split of a part likes best."""
    train = part.split("train").csr(part.n_users, part.n_items)
    step = spread(scorer) * exposure_score(part)
    biases = {dial: dial * step for dial in FINE}
    return best_reading(readings_at(scorer, biases, part.split("valid"), train, ks=KS), METRIC)[0]


def measured(dataset: Dataset, seed: int, parts: int) -> dict[str, list[NDArray[np.float64]]]:
    """By reading, NDCG@20 of each user on the OOD test, whole and part by part in time."""
    whole = dataset.merged()
    log, ood = whole.split("train"), dataset.split("test_ood")
    now = covariates_at(log.items, log.timestamps, dataset.n_items)
    # Without a rehearsal: epoch and dial on validation.
    plain = Recommender(seed=seed, threads=1, training={"fhn_every": None, "refit": False})
    plain.fit(dataset, select_on="valid")
    model = plain.model_
    scorer = EmbeddingScorer(model.user_embeddings, model.item_embeddings)
    ((_, recency),) = environments(scorer, dataset, [now.names])
    readings = {
        PLAIN: (scorer, model.dial * model.dial_step),
        "recency on valid": (OwnUnits(scorer), recency(now)),
    }
    # With one: choose on the early part, then learn everything.
    rehearsal = rehearse(dataset)
    settings = {"training": {"select_on": "rehearsal", "fhn_every": None}, "seed": seed}
    config = resolve_config({**settings, "threads": 1})
    fabric = make_fabric("cpu", "32-true", 1)
    first = Training.of(config, rehearsal.dataset, fabric)
    epoch = first.fit(Reporter()).stopping["best_epoch"]
    early = EmbeddingScorer(*first.embeddings())
    again = for_so_long(config, rehearsal.epochs(epoch))
    second = Training.of(again, whole, fabric, select=False)
    second.fit(Reporter())
    late = EmbeddingScorer(*second.embeddings())
    late_own = OwnUnits(late)
    still = [name for name in now.names if "half-life" not in name]
    one = [
        [*still, *(name for name in now.names if name.endswith(f"half-life {h:g}"))]
        for h in HALF_LIVES
    ]
    _, best = max(environments(early, rehearsal.dataset, one), key=lambda found: found[0])
    ((_, every),) = environments(early, rehearsal.dataset, [now.names])
    readings |= {
        "rehearsal alone": (late, torch.zeros(dataset.n_items)),
        "+ dial": (late, dial_on(early, rehearsal.dataset) * spread(late) * exposure_score(whole)),
        "+ one half-life": (late_own, best(now)),
        WHOLE: (late_own, every(now)),
    }
    # Judge, on the same lists of what is already had for all.
    train = log.csr(dataset.n_users, dataset.n_items)
    assert ood.timestamps is not None
    edges = np.linspace(ood.timestamps.min(), ood.timestamps.max() + 1, parts + 1)
    place = np.searchsorted(edges, ood.timestamps, side="right") - 1
    splits = [ood]
    for number in range(parts):
        here = place == number
        splits.append(Split("test_ood", ood.users[here], ood.items[here], ood.timestamps[here]))
    return {
        name: [
            _per_user(EmbeddingScorer(s.user_embeddings, s.item_embeddings, bias), split, train)
            for split in splits
        ]
        for name, (s, bias) in readings.items()
    }


def _per_user(scorer: Scorer, split: Any, train: Any) -> NDArray[np.float64]:
    table = evaluate_split(scorer, split, train, ks=KS, per_user=True).per_user
    assert table is not None
    values: NDArray[np.float64] = table.sort("user")[METRIC].to_numpy().astype(np.float64)
    return values


def summary(runs: Sequence[dict[str, list[NDArray[np.float64]]]]) -> dict[str, Any]:
    """Means over seeds and users, and gains over the plain reading with their intervals."""
    names = list(runs[0])
    n_parts = len(runs[0][PLAIN])
    mean = {
        name: [np.mean([run[name][part] for run in runs], axis=0) for part in range(n_parts)]
        for name in names
    }
    table = {}
    for name in names:
        gain = bootstrap_means(np.stack([mean[name][0] - mean[PLAIN][0]], axis=1), seed=0)[0]
        base = float(mean[PLAIN][0].mean())
        table[name] = {
            "ndcg@20": float(mean[name][0].mean()),
            "by seed": [float(run[name][0].mean()) for run in runs],
            "gain": [gain.value / base, gain.low / base, gain.high / base],
        }
    course = []
    for part in range(1, n_parts):
        differences = np.stack([mean[WHOLE][part] - mean[PLAIN][part]], axis=1)
        gain, base = bootstrap_means(differences, seed=0)[0], float(mean[PLAIN][part].mean())
        course.append(
            {
                "users": len(differences),
                "plain": base,
                "gain": [gain.value / base, gain.low / base, gain.high / base],
            }
        )
    return {"readings": table, "course": course}


def draw(course: Sequence[dict[str, Any]], days: float, path: Path) -> None:
    """Gain over the time since the cut."""
    import matplotlib
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": "cnsdiff", "font.size": 9}
    with matplotlib.rc_context({**style, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        middle = (np.arange(len(course)) + 0.5) * days / len(course)
        gain = 100 * np.array([part["gain"] for part in course])
        axes.axhline(0, color="#888888", linewidth=0.6)
        axes.fill_between(middle, gain[:, 1], gain[:, 2], color="#D55E00", alpha=0.2, linewidth=0)
        axes.plot(middle, gain[:, 0], color="#D55E00", marker="o", markersize=3)
        axes.set_xlabel("days since the last training pair")
        axes.set_ylabel("gain in NDCG@20, %")
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--parts", type=int, default=8, help="of the test, in time")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    dataset = load_dataset(options.dataset)
    runs = []
    for seed in options.seeds:
        runs.append(measured(dataset, seed, options.parts))
        shown = {name: round(float(parts[0].mean()), 4) for name, parts in runs[-1].items()}
        print(f"seed {seed}: {shown}", flush=True)
    found = summary(runs)
    times = dataset.split("test_ood").timestamps
    assert times is not None
    found["days"] = float(times.max() - times.min()) / 86_400
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if options.figure:
        draw(found["course"], found["days"], options.figure)


if __name__ == "__main__":
    main()
