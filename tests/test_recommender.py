"""The estimator: scikit-learn's habits, the caller's own ids, and storage."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

import cnsdiff
from cnsdiff import ConfoundedWorld, Dataset, Interactions, Recommender
from cnsdiff.backbones.base import Backbone, BackboneConfig, Embeddings
from cnsdiff.base.errors import (
    CnsdiffWarning,
    ConfigError,
    DataError,
    InputError,
    NotFittedError,
    RunError,
)
from cnsdiff.samplers import SAMPLERS
from cnsdiff.samplers.base import Items, Sampler, SamplerConfig, Vectors

TRAINING = {"epochs": 2, "batch_size": 64}


def named(dataset: Dataset) -> Dataset:
    """The same pairs, with text ids."""
    tables = {}
    for name in dataset.split_names:
        split = dataset.split(name)
        users = "u" + dataset.decode_users(split.users).cast(pl.String)
        items = "item/" + dataset.decode_items(split.items).cast(pl.String)
        frame = pl.DataFrame({"user": users, "item": items})
        tables[name] = Interactions(frame, "made")
    return Dataset.from_splits(tables, name="named", scenario="given")


@pytest.fixture(scope="module")
def world() -> Dataset:
    return ConfoundedWorld(n_users=60, n_items=50, exposures=20, seed=0).dataset()


@pytest.fixture(scope="module")
def model(world) -> Recommender:
    return Recommender(sampler="random", training=TRAINING).fit(world)


@pytest.fixture(scope="module")
def named_world(world) -> Dataset:
    return named(world)


@pytest.fixture(scope="module")
def named_model(named_world) -> Recommender:
    return Recommender(sampler="random", training=TRAINING).fit(named_world)


# -- recommend ---------------------------------------------------------------------------------


def test_lists_are_the_best_items_not_yet_seen(world, model):
    table = model.recommend(world.users, k=7)
    assert table.columns == ["user", "item", "score", "rank"]
    scores = (model.user_embeddings_ @ model.item_embeddings_.T).numpy()
    scores = scores + model.dial_ * model.model_.dial_step.numpy()
    for name in world.split_names:
        scores[world.split(name).users, world.split(name).items] = -np.inf
    for number, user in enumerate(world.users):
        rows = table.filter(pl.col("user") == user)
        best = np.argsort(-scores[number], kind="stable")[:7]
        assert rows["item"].to_list() == world.items.gather(best).to_list()
        assert rows["rank"].to_list() == [1, 2, 3, 4, 5, 6, 7]
        np.testing.assert_allclose(rows["score"], scores[number, best], rtol=1e-5)


def test_users_come_back_in_the_order_asked_repeated_if_asked(world, model):
    asked = [world.users[5], world.users[0], world.users[5]]
    table = model.recommend(asked, k=2)
    assert table["user"].to_list() == [asked[0]] * 2 + [asked[1]] * 2 + [asked[2]] * 2
    assert table["rank"].to_list() == [1, 2] * 3
    assert table[:2].equals(table[4:])


def test_more_than_the_catalogue(world, model):
    table = model.recommend([world.users[0]], k=10_000)
    seen = sum(int((world.split(name).users == 0).sum()) for name in world.split_names)
    assert table.height == world.n_items - seen
    assert table["score"].is_sorted(descending=True)
    assert table["rank"].to_list() == list(range(1, table.height + 1))
    assert model.recommend([world.users[0]], k=10**9).equals(table)
    assert model.recommend(["who"], k=10**9, cold="popular").height == world.n_items
    assert model.similar([world.items[0]], k=10**9).height == world.n_items - 1


CONTAINERS = {
    "list": (list, pl.DataFrame),
    "tuple": (tuple, pl.DataFrame),
    "generator": (iter, pl.DataFrame),
    "numpy": (np.array, pl.DataFrame),
    "polars": (pl.Series, pl.DataFrame),
    "pandas": (pd.Series, pd.DataFrame),
    "pandas with an index": (lambda ids: pd.Series(ids, index=[9, 3]), pd.DataFrame),
    "pandas categories": (lambda ids: pd.Series(ids, dtype="category"), pd.DataFrame),
    "pyarrow array": (pa.array, pa.Table),
    "pyarrow chunks": (lambda ids: pa.chunked_array([ids[:1], ids[1:]]), pa.Table),
}


def plain(table) -> pl.DataFrame:
    return table if isinstance(table, pl.DataFrame) else pl.DataFrame(table)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_the_kind_that_goes_in_comes_out(request, container, kind):
    dataset = request.getfixturevalue("world" if kind == "numbers" else "named_world")
    model = request.getfixturevalue("model" if kind == "numbers" else "named_model")
    make, expected = CONTAINERS[container]
    users, items = dataset.users[:2].to_list(), dataset.items[:2].to_list()
    table = model.recommend(make(users), k=3)
    assert isinstance(table, expected)
    found = plain(table)
    assert found["user"].cast(dataset.users.dtype).to_list() == np.repeat(users, 3).tolist()
    assert found["item"].dtype == dataset.items.dtype
    assert found["item"].is_in(dataset.items.implode()).all()
    assert found.drop("user").equals(model.recommend(users, k=3).drop("user"))
    like = model.similar(make(items), k=3)
    assert isinstance(like, expected)
    assert plain(like).columns == ["item", "similar", "score", "rank"]
    scores = model.score(make(users), make(items))
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, model.score(users, items))


def test_integers_may_be_asked_for_as_text(world, model):
    user = world.users[3]
    by_text = model.recommend([str(user)], k=4)
    assert by_text["user"].to_list() == [str(user)] * 4
    assert by_text.drop("user").equals(model.recommend([user], k=4).drop("user"))


def test_nobody(model):
    table = model.recommend([], k=3)
    assert table.columns == ["user", "item", "score", "rank"]
    assert table.height == 0
    assert isinstance(model.recommend(pd.Series([], dtype="int64")), pd.DataFrame)


def test_an_unknown_user_is_an_error(world, model, named_model):
    asked = [world.users[0], 987, 988]
    with pytest.raises(InputError, match=r"2 of 3 users .* first is 987; pass cold='popular'"):
        model.recommend(asked)
    for given in (pd.Series([987]), pa.array([987]), iter([987])):
        with pytest.raises(InputError, match="first is 987;"):
            model.recommend(given)
    with pytest.raises(InputError, match="first is 'nobody'"):
        named_model.recommend(["nobody"])


def test_a_cold_user_gets_what_is_popular(world, model):
    table = model.recommend([987, world.users[0], "x"], k=5, cold="popular")
    assert table["user"].to_list() == ["987"] * 5 + [str(world.users[0])] * 5 + ["x"] * 5
    counts = np.bincount(world.split("train").items, minlength=world.n_items)
    order = np.argsort(-counts, kind="stable")[:5]
    for rows in (table[:5], table[10:]):
        assert rows["item"].to_list() == world.items.gather(order).to_list()
        assert rows["score"].to_list() == counts[order].tolist()
    known = model.recommend([world.users[0]], k=5)
    assert table[5:10].drop("user").equals(known.drop("user"))


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one(world, model, k):
    for ask, ids in ((model.recommend, world.users[:1]), (model.similar, world.items[:1])):
        with pytest.raises(InputError, match=f"k must be at least 1, not {k}"):
            ask(ids, k=k)


def test_bad_asks(model):
    with pytest.raises(InputError, match="cold must be 'error' or 'popular', not 'best'"):
        model.recommend([1], cold="best")
    with pytest.raises(DataError, match="put it in a list"):
        model.recommend("abc")
    with pytest.raises(DataError, match="ids must be a list"):
        model.recommend(3)


# -- score and similar -------------------------------------------------------------------------


@pytest.mark.parametrize("dial", [None, 0, -0.5, 2.0])
def test_a_score_is_the_inner_product_and_the_dials_share(world, model, dial):
    users, items = world.users[:4], world.items[3:7]
    rows = model.user_embeddings_[:4].double().numpy() * model.item_embeddings_[3:7].numpy()
    counts = np.bincount(world.split("train").items, minlength=world.n_items)
    if "exposures" in world.table_names:
        counts = world.table("exposures")["exposures"].to_numpy()
    logs = np.log(np.maximum(counts, 1))
    every = (model.user_embeddings_ @ model.item_embeddings_.T).double().numpy()
    share = every.std(axis=1).mean() * (logs - logs.mean()) / logs.std()
    gamma = model.dial_ if dial is None else dial
    expected = rows.sum(1) + gamma * share[3:7]
    np.testing.assert_allclose(model.score(users, items, dial=dial), expected, rtol=1e-4)
    table = model.recommend(world.users, k=5, dial=dial)
    found = model.score(table["user"], table["item"], dial=dial)
    np.testing.assert_allclose(found, table["score"], rtol=1e-4)


def test_one_model_read_at_several_dials(world, model):
    assert model.dial_ == model.model_.dial != 0
    own = model.recommend(world.users, 10)
    assert own.equals(model.recommend(world.users, 10, dial=model.dial_))
    assert model.evaluate(world).metrics == model.evaluate(world, dial=model.dial_).metrics
    values = [model.evaluate(world, dial=g)["valid"]["popularity@10"] for g in (-2, -0.5, 0, 1, 9)]
    assert values == sorted(values)
    assert values[0] < values[-1]
    unseen = model.recommend([987], 5, cold="popular", dial=-2)
    assert unseen.equals(model.recommend([987], 5, cold="popular"))


@pytest.mark.parametrize("dial", [float("nan"), float("inf"), 1e300])
def test_what_is_no_dial(world, model, dial):
    user, item = world.users[:1], world.items[:1]
    for ask in (
        lambda: model.recommend(user, dial=dial),
        lambda: model.score(user, item, dial=dial),
        lambda: model.evaluate(world, dial=dial),
    ):
        with pytest.raises(InputError, match=r"the dial is .*; give a finite number"):
            ask()


def test_the_best_dial_for_an_objective(world, named_world, model):
    assert model.best_dial(world) == model.dial_
    dial = model.best_dial(world, "inverse-popularity")
    other = Recommender("mf", training={**TRAINING, "select_on": "inverse-popularity"})
    assert other.fit(world).best_dial(world, "inverse-popularity") == other.dial_
    assert isinstance(dial, float)
    for on in ("test_ood", "popularity"):
        with pytest.raises(ConfigError, match=rf"best_dial\(on='{on}'\): "):
            model.best_dial(world, on)
    with pytest.raises(InputError, match="is not the dataset this model was trained on"):
        model.best_dial(named_world)


def test_scores_of_unknown_or_unpaired_ids(world, model):
    user, item = world.users[0], world.items[0]
    with pytest.raises(InputError, match=r"1 of 1 items did not occur in training.* 987"):
        model.score([user], [987])
    with pytest.raises(InputError, match="as many users as items, not 2 and 1"):
        model.score([user, user], [item])
    with pytest.raises(InputError, match="1 of 1 items"):
        model.similar([987])


def test_similar_items_are_nearest_by_cosine_and_never_the_item_itself(world, model):
    table = model.similar(world.items, k=world.n_items)
    assert table.filter(pl.col("item") == pl.col("similar")).height == 0
    assert table.height == world.n_items * (world.n_items - 1)
    unit = torch.nn.functional.normalize(model.item_embeddings_, dim=1).numpy()
    cosine = unit @ unit.T
    for number in (0, 7):
        rows = table.filter(pl.col("item") == world.items[number])
        others = [n for n in np.argsort(-cosine[number], kind="stable") if n != number]
        assert rows["similar"].to_list() == world.items.gather(others).to_list()
        np.testing.assert_allclose(rows["score"], cosine[number, others], atol=1e-5)
    twice = model.similar([world.items[0]] * 2, k=2)
    assert twice[:2].equals(twice[2:])


# -- the estimator -----------------------------------------------------------------------------


def test_the_constructor_does_no_work():
    class Unbuildable:
        def __init__(self, *args):
            raise AssertionError("built")

    model = Recommender("no such backbone", Unbuildable, preset="none", seed="none")
    assert model.backbone == "no such backbone"
    with pytest.raises(ConfigError):
        model.resolve()


@pytest.mark.parametrize(
    "use",
    [
        lambda m: m.recommend([1]),
        lambda m: m.score([1], [1]),
        lambda m: m.similar([1]),
        lambda m: m.evaluate(None),
        lambda m: m.best_dial(None),
        lambda m: m.dial_,
        lambda m: m.save("never"),
        lambda m: m.users_,
        lambda m: m.user_embeddings_,
        lambda m: m.dataset_path_,
    ],
)
def test_not_fitted(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFittedError, match=r"call fit\(dataset\) first"):
        use(Recommender())
    assert not list(tmp_path.iterdir())


def test_fit_returns_itself_and_leaves_the_parameters(world):
    options = {"training": dict(TRAINING), "sampler_options": {"n_negatives": 2}}
    model = Recommender("mf", "random", **options)
    assert model.fit(world) is model
    assert {name: getattr(model, name) for name in options} == options
    assert model.config_.sampler.n_negatives == 2
    assert model.user_embeddings_.requires_grad is False
    assert model.score(world.users[:1], world.items[:1]).shape == (1,)
    assert model.dataset_path_ is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"training": {"epocs": 3}}, r"Recommender: unknown key 'training.epocs' \(did you mean"),
        ({"sampler": "randon"}, "no sampler is called 'randon'.*did you mean 'random'"),
        ({"backbone_options": "mf"}, r"backbone must be a section .*chosen by its name"),
        ({"preset": "autors"}, "did you mean 'authors'"),
        ({"sampler": "random", "device": "gpu"}, "device: 'gpu' is not one of"),
    ],
)
def test_a_wrong_configuration_starts_nothing(world, tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        Recommender(**options).fit(world, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def with_full_users(*full, n_users=12, n_items=9):
    """Some users have every item, one all but one, the others a third; named ``u0``, ``u1``, …"""
    rng = np.random.default_rng(0)
    observed = rng.random((n_users, n_items)) < 0.3
    observed[np.arange(n_items), np.arange(n_items)] = True
    observed[n_users - 1] = True
    observed[n_users - 1, 4] = False
    observed[list(full)] = True
    pairs = pl.DataFrame(np.argwhere(observed), schema=["user", "item"])
    lacking = pl.DataFrame(np.argwhere(~observed), schema=["user", "item"]).filter(
        pl.col("user") != n_users - 1
    )
    frames = {"train": pairs}
    if lacking.height:
        frames["valid"] = lacking.sample(20, seed=0)
    name = pl.format("u{}", "user").alias("user")
    splits = {split: Interactions(f.with_columns(name), split) for split, f in frames.items()}
    return Dataset.from_splits(splits, name="full", scenario="given")


@pytest.mark.parametrize("sampler", SAMPLERS.names())
def test_users_with_every_item_give_no_rows_but_are_recommended_to(sampler):
    dataset = with_full_users(3, 7)
    training = {"epochs": 2, "batch_size": 16, "fhn_every": 1, "refit": False}
    model = Recommender("mf", sampler, training=training)
    told = "2 users have all 9 items and give no negatives, e.g. 'u3': 18 training pairs are left"
    if SAMPLERS.find(sampler).needs_free_items:
        with pytest.warns(CnsdiffWarning, match=told):
            model.fit(dataset)
    else:
        model.fit(dataset)
    assert model.recommend(["u3"]).height == 0
    drawn = model.sampled_negatives(dataset, n=50)
    assert {3, 7}.isdisjoint(drawn.batch.users.tolist())
    assert model.false_negatives(dataset, "valid").examined


def test_nobody_who_lacks_an_item():
    dataset = with_full_users(*range(12))
    with pytest.raises(DataError, match="every user interacted with all 9 items"):
        Recommender("mf", "random").fit(dataset)


@pytest.mark.parametrize("negatives", ["in-batch", "uniform"])
def test_negatives_that_no_user_decides_keep_all_rows(negatives):
    objective = {"loss": "softmax", "negatives": negatives}
    training = {"epochs": 1, "fhn_every": None}
    Recommender("mf", "random", objective=objective, training=training).fit(with_full_users(3))


def test_false_negatives_of_the_sampler_as_trained(world, named_world, tmp_path):
    """The same counts after loading, from the generator and the embeddings that were saved."""
    model = Recommender("mf", "cnsdiff", training=TRAINING).fit(world)
    counts = model.false_negatives(world, n=500)
    assert counts.examined == counts.judged == 500
    assert counts.neighbours == 1
    loaded = Recommender.load(model.save(tmp_path / "run"))
    assert loaded.false_negatives(world, n=500) == counts
    assert model.false_negatives(world, n=500, seed=1) != counts
    assert model.false_negatives(world, "held-out", n=500).false >= counts.false
    with pytest.raises(InputError, match="is not the dataset this model was trained on"):
        model.false_negatives(named_world)
    with pytest.raises(DataError, match="has no judgements"):
        Recommender("mf", "random", training=TRAINING).fit(named_world).false_negatives(
            named_world, "experiment"
        )


@pytest.mark.parametrize("sampler", ["cnsdiff", "exposure", "softmax_rho", "mixgcf"])
def test_negatives_of_the_sampler_as_trained(sampler, world, named_world, tmp_path):
    """One for each pair, of a kind that the sampler makes; the same after loading."""
    model = Recommender("mf", sampler, training=TRAINING).fit(world)
    found = model.sampled_negatives(world, n=40, seed=3)
    loaded = Recommender.load(model.save(tmp_path / "run")).sampled_negatives(world, n=40, seed=3)
    vectors = found.negatives.embed(found.embeddings)
    assert vectors.shape == (40, 1, found.embeddings.items.shape[1])
    assert torch.equal(vectors, loaded.negatives.embed(loaded.embeddings))
    assert isinstance(found.negatives, Vectors) == (sampler in ("cnsdiff", "mixgcf"))
    batch = found.batch
    assert found.positives.contains(batch.users, batch.positives).all()
    assert len(batch.index.unique()) == 40
    other = model.sampled_negatives(world, n=40, seed=4)
    assert not torch.equal(other.batch.index, batch.index)
    whole = model.sampled_negatives(world, n=10**9)
    assert len(whole.batch) == len(whole.positives)
    with pytest.raises(InputError, match="is not the dataset this model was trained on"):
        model.sampled_negatives(named_world)


def test_evaluate_knows_its_dataset(world, named_world, model, tmp_path):
    result = model.evaluate(world)
    assert list(result.splits) == ["valid", "test_iid", "test_ood"]
    best = dict(model.history_[model.best_epoch_ - 1]["validation"])
    read = model.evaluate(world, ["valid"], dial=best.pop("dial"))
    assert read["valid"].metrics == best
    assert result["valid"]["ndcg@20"] >= best["ndcg@20"], "the fine grid holds the coarse one"
    with pytest.raises(InputError, match=r"is not the dataset this model was trained on"):
        model.evaluate(named_world)
    saved = cnsdiff.load_dataset(world.save(tmp_path / "d", overwrite=True))
    world.path = None
    assert model.evaluate(saved).metrics == result.metrics


# -- one's own components ----------------------------------------------------------------------


class OwnBackboneConfig(BackboneConfig):
    scale: float = 1.0


class OwnBackbone(Backbone):
    """Item vectors only; a user is the mean of the training items. No free user table."""

    Config = OwnBackboneConfig

    def __init__(self, positives, config, generator):
        torch.nn.Module.__init__(self)
        self.table = torch.nn.Parameter(
            config.scale * torch.randn(positives.n_items, config.dim, generator=generator)
        )
        seen = torch.from_numpy(positives.matrix.toarray())
        self.register_buffer("mean", seen / seen.sum(1, keepdim=True), persistent=False)

    layer_zero = None

    def forward(self):
        return Embeddings(self.mean @ self.table, self.table)


class Fixed(Sampler):
    """Random items, one more than asked."""

    class Config(SamplerConfig):
        extra: int = 1

    def forward(self, batch, embeddings, context):
        n = self.config.n_negatives + self.config.extra
        return Items(self.positives.sample_negatives(batch.users, n, context.negatives))


def test_own_classes_from_fit_to_load(world, tmp_path):
    model = Recommender(
        OwnBackbone,
        Fixed,
        training=TRAINING,
        backbone_options={"scale": 0.1, "dim": 8},
        sampler_options={"extra": 3},
    )
    model.fit(world, run=tmp_path / "run")
    assert model.config_.backbone.scale == 0.1
    assert model.config_.sampler.extra == 3
    assert model.item_embeddings_.shape == (world.n_items, 8)
    loaded = Recommender.load(tmp_path / "run")
    assert loaded.recommend(world.users, 5).equals(model.recommend(world.users, 5))
    assert loaded.config_.sampler.name == "Fixed"
    assert loaded.evaluate(world).metrics == model.evaluate(world).metrics
    loaded.save(tmp_path / "again")
    again = Recommender.load(tmp_path / "again")
    assert again.recommend(world.users, 5).equals(model.recommend(world.users, 5))
    with pytest.raises(ConfigError, match="called 'OwnBackbone'"):
        loaded.fit(world)


def test_own_classes_resume(world, tmp_path):
    class Stop(cnsdiff.training.progress.Reporter):
        def epoch(self, record, *, best):
            if record["epoch"] == 1:
                raise KeyboardInterrupt

    def make():
        return Recommender(OwnBackbone, Fixed, training=TRAINING)

    with pytest.raises(KeyboardInterrupt):
        make().fit(world, run=tmp_path / "run", reporter=Stop())
    resumed = make().fit(world, run=tmp_path / "run")
    assert torch.equal(resumed.item_embeddings_, make().fit(world).item_embeddings_)


# -- storage -----------------------------------------------------------------------------------


def test_load_gives_what_was_saved(world, named_world, model, named_model, tmp_path):
    for name, fitted, dataset in (("a", model, world), ("b", named_model, named_world)):
        assert fitted.save(tmp_path / name) == tmp_path / name
        loaded = Recommender.load(tmp_path / name)
        assert loaded.recommend(dataset.users, 20).equals(fitted.recommend(dataset.users, 20))
        assert loaded.similar(dataset.items, 5).equals(fitted.similar(dataset.items, 5))
        assert loaded.config_ == fitted.config_
        assert loaded.history_ == fitted.history_
        assert loaded.best_epoch_ == fitted.best_epoch_
        assert loaded.dial_ == fitted.dial_ != 0
        assert torch.equal(loaded.model_.dial_step, fitted.model_.dial_step)
        assert loaded.best_dial(dataset, "inverse-popularity") == fitted.best_dial(
            dataset, "inverse-popularity"
        )
        assert loaded.evaluate(dataset).metrics == fitted.evaluate(dataset).metrics


class OfOnesOwn(Sampler):
    """Random items, and no settings of its own."""

    def forward(self, batch, embeddings, context):
        return Items(self.positives.sample_negatives(batch.users, 1, context.negatives))


@pytest.mark.parametrize("sampler", [None, "exposure", "dns", "cnsdiff", OfOnesOwn])
def test_a_run_loads_with_the_settings_it_had(world, tmp_path, sampler):
    """With the default's or, of another sampler, without them."""
    model = Recommender(sampler=sampler, training=TRAINING).fit(world, run=tmp_path / "run")
    ours = sampler in (None, "exposure")
    objective = model.config_.objective
    assert model.config_.backbone.init == ("spectral" if ours else "xavier")
    assert (objective.loss, objective.score) == (
        ("softmax", "cosine") if ours else ("bpr", "inner")
    )
    loaded = Recommender.load(tmp_path / "run")
    assert loaded.config_ == model.config_
    assert loaded.recommend(world.users, 5).equals(model.recommend(world.users, 5))
    if sampler is not OfOnesOwn:  # which has to be at hand
        assert loaded.resolve() == model.config_


def test_a_loaded_model_is_whole(world, model, tmp_path):
    """It can be saved again, and fitted again with its own configuration."""
    options = {"backbone_options": {"dim": 16, "layers": 1}, "seed": 3, "training": TRAINING}
    first = Recommender(sampler="random", **options).fit(world)
    loaded = Recommender.load(first.save(tmp_path / "a"))
    loaded.save(tmp_path / "b")
    for file in ("weights.safetensors", "config.yaml", "history.parquet", "manifest.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert loaded.resolve() == first.config_
    assert torch.equal(loaded.fit(world).user_embeddings_, first.user_embeddings_)


def test_save_replaces_only_when_told_and_only_runs(model, world, tmp_path):
    run = model.save(tmp_path / "run")
    (run / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="already exists"):
        model.save(run)
    assert (run / "note.txt").exists()
    model.save(run, overwrite=True)
    assert not (run / "note.txt").exists()
    Recommender.load(run)
    (tmp_path / "empty").mkdir()
    model.save(tmp_path / "empty")
    model.save(tmp_path / "deep" / "er", overwrite=True)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years of work")
    dataset = world.save(tmp_path / "dataset")
    world.path = None
    for place in (precious, precious / "thesis.tex", dataset):
        with pytest.raises(RunError, match="is not a run"):
            model.save(place, overwrite=True)
    assert (precious / "thesis.tex").read_text() == "years of work"
    cnsdiff.load_dataset(dataset)
