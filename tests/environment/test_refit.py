"""What picks where nothing is named, and training on everything once all is chosen."""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np
import polars as pl
import pytest

from cnsdiff import Recommender
from cnsdiff.base.errors import ConfigError, DataError, InputError
from cnsdiff.cli import main
from cnsdiff.data import Dataset, Interactions
from cnsdiff.environment import hold_out
from cnsdiff.recommender.fitting import Training, for_so_long
from cnsdiff.recommender.run_directory import config_fingerprint, read_run
from cnsdiff.simulate import ConfoundedWorld
from cnsdiff.training.processes import make_fabric
from cnsdiff.training.progress import Reporter

BRIEF = {"epochs": 3, "fhn_every": None}
DAY = 86_400


def log(*, dated: bool, n: int = 1500, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 80, n)
    items = np.where(rng.random(n) < 0.5, (users % 4) * 15 + rng.integers(0, 15, n), users % 7)
    frame = pl.DataFrame({"user": users, "item": items})
    if dated:
        frame = frame.with_columns(timestamp=pl.Series(np.sort(rng.integers(0, 90 * DAY, n))))
    return frame.unique(["user", "item"], keep="first", maintain_order=True)


def dataset(
    *names: str, dated: bool = False, scenario: str = "random", shares=(0.7, 0.15, 0.15)
) -> Dataset:
    frame = log(dated=dated)
    part = np.random.default_rng(1).choice(len(names), frame.height, p=np.array(shares))
    return Dataset.from_splits(
        {
            name: Interactions(frame.filter(pl.Series(part == number)), "log")
            for number, name in enumerate(names)
        },
        name="small",
        scenario=scenario,
    )


SPLITS = "train", "valid", "test_ood"


@pytest.mark.parametrize(
    ("dated", "scenario", "settings", "expected"),
    [
        (True, "random", {}, "rehearsal"),
        (True, "temporal", {}, "rehearsal"),
        (True, "given", {}, "rehearsal"),
        (True, "popularity", {}, "valid"),
        (True, "exposure", {}, "valid"),
        (True, "user-group", {}, "valid"),
        (True, "random", {"dial": "off"}, "valid"),
        (True, "random", {"dial": 0.5}, "valid"),
        (True, "random", {"refit": False}, "valid"),
        (True, "random", {"select_on": "recency"}, "recency"),
        (False, "temporal", {}, "valid"),
    ],
)
def test_what_picks_where_nothing_is_named(dated, scenario, settings, expected):
    data = dataset(*SPLITS, dated=dated, scenario=scenario)
    model = Recommender("mf", "random", training={**BRIEF, "epochs": 1, **settings}).fit(data)
    assert model.selected_on_ == expected
    stated = settings.get("select_on", "auto")
    assert model.config_.training.select_on == stated
    assert (model.environment_ is not None) == (expected == "rehearsal")


def test_automatic_is_what_it_stands_for():
    for dated, named in ((True, "rehearsal"), (False, "valid")):
        data = dataset(*SPLITS, dated=dated)
        automatic = Recommender(training=BRIEF).fit(data)
        explicit = Recommender(training=BRIEF).fit(data, select_on=named)
        assert automatic.user_embeddings_.equal(explicit.user_embeddings_)
        assert automatic.dial_ == explicit.dial_
        assert automatic.environment_ == explicit.environment_


def test_refit_trains_on_validation_with_what_was_chosen_without_it():
    data = dataset(*SPLITS)
    chosen = Recommender(training=BRIEF).fit(data)
    refitted = Recommender(training=BRIEF).fit(data, refit=True)
    assert refitted.best_epoch_ == chosen.best_epoch_
    assert refitted.dial_ == chosen.dial_
    whole = data.merged()
    assert refitted.model_.train.nnz == len(whole.split("train"))
    # By hand: the same model on both splits, for as many steps.
    epochs = round(chosen.best_epoch_ * len(whole.split("train")) / len(data.split("train")))
    config = for_so_long(chosen.config_, epochs)
    training = Training.of(config, whole, make_fabric("cpu", "32-true"), select=False)
    training.trainer.fit(None, Reporter())
    assert refitted.item_embeddings_.equal(training.embeddings().items)


def test_refitted_models_are_judged_as_trained_on_both():
    data = dataset(*SPLITS)
    model = Recommender(training=BRIEF).fit(data, refit=True)
    with pytest.raises(InputError, match="trained on the validation pairs"):
        model.best_dial(data)
    with pytest.raises(InputError, match="trained on the validation pairs"):
        model.false_negatives(data)
    assert set(model.evaluate(data).splits) == {"test_ood"}
    assert model.learnt_from(data).split_names == ("train", "test_ood")


@pytest.mark.parametrize("dated", [False, True])
@pytest.mark.parametrize("names", [("train",), ("train", "test_ood")])
def test_a_log_without_a_validation_split_loses_no_pair(dated, names, tmp_path):
    data = dataset(*names, dated=dated, shares=(1.0,) if len(names) == 1 else (0.8, 0.2))
    model = Recommender(training=BRIEF, seed=1).fit(data, run=tmp_path / "run")
    assert model.model_.train.nnz == len(data.split("train"))
    assert (model.environment_ is not None) == dated
    again = Recommender(training=BRIEF, seed=1).fit(data)
    assert again.item_embeddings_.equal(model.item_embeddings_)
    loaded = Recommender.load(tmp_path / "run")
    users = data.users[:5]
    assert loaded.recommend(users, k=5).equals(model.recommend(users, k=5))
    assert not list((tmp_path / "run").glob("*checkpoint*"))


def test_a_dataset_without_tests_is_for_use():
    data = dataset("train", "valid", shares=(0.8, 0.2))
    model = Recommender(training=BRIEF).fit(data)
    assert model.model_.train.nnz == len(data.split("train")) + len(data.split("valid"))
    kept = Recommender(training=BRIEF).fit(data, refit=False)
    assert kept.model_.train.nnz == len(data.split("train"))


def test_what_cannot_be_is_refused():
    lacking = dataset("train", shares=(1.0,))
    with pytest.raises(DataError, match="valid"):
        Recommender(training=BRIEF).fit(lacking, refit=False)
    with pytest.raises(ConfigError, match="refit"):
        Recommender(training=BRIEF).fit(dataset(*SPLITS), select_on="rehearsal", refit=False)
    with pytest.raises(ConfigError, match="dial"):
        Recommender(training={**BRIEF, "dial": 0.5}).fit(lacking, select_on="rehearsal")
    single = Dataset.from_splits(
        {"train": Interactions(pl.DataFrame({"user": [1], "item": [2]}), "log")},
        name="one",
        scenario="given",
    )
    with pytest.raises(DataError, match="give a larger log"):
        hold_out(single)


def test_held_out_pairs_are_a_part_of_train_drawn_by_the_seed():
    data = dataset("train", shares=(1.0,))
    part = hold_out(data, seed=0)
    n = len(data.split("train"))
    assert len(part.dataset.split("train")) == n - round(0.1 * n)
    assert part.share == pytest.approx(0.9, abs=0.01)
    first, second = (hold_out(data, seed=seed).dataset.split("train") for seed in (0, 1))
    assert np.array_equal(first.items, part.dataset.split("train").items)
    assert not np.array_equal(first.items, second.items)


def test_rehearsing_without_a_dial_chooses_the_epoch_alone():
    data = dataset(*SPLITS, dated=True)
    settings = {**BRIEF, "dial": "off"}
    model = Recommender(training=settings).fit(data, select_on="rehearsal")
    assert model.environment_ is None
    assert model.model_.bias is None
    assert model.model_.train.nnz == len(data.merged().split("train"))


def test_trainings_begun_before_refit_existed_go_on(tmp_path):
    """Their configuration has no such key, and their fingerprint is of one without."""
    data = dataset(*SPLITS)
    model = Recommender(training=BRIEF).fit(data, run=tmp_path / "run")
    config = model.config_
    tree = config.model_dump(mode="json")
    assert config_fingerprint(config) != config_fingerprint(
        config.model_copy(update={"training": config.training.model_copy(update={"refit": True})})
    )
    for key in ("refit", "horizon", "select_also"):
        del tree["training"][key]
    del tree["stack"], tree["content"]
    text = json.dumps(tree, sort_keys=True)
    assert config_fingerprint(config) == hashlib.sha256(text.encode()).hexdigest()
    # A finished run from then was trained on train alone.
    file = tmp_path / "run" / "config.yaml"
    assert "refit: auto" in file.read_text()
    assert read_run(tmp_path / "run").config["training"]["refit"] == "auto"


def test_where_nothing_can_be_rehearsed_validation_chooses():
    """One moment for all pairs is no course of time."""
    frame = log(dated=True).with_columns(timestamp=pl.lit(5 * DAY))
    data = Dataset.from_splits({"train": Interactions(frame, "log")}, name="now", scenario="given")
    told = []
    model = Recommender(training=BRIEF).fit(data, reporter=Notes(told))
    assert model.selected_on_ == "valid"
    assert any("no shift in time can be rehearsed" in note for note in told)
    with pytest.raises(DataError, match="are of one moment"):
        Recommender(training=BRIEF).fit(data, select_on="rehearsal")


class Notes(Reporter):
    """Keeps what it is told."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def note(self, message: str) -> None:
        self.told.append(message)


def test_judges_of_all_the_data_are_not_asked_while_a_part_trains():
    world = ConfoundedWorld(n_users=60, n_items=100, seed=0).dataset()
    told = []
    training = {**BRIEF, "fhn_every": 1, "fhn_on": "truth"}
    model = Recommender(training=training).fit(
        world, refit=None, select_on="rehearsal", reporter=Notes(told)
    )
    assert any("no false negatives are counted" in note for note in told)
    assert not any("fhn" in record["train"] for record in model.history_)


def test_a_dated_csv_through_the_command_line(tmp_path, monkeypatch, capsys):
    """A newcomer names no shift: times are rehearsed, and no pair is lost."""
    monkeypatch.chdir(tmp_path)
    frame = log(dated=True)
    frame.write_csv("log.csv")

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["cnsdiff", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0, capsys.readouterr()
        return "".join(capsys.readouterr())

    told = run("prepare", "--train", "log.csv", "--out", "data")
    assert "train data" in told
    assert "evaluate" not in told  # it would have nothing to judge by
    told = run("train", "data", "--out", "run", "--set", "training.epochs=2")
    assert "no shift is named" in told
    assert "recommend run" in told
    assert "evaluate" not in told
    assert Recommender.load("run").model_.train.nnz == frame.height
    run("recommend", "run", "--all-users", "--k", "3", "--out", "lists.csv")
    assert pl.read_csv("lists.csv")["user"].n_unique() == frame["user"].n_unique()
    run("data", "describe", "data")
    run("report", "run")
