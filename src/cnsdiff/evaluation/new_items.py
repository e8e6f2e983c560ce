"""How well new items are placed: among themselves, and beside the known ones.

``warm`` is the accuracy of known items in lists of known items, ``new`` that of new items in lists
of new items, ``joint`` that of all in lists of all. The ``harmonic`` mean of warm and new is high
only if both are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch

from cnsdiff.base.errors import DataError, InputError
from cnsdiff.data import Dataset
from cnsdiff.evaluation.dial import lists_at
from cnsdiff.evaluation.metrics import ACCURACY, Relevance, item_counts
from cnsdiff.evaluation.protocol import measure
from cnsdiff.evaluation.ranking import Scorer


@dataclass(frozen=True)
class NewItemsEvaluation:
    """The accuracy of one split by who is listed.

    Attributes
    ----------
    warm, new, joint, harmonic
        By metric, ``"ndcg@20"``; ``warm`` and ``harmonic`` are empty where the split has no pair of
        a known item.
    share_listed
        By cut-off, the share of the places in joint lists that new items take.
    share_taken
        The share of the pairs that are of new items.
    n_users
        Of ``"warm"``, ``"new"`` and ``"joint"``.
    per_user
        ``user`` and their metrics in joint lists, if asked for.
    """

    warm: dict[str, float]
    new: dict[str, float]
    joint: dict[str, float]
    harmonic: dict[str, float]
    share_listed: dict[int, float]
    share_taken: float
    n_users: dict[str, int]
    per_user: pl.DataFrame | None = field(default=None, repr=False)


def evaluate_new_items(
    scorer: Scorer,
    dataset: Dataset,
    n_known: int,
    split: str = "test_ood",
    ks: Sequence[int] = (10, 20),
    *,
    per_user: bool = False,
) -> NewItemsEvaluation:
    """Measure known and new items apart and together, training positives masked.

    Parameters
    ----------
    scorer
        Of all items of ``dataset``.
    dataset
        As :meth:`cnsdiff.data.Dataset.with_new_items` gives it.
    n_known
        Items from this number on are new.
    split
        Held-out.
    ks
        Cut-offs.
    per_user
        Keep the metrics of each user in joint lists, too.

    Raises
    ------
    DataError
        The split has no pair of a new item.
    InputError
        The scorer has other users or items than the dataset.
    """
    shape = dataset.n_users, dataset.n_items
    if (scorer.n_users, scorer.n_items) != shape:
        raise InputError(
            f"the model has {scorer.n_users:,} users and {scorer.n_items:,} items, and the dataset "
            f"with its new items {shape[0]:,} and {shape[1]:,}; measure the model that was trained "
            "on it, with the same new items"
        )
    held, train = dataset.split(split), dataset.split("train").csr(*shape)
    is_new = held.items >= n_known
    if not is_new.any():
        raise DataError(
            f"{dataset.name}: its {split} has no pair of a new item with known features, so new "
            "items cannot be measured"
        )
    new = torch.arange(shape[1]) >= n_known
    barred = {"warm": new, "new": ~new, "joint": torch.zeros_like(new)}
    pairs = {"warm": ~is_new, "new": is_new, "joint": np.ones_like(is_new)}
    counts = item_counts(train)
    values: dict[str, dict[str, float]] = {}
    users: dict[str, int] = {}
    share_listed: dict[int, float] = {}
    each: pl.DataFrame | None = None
    for name, out in barred.items():
        relevance = Relevance(held.users[pairs[name]], held.items[pairs[name]], *shape)
        if not len(relevance.users):
            values[name], users[name] = {}, 0
            continue
        bias = torch.where(out, -torch.inf, 0.0)
        lists = lists_at(scorer, {0.0: bias}, relevance.users, max(ks), exclude=train)[0.0]
        found = measure(relevance, lists, counts, ks, per_user=per_user and name == "joint")
        values[name] = {
            metric: value
            for metric, value in found.metrics.items()
            if metric.partition("@")[0] in ACCURACY
        }
        users[name] = found.n_users
        if name == "joint":
            for k in ks:
                places = lists[:, :k][lists[:, :k] >= 0]
                share_listed[k] = float((places >= n_known).float().mean())
            each = found.per_user
    harmonic = {}
    for metric, warm in values["warm"].items():
        both = warm + values["new"][metric]
        harmonic[metric] = 2 * warm * values["new"][metric] / both if both else 0.0
    return NewItemsEvaluation(
        **values,
        harmonic=harmonic,
        share_listed=share_listed,
        share_taken=float(is_new.mean()),
        n_users=users,
        per_user=each,
    )
