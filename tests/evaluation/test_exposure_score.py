"""How often a dataset put each item before users: counts, and their standardised log."""

from __future__ import annotations

import math
import statistics

import polars as pl
import pytest
import torch

from cnsdiff.data import Dataset, Interactions, load_dataset
from cnsdiff.evaluation import exposure_score
from cnsdiff.evaluation.dial import exposure_counts

PAIRS = [(0, "a"), (1, "a"), (2, "a"), (0, "b"), (1, "b"), (2, "c")]


def made(tables=None) -> Dataset:
    train = pl.DataFrame(PAIRS, ["user", "item"], orient="row")
    valid = pl.DataFrame({"user": [0, 1], "item": ["c", "c"]})
    splits = {"train": Interactions(train, "t"), "valid": Interactions(valid, "v")}
    return Dataset.from_splits(splits, name="t", scenario="s", tables=tables)


def by_hand(counts: list[int]) -> list[float]:
    logs = [math.log(count) for count in counts]
    return [(x - statistics.fmean(logs)) / statistics.pstdev(logs) for x in logs]


def test_exposures_where_they_are_known(tmp_path):
    table = pl.DataFrame({"item": ["b", "a", "c"], "exposures": [9, 3, 4]})
    dataset = made({"exposures": table})
    for known in (dataset, load_dataset(dataset.save(tmp_path / "d"))):
        assert exposure_counts(known).dtype == torch.float64
        assert exposure_counts(known).tolist() == [3, 9, 4]
        assert exposure_score(known).tolist() == pytest.approx(by_hand([3, 9, 4]), abs=1e-6)


def test_training_counts_for_want_of_them():
    """Of train alone: the pairs of valid, all of item c, change nothing."""
    assert exposure_counts(made()).tolist() == [3, 2, 1]
    assert exposure_score(made()).tolist() == pytest.approx(by_hand([3, 2, 1]), abs=1e-6)
    assert exposure_score(made()).dtype == torch.float32
