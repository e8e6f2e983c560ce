"""Judges, each against plain loops over sets of pairs."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from cnsdiff import ConfoundedWorld
from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.errors import ConfigError, DataError
from cnsdiff.data import Dataset, read_interactions
from cnsdiff.data.positives import Positives
from cnsdiff.evaluation.fhn import measure_false_negatives
from cnsdiff.evaluation.judges import (
    LIKED,
    NOT_LIKED,
    UNKNOWN,
    ExperimentJudge,
    HeldOutJudge,
    WorldJudge,
    judge_for,
)
from cnsdiff.samplers.static import RandomSampler
from cnsdiff.shifts import prepare

N_USERS, N_ITEMS = 20, 15


def make_dataset(*held_out: str, judgements: pl.DataFrame | None = None) -> Dataset:
    """Every user and item occurs in train; the splits share no pair."""
    rng = np.random.default_rng(3)
    where = rng.choice(8, (N_USERS, N_ITEMS))
    where[np.arange(N_USERS), np.arange(N_USERS) % N_ITEMS] = 0
    frames = {
        name: read_interactions(
            # Other ids than the internal numbers, so that mixing them up would show.
            pl.DataFrame(np.add(np.argwhere(where == number), [100, 500]), schema=["user", "item"])
        )
        for number, name in enumerate(("train", *held_out))
    }
    tables = {} if judgements is None else {"judgements": judgements}
    return Dataset.from_splits(frames, name="tiny", scenario="given", tables=tables)


def all_pairs(dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    users = torch.arange(dataset.n_users)
    return users, torch.arange(dataset.n_items).expand(len(users), -1)


def pairs_of(dataset: Dataset, name: str) -> set[tuple[int, int]]:
    split = dataset.split(name)
    return set(zip(split.users.tolist(), split.items.tolist(), strict=True))


@pytest.mark.parametrize(
    ("kind", "read"),
    [("valid", ["valid"]), ("held-out", ["valid", "test_iid", "test_ood"])],
)
def test_held_out_pairs_are_liked_and_no_others(kind, read):
    dataset = make_dataset("valid", "test_iid", "test_ood")
    judge = judge_for(dataset, kind)
    assert isinstance(judge, HeldOutJudge)
    assert judge.known_users is None
    verdict = judge(*all_pairs(dataset))
    assert verdict.dtype == torch.int8
    held_out = set.union(*(pairs_of(dataset, name) for name in read))
    for user in range(dataset.n_users):
        for item in range(dataset.n_items):
            assert verdict[user, item] == (LIKED if (user, item) in held_out else NOT_LIKED)


def test_valid_opens_no_test_split(monkeypatch):
    dataset = make_dataset("valid", "test_iid", "test_ood")
    opened = []
    real = Dataset.split

    def split(self, name):
        opened.append(name)
        return real(self, name)

    monkeypatch.setattr(Dataset, "split", split)
    judge_for(dataset, "valid")
    assert opened == ["valid"]


def test_held_out_takes_the_splits_there_are():
    dataset = make_dataset("valid", "test_ood")
    liked = judge_for(dataset, "held-out")(*all_pairs(dataset)) == LIKED
    assert int(liked.sum()) == len(dataset.split("valid")) + len(dataset.split("test_ood"))


def test_an_experiment_knows_what_it_tried():
    rng = np.random.default_rng(5)
    tried = np.argwhere(rng.random((N_USERS - 4, N_ITEMS)) < 0.3)
    relevant = rng.random(len(tried)) < 0.4
    table = pl.DataFrame(np.add(tried, [100, 500]), schema=["user", "item"]).with_columns(
        relevant=relevant
    )
    dataset = make_dataset("valid", judgements=table)
    judge = judge_for(dataset, "experiment")
    assert isinstance(judge, ExperimentJudge)
    found = {tuple(pair): bool(liked) for pair, liked in zip(tried, relevant, strict=True)}
    verdict = judge(*all_pairs(dataset))
    assert verdict.dtype == torch.int8
    user_ids, item_ids = dataset.users.to_list(), dataset.items.to_list()
    for user in range(dataset.n_users):
        seen = []
        for item in range(dataset.n_items):
            liked = found.get((user_ids[user] - 100, item_ids[item] - 500))
            expected = UNKNOWN if liked is None else LIKED if liked else NOT_LIKED
            assert verdict[user, item] == expected
            seen.append(liked is not None)
        assert bool(judge.known_users[user]) == any(seen)
    assert not judge.known_users.all()


def test_judged_both_ways_is_liked():
    table = pl.DataFrame({"user": [0, 0], "item": [1, 1], "relevant": [True, False]})
    verdict = ExperimentJudge(table, 2, 3)(torch.arange(2), torch.arange(3).expand(2, -1))
    assert verdict.tolist() == [[UNKNOWN, LIKED, UNKNOWN], [UNKNOWN] * 3]


def test_the_truth_is_asked_pair_by_pair():
    table = np.random.default_rng(0).random((5, 7)) < 0.5

    class Truth:
        def relevant(self, users, items):
            assert users.dtype == items.dtype == np.int64
            return table[users, items]

    users, items = torch.tensor([4, 0, 4]), torch.tensor([[6, 0], [1, 1], [2, 3]])
    verdict = WorldJudge(Truth())(users, items)
    assert verdict.dtype == torch.int8
    expected = [[int(table[u, i]) for i in row] for u, row in zip([4, 0, 4], items, strict=True)]
    assert verdict.tolist() == expected


def test_the_truth_of_a_world():
    world = ConfoundedWorld(n_users=60, n_items=50, exposures=20, seed=2)
    dataset = world.dataset()
    judge = judge_for(dataset, "truth")
    assert isinstance(judge, WorldJudge)
    assert judge.known_users is None
    users, items = all_pairs(dataset)
    verdict = judge(users, items)
    # The world itself knows users and items by the ids that the dataset was given.
    known = world.relevant(
        dataset.users.cast(pl.Int64).to_numpy()[:, None],
        dataset.items.cast(pl.Int64).to_numpy()[None, :],
    )
    assert torch.equal(verdict, torch.from_numpy(known.astype(np.int8)))
    assert 0.05 < known.mean() < 0.95
    # Whatever was clicked is liked.
    assert bool((verdict == LIKED)[judge_for(dataset, "held-out")(users, items) == LIKED].all())


@pytest.mark.parametrize("seed", range(3))
def test_random_negatives_in_a_world_are_false_as_often_as_what_is_free_is_liked(seed):
    dataset = ConfoundedWorld(n_users=60, n_items=50, exposures=20, seed=seed).dataset()
    train = dataset.split("train")
    positives = Positives(train.users, train.items, dataset.n_users, dataset.n_items)
    sampler = RandomSampler(
        positives, 4, RandomSampler.Config(n_negatives=4), torch.Generator().manual_seed(0)
    )
    embeddings = Embeddings(torch.randn(dataset.n_users, 4), torch.randn(dataset.n_items, 4))
    judge = judge_for(dataset, "truth")
    found = measure_false_negatives(sampler, embeddings, positives, judge, n=5000, seed=seed)
    liked = judge(*all_pairs(dataset)).numpy() == LIKED
    free = train.csr(dataset.n_users, dataset.n_items).toarray() == 0
    share = (liked & free).sum(axis=1) / free.sum(axis=1)
    expected = float(share[train.users].mean())  # a user is drawn once per training interaction
    low, high = found.interval(level=0.9999)
    assert low < expected < high
    assert high - low < 0.03


@pytest.mark.real
@pytest.mark.parametrize("name", ["yahoo-r3", "coat"])
def test_a_published_experiment(name, shared_data):
    folder = shared_data / name
    dataset = prepare(
        folder / "user.txt", "exposure", randomised=folder / "random.txt", threshold=4
    )
    train, judgements = dataset.split("train"), dataset.table("judgements")
    shape = (dataset.n_users, dataset.n_items)
    positives = Positives(train.users, train.items, *shape)
    judge = judge_for(dataset, "experiment")
    sampler = RandomSampler(positives, 4, RandomSampler.Config(), torch.Generator())
    embeddings = Embeddings(torch.randn(shape[0], 4), torch.randn(shape[1], 4))
    found = measure_false_negatives(sampler, embeddings, positives, judge, n=300_000, candidates=1)
    # A judged pair is met as often as its user trains, over the items free to be drawn.
    free = train.csr(*shape).toarray() == 0
    weight = np.bincount(train.users, minlength=shape[0]) / free.sum(axis=1)
    users, items = (judgements[column].to_numpy() for column in ("user", "item"))
    met = weight[users] * free[users, items]
    expected = float(met @ judgements["relevant"].to_numpy() / met.sum())
    low, high = found.interval(level=0.9999)
    assert low < expected < high
    assert high - low < 0.1
    asked = weight @ (free * judge.known_users.numpy()[:, None]).sum(axis=1)
    assert found.judged / found.examined == pytest.approx(met.sum() / asked, rel=0.1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("valid", "tiny: has no valid split to judge negatives by"),
        ("held-out", "tiny: has no valid or test_iid or test_ood split"),
        ("experiment", "judgements"),
        ("truth", "truth"),
    ],
)
def test_what_a_dataset_lacks(kind, message):
    with pytest.raises(DataError, match=message):
        judge_for(make_dataset(), kind)


def test_an_unknown_kind():
    with pytest.raises(ConfigError, match=r"no judge 'experimnt' \(did you mean 'experiment'\?\)"):
        judge_for(make_dataset("valid"), "experimnt")
