"""Results on disk: whole or not there, and never mistaken for others."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import yaml
from benchmark_parts import small_grid
from polars.testing import assert_frame_equal

from cnsdiff.base.errors import RunError, StorageError
from cnsdiff.benchmark.grid import Grid
from cnsdiff.benchmark.store import SCHEMA, Store
from cnsdiff.benchmark.task import Method, Outcome, Task, run_task


@pytest.fixture
def grid(world_path) -> Grid:
    return small_grid(world_path)


@pytest.fixture
def store(grid, tmp_path) -> Store:
    made = Store(tmp_path / "out")
    made.open(grid)
    return made


@pytest.fixture
def task(world_path, world) -> Task:
    return Task(
        kind="final",
        dataset="world",
        path=str(world_path),
        fingerprint=world.fingerprint,
        method=Method("mostpop", "mostpop", {}),
        setting={"l2": 0.5, "width": None},
        trial=2,
        seed=1,
        selections=("valid", "tempered"),
        metric="ndcg@20",
        ks=(10, 20),
        threads=1,
    )


@pytest.fixture
def outcome(task) -> Outcome:
    return run_task(task)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_what_is_kept_comes_back(store, task, outcome):
    assert store.status(task) is None and store.read(task) is None
    store.add(task, outcome)
    record = store.read(task)
    assert record.schema == SCHEMA
    assert store.status(task) == "ok"
    shown = record.select(outcome.rows.columns)
    assert_frame_equal(shown, outcome.rows, check_dtypes=False)
    told = record.row(0, named=True)
    expected = {
        **{"key": task.key, "kind": "final", "dataset": "world", "method": "mostpop"},
        **{"trial": 2, "setting": '{"l2": 0.5, "width": null}', "seed": 1, "status": "ok"},
        **{"error": None, "fingerprint": task.fingerprint, "threads": 1},
    }
    assert expected.items() <= told.items()
    assert told["created_by"].startswith("cnsdiff ")
    assert_frame_equal(store.per_user(task), outcome.per_user)
    assert_frame_equal(Store(store.path).read(task), record)


def test_a_failure_is_one_row(store, task):
    store.add_failure(task, "it rained")
    record = store.read(task)
    assert record.schema == SCHEMA and record.height == 1
    assert (store.status(task), record["error"][0], record["value"][0]) == (
        *("failed", "it rained"),
        None,
    )
    store.forget(task)
    assert store.status(task) is None
    store.forget(task)


def test_records_of_some_tasks(store, task, outcome):
    other, absent = replace(task, seed=2), replace(task, seed=3)
    store.add(task, outcome)
    store.add_failure(other, "it rained")
    found = store.records([other, absent, task])
    assert found["key"].unique(maintain_order=True).to_list() == [other.key, task.key]
    assert store.records([absent]).schema == SCHEMA
    assert store.records([]).is_empty()


def test_opened_again_it_holds_the_same(store, grid, task, outcome):
    store.add(task, outcome)
    changed = small_grid(Path(grid.datasets["world"].path), seeds=[5])
    store.open(changed)
    assert store.status(task) == "ok"
    kept = yaml.safe_load((store.path / "grid.yaml").read_text(encoding="utf-8"))
    assert kept["seeds"] == [5], "the grid is the one last asked for"


# --- kills


def test_leftovers_of_a_kill_go(store, grid, task, outcome):
    store.add(task, outcome)
    before = {folder: names(store.path / folder) for folder in ("records", "per_user", "data")}
    for folder in before:
        (store.path / folder / f".{task.key}.parquet.0123456789abcdef").write_bytes(b"half")
    half = store.data / ".world-01234567.0123456789abcdef"
    half.mkdir()
    (half / "train.parquet").write_bytes(b"half")
    store.open(grid)
    assert half.exists(), "it may be another command's, at work just now"
    with store.writing():
        assert {folder: names(store.path / folder) for folder in before} == before


def test_one_command_at_a_time_adds_results(store, grid):
    with store.writing():
        other = Store(store.path)
        other.open(grid)
        with pytest.raises(RunError, match="another benchmark is running here"), other.writing():
            pass
    with other.writing():
        pass
    with store.writing():
        pass


def test_a_kill_while_it_is_made(grid, tmp_path):
    """The grid comes first, so that what a kill leaves is known again."""
    out = tmp_path / "out"
    out.mkdir()
    (out / ".grid.yaml.0123456789abcdef").write_text("na")
    Store(out).open(grid)
    shutil.rmtree(out / "records")
    shutil.rmtree(out / "per_user")
    Store(out).open(grid)
    assert names(out) == ["data", "grid.yaml", "per_user", "records"]


def test_nothing_hidden_is_a_record(task):
    """Leftovers begin with a dot; no task's file does."""
    assert not task.key.startswith(".")
    assert "/" not in task.key


def test_a_full_disk_leaves_no_half_record(store, task, outcome, full_disk):
    store.add_failure(replace(task, seed=9), "it rained")
    with full_disk(100), pytest.raises(StorageError, match="the disk is full"):
        store.add(task, outcome)
    assert names(store.path / "records") == [f"{replace(task, seed=9).key}.parquet"]
    assert names(store.path / "per_user") == []
    assert store.status(task) is None
    store.add(task, outcome)
    assert store.status(task) == "ok"


def test_users_without_a_record_are_made_again(store, task, outcome):
    """A kill between the two files: the task counts as not run, and runs over what is there."""
    store.add(task, replace(outcome, per_user=outcome.per_user.head(3)))
    store.forget(task)
    assert store.status(task) is None
    store.add(task, outcome)
    assert_frame_equal(store.per_user(task), outcome.per_user)


def test_the_record_goes_last(store, task, outcome, monkeypatch):
    monkeypatch.setattr(Store, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.add(task, outcome)
    assert names(store.path / "per_user") == [f"{task.key}.parquet"]
    assert store.status(task) is None


# --- damage


def spoilt(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "empty":
        file.write_bytes(b"")
    elif how == "text":
        file.write_bytes(b"no parquet at all")
    elif how == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif how == "no footer":
        file.write_bytes(content[:-5])
    elif how == "other table":
        pl.DataFrame({"a": [1]}).write_parquet(file)
    else:
        pl.DataFrame(schema=SCHEMA).write_parquet(file)


@pytest.mark.parametrize("how", ["empty", "text", "cut", "no footer", "other table", "no rows"])
def test_a_damaged_record(store, task, outcome, how):
    store.add(task, outcome)
    file = store.path / "records" / f"{task.key}.parquet"
    spoilt(file, how)
    for read in (store.read, store.status, lambda t: store.records([t])):
        with pytest.raises(RunError) as caught:
            read(task)
        assert str(caught.value) == (
            f"{file}: is missing or damaged; delete {file} and run the benchmark again"
        )


@pytest.mark.parametrize("how", ["empty", "text", "cut", "gone"])
def test_damaged_users(store, task, outcome, how):
    store.add(task, outcome)
    file = store.path / "per_user" / f"{task.key}.parquet"
    if how == "gone":
        file.unlink()
    else:
        spoilt(file, how)
    with pytest.raises(RunError) as caught:
        store.per_user(task)
    record = store.path / "records" / file.name
    assert str(caught.value).startswith(f"{file}: is missing or damaged; delete {record} ")


# --- what is no benchmark


@pytest.mark.parametrize("entry", ["notes.txt", ".hidden", "records"])
def test_foreign_directories_are_left_alone(grid, tmp_path, entry):
    out = tmp_path / "mine"
    out.mkdir()
    if entry == "records":
        (out / entry).mkdir()
        (out / entry / ".keep").touch()
    else:
        (out / entry).touch()
    before = sorted(out.rglob("*"))
    with pytest.raises(RunError, match="is not empty and holds no benchmark"):
        Store(out).open(grid)
    assert sorted(out.rglob("*")) == before


def test_a_file_is_no_directory(grid, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(RunError, match=r"out: is a file; choose another directory"):
        Store(tmp_path / "out").open(grid)


def test_folders_are_made(grid, tmp_path):
    Store(tmp_path / "a" / "b").open(grid)
    (tmp_path / "empty").mkdir()
    Store(tmp_path / "empty").open(grid)
    assert names(tmp_path / "a" / "b") == names(tmp_path / "empty")
