"""Trials that see no test split, and finals that measure what ``evaluate`` measures."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from benchmark_parts import small_grid
from polars.testing import assert_frame_equal

from cnsdiff import Recommender, load_dataset
from cnsdiff.base.errors import CnsdiffError, ConfigError, DataError
from cnsdiff.benchmark.plan import plan
from cnsdiff.benchmark.store import Store
from cnsdiff.benchmark.task import Method, Task, run_task
from cnsdiff.benchmark.workers import ThisProcess
from cnsdiff.evaluation import evaluate
from cnsdiff.evaluation.dial import Dialled, exposure_score
from cnsdiff.references import EASE, RandomScores

JUDGES = ("test_iid", "test_ood", "judgements", "truth_users", "truth_items")


@pytest.fixture
def folder(world_path, tmp_path) -> Path:
    """The dataset, to be spoilt."""
    return shutil.copytree(world_path, tmp_path / "world")


def trials(path: Path, **changes: object) -> list[Task]:
    grid = small_grid(path, **changes)
    return [task for unit in plan(grid, {"world": path}) for task in unit.trials]


def final(path: Path, method: str, **changes: object) -> Task:
    """A final with the method's own setting."""
    task = next(t for t in trials(path, **changes) if t.method.name == method)
    return replace(task, kind="final", seed=1)


def value(rows: pl.DataFrame, **where: object) -> float:
    found = rows.filter(**where)
    assert found.height == 1, found
    return found["value"][0]


# --- sealed


#: Asks for false negatives as the world's truth tells them.
PROBED = {"set.training.fhn_every": 1, "set.training.fhn_on": "truth"}


def test_a_trial_opens_no_judge(folder, opened):
    for task in trials(folder, **PROBED):
        run_task(task)
    seen = {name.removesuffix(".parquet") for name in opened if name.endswith(".parquet")}
    assert {"users", "items", "train", "valid"} <= seen
    assert not seen & set(JUDGES)


def test_the_ear_hears(folder, opened):
    rows = run_task(final(folder, "mf", **PROBED)).rows
    assert {"test_iid.parquet", "test_ood.parquet", "truth_users.parquet"} <= set(opened)
    assert "fhn" in set(rows.filter(split="train")["metric"])


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_task_in_this_process_leaves_its_threads_as_they_were(folder, spoilt):
    task = replace(trials(folder)[0], threads=torch.get_num_threads() + 1)
    before = torch.get_num_threads()
    if spoilt:
        (folder / "valid.parquet").unlink()
    with ThisProcess() as workers:
        future = workers.submit(task)
    assert (future.exception() is not None) == spoilt
    assert torch.get_num_threads() == before


def test_poisoned_judges_change_no_trial_and_no_choice(folder, tmp_path):
    tasks = trials(folder, **PROBED)
    clean = [run_task(task).rows.drop("seconds") for task in tasks]
    for name in JUDGES:
        (folder / f"{name}.parquet").write_bytes(b"poison")
    store = Store(tmp_path / "out")
    store.open(small_grid(folder))
    for task, before in zip(tasks, clean, strict=True):
        outcome = run_task(task)
        assert outcome.per_user is None
        assert_frame_equal(outcome.rows.drop("seconds"), before)
        store.add(task, outcome)
    units = plan(small_grid(folder, **PROBED), {"world": folder})
    assert all(len(unit.finals(store)) >= len(unit.seeds) for unit in units)
    with pytest.raises(DataError, match="test_iid"):
        run_task(final(folder, "mostpop"))


def test_a_trial_measures_validation_only(world_path):
    for task in trials(world_path, **PROBED):
        rows = run_task(task).rows
        assert set(rows["split"]) <= {"valid", "train"}
        assert not rows["metric"].str.starts_with("fhn").any()
        assert rows.filter(split="valid")["metric"].unique().to_list() == ["ndcg@20 (selected)"]


# --- finals


def test_a_final_measures_what_evaluate_does(world_path, world):
    task = final(world_path, "mf")
    rows = run_task(task).rows
    config = task.method.config(task.seed)
    for selection in ("valid", "inverse-popularity"):
        model = Recommender(
            backbone_options=config.backbone.model_dump(),
            sampler_options=config.sampler.model_dump(),
            objective=config.objective.model_dump(),
            training={**config.training.model_dump(), "dial": "off"},
            seed=config.seed,
        ).fit(world, select_on=selection)
        ours = rows.filter(selection=selection)
        assert ours["epoch"].unique().to_list() == [model.best_epoch_]
        for split, result in model.evaluate(world).splits.items():
            for metric, expected in result.metrics.items():
                assert value(ours, split=split, metric=metric) == expected
            n = ours.filter(split=split).filter(~pl.col("metric").str.ends_with("(selected)"))
            assert n["n_users"].unique().to_list() == [result.n_users]
        record = model.history_[model.best_epoch_ - 1]["train"]
        assert record == dict(ours.filter(split="train").select("metric", "value").iter_rows())
    assert set(rows["epochs"]) == {3}
    assert set(rows["stopped_by"]) == {"epochs"}


def test_a_final_of_a_reference(world_path, world):
    rows = run_task(final(world_path, "chance")).rows
    expected = evaluate(RandomScores(seed=1).fit(world), world)
    for selection in ("valid", "inverse-popularity"):
        for split, result in expected.splits.items():
            for metric, wanted in result.metrics.items():
                found = value(rows, selection=selection, split=split, metric=metric)
                assert found == wanted


DIALLED = ["valid", "inverse-popularity", "valid+dial", "inverse-popularity+dial"]


def test_a_final_with_a_dial_measures_the_model_read_there(world_path, world):
    task = final(world_path, "mf", select_on=["valid", "anticipated+dial"])
    rows = run_task(task).rows
    dials = rows.filter(split="valid", metric="dial")
    assert dials["selection"].to_list() == ["inverse-popularity+dial"]
    config = task.method.config(task.seed)
    model = Recommender(
        backbone_options=config.backbone.model_dump(),
        sampler_options=config.sampler.model_dump(),
        objective=config.objective.model_dump(),
        training={**config.training.model_dump(), "dial": "auto"},
        seed=config.seed,
    ).fit(world, select_on="inverse-popularity")
    assert (dials["value"][0], dials["epoch"][0]) == (model.dial_, model.best_epoch_)
    assert model.dial_ != 0
    ours = rows.filter(selection="inverse-popularity+dial")
    for split, result in model.evaluate(world).splits.items():
        for metric, expected in result.metrics.items():
            assert value(ours, split=split, metric=metric) == pytest.approx(expected, rel=1e-9)


def test_a_trial_keeps_the_dial_too(world_path):
    for task in trials(world_path, select_on=["valid", "valid+dial"], **PROBED):
        rows = run_task(task).rows
        dials = rows.filter(metric="dial")
        assert dials["selection"].to_list() == ["valid+dial"]
        assert dials["split"].to_list() == ["valid"]
        if task.method.reference is not None:
            assert dials["value"].to_list() == [0.0]


def test_one_model_is_measured_once(world_path, monkeypatch):
    """However many objectives chose it; and each gets all of its values."""
    counted = []

    def counting(scorer: object, *args: object, **options: object) -> object:
        counted.append(scorer)
        return evaluate(scorer, *args, **options)

    monkeypatch.setattr("cnsdiff.benchmark.task.evaluate", counting)
    names = ["valid", "anticipated", "valid+dial", "anticipated+dial"]
    outcome = run_task(final(world_path, "mostpop", select_on=names))
    assert len(counted) == 1
    of_each = outcome.rows.filter(pl.col("n_users").is_not_null()).group_by("selection").len()
    assert dict(of_each.iter_rows()).keys() == set(DIALLED)
    assert of_each["len"].n_unique() == 1
    assert set(outcome.per_user["selection"]) == set(DIALLED)
    counted.clear()
    rows = run_task(final(world_path, "mf", select_on=names)).rows
    models = rows.join(
        rows.filter(metric="dial").select("selection", dial="value"), on="selection", how="left"
    ).select("epoch", pl.col("dial").fill_null(0.0))
    assert len(counted) == models.n_unique() > 1


def test_one_epoch_at_two_dials_is_two_models(world_path, world):
    """A reference has one epoch for all: what sets its results apart is the dial alone."""
    methods = {"ease": {"reference": "ease", "options": {"l2": 10}}}
    task = final(world_path, "ease", select_on=["valid", "valid+dial"], methods=methods)
    rows = run_task(task).rows
    (gamma,) = rows.filter(metric="dial")["value"]
    assert gamma != 0
    model = EASE(l2=10).fit(world)
    for selection, scorer in (
        ("valid", model),
        ("valid+dial", Dialled(model, exposure_score(world), gamma)),
    ):
        for split, result in evaluate(scorer, world).splits.items():
            for metric, expected in result.metrics.items():
                assert value(rows, selection=selection, split=split, metric=metric) == expected


@pytest.mark.parametrize("method", ["mf", "mostpop"])
def test_users_average_to_the_means(world_path, method):
    outcome = run_task(final(world_path, method, ks=[5, 20]))
    users = outcome.per_user
    assert users is not None
    metrics = ("recall@5", "ndcg@5", "recall@20", "ndcg@20")
    assert {"selection", "split", "user", *metrics} == set(users.columns)
    for (selection, split), frame in users.group_by("selection", "split"):
        assert frame["user"].is_sorted() and frame["user"].is_unique().all()
        for metric in metrics:
            mean = value(outcome.rows, selection=selection, split=split, metric=metric)
            assert frame[metric].mean() == pytest.approx(mean, rel=1e-6)
            n = outcome.rows.filter(selection=selection, split=split, metric=metric)["n_users"]
            assert frame.height == n[0]
    assert set(users["split"]) == {"test_iid", "test_ood"}
    assert set(users["selection"]) == {"valid", "inverse-popularity"}


def test_a_dataset_without_tests(world, tmp_path):
    """Is measured on validation."""
    splits = {name: world.split(name) for name in ("train", "valid")}
    world.manifest = world.manifest.model_copy(
        update={"splits": {n: world.manifest.splits[n] for n in splits}}
    )
    world.manifest = world.manifest.model_copy(update={"tables": []})
    path = world.save(tmp_path / "untested")
    outcome = run_task(final(path, "mostpop"))
    assert outcome.per_user is None
    assert "valid" in set(outcome.rows["split"])


# --- the rest


@pytest.mark.parametrize("method", ["mf", "mostpop"])
def test_threads_are_those_of_the_task(world_path, method):
    run_task(replace(final(world_path, method), threads=2))
    assert torch.get_num_threads() == 2
    run_task(replace(final(world_path, method), threads=1))
    assert torch.get_num_threads() == 1


def test_threads_of_a_reference_that_has_its_own():
    assert Method("m", "ials", {}).build_reference(0, 2).threads == 2
    assert Method("m", "ials", {"threads": 5}).build_reference(0, 2).threads == 5
    Method("m", "ease", {}).build_reference(0, 2)


def test_a_time_budget_is_told(world_path):
    rows = run_task(replace(final(world_path, "mf"), seconds=1e-9)).rows
    assert set(rows["stopped_by"]) == {"time"}
    assert set(rows["epochs"]) == {1}


def test_the_same_task_twice(world_path):
    task = final(world_path, "mf")
    first, second = run_task(task), run_task(task)
    assert_frame_equal(first.rows.drop("seconds"), second.rows.drop("seconds"))
    assert_frame_equal(first.per_user, second.per_user)
    other = run_task(replace(task, seed=2))
    assert not first.rows["value"].equals(other.rows["value"])


def test_options_of_a_reference():
    with pytest.raises(ConfigError, match=r"methods\.m: .*'lambda_'"):
        Method("m", "ease", {"lambda_": 1}).build_reference(0)
    assert Method("m", "ease", {"l2": 3}).build_reference(0).l2 == 3
    assert Method("m", "random", {}).build_reference(4).seed == 4


def test_settings_lie_on_top():
    method = Method("m", None, {"training": {"lr": 0.1, "batch_size": 8}}, "ssm-lightgcn")
    tried = method.with_setting({"training.lr": 0.5, "objective.l2": 0.0})
    assert tried.config(0).training.lr == 0.5
    assert tried.config(0).training.batch_size == 8
    assert tried.config(0).objective.l2 == 0.0
    assert tried.config(0).objective.negatives == "in-batch", "the preset is underneath"
    assert method.options == {"training": {"lr": 0.1, "batch_size": 8}}


def test_a_dataset_that_is_gone(world_path, tmp_path):
    with pytest.raises(CnsdiffError):
        run_task(replace(final(world_path, "mf"), path=str(tmp_path / "gone")))
    assert load_dataset(world_path).n_users
