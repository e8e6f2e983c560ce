"""What content is worth for new items, beside its controls and references without a model.

    python benchmarks/new_items.py --data FOLDER --sets citeulike-a lastfm world --json FILE

Of each set a fifth of the items, drawn by the seed, are new (``grocery``, ``ml-100k``: those that
come after a cut in time; ``coat`` has none). All choices are made on items held out of train; no
test pair is read before. Rows:

- ``without``: the model alone, new items in no list;
- ``auto``: content as it is chosen; ``permuted``: the same with the features of other items;
- ``mean``: new items at the mean of all, the control of all priors;
- ``diffusion``: the conditional diffusion as the prior, where ``--diffusion`` asks for it;
- ``profile``: no model, the cosine of an item to the sum of what is known of the user's items;
- ``knn``: no model, the sum of cosines to the nearest of the user's items;
- ``dropoutnet``, ``clcrec``: see ``benchmarks/content_rivals.py``.

Names of ``grocery`` say more: ``rehearsed``, the environment is chosen by rehearsal; ``related``,
complements and substitutes are among the features, which the shop has gathered by the end of the
log, so that they know of its future. ``ml-100k`` is to be fetched first.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from content_rivals import CONTRASTS, DROPOUTS, choose, clcrec, dropout_net, learn

from cnsdiff import ConfoundedWorld, Recommender, prepare
from cnsdiff.backbones.base import Embeddings
from cnsdiff.content.choice import HeldOut, learnt_on
from cnsdiff.content.features import FeatureEncoder
from cnsdiff.content.model import Learnt
from cnsdiff.content.towers import profiles
from cnsdiff.data import Dataset
from cnsdiff.environment.rehearsal import hold_out_items, rehearse
from cnsdiff.evaluation import EmbeddingScorer, Scorer, evaluate, exposure_score
from cnsdiff.evaluation.new_items import evaluate_new_items
from cnsdiff.shifts import NewItems, Scenario, Temporal
from cnsdiff.shifts.sources import find_source

SETS = (
    *("citeulike-a", "lastfm", "world", "grocery", "grocery-related", "grocery-rehearsed"),
    *("grocery-rehearsed-related", "coat", "ml-100k"),
)
#: Size of what is made of words, by set; 256 elsewhere.
RANKS = {"citeulike-a": 1024}
NEIGHBOURS = 10
METRIC = "ndcg@20"


@dataclass(frozen=True)
class Source:
    """Log and item features of a set, how it is divided, and what chooses epochs."""

    log: Any
    items: pl.DataFrame
    scenario: Scenario | str
    settings: Mapping[str, Any] = field(default_factory=dict)
    select_on: str = "valid"

    def dataset(self, name: str, seed: int, items: pl.DataFrame) -> Dataset:
        """Divided, with these features."""
        return prepare(
            self.log, self.scenario, name=name, seed=seed, item_features=items, **self.settings
        )


def read(name: str, folder: Path | None, seed: int) -> Source:
    """A set by its name."""
    divided = NewItems(by="random")
    if name == "world":
        world = ConfoundedWorld(n_users=1500, n_items=900, seed=seed)
        dataset = world.dataset()
        items = dataset.table("item_features").with_columns(item=dataset.items)
        log = world.clicks(world.periods).select("user", "item", "timestamp")
        return Source(log.filter(pl.col("item").is_in(items["item"].implode())), items, divided)
    if name == "ml-100k":
        items = find_source(name).features["item_features"]
        return Source(name, items.rename({items.columns[0]: "item"}), Temporal())
    if folder is None:
        raise SystemExit(f"{name} needs --data FOLDER")
    if name == "citeulike-a":
        users, tags = (
            [line.split()[1:] for line in (folder / name / file).read_text().splitlines()]
            for file in ("users.dat", "item-tag.dat")
        )
        log = pl.DataFrame({"user": range(len(users)), "item": users}).explode("item")
        log = log.with_columns(pl.col("item").cast(pl.Int64))
        return Source(log, pl.DataFrame({"item": range(len(tags)), "tags": tags}), divided)
    if name == "lastfm":
        log = pl.read_csv(folder / name / "user_artists.dat", separator="\t")
        tagged = pl.read_csv(
            folder / name / "user_taggedartists.dat", separator="\t", encoding="utf8-lossy"
        )
        tags = tagged.group_by("artistID").agg(pl.col("tagID").cast(pl.String).alias("tags"))
        items = tags.rename({"artistID": "item"}).sort("item")
        return Source(log.select(user="userID", item="artistID"), items, divided)
    if name.startswith("grocery"):
        log = pl.read_csv(folder / "grocery" / "train.csv", separator="\t")
        log = log.select(user="user_id", item="item_id", timestamp="time")
        items = pl.read_csv(folder / "grocery" / "item_meta.csv", separator="\t")
        columns = [pl.col("item_id").alias("item")]
        columns.append(pl.col("i_category").cast(pl.String).alias("category"))
        if name.endswith("related"):
            columns += [
                pl.col(column).cast(pl.String).str.extract_all(r"\d+").alias(column)
                for column in ("r_complement", "r_substitute")
            ]
        select_on = "rehearsal" if name.startswith("grocery-rehearsed") else "valid"
        return Source(log, items.select(columns), Temporal(), select_on=select_on)
    if name == "coat":
        lines = (folder / name / "item_features.ascii").read_text().splitlines()
        names = (folder / name / "item_features_map.txt").read_text().splitlines()
        rows = np.array([line.split() for line in lines]).astype(np.int64)
        # A kind, "jackettype:bomber", is one of several columns of its own.
        tags = [[names[place] for place in np.flatnonzero(row)] for row in rows]
        items = pl.DataFrame({"item": range(len(tags)), "tags": tags})
        settings = {
            "randomised": folder / name / "random.txt",
            "threshold": 4,
            "test_share": 0.1,
        }
        return Source(folder / name / "user.txt", items, "exposure", settings)
    raise SystemExit(f"unknown set {name!r}; there are {', '.join(SETS)}")


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


class Known:
    """A scorer without the new items."""

    def __init__(self, scorer: Scorer, n_items: int) -> None:
        self.scorer, self.n_users, self.n_items = scorer, scorer.n_users, n_items

    def score_block(self, users: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """See :class:`cnsdiff.evaluation.Scorer`."""
        return self.scorer.score_block(users, start, stop)


def with_content(model: Recommender, data: Dataset) -> Scorer:
    """All items, new ones by their features."""
    joint, own = data.with_new_items(), model.model_
    n = data.n_items
    if joint.n_items > n:
        own = own.with_items(joint.items[n:], joint.table("item_features")[n:])
    return own.scorer()


def without_content(model: Recommender, joint: Dataset) -> Scorer:
    """The model alone: new items are never listed."""
    own = model.model_.scorer()
    if joint.n_items == own.n_items:
        return own
    n_new = joint.n_items - own.n_items
    vectors = torch.cat([own.item_embeddings, torch.zeros(n_new, own.item_embeddings.shape[1])])
    bias = torch.zeros(own.n_items) if own.item_bias is None else own.item_bias
    never = torch.full((n_new,), -torch.inf)
    return EmbeddingScorer(own.user_embeddings, vectors, torch.cat([bias, never]))


def permuted(items: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Each item with the features of another."""
    order = np.random.default_rng(seed).permutation(len(items))
    return items.drop("item")[order].with_columns(items["item"])


def learnt_of(
    base: Recommender, data: Dataset, joint: Dataset, rank: int
) -> tuple[HeldOut, Learnt]:
    """What rivals choose on and learn from: what ``base`` has learnt, of a part and of all.

    The part is that of a rehearsal, or without a tenth of the items; the model of it stops where
    its held-out pairs say.
    """
    own, seed = base.model_, base.seed
    rehearsed = own.environment is not None
    part = rehearse(data) if rehearsed else hold_out_items(data, seed=seed)
    # As if its held-out pairs were not there: no refit.
    again = Recommender(seed=seed, threads=1, training={"fhn_every": None})
    again.fit(part.dataset, select_on="valid", refit=False)
    assert again.model_.train.nnz == len(part.dataset.split("train"))

    def bias_on(dataset: Dataset) -> torch.Tensor | None:
        if own.environment is not None:
            activity = own.environment.activity(dataset.split("train"), dataset.n_items)
            return own.environment.bias(activity)
        return own.dial * exposure_score(dataset) if own.dial else None

    features = joint.table("item_features")
    encoder = FeatureEncoder.fit(features[: data.n_items], rank=rank, seed=seed)
    encoded = torch.from_numpy(encoder.vectors(features))
    tables = Embeddings(again.user_embeddings_, again.item_embeddings_)
    if rehearsed:
        tables = tables.in_own_units()
    learnt, warm, new = learnt_on(
        part, tables, bias_on(part.dataset), encoded[: part.whole.n_items]
    )
    some = np.ones(len(new), dtype=bool)
    none = torch.zeros(joint.n_items - data.n_items, base.item_embeddings_.shape[1])
    whole = part.whole if rehearsed else data
    bias = torch.zeros(joint.n_items)
    own_bias = bias_on(whole)
    if own_bias is not None:
        bias[: data.n_items] = own_bias
    everything = Learnt(
        Embeddings(base.user_embeddings_, torch.cat([base.item_embeddings_, none])),
        whole.split("train").csr(joint.n_users, joint.n_items),
        bias,
        encoded,
    )
    return HeldOut(learnt, warm, new, METRIC, some), everything


def measured(
    name: str, folder: Path | None, seed: int, epochs: int | None, diffusion: bool
) -> dict[str, Any]:
    """All rows of a set and a seed."""
    source = read(name, folder, seed)
    dataset = source.dataset(name, seed, source.items)
    shuffled = source.dataset(name, seed, permuted(source.items, seed))
    joint, rank = dataset.with_new_items(), RANKS.get(name, 256)
    training: dict[str, Any] = {"fhn_every": None}
    if epochs is not None:
        training["epochs"] = epochs
    rows: dict[str, Any] = {}

    def keep(row: str, scorer: Scorer, seconds: float, chosen: Any = None) -> None:
        splits = evaluate(Known(scorer, dataset.n_items), dataset, ["test_iid", "test_ood"]).splits
        found = {split: own.metrics[METRIC] for split, own in splits.items()}
        if joint.n_items > dataset.n_items:
            of_new = asdict(evaluate_new_items(scorer, joint, dataset.n_items))
            found |= {of: of_new[of][METRIC] for of in ("warm", "new", "joint", "harmonic")}
            found |= {of: of_new[of] for of in ("share_listed", "share_taken", "n_users")}
        rows[row] = found | {"seconds": seconds, "chosen": chosen}
        told = " ".join(f"{of} {own:.4f}" for of, own in found.items() if isinstance(own, float))
        print(f"{name} seed {seed} {row}: {told} ({seconds:.0f} s)", flush=True)

    for row, scorer in of_references(joint, dataset.n_items, rank).items():
        keep(row, scorer, 0.0)
    base = None
    for row, data, prior in (
        ("without", dataset, "none"),
        ("auto", dataset, "auto"),
        ("mean", dataset, "mean"),
        ("diffusion", dataset, "diffusion"),
        ("permuted", shuffled, "auto"),
    ):
        if row == "diffusion" and not diffusion:
            continue
        started = time.monotonic()
        model = Recommender(
            seed=seed, threads=1, training=training, content={"prior": prior, "rank": rank}
        )
        refit = {"refit": False} if source.select_on == "valid" else {}
        model.fit(data, select_on=source.select_on, **refit)
        seconds = time.monotonic() - started
        chosen = None if model.content_ is None else model.content_.model_dump()
        if chosen is None or not chosen["used"]:
            keep(row, without_content(model, joint), seconds, chosen)
        else:
            keep(row, with_content(model, data), seconds, chosen)
        base = base or model
    assert base is not None
    if joint.n_items > dataset.n_items:
        held, everything = learnt_of(base, dataset, joint, rank)
        for row, rival, settings in (
            ("dropoutnet", dropout_net, DROPOUTS),
            ("clcrec", clcrec, CONTRASTS),
        ):
            started = time.monotonic()
            found = choose(rival, settings, held, seed)
            scorer = learn(rival, found, everything, seed)
            keep(row, scorer, time.monotonic() - started, asdict(found))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the published files")
    parser.add_argument("--sets", nargs="+", default=["world"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, help="fewer, for a quick look")
    parser.add_argument("--diffusion", action="store_true", help="its row, too; it takes longest")
    parser.add_argument("--json", type=Path, help="where the outcomes go")
    args = parser.parse_args()
    outcomes = {}
    for name in args.sets:
        for seed in args.seeds:
            outcomes[f"{name}/{seed}"] = measured(
                name, args.data, seed, args.epochs, args.diffusion
            )
            if args.json is not None:
                args.json.write_text(json.dumps(outcomes, indent=1))


if __name__ == "__main__":
    main()
