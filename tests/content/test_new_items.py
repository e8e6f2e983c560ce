"""New items in a dataset, and the measure of how well they are placed, against a naive loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnsdiff import ConfoundedWorld, Recommender, load_dataset, prepare
from cnsdiff.base.errors import CnsdiffWarning, ConfigError, DataError, InputError
from cnsdiff.data import Dataset, Interactions
from cnsdiff.evaluation import EmbeddingScorer
from cnsdiff.evaluation.new_items import evaluate_new_items
from cnsdiff.evaluation.protocol import splits_to_evaluate
from cnsdiff.export import dataset_to_csv
from cnsdiff.shifts import NewItems, prepare_given
from cnsdiff.testing import check_scenario, tiny_source

WORLD = ConfoundedWorld(n_users=120, n_items=100, exposures=50, seed=0)
ITEMS = WORLD.dataset().table("item_features").with_columns(item=WORLD.dataset().items)
LOG = WORLD.clicks(WORLD.periods).select("user", "item", "timestamp")
LOG = LOG.filter(pl.col("item").is_in(ITEMS["item"].implode()))


@pytest.fixture(scope="module")
def dataset():
    return prepare(LOG, "new-items", item_features=ITEMS, seed=2)


def test_the_contract_of_scenarios():
    source = tiny_source()
    items = source.tables["log"].frame["item"].unique()
    features = pl.DataFrame({"item": items, "colour": items.cast(pl.String)})
    check_scenario(NewItems(), replace(source, features={"item_features": features}))


def test_new_items_are_the_last_seen_and_train_has_none_of_them(dataset):
    table, pairs = dataset.table("new_item_features"), dataset.table("new_item_pairs")
    n_items = LOG["item"].n_unique()
    assert dataset.n_new_items == len(table) <= round(0.2 * n_items)
    assert not table["id"].is_in(dataset.items.implode()).any()
    first = LOG.group_by("item").agg(pl.col("timestamp").min())
    new = first.filter(pl.col("item").is_in(table["id"].implode()))["timestamp"].min()
    old = first.filter(pl.col("item").is_in(dataset.items.implode()))["timestamp"].max()
    assert new >= old
    # Every pair of a known user with one of them, and their features as given.
    known = LOG.filter(
        pl.col("item").is_in(table["id"].implode()) & pl.col("user").is_in(dataset.users.implode())
    ).unique(["user", "item"])
    assert len(pairs) == len(known)
    assert set(pairs["split"]) == {"test_ood"}
    given = ITEMS.filter(pl.col("item").is_in(table["id"].implode())).sort("item")
    kept = table.sort("id")
    assert kept.drop("id").equals(given.select(kept.columns[1:]))
    counts = dataset.manifest.splits["test_ood"]
    assert counts.new_item_pairs == len(pairs)


def test_it_is_saved_and_read_with_them_and_its_fingerprint_knows_them(dataset, tmp_path):
    dataset.save(tmp_path / "data")
    again = load_dataset(tmp_path / "data")
    assert again.table("new_item_pairs").equals(dataset.table("new_item_pairs"))
    assert again.fingerprint == dataset.fingerprint
    other = prepare(LOG, NewItems(by="random"), item_features=ITEMS, seed=2)
    assert other.fingerprint != dataset.fingerprint


def test_without_features_nothing_changes():
    plain = prepare(LOG, "temporal", seed=0, quantile=0.5)
    told = prepare(LOG, "temporal", seed=0, quantile=0.5, item_features=ITEMS)
    assert plain.n_new_items == 0
    assert plain.with_new_items() is plain
    for split in plain.split_names:
        np.testing.assert_array_equal(plain.split(split).items, told.split(split).items)
    gone = plain.manifest.splits["test_ood"].dropped_unknown
    kept = told.manifest.splits["test_ood"]
    assert gone == kept.dropped_unknown + kept.new_item_pairs


def test_with_new_items_the_pairs_are_there_and_train_is_as_it_was(dataset):
    joint = dataset.with_new_items()
    assert joint.n_items == dataset.n_items + dataset.n_new_items
    assert joint.items[: dataset.n_items].equals(dataset.items)
    np.testing.assert_array_equal(joint.split("train").items, dataset.split("train").items)
    pairs = dataset.table("new_item_pairs")
    assert len(joint.split("test_ood")) == len(dataset.split("test_ood")) + len(pairs)
    test = joint.split("test_ood")
    ids = joint.decode_items(test.items[test.items >= dataset.n_items])
    assert ids.equals(dataset.table("new_item_features")["id"].gather(pairs["item"]))
    assert len(joint.table("item_features")) == joint.n_items


def test_users_whose_target_is_known_have_no_new_pair_in_a_test(dataset):
    pairs = dataset.table("new_item_pairs")
    who = dataset.decode_users(pairs["user"].unique().sort().to_numpy()[:3])
    sample = LOG.filter(pl.col("user").is_in(who.implode())).select("user", "item")
    told = prepare(LOG, "new-items", item_features=ITEMS, seed=2, target_sample=sample)
    left = told.table("new_item_pairs")
    assert not told.decode_users(left["user"].unique().to_numpy()).is_in(who.implode()).any()
    assert len(left) < len(pairs)
    assert told.manifest.splits["test_ood"].new_item_pairs == len(left)


def test_features_are_those_of_the_id_as_it_is_written():
    test = {"user": [1, 1, 2], "item": [2, 9, 10]}
    items = ["1", "009", "9", "10", "2"]
    features = pl.DataFrame({"item": items, "colour": ["a", "wrong", "nine", "ten", "b"]})
    splits = {
        "train": Interactions(pl.DataFrame({"user": [1, 2, 2], "item": [1, 1, 2]}), "train"),
        "test_ood": Interactions(pl.DataFrame(test), "test"),
    }
    made = Dataset.from_splits(
        splits, name="x", scenario="given", tables={"item_features": features}
    )
    table = made.table("new_item_features")
    assert table.rows() == [(9, "nine"), (10, "ten")]
    twice = pl.concat([features, features[2:3]])
    with pytest.raises(DataError, match="item 9 has more than one row"):
        Dataset.from_splits(splits, name="x", scenario="given", tables={"item_features": twice})


def test_a_hybrid_has_no_new_items():
    with pytest.raises(ConfigError, match="new-items cannot be a part"):
        prepare(LOG, "hybrid", first="new-items", item_features=ITEMS)
    with pytest.raises(ConfigError, match="new-items cannot be a part"):
        prepare(LOG, "hybrid", second="new-items", item_features=ITEMS)


@pytest.mark.parametrize("second", ["popularity", "user-group"])
def test_a_hybrid_keeps_later_new_items(second):
    settings = {"quantile": 0.4}
    chosen = {"first": {"name": "temporal", **settings}, "second": second, "seed": 0}
    plain = prepare(LOG, "hybrid", **chosen)
    told = prepare(LOG, "hybrid", item_features=ITEMS, **chosen)
    for split in plain.split_names:
        np.testing.assert_array_equal(plain.split(split).items, told.split(split).items)
        np.testing.assert_array_equal(plain.split(split).users, told.split(split).users)
    late = prepare(LOG, "temporal", item_features=ITEMS, seed=0, **settings)
    ours, all_of_them = (
        own.table("new_item_pairs").select(
            pl.Series("user", own.decode_users(own.table("new_item_pairs")["user"].to_numpy())),
            own.table("new_item_features")["id"]
            .gather(own.table("new_item_pairs")["item"])
            .alias("item"),
        )
        for own in (told, late)
    )
    assert ours.join(all_of_them, on=["user", "item"], how="anti").is_empty()
    if second == "popularity":  # half of them, all items alike as far as they reach
        assert len(ours) == pytest.approx(len(all_of_them) * 0.1, abs=1)
    else:
        tested = told.decode_users(told.split("test_ood").users)
        theirs = all_of_them.filter(pl.col("user").is_in(tested.implode()))
        assert len(ours) == len(theirs) > 0


def test_it_is_exported_under_the_ids_as_given(dataset, tmp_path):
    dataset_to_csv(dataset, tmp_path / "csv")
    pairs = pl.read_csv(tmp_path / "csv" / "new_item_pairs.csv")
    features = pl.read_csv(tmp_path / "csv" / "new_item_features.csv")
    assert pairs.select("user", "item").join(LOG, on=["user", "item"], how="anti").is_empty()
    assert set(pairs["item"]) == set(features["item"])


def ndcg(ranking, relevant, k):
    gains = [1 / np.log2(place + 2) for place, item in enumerate(ranking[:k]) if item in relevant]
    return sum(gains) / sum(1 / np.log2(place + 2) for place in range(min(k, len(relevant))))


def test_the_measure_is_that_of_a_naive_loop(dataset):
    joint, rng = dataset.with_new_items(), torch.Generator().manual_seed(0)
    users = torch.randn(joint.n_users, 5, generator=rng)
    items = torch.randn(joint.n_items, 5, generator=rng)
    found = evaluate_new_items(EmbeddingScorer(users, items), joint, dataset.n_items, ks=(5,))
    scores, test = (users @ items.T).numpy(), joint.split("test_ood")
    train = joint.split("train").csr(joint.n_users, joint.n_items).toarray() > 0
    new = np.arange(joint.n_items) >= dataset.n_items
    for name, listed in (("warm", ~new), ("new", new), ("joint", new | ~new)):
        values, n_new = [], []
        for user in range(joint.n_users):
            relevant = {i for i in test.items[test.users == user] if listed[i]}
            if not relevant:
                continue
            row = np.where(listed & ~train[user], scores[user], -np.inf)
            ranking = np.argsort(-row)[:5]
            values.append(ndcg(ranking, relevant, 5))
            n_new.append(new[ranking].mean())
        assert getattr(found, name)["ndcg@5"] == pytest.approx(np.mean(values), abs=1e-6)
        assert found.n_users[name] == len(values)
    assert found.share_listed[5] == pytest.approx(np.mean(n_new))
    warm, fresh = found.warm["ndcg@5"], found.new["ndcg@5"]
    assert found.harmonic["ndcg@5"] == pytest.approx(2 * warm * fresh / (warm + fresh))
    assert found.share_taken == pytest.approx((test.items >= dataset.n_items).mean())


def test_a_model_with_content_places_new_items_better_than_chance(dataset):
    training = {"epochs": 4, "fhn_every": None}
    model = Recommender(training=training, content={"prior": "ridge"}, seed=0)
    found = model.fit(dataset).evaluate_new_items(dataset)
    joint = dataset.with_new_items()
    draw = torch.Generator().manual_seed(0)
    sizes = (joint.n_users, joint.n_items)
    noise = EmbeddingScorer(*(torch.randn(n, 3, generator=draw) for n in sizes))
    chance = evaluate_new_items(noise, joint, dataset.n_items)
    assert found.new["ndcg@20"] > 1.1 * chance.new["ndcg@20"]
    assert found.joint["ndcg@20"] > 1.5 * chance.joint["ndcg@20"]
    assert len(model.items_) == dataset.n_items  # measuring adds none


def test_what_cannot_be_is_said(dataset):
    with pytest.raises(DataError, match="nothing is known of its items"):
        prepare(LOG, "new-items")
    with pytest.raises(ConfigError, match="of which 97 have features, makes none new"):
        prepare(LOG, "new-items", item_features=ITEMS, share=0.001)
    plain = prepare(LOG, "popularity", item_features=ITEMS)
    scorer = EmbeddingScorer(torch.ones(plain.n_users, 1), torch.ones(plain.n_items, 1))
    with pytest.raises(DataError, match="has no pair of a new item with known features"):
        evaluate_new_items(scorer, plain, plain.n_items)
    other = EmbeddingScorer(torch.ones(3, 1), torch.ones(4, 1))
    with pytest.raises(InputError, match="has 3 users and 4 items, and the dataset with its new"):
        evaluate_new_items(other, dataset.with_new_items(), dataset.n_items)


def test_a_feature_may_be_called_id(tmp_path):
    train = pl.DataFrame({"user": [1, 1, 2, 2], "item": [1, 2, 1, 3]})
    later = pl.DataFrame({"user": [1, 2, 2], "item": [3, 9, 2]})
    features = pl.DataFrame({"item": [1, 2, 3, 9], "id": [4, 5, 6, 7], "x": ["a", "b", "a", "b"]})
    dataset = prepare_given(train, test_ood=later, item_features=features)
    joint = load_dataset(dataset.save(tmp_path / "data")).with_new_items()
    table = joint.table("item_features").insert_column(0, joint.items.alias("item"))
    assert table.sort("item").equals(features)
    dataset_to_csv(dataset, tmp_path / "out")
    exported = pl.read_csv(tmp_path / "out" / "new_item_features.csv")
    assert exported.to_dicts() == [{"item": 9, "id": 7, "x": "b"}]


def made(features: bool = True, **splits: list[tuple[int, int, int]]) -> Dataset:
    """A dataset of triples of user, item and time; even items and those above 90 have features."""
    tables = {
        name: Interactions(
            pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row"), name
        )
        for name, rows in splits.items()
    }
    ids = [item for item in range(100) if item % 2 == 0 or item > 90]
    table = pl.DataFrame({"item": ids, "size": [float(item) for item in ids]})
    return Dataset.from_splits(
        tables, name="x", scenario="given", tables={"item_features": table} if features else None
    )


TRAIN = [(1, 0, 5), (1, 1, 6), (2, 0, 7), (2, 2, 8)]
TRIPLES = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 9), st.integers(0, 30)), min_size=0, max_size=12
)


@settings(max_examples=60, deadline=None)
@given(TRIPLES, TRIPLES, TRIPLES)
@pytest.mark.filterwarnings("ignore")
def test_new_pairs_are_those_of_a_naive_loop(valid, iid, ood):
    # Each split has a pair of known ones that no other has.
    splits = {
        "train": [*TRAIN, (3, 3, 9), (3, 4, 9)],
        "valid": [*valid, (1, 3, 9)],
        "test_iid": [*iid, (2, 3, 9)],
        "test_ood": [*ood, (3, 0, 9)],
    }
    try:
        dataset, plain = made(**splits), made(features=False, **splits)
    except DataError:  # all of valid is in a test
        assert (1, 3) in {(user, item) for user, item, _ in [*iid, *ood]}
        return
    users, items = ({row[side] for row in splits["train"]} for side in (0, 1))
    expected: dict[tuple[str, int, int], int] = {}
    for name in ("valid", "test_iid", "test_ood"):
        for user, item, time in splits[name]:
            if user in users and item not in items and item % 2 == 0:
                key = name, user, item
                expected[key] = min(time, expected.get(key, time))
    for name, user, item in list(expected):
        tested = {("test_iid", user, item), ("test_ood", user, item)} & set(expected)
        if name == "valid" and tested:
            del expected[name, user, item]
    found = {}
    if dataset.n_new_items:
        ids = dataset.table("new_item_features")["id"]
        for user, item, split, time in (
            dataset.table("new_item_pairs").select("user", "item", "split", "timestamp").rows()
        ):
            key = split, dataset.users[user], ids[item]
            assert key not in found
            found[key] = time
        assert set(ids) == {item for _, _, item in expected}
        assert ids.is_unique().all()
    assert found == expected
    # Known pairs are as they are without features.
    assert plain.n_new_items == 0
    for name in splits:
        ours, theirs = dataset.split(name), plain.split(name)
        for column in ("users", "items", "timestamps"):
            np.testing.assert_array_equal(getattr(ours, column), getattr(theirs, column))
    joint = dataset.with_new_items()
    assert sum(len(joint.split(name)) for name in splits) == (
        len(expected) + sum(len(plain.split(name)) for name in splits)
    )


def test_fingerprints_stay_as_they_are():
    splits = {"train": TRAIN, "test_ood": [(1, 2, 9), (1, 4, 9), (2, 6, 8), (2, 4, 7)]}
    assert (
        made(features=False, **splits).fingerprint
        == "8adf09551bb2fbe128752d9bde72c4634be897368d665074e8fd07fb3c5665f8"
    )
    assert (
        made(**splits).fingerprint
        == "8a026516d5fd66129128e6b9cd1151a9133c979080b5411b49a3489cfd2f50eb"
    )
    assert (
        made(**splits).with_new_items().fingerprint
        == "78a659eb0d5f868b5c131b24a0d4b2490f9d14adc468c0ac9185f0141a660c3e"
    )


def test_a_dataset_with_its_new_items_is_another_one(dataset):
    joint = dataset.with_new_items()
    assert joint.fingerprint != dataset.fingerprint
    assert joint.fingerprint == dataset.with_new_items().fingerprint
    other = prepare(LOG, NewItems(by="random"), item_features=ITEMS, seed=2).with_new_items()
    assert joint.fingerprint != other.fingerprint


def test_the_periods_of_new_pairs_are_kept(tmp_path):
    log = LOG.with_columns(period=pl.format("p{}", (pl.col("timestamp") % 3).cast(pl.Int64)))
    dataset = prepare(log, "new-items", item_features=ITEMS, seed=2)
    joint = load_dataset(dataset.save(tmp_path / "data")).with_new_items()
    test = joint.split("test_ood")
    labels = pl.Series(joint.periods).gather(test.periods)
    told = pl.DataFrame(
        {
            "user": joint.decode_users(test.users),
            "item": joint.decode_items(test.items),
            "period": labels,
        }
    )
    assert len(told.join(log, on=["user", "item", "period"], how="semi")) == len(test)
    again = load_dataset(joint.save(tmp_path / "joint"))
    np.testing.assert_array_equal(again.split("test_ood").periods, test.periods)


def test_a_repeated_new_pair_is_the_earliest_as_a_known_one_is():
    test = [(1, 4, 30), (1, 4, 10), (1, 2, 30), (1, 2, 10), (1, 4, 20)]
    dataset = made(train=TRAIN, test_ood=test)
    assert dataset.split("test_ood").timestamps.tolist() == [10]
    assert dataset.table("new_item_pairs")["timestamp"].to_list() == [10]


def test_items_of_new_pairs_are_rows_of_their_features(tmp_path):
    test = [(1, 2, 9), (1, 4, 9), (1, 6, 9), (2, 8, 9)]
    dataset = made(train=TRAIN, test_ood=test)
    pairs = dataset.table("new_item_pairs")
    # One pair is left, of the third item.
    dataset._tables["new_item_pairs"] = pairs.filter(pl.col("item") == 2)
    kept = load_dataset(dataset.save(tmp_path / "kept"))
    assert kept.table("new_item_pairs")["item"].to_list() == [2]
    assert (
        kept.with_new_items().decode_items([3 + 2])[0]
        == dataset.table("new_item_features")["id"][2]
    )
    for name, damaged in {
        "beyond": pairs.with_columns(item=pl.when(pl.col("item") == 0).then(3).otherwise("item")),
        "split": pairs.with_columns(split=pl.lit("train")),
    }.items():
        dataset._tables["new_item_pairs"] = pl.concat([damaged, damaged])
        again = load_dataset(dataset.save(tmp_path / name))
        with pytest.raises(DataError, match=r"new_item_pairs.parquet ho|of no held-out split"):
            again.table("new_item_pairs")


def test_a_test_of_new_items_alone_is_measured(tmp_path):
    test = [(1, 4, 9), (2, 6, 9), (2, 4, 9)]
    splits = {"train": TRAIN, "test_iid": [(1, 2, 9)], "test_ood": test}
    with pytest.warns(CnsdiffWarning, match="all 3 pairs left of the test_ood split are of new"):
        made(**splits)
    with pytest.warns(CnsdiffWarning, match="no test_ood of known ones"):
        dataset = load_dataset(made(**splits).save(tmp_path / "data"))
    assert dataset.split_names == ("train", "test_iid")
    with pytest.raises(DataError, match="has no test_ood split of known items, only pairs of new"):
        dataset.split("test_ood")
    joint = dataset.with_new_items()
    scorer = EmbeddingScorer(torch.ones(joint.n_users, 1), torch.ones(joint.n_items, 1))
    found = evaluate_new_items(scorer, joint, dataset.n_items)
    assert found.new["recall@10"] == 1.0
    assert found.warm == {}
    assert found.harmonic == {}
    assert found.share_taken == 1.0
    assert found.n_users == {"warm": 0, "new": 2, "joint": 2}
    with pytest.raises(DataError, match="train, so the test_ood split would be empty"):
        made(features=False, **splits)
    with (
        pytest.warns(CnsdiffWarning),
        pytest.raises(DataError, match="all its held-out pairs are of new items"),
    ):
        splits_to_evaluate(made(train=TRAIN, test_ood=test))


def test_a_cut_after_which_all_items_are_new_is_prepared():
    days = 86400 * np.arange(40)
    early = [(user, item) for user in range(5) for item in range(4)]
    late = [(user, item) for user in range(5) for item in range(4, 8)]
    log = pl.DataFrame([*early, *late], schema=["user", "item"], orient="row")
    log = log.with_columns(timestamp=pl.Series(days))
    table = pl.DataFrame({"item": range(8), "size": [0.5 * item for item in range(8)]})
    with pytest.warns(CnsdiffWarning, match="all 20 pairs left of the test_ood split are of new"):
        dataset = prepare(log, "temporal", quantile=0.5, item_features=table)
    assert len(dataset.with_new_items().split("test_ood")) == 20
