"""What is known of the target: item counts without users, and users judged as under the shift."""

from __future__ import annotations

import sys

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cnsdiff
from cnsdiff import Recommender, load_dataset
from cnsdiff.base.errors import ConfigError, DataError
from cnsdiff.cli import main
from cnsdiff.data import Dataset, Interactions
from cnsdiff.data.target import target_counts, target_sample, with_target
from cnsdiff.environment import known_shift
from cnsdiff.evaluation import EmbeddingScorer, evaluate_split
from cnsdiff.evaluation.dial import FINE, Dialled, exposure_score, prudent_dial

BRIEF = {"epochs": 3, "fhn_every": None}


def log(n: int = 2500, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 90, n)
    items = np.where(rng.random(n) < 0.6, (users % 3) * 20 + rng.integers(0, 20, n), users % 9)
    frame = pl.DataFrame({"user": users, "item": items}).unique(maintain_order=True)
    return frame.with_columns(
        ("u" + pl.col("user").cast(str)).alias("user"),
        ("i" + pl.col("item").cast(str)).alias("item"),
    )


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    frame = log()
    part = np.random.default_rng(1).choice(4, frame.height, p=[0.6, 0.1, 0.1, 0.2])
    names = ("train", "valid", "test_iid", "test_ood")
    return Dataset.from_splits(
        {
            name: Interactions(frame.filter(pl.Series(part == number)), "log")
            for number, name in enumerate(names)
        },
        name="shop",
        scenario="popularity",
    )


def pairs_of(dataset: Dataset, split: str, n_users: int) -> Interactions:
    """What the OOD test knows of its first users, as a panel would tell it."""
    pairs = dataset.split(split)
    some = pairs.of_users(np.unique(pairs.users)[:n_users])
    frame = pl.DataFrame(
        {"user": dataset.decode_users(some.users), "item": dataset.decode_items(some.items)}
    )
    return Interactions(frame, "panel.csv")


# --- the tables


def test_whoever_is_in_the_sample_is_in_no_test(dataset, tmp_path):
    panel = pairs_of(dataset, "test_ood", 10)
    told = with_target(dataset, sample=panel)
    judged = target_sample(told)
    assert len(judged) == len(panel)
    for name in ("test_iid", "test_ood"):
        before, after = dataset.split(name), told.split(name)
        assert not set(after.users) & set(judged.users)
        gone = np.isin(before.users, judged.users)
        assert len(after) == len(before) - gone.sum()
        assert told.manifest.splits[name].rows == len(after)
        assert told.manifest.log[f"taken out of {name}"] == gone.sum()
    assert np.array_equal(told.split("train").items, dataset.split("train").items)
    assert told.fingerprint != dataset.fingerprint
    told.save(tmp_path / "told")
    again = load_dataset(tmp_path / "told")
    assert again.fingerprint == told.fingerprint
    assert np.array_equal(target_sample(again).items, judged.items)


def test_unknown_pairs_and_those_of_train_judge_nothing(dataset):
    panel = pairs_of(dataset, "test_ood", 4).frame
    had = pairs_of(dataset, "train", 2).frame
    strange = pl.DataFrame({"user": ["nobody", "u1"], "item": ["i1", "nothing"]})
    told = with_target(dataset, sample=Interactions(pl.concat([panel, had, strange]), "p.csv"))
    assert len(target_sample(told)) == panel.height
    assert told.manifest.log["unknown pairs in the target sample"] == 2
    assert told.manifest.log["pairs of the target sample in train"] == had.height


def test_counts_are_of_all_items(dataset, tmp_path):
    table = pl.DataFrame({"item": ["i3", "i5", "elsewhere"], "n": [7, 2, 40]})
    told = with_target(dataset, counts=table)
    counts = dict(zip(told.items, target_counts(told), strict=True))
    assert counts.pop("i3") == 7
    assert counts.pop("i5") == 2
    assert set(counts.values()) == {0}
    assert told.manifest.log["unknown items in the target counts"] == 1
    told.save(tmp_path / "told")
    assert np.array_equal(target_counts(load_dataset(tmp_path / "told")), target_counts(told))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"item": ["i1"]}, "has no column beside 'item'"),
        ({"item": ["i1"], "a": [1], "b": [2]}, "has 'a', 'b'; keep the one"),
        ({"item": ["i1"], "n": [-1]}, "'n' holds what is no count"),
        ({"item": ["i1"], "n": [0.5]}, "'n' holds what is no count"),
        ({"item": ["i1"], "n": ["many"]}, "'n' holds what is no count"),
        ({"item": ["i1"], "n": [1e20]}, "'n' holds what is no count"),
        ({"item": ["i1", "i2"], "n": [1, None]}, "'n' holds what is no count"),
        ({"item": ["x"], "n": [1]}, "none of its 1 items is known"),
        ({"item": ["i1"], "n": [0]}, "counts of all 1 items that train knows are 0"),
    ],
)
def test_counts_that_are_none_are_refused(dataset, table, words):
    with pytest.raises(DataError, match=words):
        with_target(dataset, counts=pl.DataFrame(table))


def test_counts_that_cannot_be_added_up_are_refused():
    n = 1500
    train = pl.DataFrame({"user": [1] * n, "item": range(n)})
    test = pl.DataFrame({"user": [2, 1], "item": [0, 1]})
    splits = {"train": pl.concat([train, pl.DataFrame({"user": [2], "item": [1]})])}
    splits["test_ood"] = test
    told = {name: Interactions(frame, name) for name, frame in splits.items()}
    dataset = Dataset.from_splits(told, name="x", scenario="given")
    table = pl.DataFrame({"item": range(n), "n": [9_000_000_000_000_000] * n})
    with pytest.raises(DataError, match="the counts add up to more than 4e18"):
        with_target(dataset, counts=table)


def test_samples_that_judge_nothing_or_leave_nobody_are_refused(dataset):
    strange = Interactions(pl.DataFrame({"user": ["x"], "item": ["y"]}), "panel.csv")
    with pytest.raises(DataError, match=r"panel.csv: none of its 1 pairs .* write the ids alike"):
        with_target(dataset, sample=strange)
    with pytest.raises(DataError, match="train holds all of its"):
        with_target(dataset, sample=pairs_of(dataset, "train", 3))
    with pytest.raises(DataError, match="nobody would be left to judge"):
        with_target(dataset, sample=pairs_of(dataset, "test_ood", 90))


# --- what they choose


def test_judged_users_choose_epoch_and_dial(dataset):
    told = with_target(dataset, sample=pairs_of(dataset, "test_ood", 30))
    model = Recommender(seed=1, training=BRIEF).fit(told, select_on="target-sample")
    plain = EmbeddingScorer(model.user_embeddings_, model.item_embeddings_)
    judged, train = target_sample(told), model.model_.train
    values = {}
    for dial in FINE:
        scorer = Dialled(plain, exposure_score(told), dial)
        table = evaluate_split(scorer, judged, train, per_user=True).per_user
        values[dial] = table["ndcg@20"].to_numpy()
    best = max(values, key=lambda dial: (values[dial].mean(), -abs(dial), dial))
    assert model.dial_ == best != prudent_dial(values)
    assert model.selected_on_ == "target-sample"
    assert model.best_dial(told, on="target-sample") == model.dial_


@given(
    exponent=st.floats(0, 1),
    temperature=st.floats(0.05, 2),
    seed=st.integers(0, 1000),
)
def test_known_counts_turn_what_is_taken_in_train_into_what_is_taken_there(
    exponent, temperature, seed
):
    """Scores of a model that has learnt its negatives away, and the target by Bayes' rule."""
    rng = np.random.default_rng(seed)
    taste = rng.dirichlet(np.ones(6), 4)  # p(i | u) in train
    train, target = rng.integers(1, 10**6, 6), rng.integers(0, 10**6, 6)
    shares = [(counts + 1) / (counts + 1).sum() for counts in (train, target)]
    scores = temperature * (np.log(taste) - exponent * np.log(shares[0]))
    bias = known_shift(train, target, temperature, exponent).double().numpy()
    reached = np.exp((scores + bias) / temperature)
    expected = taste * shares[1] / shares[0]
    reached /= reached.sum(axis=1, keepdims=True)
    expected /= expected.sum(axis=1, keepdims=True)
    assert np.allclose(reached, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "exponent"),
    [
        ({}, 0.5),
        ({"sampler": "random"}, 0.0),
        ({"sampler": "popularity", "sampler_options": {"exponent": 0.75}}, 0.75),
        ({"preset": "ssm-lightgcn"}, 1.0),
        ({"preset": "ssm-lightgcn", "objective": {"log_q": 1.0}}, 0.0),
    ],
)
def test_the_bias_is_that_of_the_loss(dataset, settings, exponent, tmp_path):
    counts = pl.DataFrame({"item": dataset.items, "n": np.arange(dataset.n_items)})
    told = with_target(dataset, counts=counts)
    model = Recommender(training=BRIEF, **settings)
    model.fit(told, select_on="target-counts", run=tmp_path / "run")
    train = np.bincount(told.split("train").items, minlength=told.n_items)
    temperature = model.config_.objective.temperature
    expected = known_shift(train, target_counts(told), temperature, exponent)
    assert torch.allclose(model.model_.bias, expected)
    assert model.dial_ == 0
    assert model.environment_ is None
    loaded = Recommender.load(tmp_path / "run")
    assert loaded.recommend(told.users[:5], k=4).equals(model.recommend(told.users[:5], k=4))
    plain = model.recommend(told.users[:5], k=4, dial=0.0)
    assert not plain.equals(model.recommend(told.users[:5], k=4))


@pytest.mark.parametrize(
    "settings",
    [
        {"sampler": "dns"},
        {"preset": "ips-lightgcn"},
        {"preset": "pda-lightgcn"},
        {"backbone": "ease"},
        {"stack": {"preset": "bpr-lightgcn"}},
    ],
)
def test_models_whose_negatives_tell_nothing_are_refused(dataset, settings):
    told = with_target(dataset, counts=pl.DataFrame({"item": ["i1"], "n": [5]}))
    with pytest.raises(ConfigError, match="target-counts"):
        Recommender(training=BRIEF, **settings).fit(told, select_on="target-counts")


def test_without_the_table_there_is_nothing_to_choose_by(dataset):
    for select_on in ("target-counts", "target-sample"):
        with pytest.raises(DataError, match=r"prepare it again with target_"):
            Recommender(training=BRIEF).fit(dataset, select_on=select_on)
    with pytest.raises(ConfigError, match="known counts"):
        Recommender(training={**BRIEF, "dial": 1.0}).fit(dataset, select_on="target-counts")


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    frame = log()
    frame.write_csv("log.csv")
    panel = frame.filter(pl.col("user").is_in([f"u{number}" for number in range(12)]))
    panel.sample(fraction=0.3, seed=1).write_csv("panel.csv")
    pl.DataFrame({"item": ["i1", "i2"], "count": [3, 4]}).write_csv("counts.csv")

    def run(*arguments: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["cnsdiff", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        told = capsys.readouterr()
        assert end.value.code == code, told
        return " ".join((told.out + told.err).split())

    beside = ("--target-sample", "panel.csv", "--target-counts", "counts.csv")
    told = run("prepare", "log.csv", "--scenario", "popularity", *beside, "--out", "data")
    assert "users in the target sample" in told
    assert "taken out of test ood" in told
    brief = ("--set", "training.epochs=2", "--out")
    assert "judged users" in run("train", "data", "--select-on", "target-sample", *brief, "a")
    told = run("train", "data", "--select-on", "target-counts", *brief, "b")
    assert "item counts of the target" in told
    for name in ("a", "b"):
        run("evaluate", name)
        run("report", name)
    (tmp_path / "panel.csv").write_text("user,item\nx,y\n")
    told = run("prepare", "log.csv", "--scenario", "popularity", *beside, "--out", "d2", code=2)
    assert "panel.csv: none of its 1 pairs" in told
    assert not (tmp_path / "d2").exists()


def test_ready_splits_take_them_too(dataset):
    names = ("train", "valid", "test_ood")
    frames = {
        name: pl.DataFrame(
            {
                "user": dataset.decode_users(dataset.split(name).users),
                "item": dataset.decode_items(dataset.split(name).items),
            }
        )
        for name in names
    }
    panel = pairs_of(dataset, "test_ood", 5)
    made = cnsdiff.prepare_given(**frames, target_sample=panel)
    assert len(target_sample(made)) == len(panel)
