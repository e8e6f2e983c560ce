"""How many people to ask: the dial read off a sample of the target's users.

    python benchmarks/target_sample.py DATASET --shift inverse-propensity --json FILE

The default is trained once, its epoch chosen on plain validation, and read at all dials by each
user of the OOD test. Then a few of them are drawn, as a pilot or a panel would be: their NDCG@20
picks the dial, and others judge it, beside the best dial for those others (the oracle). A share is
what the picked dial reaches of what the oracle reaches.

- ``best``: the dial with the best mean over the people asked.
- ``prudent``: of the modes within a standard error of it, the one nearest 0, which is how
  validation places a dial.
- ``near valid``: of all dials within a standard error of it, the one nearest to that of plain
  validation, which is left only where those asked say so clearly.
- ``as trained``, ``valid``, and the objective that anticipates the shift: nobody is asked. Their
  shares are over all users of the test.

``others``: all users who were not asked judge, at least as many as were. On a small test these are
few, their oracle is a matter of luck, and what those asked like too much the others like too
little. ``resampled`` is free of that: as if the users of the test were all there are, people are
drawn of them with replacement, and all judge.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnsdiff import Recommender, load_dataset
from cnsdiff.data import Dataset
from cnsdiff.evaluation.dial import FINE, dial_bias, evaluations_at, prudent_dial
from cnsdiff.recommender.config import nested

METRIC, KS = "ndcg@20", (20,)
PEOPLE = (5, 10, 20, 50, 100, 200, 500)
DRAWS, ENOUGH = 100, 0.95
#: Dials at which all users are ranked at once, for the sake of memory.
AT_ONCE = 7


def values_at_dials(model: Recommender, dataset: Dataset) -> NDArray[np.float64]:
    """``(n, D)`` NDCG@20 of each user of the OOD test at each dial of ``FINE``."""
    fitted = model.model_
    columns = []
    for start in range(0, len(FINE), AT_ONCE):
        some = FINE[start : start + AT_ONCE]
        for _, evaluation in evaluations_at(
            fitted.scorer("cpu", dial=0.0),
            {dial: dial_bias(fitted.dial_step, dial) if dial else None for dial in some},
            dataset.split("test_ood"),
            fitted.train,
            ks=KS,
            anticipations=(),
            per_user=True,
        ):
            assert evaluation.per_user is not None
            columns.append(evaluation.per_user[METRIC].to_numpy().astype(np.float64))
    return np.stack(columns, axis=1)


def best_of(values: NDArray[np.float64]) -> float:
    """The dial with the best mean over users ``(n, D)``; of equal ones, that nearest 0."""
    means = values.mean(axis=0)
    return FINE[max(range(len(FINE)), key=lambda at: (means[at], -abs(FINE[at]), FINE[at]))]


def prudent_of(values: NDArray[np.float64]) -> float:
    """The dial that validation would place on the same users."""
    return prudent_dial(dict(zip(FINE, values.T, strict=True)))


def nearest_of(values: NDArray[np.float64], start: float) -> float:
    """Of the dials within a standard error of the best over users ``(n, D)``, that nearest one."""
    behind = values[:, [FINE.index(best_of(values))]] - values
    as_good = behind.mean(axis=0) <= behind.std(axis=0, ddof=1) / np.sqrt(len(values))
    means = values.mean(axis=0)
    candidates = np.flatnonzero(as_good).tolist()
    return FINE[min(candidates, key=lambda at: (abs(FINE[at] - start), -means[at]))]


def share(values: NDArray[np.float64], dial: float) -> float:
    """What a dial reaches over users ``(n, D)``, of what the best one for them reaches."""
    means = values.mean(axis=0)
    return float(means[FINE.index(dial)] / means.max())


def drawn(
    values: NDArray[np.float64], valid: float, seed: int
) -> dict[str, dict[int, list[float]]]:
    """By rule and judges, and number of people asked, the share that each draw reaches."""
    shares: dict[str, dict[int, list[float]]] = {}
    rng = np.random.default_rng(seed)
    for _ in range(DRAWS):
        order = rng.permutation(len(values))
        for people in PEOPLE:
            if 2 * people > len(values):
                break
            again = rng.integers(0, len(values), people)
            for judges, asked, judging in (
                ("others", values[order[:people]], values[order[people:]]),
                ("resampled", values[again], values),
            ):
                for rule, dial in (
                    ("best", best_of(asked)),
                    ("prudent", prudent_of(asked)),
                    ("near valid", nearest_of(asked, valid)),
                ):
                    here = shares.setdefault(f"{rule}, {judges}", {})
                    here.setdefault(people, []).append(share(judging, dial))
    return shares


def summary(values: NDArray[np.float64], dials: Mapping[str, float], seed: int) -> dict[str, Any]:
    """Median and 10th percentile over draws, and from how many people on they are enough."""
    means = values.mean(axis=0)
    best = best_of(values)
    gap = values[:, FINE.index(best)] - values[:, FINE.index(dials["valid"])]
    found: dict[str, Any] = {
        "users": len(values),
        METRIC: dict(zip(map(str, FINE), means.tolist(), strict=True)),
        "oracle": {"dial": best, METRIC: float(means.max())},
        "nobody asked": {
            name: {"dial": dial, "share": share(values, dial)} for name, dial in dials.items()
        },
        "standard error of oracle less valid, as a share": float(
            gap.std(ddof=1) / np.sqrt(len(gap)) / means.max()
        ),
        "asked": {},
    }
    for rule, shares in drawn(values, dials["valid"], seed).items():
        course = {
            people: [float(np.median(each)), float(np.quantile(each, 0.1))]
            for people, each in shares.items()
        }
        enough = {}
        for at, name in enumerate(("median", "10th percentile")):
            good = [ends[at] >= ENOUGH for ends in course.values()]
            enough[name] = next((n for place, n in enumerate(course) if all(good[place:])), None)
        found["asked"][rule] = {"median, 10th percentile": course, "enough": enough}
    return found


def markdown(name: str, found: Mapping[str, Any]) -> str:
    """In percent, a row per rule and judges: the median and, in brackets, the 10th percentile."""
    nobody = [f"{each['share']:.0%}" for each in found["nobody asked"].values()]
    head = [name, *found["nobody asked"], *map(str, PEOPLE)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for rule, asked in found["asked"].items():
        course = asked["median, 10th percentile"]
        cells = [
            f"{course[people][0]:.0%} ({course[people][1]:.0%})" if people in course else "–"
            for people in PEOPLE
        ]
        lines.append("| " + " | ".join([rule, *nobody, *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--shift", required=True, help="the objective that anticipates it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    dataset = load_dataset(options.dataset)
    settings = {
        "training.fhn_every": None,
        **{key: json.loads(value) for key, value in (s.split("=", 1) for s in options.settings)},
    }
    model = Recommender(seed=options.seed, threads=1, **nested(settings))
    model.fit(dataset, select_on="valid", refit=False)
    dials = {
        "as trained": 0.0,
        "valid": model.dial_,
        options.shift: model.best_dial(dataset, options.shift),
    }
    found = summary(values_at_dials(model, dataset), dials, options.seed)
    found = {"dataset": dataset.name, "epoch": model.best_epoch_, **found}
    print(json.dumps(found, indent=2))
    print(markdown(dataset.name, found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
