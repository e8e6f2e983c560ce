"""No byte of a test split is read before it is evaluated, whatever picks the epoch."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pytest

import cnsdiff
from cnsdiff import Recommender
from cnsdiff.base.errors import DataError
from cnsdiff.data import Dataset, Interactions, load_dataset
from cnsdiff.evaluation.anticipation import Anticipated

JUDGES = ("test_iid", "test_ood", "judgements", "truth_users", "truth_items")
#: Opened by training at its very end, for recommendations to leave out.
SEEN = "seen"
HONEST = ("valid", *get_args(Anticipated))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A saved dataset with times, a judging experiment and a truth."""
    rng = np.random.default_rng(0)
    pairs = np.argwhere(rng.random((40, 30)) < 0.5)
    part = rng.choice(
        ["train", "valid", "test_iid", "test_ood"], len(pairs), p=[0.6, 0.1, 0.1, 0.2]
    )
    splits = {
        name: Interactions(
            pl.DataFrame(pairs[part == name], schema=["user", "item"]).with_columns(
                timestamp=pl.Series(rng.integers(0, 10**6, int((part == name).sum())))
            ),
            "test",
        )
        for name in ("train", "valid", "test_iid", "test_ood")
    }
    judged = pl.DataFrame({"user": [0, 1], "item": [0, 1], "relevant": [True, False]})
    truth = pl.DataFrame({"user": np.arange(40), "taste": rng.normal(size=40)})
    dataset = Dataset.from_splits(
        splits,
        name="sealed",
        scenario="given",
        tables={
            "judgements": judged,
            "truth_users": truth,
            "truth_items": truth.rename({"user": "item"}),
        },
    )
    return dataset.save(tmp_path / "sealed")


def fitted(folder: Path, select_on: str) -> Recommender:
    training = {"epochs": 2, "batch_size": 128, "patience": None}
    if select_on == "test_ood":
        training["dial"] = "off"
    model = Recommender("mf", "cnsdiff", seed=1, threads=1, training=training)
    return model.fit(load_dataset(folder), select_on=select_on, run=folder.parent / "run")


@pytest.mark.parametrize("select_on", HONEST)
def test_training_opens_no_judge(folder, opened, select_on):
    model = fitted(folder, select_on)
    seen = {name.removesuffix(".parquet") for name in opened if name.endswith(".parquet")}
    assert {"users", "items", "train", "valid"} <= seen
    assert not seen & set(JUDGES)
    # What recommendations leave out holds test pairs: it is opened when all has been chosen.
    chosen = max(at for at, name in enumerate(opened) if "checkpoint.safetensors" in name)
    assert chosen < opened.index("seen.parquet")
    model.evaluate(load_dataset(folder))
    assert {"test_iid.parquet", "test_ood.parquet"} <= set(opened)


def test_the_ear_hears(folder, opened):
    """The published protocol does read its test set, and is heard."""
    fitted(folder, "test_ood")
    assert "test_ood.parquet" in opened


@pytest.mark.parametrize("select_on", HONEST)
def test_a_poisoned_judge_changes_no_weight(folder, select_on):
    clean = fitted(folder, select_on)
    for name in (*JUDGES, SEEN):
        (folder / f"{name}.parquet").write_bytes(b"poison")
    for file in (folder.parent / "run").iterdir():
        file.unlink()
    (folder.parent / "run").rmdir()
    poisoned = fitted(folder, select_on)
    assert poisoned.best_epoch_ == clean.best_epoch_
    assert poisoned.history_[-1]["validation"] == clean.history_[-1]["validation"]
    for ours, theirs in (
        (poisoned.user_embeddings_, clean.user_embeddings_),
        (poisoned.item_embeddings_, clean.item_embeddings_),
    ):
        assert ours.equal(theirs)
    with pytest.raises(DataError, match=r"test_iid\.parquet: is truncated"):
        poisoned.evaluate(load_dataset(folder))


def test_one_function_opens_the_files_of_a_dataset():
    """``read_parquet`` in the data layer: readers of what the user gives, and ``read_table``."""
    found = set()
    for file in (Path(cnsdiff.__file__).parent / "data").rglob("*.py"):
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef) and any(
                (isinstance(node, ast.Name) and node.id == "read_parquet")
                or (
                    isinstance(node, ast.Attribute)
                    and node.attr in ("read_parquet", "scan_parquet", "read_table")
                )
                for node in ast.walk(function)
            ):
                found.add((file.stem, function.name))
    assert found == {
        ("directory", "_read_table"),
        ("readers", "_read_parquet"),
        ("tables", "read_raw"),
    }
