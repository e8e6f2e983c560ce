"""Content as a part of training: chosen, kept, served; and what it is worth where it tells."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
import typer

from cnsdiff import ConfoundedWorld, Recommender, prepare
from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.errors import CnsdiffWarning, ConfigError, DataError, InputError, RunError
from cnsdiff.base.text import spelled
from cnsdiff.benchmark.task import Method
from cnsdiff.cli.app import app, speller_of
from cnsdiff.content.choice import learnt_on
from cnsdiff.content.priors import Diffusion
from cnsdiff.content.towers import fit_towers, profiles
from cnsdiff.environment import hold_out_items
from cnsdiff.training.progress import Reporter

BRIEF = {"epochs": 3, "fhn_every": None}


@pytest.fixture(scope="module")
def world():
    return ConfoundedWorld(n_users=150, n_items=120, exposures=60, seed=0).dataset()


@pytest.fixture(scope="module")
def fitted(world):
    model = Recommender(training=BRIEF, content={"prior": "ridge"}, seed=1)
    return model.fit(world)


def new_items(world, n: int = 3) -> pl.DataFrame:
    ids = pl.Series("item", range(9001, 9001 + n))
    return world.table("item_features")[:n].with_columns(ids)


def test_features_that_tell_are_used(fitted, world):
    choice = fitted.content_
    assert choice.used
    assert choice.metrics["with"] > choice.metrics["without"]
    plain = Recommender(training=BRIEF, seed=1).fit(world)
    assert plain.content_ is None
    ours, theirs = (
        model.evaluate(world).splits["test_iid"].metrics["ndcg@20"] for model in (fitted, plain)
    )
    assert ours > theirs


def test_features_that_tell_nothing_change_nothing_or_cost_little(world, monkeypatch):
    monkeypatch.setattr("cnsdiff.content.priors.STEPS", 200)
    table = world.table("item_features")
    order = np.random.default_rng(0).permutation(len(table))
    world._tables["item_features"] = table[order]
    try:
        model = Recommender(training=BRIEF, content={"prior": "auto"}, seed=1).fit(world)
    finally:
        world._tables["item_features"] = table
    plain = Recommender(training=BRIEF, seed=1).fit(world)
    ours, theirs = (
        own.evaluate(world).splits["test_iid"].metrics["ndcg@20"] for own in (model, plain)
    )
    assert model.content_.metrics["with"] < 1.05 * model.content_.metrics["without"]
    assert ours > 0.95 * theirs


def test_training_again_gives_the_same(fitted, world):
    again = Recommender(training=BRIEF, content={"prior": "ridge"}, seed=1).fit(world)
    assert again.content_ == fitted.content_
    assert torch.equal(again.item_embeddings_, fitted.item_embeddings_)


def test_a_new_item_is_recommended_as_its_twin_is(fitted, world, tmp_path):
    users = world.users.to_list()
    model = Recommender.load(fitted.save(tmp_path / "run"))
    assert torch.equal(model.item_embeddings_, fitted.item_embeddings_)
    model.add_items(new_items(world))
    assert len(model.items_) == world.n_items + 3
    lists = model.recommend(users, k=30)
    assert lists["item"].is_in([9001, 9002, 9003]).any()
    # The items that it is made after are the nearest of all, or nearly.
    for twin, item in zip(world.items[:3], (9001, 9002, 9003), strict=True):
        near = model.similar([item], k=10)["similar"].to_list()
        assert twin in near
    with pytest.warns(CnsdiffWarning, match="all 3 items given as new are known already, first 9"):
        model.add_items(new_items(world))
    assert len(model.items_) == world.n_items + 3
    kept = Recommender.load(model.save(tmp_path / "longer"))
    assert kept.recommend(users, k=30).equals(lists)


def test_what_is_still_open_of_an_item_falls_with_its_interactions(fitted, world, tmp_path):
    model = Recommender.load(fitted.save(tmp_path / "run")).add_items(new_items(world))
    left = model.uncertainty_
    counts = np.bincount(world.split("train").items, minlength=world.n_items)
    assert torch.equal(left[world.n_items :], torch.ones(3))
    assert (left[np.argsort(counts)].diff() <= 1e-6).all()


def test_the_diffusion_tells_its_energy_score_beside_a_gaussian(world, monkeypatch):
    for setting, small in (("STEPS", 30), ("CALLS", 3), ("DRAWS", 4), ("HIDDEN", 32)):
        monkeypatch.setattr(f"cnsdiff.content.priors.{setting}", small)
    content = {"prior": "diffusion"}
    told = []
    means = Diffusion.__call__
    monkeypatch.setattr(Diffusion, "__call__", lambda *own: told.append(1) or means(*own))
    metrics = Recommender(training=BRIEF, content=content).fit(world).content_.metrics
    assert 0 < metrics["energy gaussian"] < 1e3
    assert 0 < metrics["energy diffusion"] < 1e3
    # To choose and to serve, each: what is left open of the known ones, and the means of all.
    assert len(told) == 4


def test_clicks_on_a_new_item_move_it_towards_those_who_clicked(fitted, world, tmp_path):
    folder = fitted.save(tmp_path / "run")
    plain, clicked = (Recommender.load(folder) for _ in range(2))
    who = world.users[:4]
    pairs = pl.DataFrame({"user": who, "item": [9001] * 4})
    plain.add_items(new_items(world))
    clicked.add_items(new_items(world), clicks=pairs)
    items = [9001] * 4
    assert clicked.score(who, items).mean() > plain.score(who, items).mean()
    untouched = clicked.score(who, [9002] * 4)
    np.testing.assert_array_equal(untouched, plain.score(who, [9002] * 4))
    assert 9001 not in clicked.recommend(who, k=world.n_items)["item"].to_list()


def test_an_item_of_which_nothing_is_told_begins_at_the_mean(fitted, world, tmp_path):
    folder = fitted.save(tmp_path / "run")
    plain, untold = (Recommender.load(folder) for _ in range(2))
    told = pl.col("item") != 9002
    features = new_items(world)
    columns = [pl.when(told).then(pl.col(c)).alias(c) for c in features.columns if c != "item"]
    clicks = pl.DataFrame({"user": world.users[:3], "item": [9003] * 3})
    plain.add_items(features, clicks=clicks)
    untold.add_items(features.with_columns(columns), clicks=clicks)
    known = world.split("train").items
    mean = untold.item_embeddings_[np.unique(known)].mean(dim=0)
    torch.testing.assert_close(untold.item_embeddings_[-2], mean)
    assert torch.equal(untold.item_embeddings_[[-3, -1]], plain.item_embeddings_[[-3, -1]])
    offset = plain.content_.offset
    assert offset != 0
    assert plain.model_.offsets[-3:].tolist() == pytest.approx([offset] * 3)
    assert untold.model_.offsets[-3:].tolist() == pytest.approx([offset, 0.0, offset])


def test_a_rehearsal_chooses_on_its_own_new_items():
    world = ConfoundedWorld(n_users=150, n_items=120, exposures=60, seed=0)
    clicks = world.clicks(world.periods).select("user", "item", "timestamp")
    # Half of the items come late, so that the end of the log has new ones.
    is_late = pl.col("timestamp") > clicks["timestamp"].quantile(0.8)
    late = clicks.filter((pl.col("item") % 2 == 0) | is_late)
    table = world.dataset().table("item_features").with_columns(item=world.dataset().items)
    dataset = prepare(late, "temporal", quantile=0.9, item_features=table)
    model = Recommender(training=BRIEF, content={"prior": "ridge"}, seed=1)
    model.fit(dataset, select_on="rehearsal")
    assert model.environment_ is not None
    assert model.content_.metrics["new"] > 0


def test_training_goes_on_after_a_kill_to_the_same_result(world, fitted, tmp_path):
    class Stop(Exception):
        pass

    class Ends(Reporter):
        def note(self, text: str) -> None:
            if text.startswith("content by ridge:"):
                raise Stop

    own = Recommender(training=BRIEF, content={"prior": "ridge"}, seed=1)
    with pytest.raises(Stop):
        own.fit(world, run=tmp_path / "run", reporter=Ends())
    assert (tmp_path / "run" / "held-out.safetensors").exists()
    own.fit(world, run=tmp_path / "run")
    assert torch.equal(own.item_embeddings_, fitted.item_embeddings_)
    assert not (tmp_path / "run" / "held-out.safetensors").exists()


def test_what_cannot_be_is_said_at_once(world, fitted, tmp_path):
    content = {"prior": "ridge"}
    pairs = pl.DataFrame({"user": [u for u in range(20) for _ in range(20)]})
    bare = prepare(pairs.with_columns(item=pl.int_range(400) * 7 % 41), "popularity")
    with pytest.raises(DataError, match="no item features to learn from; prepare it with"):
        Recommender(content=content).fit(bare)
    with pytest.raises(ConfigError, match="does not go with training"):
        Recommender(content=content).fit(world, select_on="target-counts")
    with pytest.raises(ConfigError, match="needs vectors of items, and ease has none"):
        Recommender("ease", content=content).fit(world)
    stack = {"preset": "bpr-lightgcn", "set": {"content.prior": "ridge"}}
    with pytest.raises(ConfigError, match="content is that of the first model; leave it out"):
        Recommender(stack=stack).fit(world)
    with pytest.raises(ConfigError, match="a benchmark measures no content"):
        Method("ours", None, {"content": content}, "default").config(0)
    with pytest.raises(InputError, match="the model learns from no features; train it with"):
        Recommender("mf", sampler="random", training=BRIEF).fit(world).add_items(new_items(world))
    with pytest.raises(InputError, match="9001; give the features of new items with add_items"):
        fitted.similar([9001])
    with pytest.raises(InputError, match="9001; give the features of new items with add_items"):
        fitted.score(world.users[:1], [9001])
    with pytest.raises(InputError, match="first is 9001; give the features of new items"):
        fitted.recommend(world.users[:1], only=[9001])
    with pytest.warns(CnsdiffWarning, match="first is 9001; give the features of new items"):
        fitted.recommend(world.users[:1], exclude=[9001])
    with (
        spelled(speller_of(typer.main.get_command(app))),
        pytest.raises(InputError, match="give the features of new items with --new-items"),
    ):
        fitted.similar([9001])
    with pytest.raises(InputError, match="the item '009' cannot be added"):  # which is not 9
        fitted.clone().fit(world).add_items(new_items(world, 1).with_columns(item=pl.lit("009")))
    with pytest.raises(InputError, match="the item 'a' cannot be added"):
        fitted.clone().fit(world).add_items(new_items(world, 1).with_columns(item=pl.lit("a")))


def test_a_damaged_file_of_content_is_refused(fitted, tmp_path):
    run = fitted.save(tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["schema_version"] == 4
    (run / "content.safetensors").write_bytes(b"torn")
    with pytest.raises(RunError, match="its content does not match"):
        Recommender.load(run)


def test_items_held_out_have_no_pair_to_train_on(world):
    part = hold_out_items(world, 0.2, seed=3)
    held = np.setdiff1d(np.arange(world.n_items), part.dataset.items.to_numpy())
    assert len(held) >= 0.2 * world.n_items
    features = torch.ones(world.n_items, 2)
    users, items = (torch.ones(n, 3) for n in (part.dataset.n_users, part.dataset.n_items))
    learnt, warm, new = learnt_on(part, Embeddings(users, items), None, features)
    assert not learnt.counts[held].any()
    assert set(new.items) <= set(held)
    assert not set(warm.items) & set(held)
    pairs = world.merged().split("train")
    known = np.isin(pairs.users, part.dataset.users.to_numpy())
    assert len(warm) + len(new) + learnt.train.nnz == known.sum()


def test_towers_start_as_the_cosine_of_profiles_and_learn(world):
    train = world.split("train").csr(world.n_users, world.n_items)
    vectors = torch.nn.functional.normalize(torch.randn(world.n_items, 6), dim=1)
    start = fit_towers(train, vectors, 0)
    sums = profiles(train, vectors)
    cosine = torch.nn.functional.cosine_similarity(sums[:, None], vectors[None], dim=2)
    torch.testing.assert_close(start.users(sums) @ start.items(vectors).T, cosine)
    later = fit_towers(train, vectors, 2, seed=1)
    assert torch.equal(later.user_map, fit_towers(train, vectors, 2, seed=1).user_map)
    assert not torch.equal(later.user_map, start.user_map)


def test_what_features_lack_is_said_before_anything_trains(world, tmp_path, monkeypatch):
    class Told(Reporter):
        def epoch(self, record, *, best):
            raise AssertionError("something was trained")

    run = tmp_path / "run"
    unknown = Recommender(training=BRIEF, content={"prior": "auto", "kinds": {"year": "number"}})
    with pytest.raises(DataError, match="item features have no column 'year'"):
        unknown.fit(world, run=run, reporter=Told())
    assert not run.exists()
    monkeypatch.setattr("cnsdiff.content.features.MOST_WORDS", 5)
    table = pl.DataFrame({"item": world.items, "brand": [n // 2 for n in range(world.n_items)]})
    pairs = world.split("train")
    pairs = {"user": world.users[pairs.users], "item": world.items[pairs.items]}
    many = prepare(pl.DataFrame(pairs), "popularity", item_features=table)
    content = {"prior": "auto", "kinds": {"brand": "category"}}
    with pytest.raises(DataError, match="categories that occur twice or more"):
        Recommender(training=BRIEF, content=content).fit(many, run=run, reporter=Told())
    assert not run.exists()
