"""What content is worth for new items, beside its controls and references without a model.

    python benchmarks/new_items.py --data FOLDER --sets citeulike-a lastfm world --json FILE

Of each set a fifth of the items, drawn by the seed, are new (``grocery``: those that come after a
cut in time). All choices are made on items held out of train; no test pair is read before. Rows:

- ``without``: the model alone, new items in no list;
- ``auto``: content as it is chosen; ``permuted``: the same with the features of other items;
- ``mean``: new items at the mean of all, the control of all priors;
- ``profile``: no model, the cosine of an item to the sum of what is known of the user's items;
- ``knn``: no model, the sum of cosines to the nearest of the user's items.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from cnsdiff import ConfoundedWorld, Recommender, prepare
from cnsdiff.content.features import FeatureEncoder
from cnsdiff.content.towers import profiles
from cnsdiff.data import Dataset
from cnsdiff.evaluation import EmbeddingScorer, Scorer
from cnsdiff.evaluation.new_items import evaluate_new_items
from cnsdiff.shifts import NewItems, Scenario, Temporal

#: Size of what is made of words, by set; 256 elsewhere.
RANKS = {"citeulike-a": 1024}
NEIGHBOURS = 10
METRIC = "ndcg@20"


def read(name: str, folder: Path | None, seed: int) -> tuple[pl.DataFrame, pl.DataFrame, Scenario]:
    """Log and item features of a set, and how it is divided."""
    divided: Scenario = NewItems(by="random")
    if name == "world":
        world = ConfoundedWorld(n_users=1500, n_items=900, seed=seed)
        dataset = world.dataset()
        items = dataset.table("item_features").with_columns(item=dataset.items)
        log = world.clicks(world.periods).select("user", "item", "timestamp")
        return log.filter(pl.col("item").is_in(items["item"].implode())), items, divided
    if folder is None:
        raise SystemExit(f"{name} needs --data FOLDER")
    if name == "citeulike-a":
        users, tags = (
            [line.split()[1:] for line in (folder / name / file).read_text().splitlines()]
            for file in ("users.dat", "item-tag.dat")
        )
        log = pl.DataFrame({"user": range(len(users)), "item": users}).explode("item")
        log = log.with_columns(pl.col("item").cast(pl.Int64))
        return log, pl.DataFrame({"item": range(len(tags)), "tags": tags}), divided
    if name == "lastfm":
        log = pl.read_csv(folder / name / "user_artists.dat", separator="\t")
        tagged = pl.read_csv(
            folder / name / "user_taggedartists.dat", separator="\t", encoding="utf8-lossy"
        )
        tags = tagged.group_by("artistID").agg(pl.col("tagID").cast(pl.String).alias("tags"))
        items = tags.rename({"artistID": "item"}).sort("item")
        return log.select(user="userID", item="artistID"), items, divided
    if name == "grocery":
        log = pl.read_csv(folder / name / "train.csv", separator="\t")
        log = log.select(user="user_id", item="item_id", timestamp="time")
        items = pl.read_csv(folder / name / "item_meta.csv", separator="\t")
        lists = [
            pl.col(column).cast(pl.String).str.extract_all(r"\d+").alias(column)
            for column in ("r_complement", "r_substitute")
        ]
        category = pl.col("i_category").cast(pl.String).alias("category")
        return log, items.select(pl.col("item_id").alias("item"), category, *lists), Temporal()
    raise SystemExit(f"unknown set {name!r}; there are citeulike-a, lastfm, world, grocery")


def of_references(joint: Dataset, n_known: int, rank: int) -> dict[str, Scorer]:
    """Profile and nearest neighbours, of features alone."""
    features = joint.table("item_features")
    encoder = FeatureEncoder.fit(features[:n_known], rank=rank)
    vectors = torch.from_numpy(encoder.vectors(features))
    train = joint.split("train").csr(joint.n_users, joint.n_items)
    profile = torch.nn.functional.normalize(profiles(train, vectors), dim=1)
    return {"profile": EmbeddingScorer(profile, vectors), "knn": Neighbours(train, vectors)}


class Neighbours:
    """The sum of the cosines to the nearest items that a user has."""

    def __init__(self, train: Any, vectors: torch.Tensor) -> None:
        self.train, self.vectors = train, vectors
        self.n_users, self.n_items = train.shape

    def score_block(self, users: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """See :class:`cnsdiff.evaluation.Scorer`."""
        blocks = []
        for user in users.tolist():
            own = torch.from_numpy(self.train[[user]].indices.astype(np.int64))
            cosines = self.vectors[own] @ self.vectors[start:stop].T
            blocks.append(cosines.topk(min(NEIGHBOURS, len(own)), dim=0).values.sum(dim=0))
        return torch.stack(blocks)


def without_content(model: Recommender, joint: Dataset) -> Scorer:
    """The model alone: new items are never listed."""
    own = model.model_.scorer()
    n_new = joint.n_items - own.n_items
    vectors = torch.cat([own.item_embeddings, torch.zeros(n_new, own.item_embeddings.shape[1])])
    bias = torch.zeros(own.n_items) if own.item_bias is None else own.item_bias
    never = torch.full((n_new,), -torch.inf)
    return EmbeddingScorer(own.user_embeddings, vectors, torch.cat([bias, never]))


def permuted(items: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Each item with the features of another."""
    order = np.random.default_rng(seed).permutation(len(items))
    return items.drop("item")[order].with_columns(items["item"])


def measured(name: str, folder: Path | None, seed: int, epochs: int | None) -> dict[str, Any]:
    """All rows of a set and a seed."""
    log, items, scenario = read(name, folder, seed)
    dataset = prepare(log, scenario, item_features=items, seed=seed, name=name)
    shuffled = prepare(log, scenario, item_features=permuted(items, seed), seed=seed, name=name)
    joint, rank = dataset.with_new_items(), RANKS.get(name, 256)
    training: dict[str, Any] = {"fhn_every": None}
    if epochs is not None:
        training["epochs"] = epochs
    rows: dict[str, Any] = {}

    def keep(row: str, found: Any, seconds: float, chosen: Any = None) -> None:
        rows[row] = asdict(found) | {"seconds": seconds, "chosen": chosen}
        values = [getattr(found, of)[METRIC] for of in ("warm", "new", "joint", "harmonic")]
        told = " ".join(f"{value:.4f}" for value in values)
        print(f"{name} seed {seed} {row}: warm new joint harmonic {told} ({seconds:.0f} s)")

    for row, scorer in of_references(joint, dataset.n_items, rank).items():
        keep(row, evaluate_new_items(scorer, joint, dataset.n_items), 0.0)
    for row, data, prior in (
        ("without", dataset, "none"),
        ("auto", dataset, "auto"),
        ("mean", dataset, "mean"),
        ("permuted", shuffled, "auto"),
    ):
        started = time.monotonic()
        model = Recommender(
            seed=seed, threads=1, training=training, content={"prior": prior, "rank": rank}
        )
        model.fit(data, select_on="valid", refit=False)
        seconds = time.monotonic() - started
        if model.content_ is not None and model.content_.used:
            found = model.evaluate_new_items(data)
            keep(row, found, seconds, model.content_.model_dump())
        else:
            scorer = without_content(model, joint)
            keep(row, evaluate_new_items(scorer, joint, dataset.n_items), seconds)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the published files")
    parser.add_argument("--sets", nargs="+", default=["world"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, help="fewer, for a quick look")
    parser.add_argument("--json", type=Path, help="where the outcomes go")
    args = parser.parse_args()
    outcomes = {}
    for name in args.sets:
        for seed in args.seeds:
            outcomes[f"{name}/{seed}"] = measured(name, args.data, seed, args.epochs)
            if args.json is not None:
                args.json.write_text(json.dumps(outcomes, indent=1))


if __name__ == "__main__":
    main()
