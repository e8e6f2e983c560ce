"""Rehearsal: the shift to come, played inside the training data.

A log is cut at a moment before its end. What came before trains, what came after is a pseudo test:
epoch and environment are chosen there. Then everything trains, for as many epochs, and the
environment is computed at the true end. What is chosen is thus chosen for a shift in time, and no
pair of a test is read.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from cnsdiff.base.errors import DataError
from cnsdiff.data import Dataset, Interactions
from cnsdiff.data.reading.times import date_of


class Rehearsal(NamedTuple):
    """A dataset whose validation comes after its training.

    Attributes
    ----------
    dataset
        In memory, with internal numbers as ids: ``train`` from before the cut, and ``valid`` from
        after it, as far as train knows user and item.
    cut
        The moment, in the units of the log's times.
    share
        Of the pairs, how many trained.
    whole
        What was cut: all of it in train.
    """

    dataset: Dataset
    cut: float
    share: float
    whole: Dataset


def rehearse(dataset: Dataset, horizon: float = 0.2) -> Rehearsal:
    """Cut the training data of a dataset, validation among them, in time.

    Parameters
    ----------
    dataset
        With timestamps in train (and in valid, if it has one); no test split is read.
    horizon
        Below 1, the share of the pairs that come after the cut; else the time from the cut to the
        last pair, in the units of the times (seconds).

    Raises
    ------
    DataError
        There are no timestamps, or nothing is left on a side of the cut.
    """
    whole = dataset.merged()
    log = whole.split("train")
    place = dataset.path or dataset.name
    if log.timestamps is None:
        raise DataError(
            f"{place}: has no timestamps, so no shift in time can be rehearsed; select on 'valid', "
            "or prepare it from a log with times"
        )
    times = log.timestamps
    if horizon < 1:
        at = min(int((1 - horizon) * len(times)), len(times) - 1)
        cut = float(np.partition(times, at)[at])
    else:
        cut = float(times.max()) - horizon
    before = times < cut
    if before.all() or not before.any():
        raise DataError(
            f"{place}: no pair of train lies {'after' if before.all() else 'before'} "
            f"{date_of(cut)}, where the rehearsal cuts (they go from {date_of(times.min())} to "
            f"{date_of(times.max())}); give another horizon"
        )
    parts = {"train": before, "valid": ~before}
    columns = {"user": log.users, "item": log.items, "timestamp": times}
    rehearsed = Dataset.from_splits(
        {
            name: Interactions(
                pl.DataFrame({column: values[rows] for column, values in columns.items()}),
                f"{place} ({name} of the rehearsal)",
            )
            for name, rows in parts.items()
        },
        name=f"{dataset.name}-rehearsal",
        scenario="rehearsal",
    )
    return Rehearsal(rehearsed, cut, float(before.mean()), whole)
