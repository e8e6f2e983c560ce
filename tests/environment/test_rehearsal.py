"""The rehearsal inside a log, and what comes of a training that was rehearsed."""

from __future__ import annotations

import sys

import numpy as np
import polars as pl
import pytest
import torch

import cnsdiff
from cnsdiff import Recommender
from cnsdiff.base.errors import DataError, InputError
from cnsdiff.cli import main
from cnsdiff.data import Dataset, Interactions
from cnsdiff.environment import covariates_at, rehearse
from cnsdiff.evaluation import evaluate_split
from cnsdiff.evaluation.dial import spread
from cnsdiff.export import to_numpy

DAY = 86_400
SIDES = ("user", "item")
EPOCHS = {"epochs": 4, "select_on": "rehearsal", "fhn_every": None}


def log(seed: int = 0, n: int = 3000) -> pl.DataFrame:
    """A year in which tastes stay, and fashions pass."""
    rng = np.random.default_rng(seed)
    users, times = rng.integers(0, 150, n), np.sort(rng.integers(0, 360 * DAY, n))
    # Of 120 items 20 are in fashion, and every ten days another takes the place of one of them.
    fashion = (times // (10 * DAY) + rng.integers(0, 20, n)) % 120
    taste = (users % 4) * 30 + rng.integers(0, 30, n)
    items = np.where(rng.random(n) < 0.7, fashion, taste)
    frame = pl.DataFrame({"user": users, "item": items, "timestamp": times})
    return frame.unique(["user", "item"], keep="first", maintain_order=True)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    frame = log()
    late = frame["timestamp"] >= 330 * DAY
    rows = pl.Series(np.random.default_rng(1).random(frame.height) < 0.1)
    return Dataset.from_splits(
        {
            "train": Interactions(frame.filter(~late & ~rows), "log"),
            "valid": Interactions(frame.filter(~late & rows), "log"),
            "test_ood": Interactions(frame.filter(late), "log"),
        },
        name="fashion",
        scenario="temporal",
    )


@pytest.fixture(scope="module")
def rehearsed(dataset) -> Recommender:
    return Recommender(seed=0, training=EPOCHS).fit(dataset)


def pairs(split, dataset):
    return set(
        zip(dataset.decode_users(split.users), dataset.decode_items(split.items), strict=True)
    )


# --- the cut


@pytest.mark.parametrize("horizon", [0.1, 0.3, 30.0 * DAY])
def test_nothing_after_the_cut_trains(dataset, horizon):
    cut = rehearse(dataset, horizon)
    train, valid = cut.dataset.split("train"), cut.dataset.split("valid")
    whole = dataset.merged().split("train")
    moment = whole.timestamps[whole.timestamps > train.timestamps.max()].min()
    assert train.timestamps.max() < moment <= valid.timestamps.min()
    assert cut.share == pytest.approx(np.mean(whole.timestamps < moment))
    if horizon < 1:
        assert cut.share == pytest.approx(1 - horizon, abs=0.01)
    else:
        after = whole.timestamps >= whole.timestamps.max() - horizon
        assert cut.share == pytest.approx(1 - np.mean(after))


def test_everything_is_train_and_valid_and_nothing_else(dataset):
    whole = dataset.merged()
    assert whole.split_names == ("train", "test_ood")
    both = pairs(dataset.split("train"), dataset) | pairs(dataset.split("valid"), dataset)
    assert pairs(whole.split("train"), whole) == both
    assert not both & pairs(dataset.split("test_ood"), dataset)
    assert whole.users.to_list() == dataset.users.to_list()


def test_a_log_without_times_is_refused(dataset):
    bare = Dataset.from_splits(
        {"train": Interactions(log().drop("timestamp"), "log")}, name="bare", scenario="given"
    )
    with pytest.raises(DataError, match="has no timestamps, so no shift in time"):
        rehearse(bare)


def test_a_horizon_beyond_the_log_is_refused(dataset):
    with pytest.raises(DataError, match="give another horizon"):
        rehearse(dataset, 1000.0 * DAY)


# --- the training


def test_all_pairs_train_and_no_test_is_opened(dataset, rehearsed):
    whole = dataset.merged().split("train").csr(dataset.n_users, dataset.n_items)
    assert (rehearsed.model_.train != whole).nnz == 0


def test_the_environment_is_that_of_the_end_of_the_log(dataset, rehearsed):
    model, split = rehearsed.model_, dataset.merged().split("train")
    assert model.environment.moment < split.timestamps.max()
    at_the_end = covariates_at(
        split.items, split.timestamps, dataset.n_items, span=model.environment.span
    )
    sigma = spread(model.scorer(dial=0.0))
    wanted = sigma * at_the_end.values @ np.array(model.environment.coefficients)
    assert model.bias.numpy() == pytest.approx(wanted, abs=1e-5)


def test_what_is_in_fashion_is_found_under_the_shift(dataset, rehearsed):
    model, test = rehearsed.model_, dataset.split("test_ood")
    with_it, without = (
        evaluate_split(model.scorer(dial=dial), test, model.train, ks=(10,))["ndcg@10"]
        for dial in (None, 0.0)
    )
    best_dial = max(
        evaluate_split(model.scorer(dial=dial), test, model.train, ks=(10,))["ndcg@10"]
        for dial in (-2.0, -1.0, 1.0, 2.0)
    )
    assert with_it > 1.5 * without
    assert with_it > 1.2 * best_dial


def test_bit_for_bit_again_saved_and_resumed(dataset, rehearsed, tmp_path):
    whole = Recommender(seed=0, training=EPOCHS).fit(dataset, run=tmp_path / "run")
    loaded = Recommender.load(tmp_path / "run")
    for other in (whole, loaded):
        assert torch.equal(other.item_embeddings_, rehearsed.item_embeddings_)
        assert torch.equal(other.model_.bias, rehearsed.model_.bias)
        assert other.model_.environment == rehearsed.model_.environment
    assert not list((tmp_path / "run").glob("*checkpoint*"))
    assert not list((tmp_path / "run").glob("refit*"))


@pytest.mark.parametrize("phase", [1, 2])
def test_an_interrupted_one_goes_on_to_the_same(dataset, rehearsed, tmp_path, phase):
    from cnsdiff.training.progress import Reporter

    class Interrupts(Reporter):
        begun = 0

        def begin(self, first_epoch, epochs, steps):
            Interrupts.begun += 1

        def epoch(self, record, *, best):
            if Interrupts.begun == phase and record["epoch"] == 1:
                raise KeyboardInterrupt

    model = Recommender(seed=0, training=EPOCHS)
    with pytest.raises(KeyboardInterrupt):
        model.fit(dataset, run=tmp_path / "run", reporter=Interrupts())
    model.fit(dataset, run=tmp_path / "run")
    assert torch.equal(model.item_embeddings_, rehearsed.item_embeddings_)
    assert torch.equal(model.model_.bias, rehearsed.model_.bias)


# --- use


def test_lists_scores_and_exports_hold_the_environment(dataset, rehearsed, tmp_path):
    users, items = dataset.users[:5], dataset.items[:5]
    model = rehearsed.model_
    bias = model.bias[:5].numpy()
    as_trained = rehearsed.score(users, items, dial=0.0)
    assert rehearsed.score(users, items) == pytest.approx(as_trained + bias, abs=1e-5)
    best = rehearsed.recommend(users, k=1, seen="train")
    scores = rehearsed.score(best["user"], best["item"])
    assert best["score"].to_numpy() == pytest.approx(scores, abs=1e-5)
    manifest = to_numpy(rehearsed, tmp_path / "vectors")
    vectors = {side: np.load(tmp_path / "vectors" / f"{side}_vectors.npy") for side in SIDES}
    inner = (vectors["user"][:5] * vectors["item"][:5]).sum(axis=1)
    assert inner == pytest.approx(rehearsed.score(users, items), abs=1e-5)
    assert manifest["last_coordinate"] == "the environment's share"
    assert manifest["environment"]["names"] == model.environment.names


def test_tests_are_judged_without_the_pairs_that_were_trained_on(dataset, rehearsed):
    evaluation = rehearsed.evaluate(dataset)
    assert list(evaluation.splits) == ["test_ood"]
    model = rehearsed.model_
    wanted = evaluate_split(model.scorer(), dataset.split("test_ood"), model.train)["ndcg@10"]
    assert evaluation["test_ood"]["ndcg@10"] == pytest.approx(wanted)


def test_validation_pairs_neither_choose_a_dial_nor_judge_negatives(dataset, rehearsed):
    with pytest.raises(InputError, match="trained on the validation pairs, too"):
        rehearsed.best_dial(dataset)
    with pytest.raises(InputError, match="trained on the validation pairs, too"):
        rehearsed.false_negatives(dataset)
    assert len(rehearsed.sampled_negatives(dataset, n=10).negatives.items) == 10


def test_the_command_line(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dataset.save(tmp_path / "data")
    run = ["train", "data", "--horizon", "60d", "--set", "training.epochs=2", "--out", "run"]
    for command in (run, ["evaluate", "run", "--references"], ["report", "run"]):
        monkeypatch.setattr(sys, "argv", ["cnsdiff", *command])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0, capsys.readouterr()
    said = " ".join(capsys.readouterr().out.split())
    assert "recent-mostpop" in said
    assert "References are rehearsed, too" in said
    assert "on a rehearsal" in said
    assert "the environment as the rehearsal chose it" in said
    page = (tmp_path / "run" / "report.html").read_text()
    assert "half-life 0.0025" in page


@pytest.mark.real
@pytest.mark.slow
def test_a_shop_with_dates_keeps_most_of_its_accuracy(shared_data):
    shop = cnsdiff.prepare(shared_data / "grocery" / "train.csv", "temporal")
    model = Recommender(seed=0, training={**EPOCHS, "epochs": 1}).fit(shop)
    rehearsed, as_trained = (
        model.evaluate(shop, ["test_ood"], dial=dial)["test_ood"]["ndcg@20"] for dial in (None, 0.0)
    )
    assert rehearsed > 0.04  # the default without a rehearsal has .024, with its dial
    assert rehearsed > 2 * as_trained
