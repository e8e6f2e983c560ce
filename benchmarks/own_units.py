"""A control of the rehearsal: the environment in units of each user's own spread of scores.

A rehearsed environment is added to scores in units of ``σ_s``, a mean over users. Here each user's
scores are divided by that user's own spread first, which changes no list until something is added.
All else is as the grid has it: tries, search, clock, seeds.

    python benchmarks/own_units.py benchmarks/accuracy/all.yaml --sets grocery-temporal \
        grocery-hybrid --methods random ease exposure --data results/all/data --json FILE

Sets with the same train and valid are fitted once, and judged by the OOD test of each. What the
methods have in units of the mean is the grid's own result.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from cnsdiff import load_dataset
from cnsdiff.benchmark import fit
from cnsdiff.benchmark.grid import DIAL, REHEARSAL, read_grid
from cnsdiff.benchmark.plan import Unit, materialise, plan
from cnsdiff.benchmark.task import fit_task
from cnsdiff.data import Dataset
from cnsdiff.environment import Rehearsal
from cnsdiff.evaluation import EmbeddingScorer, Scorer, evaluate
from cnsdiff.training.selection import EnvironmentSelection

SELECTION, METRIC = REHEARSAL + DIAL, "ndcg@20"
_USERS_AT_ONCE = 512


class OwnUnits:
    """A scorer whose scores have a standard deviation of 1 over the items, for each user."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.n_users, self.n_items = scorer, scorer.n_users, scorer.n_items
        self.spreads = spreads(scorer).clamp(min=1e-12)

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        scores = self.scorer.score_block(users, start, stop)
        return scores / self.spreads[users.cpu()][:, None].to(scores)


def spreads(scorer: Scorer) -> Tensor:
    """``(U,)`` of each user; scores of minus infinity are left out."""
    if isinstance(scorer, EmbeddingScorer):
        items = scorer.item_embeddings.double()
        centred = items - items.mean(dim=0)
        users = scorer.user_embeddings.double()
        # The variance of u · v over the items is a quadratic form of u: no score is needed.
        variances = (users @ (centred.T @ centred / len(items)) * users).sum(dim=1)
        return variances.clamp(min=0).sqrt().float().cpu()
    found = []
    for users in torch.arange(scorer.n_users).split(_USERS_AT_ONCE):
        scores = scorer.score_block(users, 0, scorer.n_items).double()
        known = scores.isfinite()
        count = known.sum(dim=1).clamp(min=1)
        mean = torch.where(known, scores, 0.0).sum(dim=1) / count
        squares = torch.where(known, scores - mean[:, None], 0.0).square()
        found.append((squares.sum(dim=1) / count).sqrt())
    return torch.cat(found).float()


@contextmanager
def in_own_units() -> Iterator[None]:
    """Rehearsals fit and read the environment beside scores in each user's own units."""
    read, learn = EnvironmentSelection._read, fit._learn_all

    def read_so(self: EnvironmentSelection, scorer: Scorer, *others: Any) -> Any:
        return read(self, OwnUnits(scorer), *others)

    def learn_so(
        choices: Mapping[str, fit.Choice],
        environments: Mapping[str, Any],
        rehearsal: Rehearsal,
        scorer_of: Callable[[str], Scorer],
    ) -> None:
        learn(choices, environments, rehearsal, lambda name: OwnUnits(scorer_of(name)))

    with (
        patch.object(EnvironmentSelection, "_read", read_so),
        patch.object(fit, "_learn_all", learn_so),
    ):
        yield


def measured(unit: Unit, tests: Mapping[str, Dataset]) -> dict[str, list[float]]:
    """NDCG@20 on the OOD test of each set, by seed."""
    first = next(iter(tests.values()))
    trials = [fit_task(task, first).choices[SELECTION].value for task in unit.trials]
    chosen = unit.trials[int(np.argmax(trials))]
    values: dict[str, list[float]] = {name: [] for name in tests}
    for seed in unit.seeds:
        task = replace(chosen, kind="final", seed=seed)
        scorer = fit_task(task, first).choices[SELECTION].scorer
        for name, dataset in tests.items():
            found = evaluate(scorer, dataset.merged(), ["test_ood"], task.ks)
            values[name].append(found.splits["test_ood"][METRIC])
    return values


def alike(datasets: Mapping[str, Dataset]) -> list[dict[str, Dataset]]:
    """The datasets, those together whose train and valid are the same."""
    groups: dict[Any, dict[str, Dataset]] = {}
    for name, dataset in datasets.items():
        splits = (dataset.split(split) for split in ("train", "valid"))
        key = tuple((split.users.tobytes(), split.items.tobytes()) for split in splits)
        groups.setdefault(key, {})[name] = dataset
    return list(groups.values())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grid", type=Path)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, required=True, help="where datasets are, or come to")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    grid = read_grid(options.grid)
    methods = {"methods": options.methods}
    own = {name: grid.datasets[name].model_copy(update=methods) for name in options.sets}
    grid = grid.model_copy(update={"datasets": own, "seeds": options.seeds})
    options.data.mkdir(parents=True, exist_ok=True)
    paths = {name: materialise(name, entry, options.data) for name, entry in own.items()}
    found: list[dict[str, Any]] = []
    with in_own_units():
        for tests in alike({name: load_dataset(path) for name, path in paths.items()}):
            place = next(iter(tests))
            for unit in plan(grid, {place: paths[place]}, threads=1):
                if SELECTION not in unit.selections:
                    continue
                method = unit.trials[0].method.name
                for name, values in measured(unit, tests).items():
                    mean = float(np.mean(values))
                    found.append({"set": name, "method": method, METRIC: mean, "by seed": values})
                    shown = " ".join(f"{value:.4f}" for value in values)
                    print(f"{name} {method}: {mean:.4f} ({shown})", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
