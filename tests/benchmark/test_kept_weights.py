"""Finals that keep their models: each loads as a run, and is the one that was measured."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from benchmark_parts import Inline, small_grid
from polars.testing import assert_frame_equal
from test_rehearsed import grid, splits

from cnsdiff import Recommender, load_dataset
from cnsdiff.base.errors import StorageError
from cnsdiff.benchmark.grid import read_grid
from cnsdiff.benchmark.plan import plan
from cnsdiff.benchmark.progress import PlainReporter
from cnsdiff.benchmark.run import run
from cnsdiff.benchmark.store import Store
from cnsdiff.benchmark.task import Outcome, Task, run_task
from cnsdiff.data import Dataset
from cnsdiff.evaluation import EmbeddingScorer
from cnsdiff.recommender import run_directory, stack
from cnsdiff.recommender.run_directory import Fitted, read_manifest

BRIEF = {"training.fhn_every": None, "training.batch_size": 512, "backbone.dim": 8}
SECOND = {"preset": "bpr-lightgcn", "set": {"training.lr": 0.01}}
METHODS: dict[str, dict[str, Any]] = {
    "ours": {"set": BRIEF},
    "stack": {"set": {**BRIEF, "stack": SECOND}},
    **{name: {"reference": name, "options": {}} for name in ("itemknn", "mostpop", "ials")},
    "ease": {"reference": "ease", "options": {"l2": 20.0}},
    "recent": {"reference": "recent-mostpop", "options": {"half_life": "auto"}},
}
TRAINED = ("ours", "stack")


@pytest.fixture(scope="module")
def fashion(tmp_path_factory) -> Path:
    return splits().save(tmp_path_factory.mktemp("data") / "fashion")


@pytest.fixture(params=METHODS)
def finals(request, fashion, tmp_path, monkeypatch) -> list[Task]:
    """Those of a method, with and without a rehearsal, which leave their models."""
    # A stack of both: left to choose, it would take one of two models that hardly trained.
    monkeypatch.setattr(stack, "WEIGHTS", ((1.0, 1.0),))
    select_on = ("valid", "valid+dial", "rehearsal", "rehearsal+dial")
    asked = grid(fashion, methods={request.param: METHODS[request.param]}, select_on=select_on)
    (tmp_path / "weights").mkdir()
    return [
        replace(
            unit.trials[0],
            kind="final",
            seed=2,
            selections=unit.selections,
            weights=str(tmp_path / "weights"),
        )
        for unit in plan(asked, {"fashion": fashion}, threads=1)
    ]


def evaluated(model: Recommender, dataset: Dataset) -> dict[tuple[str, str], float]:
    return {
        (split, metric): value
        for split, result in model.evaluate(dataset).splits.items()
        for metric, value in result.metrics.items()
    }


def epochs(model: Recommender, metric: str) -> list[Any]:
    return [(r["epoch"], r["train"], r["validation"][metric]) for r in model.history_]


def test_a_model_is_the_one_measured(finals, fashion):
    """And for a method that trains, in all it says, the one that its configuration trains."""
    dataset = load_dataset(fashion)
    assert [len(task.selections) for task in finals] == [2, 2]
    for task in finals:
        outcome = run_task(task)
        assert outcome.models is not None
        for selection in task.selections:
            model = Recommender.load(outcome.models / selection)
            rows = outcome.rows.filter(pl.col("n_users").is_not_null(), selection=selection)
            found = {(s, m): v for s, m, v in rows.select("split", "metric", "value").iter_rows()}
            assert ("test_ood", "ndcg@20") in found
            assert evaluated(model, dataset) == found
            lists = model.recommend(dataset.users[:3], k=5)
            assert lists.height == 15
            # How it was made.
            config, name = model.config_, task.method.name
            on, _, dial = selection.partition("+")
            assert (config.training.select_on, config.training.dial != "off") == (on, bool(dial))
            assert (config.seed, config.evaluation.ks) == (2, task.ks)
            origin = read_manifest(outcome.models / selection).benchmark
            assert (origin.task, origin.method, origin.selection) == (task.key, name, selection)
            assert (model.environment_ is not None) == (
                selection == "rehearsal+dial" and name not in ("mostpop", "recent")
            )
            again = Recommender.from_config(config.model_dump()).fit(dataset)
            assert evaluated(again, dataset) == pytest.approx(found, abs=1e-6)
            assert (again.best_epoch_, again.dial_) == (model.best_epoch_, model.dial_)
            if name in TRAINED:
                picking = config.training.selection_metrics[0]
                assert epochs(again, picking) == epochs(model, picking)
                assert torch.equal(again.item_embeddings_, model.item_embeddings_)
                assert again.stack_ == model.stack_
                parts, own = again._fitted().weights, model._fitted().weights
                assert parts.keys() == own.keys() and len(own)
                assert all(torch.equal(parts[key], own[key]) for key in own)


def test_two_stacks_of_one_epoch_are_two_models(fashion, tmp_path, monkeypatch):
    """Each is measured: one epoch and no dial do not make them one."""
    picks = {"valid": (1.0, 0.0), "inverse-popularity": (0.0, 1.0)}

    def best_stack(selection: Any, tables: Any, name: str) -> Any:
        scorer = EmbeddingScorer(*stack.stacked(tables, picks[name]))
        return selection.choice(scorer, name), picks[name]

    monkeypatch.setattr("cnsdiff.benchmark.fit.best_stack", best_stack)
    asked = grid(
        fashion,
        datasets={"fashion": {"path": str(fashion), "anticipate": "inverse-popularity"}},
        methods={"stack": METHODS["stack"]},
        select_on=("valid", "anticipated"),
        budget={"epochs": 1},
    )
    (unit,) = plan(asked, {"fashion": fashion}, threads=1)
    outcome = run_task(replace(unit.trials[0], kind="final", weights=str(tmp_path)))
    values = []
    for selection, weights in picks.items():
        rows = outcome.rows.filter(selection=selection, split="test_ood", metric="ndcg@20")
        model = Recommender.load(outcome.models / selection)
        assert (model.best_epoch_, model.stack_.weights) == (1, list(weights))
        assert evaluated(model, load_dataset(fashion))["test_ood", "ndcg@20"] == rows["value"][0]
        values.append(rows["value"][0])
    assert values[0] != values[1]


def test_what_a_trained_sampler_does_can_be_asked(fashion, tmp_path):
    asked = grid(fashion, methods={"ours": METHODS["ours"]}, select_on=("valid+dial",))
    (unit,) = plan(asked, {"fashion": fashion}, threads=1)
    task = replace(unit.trials[0], kind="final", weights=str(tmp_path))
    model = Recommender.load(run_task(task).models / "valid+dial")
    assert model.false_negatives(load_dataset(fashion), n=200).judged == 200


def test_folders_of_another_machine(fashion, tmp_path):
    task = replace(task_of(fashion), weights=str(tmp_path / "elsewhere"))
    with pytest.raises(StorageError, match=r"elsewhere: not found on .*every machine"):
        run_task(task)
    assert not (tmp_path / "elsewhere").exists()


def task_of(path: Path) -> Task:
    asked = grid(
        path, methods={"mostpop": {"reference": "mostpop"}}, select_on=("valid", "rehearsal")
    )
    return replace(plan(asked, {"fashion": path}, threads=1)[0].trials[0], kind="final")


# --- in a store


def told(units: Any, store: Store, workers: Inline | None = None) -> tuple[list[str], list[Task]]:
    """The lines of a command that keeps weights, and the tasks it ran."""
    stream, workers = io.StringIO(), workers or Inline()
    run(units, store, workers, PlainReporter("bench", stream), keep_weights=True)
    return stream.getvalue().splitlines(), workers.tasks


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_a_grid_says_so_and_old_ones_stay(world_path, tmp_path):
    plain, keeping = (small_grid(world_path, **c) for c in ({}, {"keep_weights": True}))
    for asked in (plain, keeping):
        Store(tmp_path / "out").open(asked)
        file = tmp_path / "out" / "grid.yaml"
        assert read_grid(file) == asked
        assert ("keep_weights" in file.read_text()) == asked.keep_weights
    keys = [
        [task.key for unit in plan(asked, {"world": world_path}) for task in unit.trials]
        for asked in (plain, keeping)
    ]
    assert keys[0] == keys[1]


def test_finals_without_weights_run_again_and_nothing_else(planned):
    _, units, store = planned()
    run(units, store, Inline())
    before = files(store.path)
    lines, tasks = told(units, store)
    finals = [task for unit in units for task in unit.finals(store)]
    kept = [task for task in finals if task.method.name != "chance"]
    assert {task.key for task in tasks} == {task.key for task in kept}
    assert lines[1:3] == [
        "bench: methods.chance: 'random' draws its scores and has no weights to keep",
        f"bench: {len(kept)} finals done without weights, run again to keep them",
    ]
    after = files(store.path)
    assert {name: after[name] for name in before} == before, "a record was written anew"
    assert all(name.startswith("weights/") for name in after.keys() - before.keys())
    for task in finals:
        assert store.has_models(task) == (task in kept)
    for place in store.models(kept[-1]).values():
        Recommender.load(place)
    # Then nothing is left to do, until one is gone.
    assert told(units, store)[1] == []
    run_directory.remove_whole(next(iter(store.models(kept[0]).values())))
    assert [task.key for task in told(units, store)[1]] == [kept[0].key]


def test_a_new_grid_keeps_weights_at_once(planned):
    _, units, store = planned()
    _, tasks = told(units, store)
    assert len(tasks) == len({task.key for task in tasks})
    assert {task.kind for task in tasks if task.weights is not None} == {"final"}
    assert all(
        store.has_models(task)
        for unit in units
        for task in unit.finals(store)
        if task.method.name != "chance"
    )
    _, plain, other = planned("plain")
    run(plain, other, Inline())
    columns = ["key", "selection", "split", "metric", "value"]
    tables = [
        place.records([t for u in us for t in [*u.trials, *u.finals(place)]]).select(columns)
        for us, place in ((units, store), (plain, other))
    ]
    assert_frame_equal(*tables)


def of_mostpop(planned: Callable[..., Any]) -> tuple[Any, Store, Task]:
    _, units, store = planned(**{"methods": {"mostpop": {"reference": "mostpop"}}})
    run(units, store, Inline())
    return units, store, units[0].finals(store)[0]


def test_another_result_takes_the_place_of_the_one_before(planned):
    """As where a clock ended the training: record and models are of one training."""
    units, store, task = of_mostpop(planned)
    rows = store.read(task).drop("status").with_columns(stopped_by=pl.lit("time"), epochs=7)
    store.add(task, Outcome(rows, store.per_user(task)))
    lines, _ = told(units, store)
    assert "1 of these were ended by the clock" in lines[2]
    assert lines[3].endswith("came to another result than before, now replaced")
    assert set(store.read(task)["stopped_by"]) == {"itself"}
    assert store.has_models(task)


def test_a_result_of_its_own_keeps_no_models_of_another(planned):
    """As where a record was deleted and its task runs again, this time without keeping weights."""
    units, store, task = of_mostpop(planned)
    told(units, store)
    assert store.has_models(task)
    store.forget(task)
    run(units, store, Inline())
    assert store.status(task) == "ok" and not store.has_models(task)


@pytest.mark.parametrize("moment", ["before the models", "before the record"])
def test_a_kill_leaves_no_models_beside_the_record_of_others(planned, monkeypatch, moment):
    units, store, task = of_mostpop(planned)
    rows = store.read(task).drop("status").with_columns(epochs=7)
    store.add(task, Outcome(rows, store.per_user(task)))
    with monkeypatch.context() as patch:
        what = (Path, "rename") if moment == "before the models" else (Store, "_write")
        patch.setattr(*what, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            told(units, store)
    assert store.status(task) is None
    with store.writing():
        names = [entry.name for entry in store.weights.iterdir()]
        assert names == ([] if moment == "before the models" else [task.key])
    assert [t.key for t in told(units, store)[1]] == [task.key]
    assert store.has_models(task) and store.status(task) == "ok"


def test_what_cannot_be_written_leaves_the_result_and_no_half(planned, monkeypatch):
    units, store, task = of_mostpop(planned)
    before, write, written = files(store.path / "records"), Fitted.write, []

    def fails_at_the_second(run: Fitted, path: Path) -> None:
        if written:
            raise StorageError("the disk is full")
        written.append(path)
        write(run, path)

    monkeypatch.setattr(Fitted, "write", fails_at_the_second)
    lines, _ = told(units, store)
    assert "FAILED: the disk is full" in lines[-1]
    assert files(store.path / "records") == before
    assert not store.has_models(task) and list(store.weights.iterdir()) == []
