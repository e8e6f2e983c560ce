"""An update against training anew: accuracy on what comes later, epochs and seconds.

    python benchmarks/update.py --data FOLDER --sets world ml-100k grocery --seeds 0 1 2 --json FILE

A log is cut twice in time. A run is trained on the pairs before the first cut; those between the
cuts are new; those after the second judge. Rows, each trained with a rehearsal:

- ``run``: as it was trained, its environment that of its own end;
- ``run, live``: as it would be served at the second cut, its environment counted there and its
  users folded in;
- ``anew``: on old and new, from the start, its usual rehearsal;
- ``warm``: :meth:`cnsdiff.Recommender.update`;
- ``warm, in steps``: the same in ``--steps`` updates, each of the one before; its costs are of all.

Lists leave out all that a user had until the second cut. Seconds are of one thread. ``ml-100k`` is
to be fetched first.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from cnsdiff import ConfoundedWorld, Dataset, Interactions, read_interactions
from cnsdiff.data import Split
from cnsdiff.data.ids import Vocabulary
from cnsdiff.evaluation import EmbeddingScorer, Scorer, evaluate_split
from cnsdiff.evaluation.significance import bootstrap_means
from cnsdiff.recommender.config import Config, resolve_config
from cnsdiff.recommender.embedding_model import EmbeddingModel
from cnsdiff.recommender.fitting import fit
from cnsdiff.recommender.run_directory import Fitted
from cnsdiff.recommender.update import Updating, of_others
from cnsdiff.recommender.warm_start import WarmStart
from cnsdiff.shifts.sources import find_source
from cnsdiff.training.progress import Reporter

SETS = ("world", "ml-100k", "grocery")
METRIC, KS = "ndcg@20", (20,)
ROWS = ("run", "run, live", "anew", "warm", "warm, in steps")


def read(name: str, folder: Path | None, seed: int) -> pl.DataFrame:
    """User, item and time of each pair."""
    if name == "world":
        world = ConfoundedWorld(n_users=1500, n_items=900, periods=12, seed=seed)
        frame = world.clicks(world.periods)
    elif name == "ml-100k":
        frame = find_source(name).tables["log"].positives(4.0).frame
    elif folder is None:
        raise SystemExit(f"{name} needs --data FOLDER")
    else:
        frame = read_interactions(folder / name / "train.csv").frame
    pairs = Interactions(frame.select("user", "item", "timestamp"), name).deduplicated().frame
    return pairs.sort("timestamp", maintain_order=True)


class Epochs(Reporter):
    """Counts the epochs of all stages of a training."""

    def __init__(self) -> None:
        self.count = 0

    def epoch(self, record: Any, *, best: bool) -> None:
        self.count += 1


def trained(config: Config, dataset: Dataset, start: WarmStart | None) -> tuple[Fitted, Any]:
    """A training, and what it took."""
    reporter, results = Epochs(), []
    began = time.perf_counter()
    fit(config, dataset, keep=results.append, classes={}, start=start, reporter=reporter)
    seconds = time.perf_counter() - began
    (fitted,) = results
    return fitted, {
        "seconds": seconds, "epochs": reporter.count, "best epoch": fitted.best_epoch
    }  # fmt: skip


def in_steps(run: Fitted, dataset: Dataset, new: pl.DataFrame, n: int) -> tuple[Scorer, Any]:
    """Updates one after the other, and what they took together; of the ids of the last."""
    costs: dict[str, float] = {}
    for rows in np.array_split(np.arange(len(new)), n):
        updating = Updating.of_run(run, Interactions(new[rows], "new"), dataset)
        config, dataset = updating.configuration(), updating.dataset
        run, cost = trained(config, dataset, updating.start())
        costs = {what: costs.get(what, 0.0) + value for what, value in cost.items()}
    return run.model.scorer(), costs


def measured(
    name: str, folder: Path | None, seed: int, shares: tuple[float, float], steps: int
) -> Any:
    """By row, NDCG@20 of each user after the second cut, and what its training took."""
    log = read(name, folder, seed)
    first, second = (float(log["timestamp"].to_numpy()[int(s * len(log))]) for s in shares)
    at = pl.col("timestamp")
    old, new = log.filter(at < first), log.filter((at >= first) & (at < second))
    later = log.filter(at >= second)
    training = {"fhn_every": None, "select_on": "rehearsal"}
    config = resolve_config({"training": training, "seed": seed, "threads": 1})
    dataset = Dataset.from_splits({"train": Interactions(old, name)}, name=name, scenario="given")
    run, cost = trained(config, dataset, None)
    updating = Updating.of_run(run, Interactions(new, name), dataset)
    both, start = updating.dataset, updating.start()
    past, train = both.split("train").csr(both.n_users, both.n_items), both.split("train")
    users, items = (
        Vocabulary(ids.alias("id")).encode(later[side])
        for side, ids in (("user", both.users), ("item", both.items))
    )
    known = (users >= 0) & (items >= 0)
    judges = Split("test_ood", users[known], items[known])

    def values(scorer: Scorer) -> NDArray[np.float64]:
        table = evaluate_split(scorer, judges, past, ks=KS, per_user=True).per_user
        assert table is not None
        column: NDArray[np.float64] = table[METRIC].to_numpy().astype(np.float64)
        return column

    ids = both.users, both.items
    live = of_others(run.model, ids, train)
    model, rows = run.model, []
    assert isinstance(model, EmbeddingModel) and model.bias is not None
    for own, asked, vectors in (
        (model.users, both.users, model.user_embeddings),
        (model.items, both.items, model.item_embeddings),
    ):
        numbers = torch.from_numpy(Vocabulary(own.alias("id")).encode(asked))
        rows.append(torch.where((numbers >= 0)[:, None], vectors[numbers.clamp(min=0)], 0.0))
    still = torch.where(numbers >= 0, model.bias[numbers.clamp(min=0)], -torch.inf)
    frozen = EmbeddingScorer(*rows, still)
    table = {"run": (values(frozen), cost), "run, live": (values(live), cost)}
    for row, begin in (("anew", None), ("warm", start)):
        fitted, cost = trained(config, both, begin)
        table[row] = values(fitted.model.scorer()), cost
        told = {**cost, METRIC: round(float(table[row][0].mean()), 4)}
        print(f"{name}, seed {seed}: {row}: {told}", flush=True)
    scorer, cost = in_steps(run, dataset, new, steps)
    table["warm, in steps"] = values(scorer), cost
    told = {row: round(float(v.mean()), 4) for row, (v, _) in table.items()}
    sizes = {"old": len(old), "new": len(new), "judges": len(judges)}
    print(f"{name}, seed {seed}: {sizes} {told}", flush=True)
    return table, sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--new", type=float, default=0.1, help="share of the pairs that is new")
    parser.add_argument("--judges", type=float, default=0.2, help="share that comes later")
    parser.add_argument("--steps", type=int, default=5, help="updates in a row")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shares = 1 - options.judges - options.new, 1 - options.judges
    result = {}
    for name in options.sets:
        runs = [measured(name, options.data, seed, shares, options.steps) for seed in options.seeds]
        rows: dict[str, Any] = {}
        for row in ROWS:
            value = float(np.mean([run[row][0].mean() for run, _ in runs]))
            rows[row] = {METRIC: value}
            for what in ("seconds", "epochs", "best epoch"):
                rows[row][what] = float(np.mean([run[row][1][what] for run, _ in runs]))
            if row != "anew" and len({len(run[row][0]) for run, _ in runs}) == 1:
                gains = np.mean([run[row][0] - run["anew"][0] for run, _ in runs], axis=0)
                gain = bootstrap_means(gains[:, None], seed=0)[0]
                rows[row]["against anew"] = [gain.value, gain.low, gain.high]
        result[name] = {"sizes": runs[0][1], "rows": rows}
        print(json.dumps({name: result[name]}, indent=2), flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
