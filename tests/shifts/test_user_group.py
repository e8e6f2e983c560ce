"""User-group shift: by attribute, by range, by cluster."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from cnsdiff.base.errors import ConfigError, DataError
from cnsdiff.data import Interactions, Source
from cnsdiff.shifts import UserGroup
from cnsdiff.shifts.user_group import cluster_users

SIDE = ("train", "valid", "test_iid")


@pytest.mark.parametrize(
    ("settings", "group"),
    [
        ({"attribute": "country", "value": "pt"}, pl.col("country") == "pt"),
        ({"attribute": "country", "value": ["pt", "jp"]}, pl.col("country") != "is"),
        ({"attribute": "age", "value": 25}, pl.col("age") == 25),
        ({"attribute": "age", "value": [25.0, "26"]}, pl.col("age").is_in([25, 26])),
        ({"attribute": "age", "range": (30, 35)}, pl.col("age").is_between(30, 34)),
        ({"attribute": "age", "range": (None, 22)}, pl.col("age") < 22),
        ({"attribute": "age", "range": (50, None)}, pl.col("age") >= 50),
    ],
)
@pytest.mark.parametrize("strength", [0.5, 0.8])
def test_the_group_and_its_share(tiny, named, settings, group, strength):
    dataset = UserGroup(strength=strength, **settings)(tiny)
    members = set(tiny.features["user_features"].filter(group)["user"])
    ood = named(dataset, "test_ood")
    assert set(ood["user"]) == members
    assert dataset.manifest.log["group_users"] == len(members)
    rows = tiny.tables["log"].deduplicated().frame["user"].value_counts()
    sizes = dict(rows.rows())
    held = dict(ood["user"].value_counts().rows())
    # An item's only remaining row may belong to the group.
    assert all(held[user] <= int(strength * sizes[user] + 0.5) for user in members)
    asked = sum(int(strength * sizes[user] + 0.5) for user in members)
    assert ood.height >= asked - 5
    assert set(named(dataset, *SIDE)["user"]) == set(sizes)


def test_every_member_stays_known(named):
    rows = [(user, item) for user in range(40) for item in range(user % 3 + 1)]
    log = Interactions(pl.DataFrame(rows, ["user", "item"], orient="row"), "x")
    features = pl.DataFrame({"user": range(40), "late": [u % 2 == 1 for u in range(40)]})
    source = Source({"log": log}, {"user_features": features})
    scenario = UserGroup(attribute="late", value=True, strength=0.99, test_share=0.1)
    dataset = scenario(source)
    assert dataset.n_users == 40
    assert dataset.manifest.splits["test_ood"].dropped_unknown == 0
    assert set(named(dataset, "test_ood")["user"]) <= set(range(1, 40, 2))


def planted(rng):
    """Three groups of 60, 40 and 20 users, each at home in ten items of its own."""
    group = np.repeat([0, 1, 2], [60, 40, 20])
    users = np.repeat(np.arange(120), 8)
    home = rng.random(len(users)) < 0.9
    items = np.where(home, 10 * group[users], 0) + rng.integers(
        0, np.where(home, 10, 30), len(users)
    )
    order = rng.permutation(len(users))
    return group, users[order], items[order]


@pytest.mark.parametrize("seed", range(3))
def test_planted_clusters_are_found(seed):
    rng = np.random.default_rng(seed)
    group, users, items = planted(rng)
    # k-means may end in a local optimum; among a few starts it must find the planted one.
    matrix = sparse.csr_array((np.ones(len(users)), (users, items)), shape=(125, 30))
    assert (cluster_users(matrix, 3, 3, rng)[120:] == -1).all()
    agreements = [
        (cluster_users(matrix, 3, 3, np.random.default_rng(start))[:120] == group).mean()
        for start in range(5)
    ]
    assert max(agreements) > 0.95


def test_the_smallest_large_enough_cluster_is_held_out(tiny, named):
    dataset = UserGroup(clusters=4)(tiny)
    found = dataset.manifest.log
    sizes = found["cluster_sizes"]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == 60
    assert found["cluster"] == max(k for k, size in enumerate(sizes) if size >= 3)
    assert named(dataset, "test_ood")["user"].n_unique() <= sizes[found["cluster"]]
    chosen = UserGroup(clusters=4, cluster=0)(tiny)
    assert chosen.manifest.log["group_users"] == sizes[0]
    assert UserGroup(clusters=4)(tiny).fingerprint == dataset.fingerprint


def test_the_group_differs_from_the_rest():
    _, users, items = planted(np.random.default_rng(0))
    log = Interactions(pl.DataFrame({"user": users, "item": items}), "x").deduplicated()
    dataset = UserGroup(clusters=3, cluster=2, dimensions=3)(log, seed=1)
    ood = dataset.decode_items(dataset.split("test_ood").items).to_numpy()
    iid = dataset.decode_items(dataset.split("test_iid").items).to_numpy()
    homes = np.bincount(ood // 10, minlength=3) / len(ood)
    assert homes.max() > 0.8
    assert np.bincount(iid // 10, minlength=3)[homes.argmax()] / len(iid) < 0.6


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"attribute": "contry", "value": "pt"}, r"no attribute 'contry' \(did you mean 'country'"),
        ({"attribute": "country"}, "needs either a value or a range to hold out; its values are"),
        ({"attribute": "country", "value": "prt"}, "no user has country 'prt'"),
        ({"attribute": "age", "value": "old"}, "no user has age 'old'"),
        ({"attribute": "country", "range": (1, 2)}, "is not numeric"),
        ({"attribute": "age", "range": (90, None)}, "no user of the log is in the group"),
        ({"attribute": "age", "range": (0, None)}, "every user of the log is in the group"),
        ({"clusters": 61}, "60 users, fewer than the 61 clusters"),
        ({"clusters": 3, "min_share": 0.9}, "no cluster has min_share 0.9 of the users"),
        ({"clusters": 3, "cluster": 7}, "there is no cluster 7; they are numbered from 0 to 2"),
        ({"attribute": "age", "value": 25, "strength": 0.001}, "none of the .* rows for test_ood"),
    ],
)
def test_refusals(tiny, settings, sentence):
    with pytest.raises((ConfigError, DataError), match=sentence):
        UserGroup(**settings)(tiny)


def test_nothing_known_of_users(long_tail):
    with pytest.raises(DataError, match=r"shop.csv: nothing is known.*user_features"):
        UserGroup(attribute="age", value=3)(long_tail)


def test_users_without_features_are_not_in_the_group(named, long_tail):
    features = pl.DataFrame({"user": range(100), "kind": ["a", "b"] * 50})
    source = Source({"log": long_tail}, {"user_features": features})
    dataset = UserGroup(attribute="kind", value="a")(source)
    assert set(named(dataset, "test_ood")["user"]) == set(range(0, 100, 2))
