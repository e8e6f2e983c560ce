"""Evaluation of several splits of a dataset, and what it returns."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest
import torch

from cnsdiff.base.errors import DataError, InputError
from cnsdiff.data import Dataset, Split, read_interactions
from cnsdiff.evaluation import EmbeddingScorer, evaluate, evaluate_split
from cnsdiff.evaluation.protocol import past_pairs


def make_dataset(*held_out: str, seed: int = 0) -> Dataset:
    """30 users × 50 items; every item occurs in train, splits do not overlap."""
    rng = np.random.default_rng(seed)
    where = rng.choice(8, (30, 50))
    where[np.arange(50) % 30, np.arange(50)] = 0
    where[4:8][where[4:8] == 3] = 7
    frames = {}
    for number, name in enumerate(("train", *held_out)):
        pairs = pl.DataFrame(np.argwhere(where == number), schema=["user", "item"])
        frames[name] = read_interactions(pairs)
    return Dataset.from_splits(frames, name="tiny", scenario="given")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return make_dataset("valid", "test_iid", "test_ood")


@pytest.fixture(scope="module")
def scorer(dataset: Dataset) -> EmbeddingScorer:
    generator = torch.Generator().manual_seed(1)
    return EmbeddingScorer(
        torch.randn(dataset.n_users, 4, generator=generator),
        torch.randn(dataset.n_items, 4, generator=generator),
    )


def test_splits_together_equal_splits_apart(dataset: Dataset, scorer: EmbeddingScorer) -> None:
    together = evaluate(scorer, dataset, ks=(5, 10), per_user=True)
    assert list(together.splits) == ["valid", "test_iid", "test_ood"]
    train = dataset.split("train").csr(dataset.n_users, dataset.n_items)
    for name in together.splits:
        apart = evaluate_split(scorer, dataset.split(name), train, ks=(5, 10), per_user=True)
        assert together[name] == apart
        assert apart.per_user is not None
        assert together.per_user[name].equals(apart.per_user)
    assert together.n_users_without_test["test_ood"] >= 4
    for result in together.splits.values():
        assert result.n_users + result.n_users_without_test == dataset.n_users


def test_order_and_repetition_of_cut_offs_do_not_matter(
    dataset: Dataset, scorer: EmbeddingScorer
) -> None:
    once = evaluate(scorer, dataset, ["valid"], ks=(5, 10))
    assert evaluate(scorer, dataset, ["valid"], ks=(10, 5, 10)).metrics == once.metrics


def test_table(dataset: Dataset, scorer: EmbeddingScorer) -> None:
    result = evaluate(scorer, dataset, ks=(5, 10))
    table = result.table()
    assert table.columns == ["split", "metric", "k", "value", "n_users"]
    assert table.height == 3 * 9 * 2
    row = table.row(
        by_predicate=(pl.col("split") == "test_iid")
        & (pl.col("metric") == "ndcg")
        & (pl.col("k") == 10),
        named=True,
    )
    assert row["value"] == result["test_iid"]["ndcg@10"]
    assert row["n_users"] == result.n_users["test_iid"]


def test_kept_is_the_ratio_of_the_accuracy_metrics(
    dataset: Dataset, scorer: EmbeddingScorer
) -> None:
    result = evaluate(scorer, dataset, ks=(10,))
    kept = result.kept()
    assert set(kept) == {
        f"{m}@10" for m in ("recall", "ndcg", "precision", "hitrate", "mrr", "map")
    }
    expected = result["test_ood"]["ndcg@10"] / result["test_iid"]["ndcg@10"]
    assert kept["ndcg@10"] == pytest.approx(expected)
    result["test_iid"].metrics["recall@10"] = 0.0
    assert math.isnan(result.kept()["recall@10"])
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["kept"]["recall@10"] is None


def test_only_the_splits_there_are() -> None:
    dataset = make_dataset("valid")
    scorer = EmbeddingScorer(torch.ones(dataset.n_users, 1), torch.ones(dataset.n_items, 1))
    result = evaluate(scorer, dataset)
    assert list(result.splits) == ["valid"]
    assert result.per_user == {}
    assert "kept" not in result.to_dict()
    with pytest.raises(InputError, match="'test_iid', which was not evaluated"):
        result.kept()
    with pytest.raises(DataError, match="test_ood"):
        evaluate(scorer, dataset, ["test_ood"])
    with pytest.raises(DataError, match="at least one held-out split"):
        evaluate(scorer, dataset, [])
    with pytest.raises(InputError, match="trained on"):
        evaluate(EmbeddingScorer(torch.ones(2, 1), torch.ones(3, 1)), dataset)


def test_lists_that_end_in_a_tie_are_counted(dataset: Dataset) -> None:
    """Of the users of each split, by sorting all of their scores."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 30, (dataset.n_users, dataset.n_items)).astype(np.float32)
    scorer = EmbeddingScorer(torch.from_numpy(scores), torch.eye(dataset.n_items))
    result = evaluate(scorer, dataset, ks=(3, 7))
    train = dataset.split("train").csr(dataset.n_users, dataset.n_items).toarray() > 0
    ordered = -np.sort(-np.where(train, -np.inf, scores), axis=1)
    tied = ordered[:, 6] == ordered[:, 7]
    for name, split in result.splits.items():
        assert split.tied == pytest.approx(tied[np.unique(dataset.split(name).users)].mean())
        assert result.to_dict()["splits"][name]["tied"] == split.tied
    assert 0 < result["valid"].tied < 1
    assert evaluate(scorer, dataset, ks=(dataset.n_items,))["valid"].tied == 0


def test_an_empty_split_is_like_an_absent_one() -> None:
    dataset, nobody = make_dataset("valid", "test_iid"), np.zeros(0, dtype=np.int64)
    dataset.split("test_iid")
    dataset._splits["test_iid"] = Split("test_iid", nobody, nobody)
    scorer = EmbeddingScorer(torch.ones(dataset.n_users, 1), torch.ones(dataset.n_items, 1))
    assert list(evaluate(scorer, dataset).splits) == ["valid"]
    with pytest.raises(DataError, match="test_iid holds no interactions"):
        evaluate(scorer, dataset, ["test_iid"])
    with pytest.raises(DataError, match="tiny: has no held-out pairs to evaluate on"):
        evaluate(scorer, make_dataset())


def test_cut_offs_beyond_the_catalogue(dataset: Dataset, scorer: EmbeddingScorer) -> None:
    beyond = 10**9
    result = evaluate(scorer, dataset, ks=(5, beyond))
    whole = evaluate(scorer, dataset, ks=(5, dataset.n_items))
    for name, split in result.splits.items():
        assert split.metrics.keys() == {n.replace("@50", f"@{beyond}") for n in whole[name].metrics}
        assert split[f"recall@{beyond}"] == 1.0
        expected = whole[name]["precision@50"] * 50 / beyond
        assert split[f"precision@{beyond}"] == pytest.approx(expected, rel=1e-12)
        for metric in ("recall", "ndcg", "hitrate", "mrr", "map", "coverage", "popularity", "gini"):
            assert split[f"{metric}@{beyond}"] == whole[name][f"{metric}@50"]
            assert split[f"{metric}@5"] == whole[name][f"{metric}@5"]


@pytest.mark.parametrize("timed", [True, False])
def test_a_past_is_what_came_before(timed: bool) -> None:
    """Against the definition, pair by pair."""
    rng = np.random.default_rng(3)
    pairs = np.argwhere(rng.random((20, 25)) < 0.7)
    frame = pl.DataFrame(pairs, schema=["user", "item"]).with_columns(
        timestamp=pl.Series(rng.integers(0, 10, len(pairs)))  # ties in time are common
    )
    frame = frame if timed else frame.drop("timestamp")
    part = rng.choice(["train", "valid", "test_iid", "test_ood", "low"], len(pairs))
    tables = {name: frame.filter(pl.Series(part == name)) for name in np.unique(part)}
    low = tables.pop("low")
    dataset = Dataset.from_splits(
        {name: read_interactions(table) for name, table in tables.items()},
        name="timed",
        scenario="given",
        logs=[read_interactions(table) for table in (*tables.values(), low)],
    )
    for name in ("valid", "test_iid", "test_ood"):
        found = past_pairs(dataset, dataset.split(name)).toarray() > 0
        expected = np.zeros_like(found)
        held = tables[name].filter(pl.Series(dataset.encode_items(tables[name]["item"]) >= 0))
        for user in held["user"].unique():
            if timed:
                first = held.filter(pl.col("user") == user)["timestamp"].min()
                others = [low, *(table for other, table in tables.items() if other != name)]
                before = pl.concat(others).filter(
                    (pl.col("user") == user) & (pl.col("timestamp") < first)
                )
            elif name == "valid":
                continue
            else:
                before = tables["valid"].filter(pl.col("user") == user)
            rows = dataset.encode_users([user])
            items = dataset.encode_items(before["item"])
            expected[rows, items[items >= 0]] = True
        train = dataset.split("train").csr(*found.shape).toarray() > 0
        if timed:
            assert (found[expected & ~train]).all()
            assert not (found & ~expected).any()
        else:
            users = dataset.encode_users(held["user"].unique())
            assert (found[users] == (expected & ~train)[users]).all()


def test_lists_without_the_past(dataset: Dataset, scorer: EmbeddingScorer) -> None:
    usual, past = evaluate(scorer, dataset), evaluate(scorer, dataset, mask="past")
    assert (usual.mask, past.mask, past.to_dict()["mask"]) == ("train", "past", "past")
    assert "past" in past.protocol
    # Without times nothing comes before validation, and validation before the tests.
    assert past["valid"] == usual["valid"]
    train = dataset.split("train").csr(dataset.n_users, dataset.n_items)
    scores = scorer.score_block(torch.arange(dataset.n_users), 0, dataset.n_items)
    scores[train.nonzero()] = -torch.inf
    valid, test = dataset.split("valid"), dataset.split("test_iid")
    scores[valid.users, valid.items] = -torch.inf
    hits = [
        int(item in set(test.items[test.users == user]))
        for user in np.unique(test.users)
        for item in scores[user].topk(10).indices.tolist()
    ]
    assert past["test_iid"]["precision@10"] == pytest.approx(np.mean(hits))
    assert past["test_iid"]["precision@10"] != usual["test_iid"]["precision@10"]
    with pytest.raises(InputError, match="mask must be 'train' or 'past', not 'none'"):
        evaluate(scorer, dataset, mask="none")  # type: ignore[arg-type]
