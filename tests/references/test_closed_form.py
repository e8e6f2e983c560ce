"""References as models: trained, saved, loaded, recommended with, exported and reported."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_array

from cnsdiff import ConfoundedWorld, Dataset, Recommender, load_dataset, read_interactions, tune
from cnsdiff.base.errors import ConfigError, DataError, InputError, RunError
from cnsdiff.base.storage import sha256
from cnsdiff.benchmark.task import Method
from cnsdiff.cli import main
from cnsdiff.environment import HALF_LIVES, covariates_at, rehearse
from cnsdiff.environment.environment import OwnUnits
from cnsdiff.evaluation import evaluate_split, rank
from cnsdiff.evaluation.dial import exposure_score, spread
from cnsdiff.export import to_numpy, to_parquet
from cnsdiff.recommender.embedding_model import EmbeddingModel, ItemItemModel
from cnsdiff.recommender.run_directory import IN_CLOSED_FORM, read_manifest
from cnsdiff.references import CLOSED_FORM, EASE, REFERENCES, RecentMostPop
from cnsdiff.references.item_item import ItemItemScorer
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.processes import Place
from cnsdiff.training.progress import Reporter
from cnsdiff.training.selection import EnvironmentSelection

#: Of each: settings other than the defaults, and the dial to fix (none where it has no meaning).
SETTINGS = {
    "mostpop": ({}, 0.0),
    "recent-mostpop": ({"half_life": 0.1}, 0.0),
    "itemknn": ({"neighbours": 7, "shrink": 2.0}, 0.5),
    "ease": ({"l2": 40.0}, -0.25),
    "ials": ({"factors": 5, "iterations": 3}, 0.5),
}
ITEM_ITEM = ("ease", "itemknn")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    world = ConfoundedWorld(n_users=60, n_items=40, exposures=25, seed=0).dataset("temporal")
    return load_dataset(world.save(tmp_path_factory.mktemp("world") / "data"))


def recommender(name: str, **training: object) -> Recommender:
    options, dial = SETTINGS[name]
    return Recommender(name, backbone_options=options, training={"dial": dial, **training})


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name in CLOSED_FORM:
        recommender(name).fit(data, run=folder / name)
    return {name: folder / name for name in CLOSED_FORM}


@pytest.fixture
def cli(monkeypatch, capsys):
    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["cnsdiff", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return end.value.code or 0, said.out + said.err

    return run


def scores_of(name: str, data: Dataset) -> np.ndarray:
    """``(U, I)`` the reference's own, and the dial's share."""
    options, dial = SETTINGS[name]
    reference = REFERENCES[name](**options).fit(data)
    scores = reference.score_block(torch.arange(data.n_users), 0, data.n_items)
    return (scores + dial * spread(reference) * exposure_score(data)).numpy()


def test_the_models_are_the_references_but_chance() -> None:
    assert REFERENCES.keys() - CLOSED_FORM.keys() == {"random"}
    assert SETTINGS.keys() == CLOSED_FORM.keys()


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_a_loaded_model_scores_as_the_reference_does(name, data, runs) -> None:
    expected = scores_of(name, data)
    model = Recommender.load(runs[name])
    everyone = torch.arange(data.n_users)
    assert model.model_.scorer().score_block(everyone, 0, data.n_items).numpy() == pytest.approx(
        expected, abs=1e-5
    )
    # Pairs, a user twice.
    users, items = np.array([5, 0, 5, 30]), np.array([1, 37, 7, 1])
    scores = model.score(data.users.gather(users), data.items.gather(items))
    assert scores == pytest.approx(expected[users, items], abs=1e-5)
    # Lists: the best that are not in train.
    train = data.split("train").csr(data.n_users, data.n_items).toarray()
    lists = model.recommend(data.users.gather([5, 0]), k=6, seen="train")
    for user in (5, 0):
        own = lists.filter(pl.col("user") == data.users[user])
        allowed = np.flatnonzero(train[user] == 0)
        assert own["score"].to_numpy() == pytest.approx(
            np.sort(expected[user, allowed])[::-1][:6], abs=1e-5
        )
        numbers = [data.items.to_list().index(item) for item in own["item"]]
        assert own["score"].to_numpy() == pytest.approx(expected[user, numbers], abs=1e-5)
        assert set(numbers) <= set(allowed)


@pytest.mark.parametrize("name", ITEM_ITEM)
def test_item_weights_are_the_model(name, data, runs) -> None:
    model = Recommender.load(runs[name])
    weights = model.model_.weights
    dense = weights.numpy() if name == "ease" else weights.toarray()
    histories = data.split("train").csr(data.n_users, data.n_items).toarray()
    at_zero = model.model_.scorer(dial=0.0).score_block(torch.arange(data.n_users), 0, data.n_items)
    assert at_zero.numpy() == pytest.approx(histories @ dense, abs=1e-5)
    # Similar items are those of the row; what shares no user is not similar at all.
    found = model.similar(data.items.gather([3]), k=40)
    row = np.where(np.arange(data.n_items) == 3, 0, dense[3])
    assert len(found) == np.count_nonzero(row)
    order = np.argsort(-row, kind="stable")[: len(found)] if name == "itemknn" else None
    if order is not None:
        assert found["similar"].to_list() == data.items.gather(order).to_list()
    assert found["score"].to_numpy() == pytest.approx(np.sort(row[row != 0])[::-1], abs=1e-7)
    for attribute in ("user_embeddings_", "item_embeddings_"):
        with pytest.raises(InputError, match="has no embeddings"):
            getattr(model, attribute)


@pytest.mark.parametrize("name", ["mostpop", "recent-mostpop"])
def test_popularity_knows_of_no_similar_items(name, data, runs) -> None:
    with pytest.raises(InputError, match="does not know which are similar"):
        Recommender.load(runs[name]).similar(data.items[:1])


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_a_new_user_gets_what_is_popular(name, data, runs) -> None:
    model = Recommender.load(runs[name])
    lists = model.recommend(["nobody"], k=3, cold="popular")
    counts = np.bincount(data.split("train").items, minlength=data.n_items)
    assert lists["score"].to_list() == np.sort(counts)[::-1][:3].tolist()


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_what_is_kept_of_the_training(name, data, runs) -> None:
    manifest = read_manifest(runs[name])
    assert (manifest.schema_version, manifest.status) == (IN_CLOSED_FORM, "complete")
    model = Recommender.load(runs[name])
    assert (model.best_epoch_, len(model.history_)) == (1, 1)
    assert model.dial_ == SETTINGS[name][1]
    value = model.history_[0]["validation"]["ndcg@20"]
    assert value == pytest.approx(model.evaluate(data, ["valid"])["valid"]["ndcg@20"])
    # Sampler and objective decide nothing, so they are not written down.
    stated = (runs[name] / "config.yaml").read_text()
    assert "sampler:" not in stated and "objective:" not in stated
    again = Recommender.load(runs[name]).fit(data)
    assert again.recommend(data.users[:4]).equals(model.recommend(data.users[:4]))


def test_the_dial_is_placed_on_validation_as_for_any_model(data) -> None:
    model = Recommender("ease").fit(data, select_on="valid")
    assert model.dial_ == model.best_dial(data)
    assert Recommender("mostpop").fit(data, select_on="valid").dial_ == 0.0
    anticipated = Recommender("itemknn").fit(data, select_on="inverse-popularity")
    assert anticipated.dial_ == anticipated.best_dial(data, "inverse-popularity")
    assert "ndcg@20 (inverse-popularity)" in anticipated.history_[0]["validation"]


# --- rehearsal


@pytest.mark.parametrize("name", ["ease", "itemknn", "ials"])
def test_a_rehearsal_chooses_the_environment_and_then_all_is_fitted(name, data) -> None:
    options = SETTINGS[name][0]
    model = Recommender(name, backbone_options=options).fit(data, select_on="rehearsal")
    rehearsal = rehearse(data)
    early = REFERENCES[name](**options).fit(rehearsal.dataset)
    selection = EnvironmentSelection(
        {"": TrainingConfig(select_on="rehearsal")}, rehearsal.dataset, early.train_, (10, 20)
    )
    wanted = selection.choice(early, "").environment
    assert model.environment_.coefficients == pytest.approx(wanted.coefficients, abs=1e-6)
    # What is served: fitted on everything, with the covariates at the end.
    whole = REFERENCES[name](**options).fit(data.merged())
    log = data.merged().split("train")
    at_the_end = covariates_at(log.items, log.timestamps, data.n_items, span=wanted.span).values
    taste = whole.score_block(torch.arange(data.n_users), 0, data.n_items).numpy()
    own = taste.std(axis=1, keepdims=True, dtype=np.float64)
    expected = taste / own + at_the_end @ np.array(wanted.coefficients)
    everyone = torch.arange(data.n_users)
    scores = model.model_.scorer().score_block(everyone, 0, data.n_items).numpy()
    assert scores == pytest.approx(expected, abs=1e-4)
    # Pairs, and users with nothing new, are scored alike; a folded-in user has a unit of their own.
    users, items = np.array([5, 0, 5, 30]), np.array([1, 37, 7, 1])
    pairs = model.score(data.users.gather(users), data.items.gather(items))
    assert pairs == pytest.approx(expected[users, items], abs=1e-4)
    nothing = csr_array((data.n_users, data.n_items), dtype=np.float32)
    folded = model.model_.fold_in(np.arange(data.n_users), nothing)
    assert folded.score_block(everyone, 0, data.n_items).numpy() == pytest.approx(
        taste / own, abs=1e-4
    )
    every = csr_array(np.ones((data.n_users, data.n_items), dtype=np.float32))
    every[:, 3:] = 0
    changed = model.model_.fold_in(np.arange(data.n_users), csr_array(every))
    unit = changed.score_block(everyone, 0, data.n_items).numpy().std(axis=1)
    assert unit == pytest.approx(1, abs=1e-4)


def test_a_rehearsal_chooses_the_half_life(data) -> None:
    model = Recommender("recent-mostpop").fit(data, select_on="rehearsal")
    early = rehearse(data).dataset
    train = early.split("train").csr(early.n_users, early.n_items)
    values = {
        half_life: evaluate_split(
            RecentMostPop(half_life).fit(early), early.split("valid"), train, ks=(20,)
        )["ndcg@20"]
        for half_life in HALF_LIVES
    }
    chosen = max(values, key=values.__getitem__)
    assert model.history_[0]["train"] == {"half_life": chosen}
    assert model.history_[0]["validation"]["ndcg@20"] == pytest.approx(values[chosen])
    assert len(set(values.values())) > 1
    # Popularity of late is the environment: nothing is added to it.
    assert model.environment_ is None
    counts = RecentMostPop(chosen).fit(data.merged()).counts_
    assert torch.equal(model.item_embeddings_[:, 0], counts)


def test_popularity_rehearsed_is_that_of_all_pairs(data) -> None:
    model = Recommender("mostpop").fit(data, select_on="rehearsal")
    log = data.merged().split("train")
    assert model.item_embeddings_[:, 0].tolist() == np.bincount(log.items).tolist()
    assert model.model_.bias is None


@pytest.mark.parametrize("name", ["ease", "mostpop", "recent-mostpop"])
def test_what_chooses_is_decided_as_for_any_model(name, data) -> None:
    model = Recommender(name).fit(data)
    assert model.selected_on_ == "rehearsal"
    assert model.model_.train.nnz == len(data.merged().split("train"))
    assert Recommender(name).fit(data, select_on="valid").selected_on_ == "valid"


def test_a_log_without_validation_is_fitted_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"user": rng.integers(30, size=300), "item": rng.integers(20, size=300)})
    log = {"train": read_interactions(frame.unique(maintain_order=True))}
    undated = Dataset.from_splits(log, name="log", scenario="given")
    model = Recommender("ease").fit(undated)
    assert model.selected_on_ == "valid"
    expected = EASE().fit(undated)
    assert model.model_.train.nnz == expected.train_.nnz
    assert torch.equal(model.model_.weights, expected.weights_)
    with pytest.raises(DataError, match="log: has no timestamps"):
        Recommender("recent-mostpop").fit(undated, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- popularity of late


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1000)), min_size=1, max_size=30),
    st.floats(0.01, 2.0),
)
def test_recent_popularity_by_definition(events, half_life) -> None:
    frame = pl.DataFrame(
        {
            "user": range(len(events)),
            "item": [item for item, _ in events],
            "timestamp": [time for _, time in events],
        }
    )
    data = Dataset.from_splits({"train": read_interactions(frame)}, name="d", scenario="given")
    counts = RecentMostPop(half_life).fit(data).counts_
    times = [time for _, time in events]
    span = max(max(times) - min(times), 1)
    for number, item in enumerate(data.items):
        own = sum(2 ** -((max(times) - t) / span / half_life) for i, t in events if i == item)
        assert float(counts[number]) == pytest.approx(own, rel=1e-5)


def test_recent_popularity_needs_times_and_a_half_life(data) -> None:
    frame = pl.DataFrame({"user": [1, 2], "item": [1, 2]})
    undated = Dataset.from_splits({"train": read_interactions(frame)}, name="d", scenario="given")
    with pytest.raises(DataError, match="d: has no timestamps"):
        RecentMostPop().fit(undated)
    with pytest.raises(ConfigError, match="half_life is 0"):
        RecentMostPop(0).fit(data)


# --- settings


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"backbone": "eas"}, r"no backbone is called 'eas' \(did you mean 'ease'\?\)"),
        ({"backbone_options": {"l3": 1}}, r"unknown key 'backbone\.l3' \(did you mean 'l2'\?\)"),
        ({"backbone_options": {"l2": 0}}, r"backbone\.l2: .*greater than 0"),
        ({"sampler": "dns"}, "'ease' is solved in closed form, without a sampler; drop sampler"),
        ({"objective": {"loss": "bpr"}}, "without an objective; drop objective"),
        ({"preset": "paper"}, "preset 'paper' .* and 'ease' is solved in closed form"),
        ({"backbone": EASE}, "EASE is no backbone of your own; .* by its name: mostpop"),
        (
            {"backbone": "recent-mostpop", "backbone_options": {"half_life": -1}},
            "half_life: must be 'auto' or a number above 0",
        ),
        (
            {"backbone": "itemknn", "backbone_options": {"neighbours": 0}},
            r"backbone\.neighbours: .*greater than or equal to 1",
        ),
    ],
)
def test_settings_are_checked(arguments, said, data) -> None:
    with pytest.raises(ConfigError, match=said):
        Recommender(**{"backbone": "ease", **arguments}).fit(data)


def test_parameters_are_read_set_and_cloned() -> None:
    model = Recommender("ease", backbone_options={"l2": 30})
    assert repr(model) == "Recommender(backbone='ease', backbone_options={'l2': 30.0})"
    assert model.get_params()["backbone_options__l2"] == 30
    assert model.clone().set_params(backbone_options__l2=5).resolve().backbone.l2 == 5
    changed = model.clone().set_params(backbone="itemknn", backbone_options={"shrink": 1.0})
    assert changed.resolve().title == "itemknn"


def test_the_class_of_a_user_comes_before_a_reference_of_its_name(data) -> None:
    from cnsdiff.backbones import MF

    own = type("ease", (MF,), {})
    model = Recommender(own, training={"epochs": 1}).fit(data)
    assert not model.config_.closed_form
    assert isinstance(model.model_, EmbeddingModel)


def test_only_one_process_solves(data, monkeypatch) -> None:
    several = Place(count=2)
    monkeypatch.setattr("cnsdiff.recommender.closed_form.place", lambda: several)
    with pytest.raises(ConfigError, match="solved in one process; train it without torchrun"):
        Recommender("ease").fit(data)


def test_a_grid_says_how_to_write_it() -> None:
    with pytest.raises(ConfigError, match=r"methods\.mine: 'ease' .*reference: ease"):
        Method("mine", None, {"backbone": {"name": "ease"}}).config(0)


def test_a_study_searches_its_own_settings_alone(data) -> None:
    tuned = tune(Recommender("ease"), data, trials=2)
    assert list(tuned.study.spaces) == ["backbone.l2"]
    assert tuned.model.config_.backbone.l2 != 200 or tuned.study.best.number == 0
    with pytest.raises(ConfigError, match=r"training\.lr is not searched; 'ease' is solved"):
        tune(Recommender("ease"), data, trials=2, search={"training.lr": (0.1, 0.2)})


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_there_are_no_negatives(name, data, runs) -> None:
    model = Recommender.load(runs[name])
    for ask in (model.sampled_negatives, model.false_negatives):
        with pytest.raises(InputError, match="solved in closed form, without a sampler"):
            ask(data)


# --- the run directory


def test_killed_before_the_end_it_is_solved_again(data, tmp_path, cli) -> None:
    class Interrupts(Reporter):
        def epoch(self, record, *, best):
            raise KeyboardInterrupt

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        recommender("ease").fit(data, run=run, reporter=Interrupts())
    assert sorted(file.name for file in run.iterdir()) == ["config.yaml", "manifest.json"]
    with pytest.raises(RunError, match="training has not finished"):
        Recommender.load(run)
    assert cli("train", "--resume", run)[0] == 0
    expected = recommender("ease").fit(data).recommend(data.users[:5])
    assert Recommender.load(run).recommend(data.users[:5]).equals(expected)
    with pytest.raises(RunError, match="holds a finished run"):
        recommender("ease").fit(data, run=run)


def test_saved_from_memory_it_is_the_same(data, runs, tmp_path) -> None:
    for name in ITEM_ITEM:
        Recommender.load(runs[name]).save(tmp_path / name)
        one, other = (load_file(f / "weights.safetensors") for f in (runs[name], tmp_path / name))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def _nan(tensors, key):
    tensors[key] = tensors[key].clone()
    tensors[key].view(-1)[0] = torch.nan


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("ease", lambda t: t.update(item_weights=t["item_weights"][1:].clone()), "of torch.float"),
        ("ease", lambda t: t.update(item_weights=t["item_weights"].double()), "torch.float64"),
        ("ease", lambda t: _nan(t, "item_weights"), "no finite score"),
        ("ease", lambda t: t["item_weights"].fill_(3e38), "no finite score"),
        ("ease", lambda t: t.pop("environment"), "has no environment"),
        ("ease", lambda t: t.pop("item_weights"), "has no user_embeddings"),
        ("itemknn", lambda t: t.pop("item_weights.indptr"), "has not all of"),
        ("itemknn", lambda t: _nan(t, "item_weights.data"), "no finite score"),
        ("itemknn", lambda t: t["item_weights.indices"].fill_(40), "none of 38"),
        ("itemknn", lambda t: t["item_weights.indices"].fill_(-1), "none of 38"),
        ("itemknn", lambda t: t["item_weights.indptr"].fill_(0), "rows are not those of 38 items"),
        ("itemknn", lambda t: t["item_weights.indptr"][1].fill_(10**6), "rows are not those"),
        (
            "itemknn",
            lambda t: t.update({"item_weights.data": t["item_weights.data"][1:].clone()}),
            "rows are not those",
        ),
        (
            "itemknn",
            lambda t: t.update({"item_weights.indices": t["item_weights.indices"].float()}),
            "in places of torch.float32",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(name, change, said, runs, tmp_path) -> None:
    run = shutil.copytree(runs[name], tmp_path / "run")
    file = run / "weights.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    with pytest.raises(RunError, match="does not match the manifest's checksum"):
        Recommender.load(run)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["sha256"][file.name] = sha256(file)
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=f"{said}.*does not fit the run; train again"):
        Recommender.load(run)


def test_a_trained_run_without_its_sampler_is_damaged(data, tmp_path) -> None:
    run = Recommender("mf", training={"epochs": 1}).fit(data).save(tmp_path / "run")
    text = (run / "config.yaml").read_text()
    before, rest = text.split("sampler:")
    (run / "config.yaml").write_text(
        before + rest.partition("objective:")[2].join(["objective:", ""])
    )
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["sha256"]["config.yaml"] = sha256(run / "config.yaml")
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=r"config\.yaml: is damaged .*sampler"):
        Recommender.load(run)


# --- the scorer


@pytest.mark.parametrize("unit_items", [None, 30, 20])
@pytest.mark.parametrize("density", [0.05, 0.9])
def test_blocks_of_items_are_those_of_the_product(density, unit_items) -> None:
    rng = np.random.default_rng(0)
    histories = csr_array((rng.random((6, 30)) < 0.4).astype(np.float32))
    weights = (rng.random((30, 30)) * (rng.random((30, 30)) < density)).astype(np.float32)
    bias = torch.from_numpy(rng.random(30).astype(np.float32))
    sums = histories.toarray() @ weights
    if unit_items is not None:
        sums /= sums[:, :unit_items].std(axis=1, keepdims=True)
    expected = sums + bias.numpy()
    for form in (torch.from_numpy(weights), csr_array(weights)):
        if unit_items is None:
            scorer = ItemItemScorer(histories, form, bias)
        else:
            scorer = OwnUnits(ItemItemScorer(histories, form), bias, unit_items=unit_items)
        for users, start, stop in (([0, 5, 0], 0, 30), ([3], 7, 8), (range(6), 11, 30)):
            block = scorer.score_block(torch.tensor(list(users)), start, stop)
            assert block.numpy() == pytest.approx(expected[list(users), start:stop], abs=1e-5)
        _, scores = rank(scorer, torch.arange(6), 4, item_chunk=7)
        assert scores.numpy() == pytest.approx(-np.sort(-expected, axis=1)[:, :4], abs=1e-5)


# --- files for others, and the command line


@pytest.mark.parametrize("name", ITEM_ITEM)
def test_exported_weights_give_the_scores(name, data, runs, tmp_path) -> None:
    model = Recommender.load(runs[name])
    manifest = to_parquet(model, tmp_path / "out")
    files = {f.stem: pl.read_parquet(f) for f in (tmp_path / "out").glob("*.parquet")}
    assert files["weights"].height == manifest["n_weights"]
    scores = (
        files["train"]
        .join(files["weights"], on="item")
        .group_by("user", "similar")
        .agg(pl.col("weight").sum())
        .join(files["items"], left_on="similar", right_on="id")
        .with_columns(score=pl.col("weight") + pl.col("bias"))
    )
    assert len(scores) > 500
    assert scores["score"].to_numpy() == pytest.approx(
        model.score(scores["user"], scores["similar"]), abs=1e-5
    )
    assert files["seen"].height == model.model_.left_out().nnz
    with pytest.raises(InputError, match="has no embeddings; export to parquet"):
        to_numpy(model, tmp_path / "vectors")


@pytest.mark.parametrize("name", ITEM_ITEM)
def test_weights_of_a_rehearsed_model_say_how_they_make_a_score(name, data, tmp_path) -> None:
    model = Recommender(name, backbone_options=SETTINGS[name][0]).fit(data, select_on="rehearsal")
    manifest = to_parquet(model, tmp_path / "out")
    assert "divided by its standard deviation over all items of training" in manifest["score"]
    files = {f.stem: pl.read_parquet(f) for f in (tmp_path / "out").glob("*.parquet")}
    sums = (
        files["train"]
        .join(files["weights"], on="item")
        .group_by("user", "similar")
        .agg(pl.col("weight").sum())
    )
    # Over all items: those that none of a user's items gives anything to have 0.
    every = files["train"].select("user").unique().join(files["items"], how="cross")
    table = every.join(sums, left_on=["user", "id"], right_on=["user", "similar"], how="left")
    scores = table.with_columns(pl.col("weight").fill_null(0.0)).with_columns(
        score=pl.col("weight") / pl.col("weight").std(ddof=0).over("user") + pl.col("bias")
    )
    assert scores["score"].to_numpy() == pytest.approx(
        model.score(scores["user"], scores["id"]), abs=1e-4
    )


def test_the_command_line(data, tmp_path, cli, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    user, item = data.users[0], data.items[0]
    code, said = cli(
        "train", data.path, "--backbone", "ease", "--set", "backbone.l2=40", "--out", "run"
    )
    assert code == 0, said
    assert "ease on confounded-world" in said and "best epoch" not in said
    assert Recommender.load("run").config_.backbone.l2 == 40
    assert isinstance(Recommender.load("run").model_, ItemItemModel)
    for command in (
        ("recommend", "run", "--users", user, "--k", 3),
        ("similar", "run", "--items", item, "--k", 3),
        ("export", "run", "--to", "parquet"),
        ("tune", data.path, "--backbone", "itemknn", "--trials", 2, "--out", "tuned"),
    ):
        code, said = cli(*command)
        assert code == 0, said
    code, said = cli("evaluate", "run", "--references", "--json")
    names = json.loads(said[said.index("{") : said.rindex("}") + 1])["models"]
    assert {"ease (this run)", "ease", "mostpop"} <= names.keys()
    code, said = cli("report", "run")
    assert code == 0, said
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Solved in closed form" in page and "<h2>Negatives" not in page
    for command, refusal in (
        (("evaluate", "run", "--false-negatives", "valid"), "needs a run with a trained sampler"),
        (("export", "run", "--to", "numpy", "--out", "n"), "has no embeddings; export to parquet"),
        (("train", data.path, "--backbone", "ease", "--sampler", "dns", "--out", "x"), "drop samp"),
    ):
        code, said = cli(*command)
        assert code == 2 and refusal in said
        assert len(said.splitlines()) == 1


def test_the_half_life_chosen_is_told(data, tmp_path, cli) -> None:
    run = tmp_path / "run"
    code, said = cli(
        "train", data.path, "--backbone", "recent-mostpop", "--select-on", "rehearsal", "--out", run
    )
    assert code == 0, said
    chosen = Recommender.load(run).history_[0]["train"]["half_life"]
    assert f"half life: {chosen:g}" in said
    assert cli("report", run)[0] == 0
    assert f"half life {chosen:g}" in (run / "report.html").read_text()
