"""Users whose lists under the shift improve most, and the one whose list suffers most, by item.

    python benchmarks/examples.py DATASET [--methods dns default] [--select-on inverse-popularity]
                                  [--at-least 5] [--users 3] [--seed 0] [--json FILE]

Needs a dataset with the side table ``item_features`` and its columns ``title``, ``genres``, as
ml-100k has them. Both models begin at the spectral embedding, and validation, weighted for the
shift, picks their epoch and dial. The users are picked by their OOD test: this tells what changes
in lists, not how much on average.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from cnsdiff import Dataset, Recommender, load_dataset
from cnsdiff.evaluation import rank
from cnsdiff.recommender.presets import PRESETS

K, METRIC = 10, "ndcg@10"


def train(method: str, dataset: Dataset, options: argparse.Namespace) -> Recommender:
    """A preset, or the name of a sampler that BPR trains with."""
    chosen: dict[str, Any] = {"preset": method}
    if method not in PRESETS:
        chosen = {"sampler": method, "backbone_options": {"init": "spectral"}}
    training = {"fhn_every": None, "dial": "auto", "select_on": options.select_on}
    model = Recommender(**chosen, seed=options.seed, threads=options.threads, training=training)
    return model.fit(dataset)


def per_user(model: Recommender, dataset: Dataset) -> dict[int, float]:
    """NDCG@10 on the OOD test by internal user number."""
    frame = model.evaluate(dataset, ("test_ood",), per_user=True)["test_ood"].per_user
    assert frame is not None
    return dict(zip(frame["user"].to_list(), frame[METRIC].to_list(), strict=True))


class Catalogue:
    """Titles, genres and ranks by training popularity, by internal item number."""

    def __init__(self, dataset: Dataset) -> None:
        features = dataset.table("item_features")
        self.titles = [_in_order(title) for title in features["title"].to_list()]
        self.genres = [(genres or "").split("|") for genres in features["genres"].to_list()]
        counts = np.bincount(dataset.split("train").items, minlength=dataset.n_items)
        #: 1 is the most popular; items with equally many interactions share a rank.
        self.ranks: NDArray[np.int64] = rankdata(-counts, method="min").astype(np.int64)

    def item(self, number: int, hits: frozenset[int] = frozenset()) -> dict[str, Any]:
        rank_ = int(self.ranks[number])
        return {"title": self.titles[number], "rank": rank_, "hit": number in hits}

    def taste(self, items: list[int]) -> dict[str, Any]:
        """The most frequent genres with their shares, and the three best-known titles."""
        genres = Counter(genre for item in items for genre in self.genres[item])
        best_known = sorted(items, key=lambda item: (self.ranks[item], item))[:3]
        return {
            "watched": len(items),
            "genres": {name: round(n / len(items), 2) for name, n in genres.most_common(3)},
            "titles": [self.titles[item] for item in best_known],
            "median_rank": int(np.median(self.ranks[items])),
        }


def _in_order(title: str) -> str:
    """``Jungle Book, The`` as it is said."""
    for article in ("The", "A", "An", "Il", "La", "Le", "El", "Das"):
        if title.endswith(f", {article}"):
            return f"{article} {title.removesuffix(f', {article}')}"
    return title


def story(
    user: int, dataset: Dataset, models: dict[str, Recommender], catalogue: Catalogue
) -> dict[str, Any]:
    """What a user watched, and the top 10 of either model with the hits of the OOD test."""
    watched, wanted = (
        split.items[split.users == user].tolist()
        for split in (dataset.split("train"), dataset.split("test_ood"))
    )
    matrix = dataset.split("train").csr(dataset.n_users, dataset.n_items)
    lists = {}
    for name, model in models.items():
        items, _ = rank(model.model_.scorer(), torch.tensor([user]), K, exclude=matrix)
        lists[name] = [catalogue.item(item, frozenset(wanted)) for item in items[0].tolist()]
    return {
        "user": dataset.users[user],
        "history": catalogue.taste(watched),
        "ood_items": len(wanted),
        "ood": catalogue.taste(wanted),
        "lists": lists,
    }


def show(title: str, found: dict[str, Any]) -> None:
    history = found["history"]
    genres = ", ".join(f"{name} {share:.0%}" for name, share in history["genres"].items())
    print(f"\n{title}: user {found['user']}")
    print(f"  watched {history['watched']} (median rank {history['median_rank']}): {genres}")
    print(f"  among them {'; '.join(history['titles'])}")
    wanted = found["ood"]
    genres = ", ".join(f"{name} {share:.0%}" for name, share in wanted["genres"].items())
    print(f"  OOD test {found['ood_items']} (median rank {wanted['median_rank']}): {genres}")
    for name, items in found["lists"].items():
        hits = sum(item["hit"] for item in items)
        print(f"  {name}, {METRIC} {found[METRIC][name]:.3f}, {hits} hits; rank in training first")
        for item in items:
            print(f"    {'*' if item['hit'] else ' '} {item['rank']:>5}  {item['title']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--methods", nargs=2, default=["dns", "default"], help="before, after")
    parser.add_argument("--select-on", default="inverse-popularity")
    parser.add_argument("--at-least", type=int, default=5, help="OOD items of a user")
    parser.add_argument("--users", type=int, default=3, help="shown, beside the loss")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    dataset = load_dataset(options.dataset)
    catalogue = Catalogue(dataset)
    models = {name: train(name, dataset, options) for name in options.methods}
    before, after = (per_user(model, dataset) for model in models.values())
    held_out = np.bincount(dataset.split("test_ood").users, minlength=dataset.n_users)
    eligible = [user for user in before if held_out[user] >= options.at_least]
    gains = {user: after[user] - before[user] for user in eligible}
    # Equal ones by their number, so that the choice is the same whoever makes it.
    order = sorted(eligible, key=lambda user: (-gains[user], user))
    names = options.methods
    print(f"{dataset.name}, seed {options.seed}, selected on {options.select_on}")
    for name, values in zip(names, (before, after), strict=True):
        model = models[name]
        mean = np.mean([values[user] for user in eligible])
        print(
            f"  {name}: epoch {model.best_epoch_}, dial {model.dial_:g}, OOD {METRIC} "
            f"{np.mean(list(values.values())):.4f} of all, {mean:.4f} of those below"
        )
    won, lost = sum(g > 0 for g in gains.values()), sum(g < 0 for g in gains.values())
    print(
        f"of {len(eligible)} users with {options.at_least} or more OOD items {won} gain, {lost} "
        f"lose, {len(eligible) - won - lost} stay; shown: the largest {METRIC} gains of "
        f"{names[1]} over {names[0]}, and the largest loss; * is a hit"
    )
    picked = [(f"gain {k}", user) for k, user in enumerate(order[: options.users], start=1)]
    picked.append(("largest loss", order[-1]))
    stories = []
    for title, user in picked:
        found = story(user, dataset, models, catalogue)
        found[METRIC] = dict(zip(names, (before[user], after[user]), strict=True))
        show(title, found)
        stories.append({"picked_as": title, **found})
    if options.json:
        result = {
            "dataset": dataset.name, "seed": options.seed, "select_on": options.select_on,
            "gain": won, "lose": lost, "users": len(eligible), "stories": stories,
        }  # fmt: skip
        text = json.dumps(result, indent=2, ensure_ascii=False)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
