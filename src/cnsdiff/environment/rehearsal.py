"""Rehearsal: the shift to come, played inside the training data.

A log is cut at a moment before its end. What came before trains, what came after is a pseudo test:
epoch and environment are chosen there. Then everything trains, for as many epochs, and the
environment is computed at the true end. What is chosen is thus chosen for a shift in time, and no
pair of a test is read.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cnsdiff.base.errors import DataError
from cnsdiff.base.seeding import numpy_generator
from cnsdiff.base.text import parameter
from cnsdiff.data import Dataset, Interactions
from cnsdiff.data.reading.times import date_of


class Rehearsal(NamedTuple):
    """A dataset whose validation is a part of the training data.

    Attributes
    ----------
    dataset
        In memory, with internal numbers as ids: ``train``, and ``valid`` of the other pairs, as far
        as train knows user and item.
    share
        Of the pairs, how many train.
    whole
        What was divided: all of it in train.
    """

    dataset: Dataset
    share: float
    whole: Dataset

    def epochs(self, best: int) -> int:
        """Epochs on everything that are as many steps as the best epoch was on a part."""
        return max(1, round(best / self.share))


def rehearse(
    dataset: Dataset, horizon: float = 0.2, *, known_until: float | None = None
) -> Rehearsal:
    """Cut the training data of a dataset, validation among them, in time.

    Parameters
    ----------
    dataset
        With timestamps in train (and in valid, if it has one); no test split is read.
    horizon
        Below 1, the share of the pairs that come after the cut; else the time from the cut to the
        last pair, in the units of the times (seconds).
    known_until
        What begins the training has learnt pairs until this moment, so the cut comes later: where
        ``horizon`` does not say so anyhow, half of the pairs after this moment come after the cut.

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
            f"{place}: has no timestamps, so no shift in time can be rehearsed; name their column "
            f"({parameter('timestamp', ...)}) where the log has one, or select on 'valid'"
        )
    times = log.timestamps
    if times.min() == times.max():
        raise DataError(
            f"{place}: all pairs of train are of one moment, {date_of(times.max())}, so no shift "
            "in time can be rehearsed; select on 'valid'"
        )
    if horizon < 1:
        at = min(int((1 - horizon) * len(times)), len(times) - 1)
        cut = float(np.partition(times, at)[at])
    else:
        cut = float(times.max()) - horizon
    if known_until is not None and cut <= known_until:
        later = times[times > known_until]
        if not len(later):
            raise DataError(
                f"{place}: no pair is later than {date_of(known_until)}, until when all is known "
                "already, so nothing can be rehearsed; train anew"
            )
        cut = float(np.partition(later, len(later) // 2)[len(later) // 2])
    before = times < cut
    if before.all() or not before.any():
        raise DataError(
            f"{place}: no pair of train lies {'after' if before.all() else 'before'} "
            f"{date_of(cut)}, where the rehearsal cuts (they go from {date_of(times.min())} to "
            f"{date_of(times.max())}); give another horizon"
        )
    known = np.isin(log.users, log.users[before]) & np.isin(log.items, log.items[before])
    if not (known & ~before).any():
        raise DataError(
            f"{place}: none of the {int((~before).sum()):,} pairs from {date_of(cut)} on is of a "
            "user and an item known before, so nothing can be rehearsed; give another horizon, or "
            "select on 'valid'"
        )
    return _divided(whole, before, "rehearsal")


def hold_out(dataset: Dataset, share: float = 0.1, *, seed: int = 0) -> Rehearsal:
    """Hold out random pairs of a dataset that has no validation split.

    Parameters
    ----------
    dataset
        No test split is read.
    share
        Of the pairs, how many to hold out.
    seed
        Of the draw.

    Raises
    ------
    DataError
        No pair can be spared.
    """
    whole = dataset.merged()
    log = whole.split("train")
    # In random order, the first pair of each user and of each item stays, so that all are known.
    order = numpy_generator(seed, "held out").permutation(len(log))
    others = np.ones(len(log), dtype=bool)
    for ids in (log.users, log.items):
        others[np.unique(ids[order], return_index=True)[1]] = False
    held = order[others][: max(1, round(share * len(log)))]
    if not len(held):
        raise DataError(
            f"{dataset.path or dataset.name}: has no valid split to choose an epoch by, and no "
            "pair to spare whose user and item have another; give a larger log"
        )
    train = np.ones(len(log), dtype=bool)
    train[held] = False
    return _divided(whole, train, "held-out")


def hold_out_items(dataset: Dataset, share: float = 0.1, *, seed: int = 0) -> Rehearsal:
    """Hold out all pairs of some items, as if these were new.

    Held out, too, are the pairs of valid, or for want of it a tenth of the others at random.

    Parameters
    ----------
    dataset
        No test split is read.
    share
        Of the items, how many to hold out.
    seed
        Of the draw.

    Raises
    ------
    DataError
        Nothing is left to train on, or nobody who has a held-out item has another.
    """
    whole, rng = dataset.merged(), numpy_generator(seed, "held-out items")
    log = whole.split("train")
    held = rng.permutation(whole.n_items)[: max(1, round(share * whole.n_items))]
    if "valid" in dataset.split_names:
        train = np.arange(len(log)) < len(dataset.split("train"))
    else:
        train = rng.random(len(log)) >= 0.1
    train &= ~np.isin(log.items, held)
    if not (np.isin(log.users, log.users[train]) & np.isin(log.items, held)).any():
        raise DataError(
            f"{dataset.path or dataset.name}: has too few items to hold some out as if they were "
            "new, so content cannot be chosen; give a larger log, or train without content"
        )
    return _divided(whole, train, "new-items")


def _divided(whole: Dataset, train: NDArray[np.bool_], scenario: str) -> Rehearsal:
    """These rows of the training split train, the others are held out."""
    log = whole.split("train")
    columns: dict[str, NDArray[Any]] = {"user": log.users, "item": log.items}
    if log.timestamps is not None:
        columns["timestamp"] = log.timestamps
    if log.weights is not None:
        columns["weight"] = log.weights
    part = Dataset.from_splits(
        {
            name: Interactions(
                pl.DataFrame({column: values[rows] for column, values in columns.items()}),
                f"{whole.path or whole.name} ({name} of the {scenario} part)",
            )
            for name, rows in (("train", train), ("valid", ~train))
        },
        name=f"{whole.name}-{scenario}",
        scenario=scenario,
    )
    return Rehearsal(part, float(train.mean()), whole)
