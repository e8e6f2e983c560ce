"""Activity that follows a stream against sums over its whole log, and models that follow it."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from cnsdiff import Recommender
from cnsdiff.base.errors import DataError, InputError, RunError
from cnsdiff.base.storage import sha256, write_tensors
from cnsdiff.data import Dataset, Interactions
from cnsdiff.environment import HALF_LIVES, Activity, Covariates, Environment, covariates_at
from cnsdiff.recommender.embedding_model import EmbeddingModel

N_ITEMS, DAY = 5, 86_400

interactions = st.lists(
    st.tuples(st.integers(0, N_ITEMS - 1), st.integers(0, 10**6)), min_size=1, max_size=40
)


def arrays(pairs):
    pairs = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def same(one: Activity, other: Activity) -> None:
    assert (one.counts == other.counts).all()
    assert (one.first == other.first).all() and (one.last == other.last).all()
    assert one.decayed == pytest.approx(other.decayed, rel=1e-9, abs=1e-12)
    assert (one.moment, one.span, one.n_known) == (other.moment, other.span, other.n_known)


# --- following a stream


@given(log=interactions, later=interactions, cuts=st.lists(st.integers(0, 40), max_size=5))
def test_in_any_number_of_parts_and_any_order_as_at_once(log, later, cuts):
    """Late arrivals among them: the times of the parts overlap."""
    at_first = Activity.of(*arrays(log), N_ITEMS)
    followed = at_first
    for part in np.split(np.array(later), sorted(cuts)):
        followed = followed.followed_by(*arrays(part))
    at_once = Activity.of(*arrays(log + later), N_ITEMS, span=at_first.span)
    same(followed, at_once)
    covariates = Covariates.of(followed)
    wanted = covariates_at(*arrays(log + later), N_ITEMS, span=at_first.span)
    assert covariates.names == wanted.names
    # A column in which items hardly differ is a matter of rounding.
    plain = np.log1p(at_once.decayed).std(axis=0).min() > 1e-3
    assert not plain or covariates.values == pytest.approx(wanted.values, abs=1e-9)


@given(log=interactions, wait=st.floats(0, 10**7))
def test_each_decayed_count_is_a_sum_of_powers(log, wait):
    items, times = arrays(log)
    activity = Activity.of(items, times, N_ITEMS).at(times.max() + wait)
    ages = (times.max() + wait - times) / activity.span
    for k, half_life in enumerate(HALF_LIVES):
        wanted = np.bincount(items, 0.5 ** (ages / half_life), N_ITEMS)
        assert activity.decayed[:, k] == pytest.approx(wanted, rel=1e-9, abs=1e-200)


def test_a_year_of_minutes_loses_no_digit_that_matters():
    rng = np.random.default_rng(0)
    items, times = rng.integers(0, 50, 2000), np.sort(rng.integers(0, 365 * DAY, 2000))
    start = Activity.of(items[:100], times[:100], 50, span=365 * DAY)
    followed, at = start, 100
    for moment in np.linspace(times[100], times[-1], 5000):
        until = int(np.searchsorted(times, moment, side="right"))
        followed = followed.followed_by(items[at:until], times[at:until], moment=float(moment))
        at = until
    same(followed, Activity.of(items, times, 50, span=365 * DAY))


def test_time_does_not_go_back_and_what_comes_later_is_refused():
    activity = Activity.of(np.array([0, 1]), np.array([0, 100]), 2)
    same(activity.at(50.0), activity)
    same(activity.followed_by(np.array([1]), np.array([7]), moment=50.0),
         Activity.of(np.array([0, 1, 1]), np.array([0, 100, 7]), 2))  # fmt: skip
    with pytest.raises(DataError, match="1 of 2 interactions are later than the moment"):
        activity.followed_by(np.array([0, 1]), np.array([150, 250]), moment=200.0)


def test_items_that_came_later_are_like_the_mean_until_somebody_takes_one():
    rng = np.random.default_rng(1)
    items, times = rng.integers(0, 20, 300), rng.integers(0, 1000, 300)
    known = Activity.of(items, times, 20)
    wider = known.with_items(23)
    before = Covariates.of(wider).values
    assert (before[:20] == Covariates.of(known).values).all()
    assert not before[20:].any()
    # Taken as often and at the times of a known one, it is as that one is.
    own = times[items == 4]
    taken = Covariates.of(wider.followed_by(np.full(len(own), 21), own)).values
    assert (taken[21] == taken[4]).all()
    assert not taken[[20, 22]].any()


def test_stored_and_read_again():
    activity = Activity.of(np.array([0, 0, 2]), np.array([1, 5, 9]), 3).with_items(4)
    tensors = activity.tensors()
    same(Activity.of_tensors(tensors), activity)
    for name, value, reason in (
        ("first", torch.zeros(3, dtype=torch.float64), "first of float64"),
        ("counts", torch.zeros(4), "counts of float32"),
        ("decayed", torch.full((4, 7), np.nan, dtype=torch.float64), "not finite"),
        ("n_known", torch.tensor(5), "5 of 4 items"),
    ):
        with pytest.raises(ValueError, match=reason):
            Activity.of_tensors({**tensors, name: value})


# --- models that follow it


FASHIONS = np.concatenate([np.random.default_rng(seed).permutation(30) for seed in range(3)])


def log_of(start: int, days: int, seed: int) -> pl.DataFrame:
    """Of 30 items ten are in fashion, and every five days another takes the place of one."""
    rng = np.random.default_rng(seed)
    n = 12 * days
    times = np.sort(rng.integers(start * DAY, (start + days) * DAY, n))
    items = FASHIONS[times // (5 * DAY) + rng.integers(0, 10, n)]
    frame = pl.DataFrame({"user": rng.integers(0, 400, n), "item": items, "timestamp": times})
    return frame.unique(["user", "item"], keep="first", maintain_order=True)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Dataset.from_splits(
        {
            "train": Interactions(log_of(0, 190, 0), "log"),
            "valid": Interactions(log_of(190, 10, 0), "log"),
        },
        name="fashion",
        scenario="temporal",
    )


@pytest.fixture(scope="module", params=["mf", "itemknn"])
def model(dataset, request) -> Recommender:
    options = {"fhn_every": None, "select_on": "rehearsal"}
    if request.param == "mf":
        return Recommender("mf", training={**options, "epochs": 2}).fit(dataset)
    return Recommender("itemknn", training=options).fit(dataset)


def test_at_its_own_activity_the_live_bias_is_the_bias(model, tmp_path):
    loaded = Recommender.load(model.save(tmp_path / "run"))
    for own in (model.model_, loaded.model_):
        assert own.bias.any()
        assert torch.equal(own.live_bias(own.activity), own.bias)
    same(loaded.model_.activity, model.model_.activity)
    assert loaded.model_.sigma == model.model_.sigma


def test_a_model_that_follows_is_as_if_its_environment_were_of_the_later_moment(
    model, dataset, tmp_path
):
    """The twin: all pairs of before and since, counted anew."""
    since = log_of(200, 30, 1)
    first, second = since[:100], since[100:]
    # Users who are new are counted, items that are new are not.
    second = second.with_columns(
        user=pl.when(pl.col("user") < 100).then(1000 + pl.col("user")).otherwise("user")
    )
    since = pl.concat([first, second])
    strangers = pl.DataFrame({"user": [5], "item": [999], "timestamp": [225 * DAY]})
    mine = Recommender.load(model.save(tmp_path / "run"))
    mine.follow(first).follow(second.filter(pl.col("user") >= 1000))
    mine.follow(pl.concat([second.filter(pl.col("user") < 1000), strangers]), moment=231.0 * DAY)
    split = dataset.merged().split("train")
    before = pl.DataFrame(
        {
            "user": dataset.decode_users(split.users),
            "item": dataset.decode_items(split.items),
            "timestamp": split.timestamps,
        }
    )
    # A pair counts once, also one that came again.
    both = pl.concat([before, since.join(before, on=["user", "item"], how="anti")])
    index = {item: number for number, item in enumerate(dataset.items)}
    both = both.filter(pl.col("item").is_in(list(index)))
    own = mine.model_
    wanted = covariates_at(
        both["item"].replace_strict(index).to_numpy(),
        both["timestamp"].to_numpy(),
        dataset.n_items,
        moment=231.0 * DAY,
        span=own.environment.span,
    )
    step = own.sigma * wanted.values @ np.array(own.environment.coefficients)
    assert own.bias.numpy() == pytest.approx(step, abs=1e-4)
    assert not torch.allclose(own.bias, model.model_.bias, atol=1e-2)
    # What is in fashion by then is what lists show.
    fashion = FASHIONS[229 // 5 :][:10].tolist()
    now, then = (
        other.recommend(mine.users_[:40], k=5)["item"].is_in(fashion).sum()
        for other in (mine, model)
    )
    assert now > 1.5 * then
    # Whether the same interactions have been added to users before does not matter.
    added = Recommender.load(tmp_path / "run").add_interactions(since)
    added.follow(pl.concat([first, second]), moment=231.0 * DAY)
    assert torch.allclose(added.model_.bias, own.bias, rtol=0, atol=1e-5)
    again = Recommender.load(mine.save(tmp_path / "later"))
    assert torch.equal(again.model_.bias, own.bias)
    same(again.model_.activity, own.activity)


def test_items_added_later_have_a_row():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    activity = Activity.of(rng.integers(0, 6, 50), rng.integers(0, 99, 50), 6)
    names = Covariates.of(activity).names
    environment = Environment(
        names=list(names), coefficients=rng.normal(size=len(names)).tolist(),
        half_lives=list(HALF_LIVES), span=activity.span, moment=99.0,
    )  # fmt: skip
    content = SimpleNamespace(
        vectors=lambda features, users, *clicks: torch.zeros(len(features), 2),
        encoder=SimpleNamespace(tells=lambda features: np.ones(len(features), dtype=bool)),
        model=SimpleNamespace(choice=SimpleNamespace(offset=0.5)),
    )
    own = EmbeddingModel(
        users=pl.Series([1]), items=pl.Series(range(6)), train=csr_array((1, 6), dtype=np.int64),
        dial_step=torch.zeros(6), user_embeddings=torch.zeros(1, 2),
        item_embeddings=torch.zeros(6, 2), environment=environment, activity=activity, sigma=2.0,
        bias=environment.bias(activity, 2.0), content=content,
    )  # fmt: skip
    wider = own.with_items(pl.Series([8, 9]), pl.DataFrame({"feature": [0, 0]}))
    assert torch.equal(wider.live_bias(wider.activity), wider._bias(None))
    assert wider.live_bias(wider.activity)[6:].tolist() == [0.5, 0.5]
    taken = wider.live_bias(wider.activity.followed_by(np.array([7]), np.array([99])))
    assert taken[6] == 0.5 != taken[7]
    with pytest.raises(InputError, match="the activity is of 6 items and the model of 8"):
        wider.live_bias(activity)


def test_without_an_environment_there_is_nothing_to_follow(dataset):
    options = {"epochs": 1, "fhn_every": None, "refit": False}
    model = Recommender("mf", training=options).fit(dataset, select_on="valid")
    with pytest.raises(InputError, match="train with select_on='rehearsal' on a log with times"):
        model.follow(log_of(200, 1, 1))


def test_a_log_without_times_is_followed_nowhere(model):
    with pytest.raises(InputError, match="has no timestamps, so it does not tell"):
        model.follow(log_of(200, 1, 1).drop("timestamp"))


def test_runs_from_before_are_read_and_damaged_ones_refused(model, tmp_path):
    run = model.save(tmp_path / "run")
    file, manifest = run / "activity.safetensors", json.loads((run / "manifest.json").read_text())
    file.rename(tmp_path / "whole")
    with pytest.raises(RunError, match="is missing from the run"):
        Recommender.load(run)
    activity = model.model_.activity
    other = replace(activity, span=2 * activity.span)
    sigma = {"sigma": torch.tensor(1.0)}
    for tensors, reason in (
        (activity.with_items(200).tensors() | sigma, "is of 200 items and not of 30"),
        (other.tensors() | sigma, "is of another environment than the manifest's"),
        (activity.tensors(), "cannot be read .'sigma'"),
    ):
        write_tensors(file, tensors)
        manifest["sha256"][file.name] = sha256(file)
        (run / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(RunError, match=reason):
            Recommender.load(run)
    del manifest["sha256"][file.name]
    (run / "manifest.json").write_text(json.dumps(manifest))
    before = Recommender.load(run)
    assert torch.equal(before.model_.bias, model.model_.bias)
    with pytest.raises(InputError, match="from before cnsdiff kept what its environment"):
        before.follow(log_of(200, 1, 1))
