"""What folding users in is worth beside training again, and what it costs.

    python benchmarks/fold_in.py --data FOLDER --sets world ml-100k grocery --json FILE

A log is cut twice in time: at 60% and at 80% of its pairs. A model is trained until the first cut,
users are folded in with what they did until the second, and what they take afterwards judges, among
the items known at the first cut. In ``world`` a fifth of the users, drawn by the seed, come after
the first cut. NDCG@20 of lists without what a user had, of users known at the first cut and of new
ones, by

- ``stale``: vectors as trained; for new users popularity, which ``environment``, the model's
  bias alone, is beside;
- ``part``: what was done between the cuts, folded in as if it were all (a known trap);
- ``history``: the history until the first cut, mapped as those folded in are: what the map by
  itself is worth;
- ``solved``: the objective minimised anew for each user on the whole history, items fixed;
- ``folded``: :meth:`Model.fold_in <cnsdiff.recommender.embedding_model.Model.fold_in>`;
- ``vectors``: those of a training until the second cut, under the bias of the first;
- ``refit``: that training under its own bias.

``kept`` is the share of the gain of ``vectors`` and of ``refit`` over ``stale`` that ``folded``
has, where that gain is above 2%. ``--runs FOLDER`` keeps what was trained for the next call.
``ml-100k`` is to be fetched first.
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
from scipy.sparse import csr_array
from torch.nn.functional import normalize

from cnsdiff import ConfoundedWorld, Recommender
from cnsdiff.base.seeding import numpy_generator
from cnsdiff.data import Dataset, Interactions, Split
from cnsdiff.data.splits import pair_matrix
from cnsdiff.evaluation import EmbeddingScorer, Scorer, evaluate_split
from cnsdiff.evaluation.metrics import item_counts
from cnsdiff.evaluation.significance import bootstrap_means
from cnsdiff.recommender.eligibility import rows_of
from cnsdiff.recommender.embedding_model import EmbeddingModel, Model
from cnsdiff.recommender.fold_in import joined
from cnsdiff.references.ials import IALSConfig
from cnsdiff.shifts.sources import find_source

SETS, CUTS, METRIC, MOST_USERS = ("world", "ml-100k", "grocery"), (0.6, 0.8), "ndcg@20", 2000
MODELS: dict[str, dict[str, Any]] = {
    "default": {},
    "mf": {"backbone": "mf"},
    "bpr-mf": {
        "backbone": "mf",
        "sampler": "random",
        "objective": {"loss": "bpr"},
        "training": {"dial": "off"},
    },
    "ials": {"backbone": "ials"},
    "ease": {"backbone": "ease"},
}
#: Of the objective minimised for each user.
STEPS, LEARNING_RATE = 100, 0.05


def log_of(name: str, folder: Path | None, seed: int) -> pl.DataFrame:
    """Users, items and times of a set, in order of time, each pair once."""
    if name == "world":
        world = ConfoundedWorld(n_users=1500, n_items=900, seed=seed)
        log = world.clicks(world.periods)
    elif name == "ml-100k":
        log = find_source(name).tables["log"].frame
    elif name == "grocery" and folder is not None:
        log = pl.read_csv(folder / name / "train.csv", separator="\t")
        log = log.rename({"user_id": "user", "item_id": "item", "time": "timestamp"})
    else:
        raise SystemExit(f"there are {', '.join(SETS)}; grocery needs --data FOLDER")
    log = log.select("user", "item", "timestamp")
    log = log.unique(["user", "item"], keep="first", maintain_order=True)
    chance = numpy_generator(seed, "order").random(len(log))  # of pairs of one time
    return log.with_columns(chance=pl.Series(chance)).sort("timestamp", "chance").drop("chance")


def cut(name: str, log: pl.DataFrame, seed: int) -> list[pl.DataFrame]:
    """What is before, between and after the cuts."""
    first, second = (int(share * len(log)) for share in CUTS)
    before, between, after = log[:first], log[first:second], log[second:]
    if name == "world":
        users = log["user"].unique().sort()
        rows = numpy_generator(seed, "late").permutation(len(users))[: len(users) // 5]
        before = before.filter(~pl.col("user").is_in(users.gather(rows).implode()))
    return [before, between, after]


class Columns:
    """A scorer of some items of another alone, which come first, in this order."""

    def __init__(self, scorer: Scorer, items: Any) -> None:
        self.scorer, self.items = scorer, torch.from_numpy(items)
        self.n_users, self.n_items = scorer.n_users, len(items)

    def score_block(self, users: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """See :class:`cnsdiff.evaluation.Scorer`."""
        every = self.scorer.score_block(users, 0, self.scorer.n_items)
        return every[:, self.items][:, start:stop]


class Biased(Columns):
    """A scorer with a bias added."""

    def __init__(self, scorer: Scorer, bias: torch.Tensor | None) -> None:
        super().__init__(scorer, np.arange(scorer.n_items))
        self.bias = torch.zeros(scorer.n_items) if bias is None else bias

    def score_block(self, users: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """See :class:`cnsdiff.evaluation.Scorer`."""
        return self.scorer.score_block(users, start, stop) + self.bias[start:stop]


def solved(model: Recommender, histories: csr_array) -> torch.Tensor | None:
    """Vectors that minimise the objective for histories, items fixed; ``None`` for want of one."""
    own, config = model.model_, model.config_
    items = own.item_embeddings
    if isinstance(config.backbone, IALSConfig):
        alpha, table = config.backbone.alpha, items.double()
        gram = table.T @ table + config.backbone.regularisation * torch.eye(table.shape[1])
        solutions = []
        for row in range(histories.shape[0]):
            z = table[histories[[row]].indices]
            solutions.append(torch.linalg.solve(gram + alpha * z.T @ z, (1 + alpha) * z.sum(0)))
        return torch.stack(solutions).float()
    objective = config.objective
    if objective.loss != "softmax" or objective.score != "cosine":
        return None
    # The negatives of a batch as their expectation, beside the positive.
    shown = item_counts(own.train).double() ** config.sampler.exponent
    log_shown = (shown / shown.sum()).log().float() + np.log(config.sampler.n_negatives)
    counts = np.diff(histories.indptr)
    rows = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    taken = torch.from_numpy(histories.indices.astype(np.int64))
    shares = (1 / torch.from_numpy(counts).clamp(min=1))[rows]
    vectors = normalize(torch.from_numpy(histories @ items.numpy()), dim=1).requires_grad_()
    optimiser = torch.optim.Adam([vectors], lr=LEARNING_RATE)
    for _ in range(STEPS):
        unit = normalize(vectors, dim=1)
        others = torch.logsumexp(unit @ items.T / objective.temperature + log_shown, dim=1)
        positive = (unit[rows] * items[taken]).sum(1) / objective.temperature
        loss = (shares * (torch.logaddexp(positive, others[rows]) - positive)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return normalize(vectors.detach(), dim=1)


def numbers(index: Any, ids: pl.Series) -> Any:
    """Internal numbers, -1 where unknown."""
    return index.find(ids.to_list())


def measured(parts: list[pl.DataFrame], model: Recommender, refit: Recommender) -> pl.DataFrame:
    """A row for each user who has something new and something to judge by; NDCG@20 by reading."""
    own, whole = model.model_, refit.model_
    _, between, after = parts
    users = between["user"].unique(maintain_order=True)
    place = {user: row for row, user in enumerate(users)}

    def matrix(part: pl.DataFrame) -> csr_array:
        rows = np.array([place.get(user, -1) for user in part["user"]])
        items = numbers(own._item_index, part["item"])
        known = (rows >= 0) & (items >= 0)
        return pair_matrix(rows[known], items[known], (len(users), len(own.items)))

    since, test = matrix(between), matrix(after)
    rows = np.flatnonzero((np.diff(since.indptr) > 0) & (np.diff(test.indptr) > 0))
    if len(rows) > MOST_USERS:
        rows = np.sort(numpy_generator(0, "users").choice(rows, MOST_USERS, replace=False))
    users, since, test = users.gather(rows), since[rows], test[rows]
    at, again = numbers(own._user_index, users), numbers(whole._user_index, users)
    before = rows_of(own.train, at)
    history, known = joined(before, since), at >= 0
    split = Split("test", *(axis.astype(np.int64) for axis in test.nonzero()))
    bias = own._bias(None)

    def ndcg(scorer: Scorer) -> np.ndarray:
        found = evaluate_split(scorer, split, history, ks=(20,), per_user=True).per_user
        assert found is not None
        return found.sort("user")[METRIC].to_numpy()

    def of(scorer: Scorer) -> np.ndarray:
        return ndcg(Biased(scorer, bias))

    n, nothing = len(at), csr_array(since.shape, dtype=np.float32)
    alike = torch.ones(n, 1)
    popular = ndcg(EmbeddingScorer(alike, item_counts(own.train).float()[:, None]))
    trained = of(own._of_users(np.maximum(at, 0), None))
    items = numbers(whole._item_index, own.items)
    columns = {
        "stale": np.where(known, trained, popular),
        "environment": of(EmbeddingScorer(0 * alike, torch.zeros(len(own.items), 1))),
        "part": of(own.fold_in(np.full(n, -1), since)),
        "history": of(own.fold_in(np.full(n, -1), before)),
        "folded": of(own.fold_in(at, since)),
        "vectors": of(Columns(whole._of_users(again, None), items)),
        "refit": ndcg(Columns(whole._of_users(again, whole._bias(None)), items)),
    }
    if isinstance(own, EmbeddingModel):
        vectors = solved(model, history)
        if vectors is not None:
            columns["solved"] = of(EmbeddingScorer(vectors, own.item_embeddings))
    unchanged = own.fold_in(at[known], nothing[known])
    assert (of_all(unchanged) == of_all(own._of_users(at[known], None))).all()
    return pl.DataFrame({"new": ~known, **columns})


def of_all(scorer: Scorer) -> torch.Tensor:
    """``(n, I)`` the scores of all users."""
    return scorer.score_block(torch.arange(scorer.n_users), 0, scorer.n_items)


def summary(rows: pl.DataFrame) -> dict[str, Any]:
    """Means, and what is kept of two gains, of known users and of new ones."""
    found: dict[str, Any] = {}
    for name, group in (("known", rows.filter(~pl.col("new"))), ("new", rows.filter("new"))):
        if len(group) < 2:
            continue
        means = group.drop("new").mean().row(0, named=True)
        gain = bootstrap_means((group["folded"] - group["stale"]).to_numpy()[:, None], seed=0)[0]
        found[name] = {
            "users": len(group),
            **{key: round(value, 4) for key, value in means.items()},
            "gain": [round(value, 4) for value in (gain.value, gain.low, gain.high)],
            "kept": {
                of: round(gain.value / (means[of] - means["stale"]), 2)
                for of in ("vectors", "refit")
                if means[of] > 1.02 * means["stale"]
            },
        }
    return found


def trained(part: pl.DataFrame, model: str, seed: int, place: Path | None) -> Recommender:
    """A model trained on a part of a log, or as it was kept."""
    if place is not None and place.is_dir():
        return Recommender.load(place)
    log = Interactions(part.select("user", "item"), "log")
    data = Dataset.from_splits({"train": log}, name="log", scenario="given")
    fitted = Recommender(**MODELS[model], seed=seed).fit(data)
    if place is not None:
        fitted.save(place)
    return fitted


def milliseconds(n_items: int = 100_000, dim: int = 64, length: int = 50) -> float:
    """The median of folding in one user, in one thread, once the map is fitted."""
    torch.set_num_threads(1)
    rng, n_users = numpy_generator(0, "timing"), 20_000
    train = pair_matrix(
        np.repeat(np.arange(n_users), length),
        rng.integers(0, n_items, n_users * length),
        (n_users, n_items),
    )
    train = joined(train, csr_array(train.shape))
    model: Model = EmbeddingModel(
        users=pl.Series(range(n_users)),
        items=pl.Series(range(n_items)),
        train=train,
        dial_step=torch.zeros(n_items),
        user_embeddings=torch.randn(n_users, dim),
        item_embeddings=torch.randn(n_items, dim),
    )
    since, times = pair_matrix(np.zeros(3, int), np.arange(3), (1, n_items)), []
    for user in range(200):
        started = time.perf_counter()
        model.fold_in(np.array([user]), since)
        times.append(time.perf_counter() - started)
    print(f"fitting the map to {n_users:,} users and the first: {1e3 * times[0]:.0f} ms")
    return 1e3 * float(np.median(times[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--runs", type=Path, help="where trained models are kept")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for name in options.sets:
        for model in options.models:
            frames = []
            for seed in options.seeds:
                parts = cut(name, log_of(name, options.data, seed), seed)
                fits = []
                for end in (1, 2):
                    label = f"{name}-{seed}-{model}-{end}"
                    place = None if options.runs is None else options.runs / label
                    fits.append(trained(pl.concat(parts[:end]), model, seed, place))
                frames.append(measured(parts, *fits))
            results[f"{name} {model}"] = summary(pl.concat(frames, how="diagonal"))
            print(name, model, json.dumps(results[f"{name} {model}"], indent=1), flush=True)
    results["milliseconds"] = round(milliseconds(), 2)
    print(f"folding in one user of 50 items among 100,000: {results['milliseconds']} ms")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
