"""The search itself: what is tried, what is kept, and that it repeats."""

from __future__ import annotations

import json
import shutil
from typing import Annotated

import optuna
import polars as pl
import pytest
import torch
from pydantic import Field
from safetensors.torch import load_file
from tuning_parts import QUICK

from cnsdiff import Recommender, load_dataset
from cnsdiff.base.errors import (
    ConfigError,
    DataError,
    InputError,
    RunError,
    StorageError,
    TrainingError,
)
from cnsdiff.base.search_space import Searched, Space
from cnsdiff.base.storage import locked
from cnsdiff.data import Dataset, Interactions
from cnsdiff.recommender.config import read_config_file
from cnsdiff.samplers import SamplerConfig
from cnsdiff.samplers.static import RandomSampler
from cnsdiff.tuning import read_study, tune
from cnsdiff.tuning.progress import Reporter
from cnsdiff.tuning.study import Trial

LR = {"training.lr": Space(low=0.001, high=0.1, log=True)}


def outcomes(trials) -> list[Trial]:
    """Trials without what the clock says of them."""
    return [trial.model_copy(update={"seconds": 0.0}) for trial in trials]


@pytest.fixture(autouse=True, scope="module")
def few_forests():
    """What the differences are due to is told elsewhere, and takes its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnsdiff.tuning.importance._FORESTS", 2)
        patch.setattr("cnsdiff.tuning.importance._TREES", 4)
        yield


class Listening(Reporter):
    """Writes down what it is told; may press Ctrl-C in the midst of a trial."""

    def __init__(self, interrupt: tuple[int, int] | None = None) -> None:
        self.interrupt = interrupt
        self.told: list[tuple] = []
        self.notes: list[str] = []

    def note(self, message):
        self.notes.append(message)

    def begin(self, total, known):
        self.told.append(("begin", total, len(known)))

    def trial_begins(self, number, setting):
        self.number = number
        self.told.append(("begins", number))

    def validated(self, epoch, epochs, value):
        if (self.number, epoch) == self.interrupt:
            raise KeyboardInterrupt

    def trial_ends(self, trial, *, best):
        self.told.append(("ends", trial.number, trial.state, best))


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
    """A study on disk: its directory, and what tune returned."""
    folder = tmp_path_factory.mktemp("study") / "undisturbed"
    recommender = Recommender("mf", "random", **QUICK)
    return folder, tune(recommender, world, trials=11, out=folder)


def test_the_first_trial_is_as_given_and_the_best_is_never_worse(undisturbed, world, quick):
    _, tuned = undisturbed
    first, *others = tuned.study.trials
    assert first.setting == {
        "objective.l2": 0.01,
        "objective.repulsion": 1.0,
        "training.lr": 0.002,
    }
    given = quick().fit(world)
    record = next(r for r in given.history_ if r["epoch"] == given.best_epoch_)
    assert first.value == record["validation"]["ndcg@20"]
    assert tuned.study.given == first
    assert tuned.best_value >= first.value
    assert len({json.dumps(trial.setting) for trial in others}) == 10
    for trial in others:
        assert all(trial.setting[key] in space for key, space in tuned.study.spaces.items())


def test_what_a_trial_says_is_what_its_training_did(undisturbed, world):
    _, tuned = undisturbed
    best = tuned.study.best
    assert tuned.best_config == tuned.model.config_
    assert tuned.best_config.training.lr == best.setting["training.lr"]
    assert tuned.best_config.objective.l2 == best.setting["objective.l2"]
    curve = [(r["epoch"], r["validation"]["ndcg@20"]) for r in tuned.model.history_]
    assert list(best.curve) == curve
    assert best.value == max(value for _, value in curve)
    assert best.best_epoch == tuned.model.best_epoch_
    assert best.epochs == len(curve) == 3
    assert best.dial == tuned.model.dial_ == 0.0
    assert tuned.trials["value"].max() == best.value
    assert tuned.study.importances is not None


def test_what_is_kept_in_the_directory(undisturbed, world, tmp_path):
    folder, tuned = undisturbed
    assert {entry.name for entry in folder.iterdir()} == {
        *("study.db", "study.json", "best.yaml", "best")
    }
    assert read_study(folder) == tuned.study
    kept = Recommender.load(folder / "best")
    assert torch.equal(kept.item_embeddings_, tuned.model.item_embeddings_)
    # The file trains the same again.
    options = read_config_file(folder / "best.yaml")
    options = {
        {"backbone": "backbone_options", "sampler": "sampler_options"}.get(key, key): value
        for key, value in options.items()
    }
    again = Recommender(**options).fit(world)
    assert again.config_ == tuned.best_config
    assert torch.equal(again.item_embeddings_, tuned.model.item_embeddings_)


def test_in_memory_it_is_the_same_and_another_seed_is_another(undisturbed, world, quick, tmp_path):
    _, tuned = undisturbed
    listening = Listening()
    alike = tune(quick(), world, trials=4, reporter=listening)
    assert outcomes(alike.study.trials) == outcomes(tuned.study.trials[:4])
    assert listening.told[0] == ("begin", 4, 0)
    assert listening.told[1:3] == [("begins", 0), ("ends", 0, "completed", True)]
    assert [t[1] for t in listening.told if t[0] == "ends"] == [0, 1, 2, 3]
    other = tune(quick(seed=1), world, trials=3)
    assert [t.setting for t in other.study.trials[1:]] != [
        t.setting for t in alike.study.trials[1:3]
    ]


@pytest.mark.parametrize(("number", "epoch"), [(0, 1), (9, 2)])
def test_interrupted_and_gone_on_with_it_is_as_if_left_alone(
    undisturbed, world, quick, tmp_path, number, epoch
):
    """Before and after the sampler begins to learn from earlier trials."""
    folder, tuned = undisturbed
    with pytest.raises(KeyboardInterrupt):
        tune(quick(), world, trials=11, out=tmp_path, reporter=Listening((number, epoch)))
    assert len(read_study(tmp_path).trials) == number
    # A kill leaves the trial running, and what was being written.
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.load_study(study_name="cnsdiff", storage=storage)
    study.ask({"training.lr": optuna.distributions.FloatDistribution(0.0005, 0.02, log=True)})
    (tmp_path / ".best.0123456789abcdef").mkdir()
    listening = Listening()
    again = tune(quick(), world, trials=11, out=tmp_path, reporter=listening)
    assert listening.told[0] == ("begin", 11, number)
    assert outcomes(again.study.trials) == outcomes(tuned.study.trials)
    assert again.study.importances == tuned.study.importances
    ours, theirs = (load_file(f / "best" / "weights.safetensors") for f in (tmp_path, folder))
    assert not [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    assert (tmp_path / "best.yaml").read_text() == (folder / "best.yaml").read_text()
    assert not list(tmp_path.glob(".best*"))


def test_where_nothing_has_an_outcome_another_study_may_begin(world, quick, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        tune(quick(), world, trials=2, out=tmp_path, reporter=Listening((0, 1)))
    search = {"training.lr": Space(choices=(0.01, 0.02))}  # and not an interval any more
    options = {"only": list(search), "search": search, "trials": 2}
    tuned = tune(quick(epochs=2), world, out=tmp_path, **options)
    assert {trial.epochs for trial in tuned.study.trials} == {2}


def test_a_kill_between_the_outcome_and_its_end_repeats_the_trial(
    undisturbed, world, quick, tmp_path
):
    folder, tuned = undisturbed
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    study = optuna.load_study(study_name="cnsdiff", storage=f"sqlite:///{tmp_path / 'study.db'}")
    trial = study.ask()
    trial.set_user_attr("outcome", tuned.study.trials[-1].model_dump(mode="json"))
    listening = Listening()
    again = tune(quick(), world, trials=11, out=tmp_path, reporter=listening)
    assert listening.told == [("begin", 11, 11)]
    assert outcomes(again.study.trials) == outcomes(tuned.study.trials)


def test_more_trials_go_on_and_nothing_is_repeated(undisturbed, world, quick, tmp_path):
    folder, tuned = undisturbed
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    listening = Listening()
    more = tune(quick(), world, trials=12, out=tmp_path, reporter=listening)
    assert listening.told[:2] == [("begin", 12, 11), ("begins", 11)]
    assert more.study.trials[:11] == tuned.study.trials
    assert read_study(tmp_path).asked == 12


def test_a_best_run_that_is_gone_is_trained_again(undisturbed, world, quick, tmp_path):
    folder, tuned = undisturbed
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "best")
    again = tune(quick(), world, trials=11, out=tmp_path)
    assert torch.equal(again.model.item_embeddings_, tuned.model.item_embeddings_)
    assert Recommender.load(tmp_path / "best").config_ == tuned.best_config


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("configuration", {"seed": 1}),
        ("configuration", {"epochs": 4}),
        ("search space", {"search": LR}),
        ("way of pruning", {"prune": False}),
        ("dataset", {}),
    ],
)
def test_a_study_of_something_else_is_refused(undisturbed, world, quick, tmp_path, what, change):
    folder, _ = undisturbed
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "study.json").read_bytes()
    dataset = world
    if what == "dataset":
        from cnsdiff import ConfoundedWorld

        dataset = ConfoundedWorld(n_users=60, n_items=50, exposures=20, seed=1).dataset()
    options = {key: change[key] for key in ("search", "prune") if key in change}
    settings = {key: change[key] for key in ("seed", "epochs") if key in change}
    with pytest.raises(RunError, match=f"holds a study of another {what}; .* another directory"):
        tune(quick(**settings), dataset, trials=11, out=tmp_path, **options)
    assert (tmp_path / "study.json").read_bytes() == before


def test_directories_that_are_none(world, quick, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is a file"):
        tune(quick(), world, trials=1, out=tmp_path / "file")
    with pytest.raises(RunError, match="is not empty and holds no study"):
        tune(quick(), world, trials=1, out=tmp_path)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "study.db").write_text("this is no database " * 100)
    with pytest.raises(RunError, match=r"study.db: is not a database of a study, or is damaged"):
        tune(quick(), world, trials=1, out=tmp_path / "damaged")


def test_one_command_at_a_time(undisturbed, world, quick, tmp_path):
    folder, _ = undisturbed
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with (
        locked(tmp_path, RunError("held")),
        pytest.raises(RunError, match="another tuning is running here"),
    ):
        tune(quick(), world, trials=11, out=tmp_path)


def test_a_name_with_strange_letters(world, quick, tmp_path):
    out = tmp_path / "50 % #1? {ä}:日本"
    tuned = tune(quick(), world, trials=1, out=out)
    assert read_study(out) == tuned.study
    assert (out / "study.db").stat().st_size > 0


def test_no_test_split_is_opened(world, tmp_path, opened, quick):
    world.save(tmp_path / "world")
    opened.clear()
    recommender = quick(fhn_on="held-out", fhn_every=1, select_on="inverse-popularity")
    tuned = tune(recommender, load_dataset(tmp_path / "world"), trials=2, out=tmp_path / "out")
    assert tuned.study.objective == "ndcg@20 (inverse-popularity)"
    assert "valid.parquet" in opened
    assert not {name for name in opened if name.startswith(("test_", "judgements", "truth"))}


def test_the_given_recommender_is_left_as_it_was(world, quick):
    recommender = quick()
    before = recommender.resolve()
    tuned = tune(recommender, world, trials=2, only=["training.lr"])
    assert recommender.resolve() == before
    assert not hasattr(recommender, "model_")
    assert set(tuned.study.spaces) == {"training.lr"}
    assert {t.setting["training.lr"] for t in tuned.study.trials} > {0.002}


class BrokenConfig(SamplerConfig):
    share: Annotated[float, Searched(low=0.0, high=1.0)] = Field(0.5, ge=0, le=1)


class Broken(RandomSampler):
    """Cannot be trained with a share above a half."""

    Config = BrokenConfig

    def forward(self, batch, embeddings, context):
        if self.config.share > 0.5:
            raise TrainingError("too large a share")
        return super().forward(batch, embeddings, context)


def test_failed_trials_are_recorded_and_the_rest_goes_on(world, quick):
    listening = Listening()
    tuned = tune(quick(Broken), world, trials=6, only=["sampler"], reporter=listening)
    failed = [trial for trial in tuned.study.trials if trial.state == "failed"]
    assert failed
    assert len(failed) < 5
    for trial in tuned.study.trials:
        assert (trial.state == "failed") == (trial.setting["sampler.share"] > 0.5)
    assert {trial.error for trial in failed} == {"too large a share"}
    assert failed[0].value is None
    assert ("ends", failed[0].number, "failed", False) in listening.told


def test_a_setting_refused_with_another_fails_alone(world, quick):
    """The two of them are never refused alone, so no space can be told to be wrong."""
    search = {
        "objective.loss": Space(choices=("bpr", "softmax")),
        "objective.log_q": Space(choices=(0.0, 0.5)),
    }
    with pytest.raises(ConfigError, match="log_q corrects a softmax"):
        tune(quick(), world, trials=2, only=list(search), search=search)
    softmax = Recommender(
        "mf", "random", objective={"loss": "softmax"}, threads=1,
        training={"epochs": 1, "fhn_every": None, "dial": "off"},
    )  # fmt: skip
    tuned = tune(softmax, world, trials=12, only=list(search), search=search)
    failed = [trial for trial in tuned.study.trials if trial.state == "failed"]
    assert failed
    assert all("log_q corrects a softmax" in trial.error for trial in failed)


def test_where_none_can_be_trained_it_says_why(world, quick, tmp_path):
    search = {"sampler.share": Space(low=0.6, high=1.0)}
    broken = Recommender("mf", Broken, sampler_options={"share": 0.9}, threads=1)
    with pytest.raises(TrainingError, match="none of 2 trials ended well; the first: too large"):
        tune(broken, world, trials=2, only=list(search), search=search, out=tmp_path / "out")
    assert read_study(tmp_path / "out").count("failed") == 2


def test_the_same_setting_is_trained_once_and_a_small_space_ends(world, quick, tmp_path):
    search = {"backbone.dim": Space(choices=(4, 8))}
    listening = Listening()
    tuned = tune(quick(), world, trials=40, only=list(search), search=search, reporter=listening)
    trained = [trial for trial in tuned.study.trials if trial.same_as is None]
    assert [trial.setting["backbone.dim"] for trial in trained] == [4, 8]
    assert len(tuned.study.trials) < 40
    assert "all 2 settings have been tried" in listening.notes
    assert len([told for told in listening.told if told[0] == "begins"]) == 2
    for trial in tuned.study.trials:
        if trial.same_as is not None:
            first = tuned.study.trials[trial.same_as]
            assert (trial.value, trial.curve) == (first.value, first.curve)


def test_trials_that_lag_are_pruned(world, quick):
    """Rates that cannot learn anything beside ones that can, for many epochs."""
    search = {"training.lr": Space(low=1e-7, high=0.05, log=True)}
    options = {"only": list(search), "search": search}
    patient = quick(epochs=10, patience=None)
    tuned = tune(patient, world, trials=12, **options)
    pruned = [trial for trial in tuned.study.trials if trial.state == "pruned"]
    assert pruned
    assert tuned.study.best.state == "completed"
    for trial in pruned:
        assert trial.number >= 5, "not before there are others to compare with"
        assert 5 <= trial.epochs < 10, "not in the first validations, and not at the end"
        assert trial.value == max(value for _, value in trial.curve)
        assert trial.dial is None
    left = tune(patient, world, trials=pruned[0].number + 1, prune=False, **options)
    assert left.study.count("pruned") == 0
    assert outcomes(left.study.trials[:-1]) == outcomes(tuned.study.trials[: pruned[0].number])


def test_a_budget_begins_no_trial_that_would_end_too_late(world, quick):
    times = iter(range(0, 10_000, 10))  # each look at the clock is ten seconds later
    listening = Listening()
    tuned = tune(
        quick(), world, trials=20, budget=75.0, clock=lambda: next(times), reporter=listening
    )
    assert 1 < len(tuned.study.trials) < 5
    assert listening.notes == [
        f"the budget is spent after {len(tuned.study.trials)} of 20 trials; the same again goes on"
    ]
    tuned = tune(quick(), world, trials=20, budget=0.0)
    assert len(tuned.study.trials) == 1, "one is tried in any case"


def test_a_value_given_outside_of_what_is_searched_is_tried_first(world, quick):
    search = {"training.lr": Space(low=0.01, high=0.1)}
    tuned = tune(quick(), world, trials=7, only=list(search), search=search)
    assert tuned.study.trials[0].setting == {"training.lr": 0.002}
    assert all(trial.setting["training.lr"] >= 0.01 for trial in tuned.study.trials[1:])


def test_what_is_refused_at_first_does_not_stand_in_the_way(world, quick, tmp_path):
    splits = {
        name: Interactions(
            pl.DataFrame({"user": world.split(name).users, "item": world.split(name).items}), "test"
        )
        for name in ("train", "valid")
    }
    timeless = Dataset.from_splits(splits, name="timeless", scenario="given")
    with pytest.raises(InputError, match="timestamp"):
        tune(quick(select_on="recency"), timeless, trials=1, out=tmp_path / "out")
    assert tune(quick(), timeless, trials=1, out=tmp_path / "out").study.trials


def test_a_dataset_without_validation_has_pairs_held_out(world, quick, tmp_path):
    train = world.split("train")
    pairs = Interactions(pl.DataFrame({"user": train.users, "item": train.items}), "test")
    blind = Dataset.from_splits({"train": pairs}, name="blind", scenario="given")
    tuning = tune(quick(), blind, trials=1, out=tmp_path / "out")
    assert tuning.model.model_.train.nnz == len(blind.split("train"))
    with pytest.raises(DataError, match="valid"):
        tune(quick(refit=False), blind, trials=1, out=tmp_path / "again")


@pytest.mark.parametrize(
    ("training", "options", "words"),
    [
        ({"select_on": "test_ood"}, {}, "would choose settings on the test set"),
        ({}, {"trials": 0}, "1 trial or more"),
        ({}, {"only": ["training.rate"]}, "no such setting"),
        ({"lr": -1}, {}, "greater than 0"),
    ],
)
def test_refused(world, quick, tmp_path, training, options, words):
    with pytest.raises(ConfigError, match=words):
        tune(quick(**training), world, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_several_processes_are_refused(world, quick, monkeypatch):
    for name, value in {
        "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0",
        "MASTER_ADDR": "localhost", "MASTER_PORT": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="a tuning runs in one process"):
        tune(quick(), world)


@pytest.mark.parametrize("module", ["optuna", "sklearn"])
def test_what_is_missing_is_named(world, quick, monkeypatch, module):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(
        ConfigError, match=rf"needs {module}; install it with: .* install 'cnsdiff\[tune\]'"
    ):
        tune(quick(), world)


def test_a_full_disk_keeps_what_is_there(world, quick, tmp_path, full_disk):
    tune(quick(), world, trials=2, out=tmp_path / "out")
    size = (tmp_path / "out" / "study.db").stat().st_size
    with full_disk(size // 2), pytest.raises(StorageError, match=r"disk|written"):
        tune(quick(), world, trials=4, out=tmp_path / "out")
    assert tune(quick(), world, trials=3, out=tmp_path / "out").study.count("completed") == 3
