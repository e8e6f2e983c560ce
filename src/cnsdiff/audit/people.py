"""A few users of a log as examples: their history, and the lists they would get."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cnsdiff.audit.record import PersonRecord, ShownRecord
from cnsdiff.base.seeding import numpy_generator
from cnsdiff.data import Dataset

#: How many users are shown, of how many whose lists are kept.
PEOPLE, KEPT = 5, 200
#: How many items of what they had and took, and places of a list.
HISTORY, LENGTH = 6, 10
#: Columns of features that tell an item, beside its id, and how many values such a one has.
_COLUMNS, _TELLING = 2, 5


def kept_people(dataset: Dataset, seed: int) -> tuple[int, ...]:
    """Users whose lists to keep: by chance, from the least to the most active in train.

    No test is read. Internal numbers, at most :data:`KEPT`.
    """
    counts = np.bincount(dataset.split("train").users, minlength=dataset.n_users)
    order = numpy_generator(seed, "audit/people").permutation(dataset.n_users)
    by_activity = order[np.argsort(counts[order], kind="stable")]
    return tuple(map(int, _spread(by_activity[counts[by_activity] > 0], KEPT)))


def _spread(ordered: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """At most ``n`` of them, evenly spread."""
    n = min(n, len(ordered))
    places = ((np.arange(n) + 0.5) / max(n, 1) * len(ordered)).astype(np.int64)
    return np.asarray(ordered[places], dtype=np.int64)


def people_records(dataset: Dataset, lists: Mapping[str, pl.DataFrame]) -> list[PersonRecord]:
    """At most :data:`PEOPLE` users of some lists, of those that the OOD test has.

    Parameters
    ----------
    dataset
        Whose numbers the lists hold.
    lists
        By the key of a setting: ``user``, ``item``, the best first; of the same users, the least
        active first.
    """
    if not lists:
        return []
    labels = _labels(dataset)
    train, test = dataset.split("train"), dataset.split("test_ood")
    records = []
    users = next(iter(lists.values()))["user"].unique(maintain_order=True).to_numpy()
    for user in _spread(users[np.isin(users, test.users)], PEOPLE).tolist():
        rows = np.flatnonzero(train.users == user)
        if train.timestamps is not None:  # the latest first
            rows = rows[np.argsort(-train.timestamps[rows], kind="stable")]
        wanted = test.items[test.users == user]
        shown = {
            key: frame.filter(user=user)["item"].head(LENGTH).to_list()
            for key, frame in lists.items()
        }
        records.append(
            PersonRecord(
                user=str(dataset.users[user]),
                n_history=len(rows),
                history=[labels[item] for item in train.items[rows[:HISTORY]]],
                n_wanted=len(wanted),
                wanted=[labels[item] for item in wanted[:HISTORY]],
                lists={
                    key: [
                        ShownRecord(item=labels[item], wanted=bool((wanted == item).any()))
                        for item in items
                    ]
                    for key, items in shown.items()
                },
            )
        )
    return records


def _labels(dataset: Dataset) -> list[str]:
    """Each item's id, and what the first columns of its features say."""
    ids = list(map(str, dataset.items.to_list()))
    if "item_features" not in dataset.table_names:
        return ids
    features = dataset.table("item_features")
    columns = [
        name
        for name in features.columns
        if features[name].dtype == pl.String and features[name].n_unique() >= _TELLING
    ][:_COLUMNS]
    if not columns:
        return ids
    words = features.select(
        pl.concat_str(columns, separator=", ", ignore_nulls=True).alias("words")
    )["words"]
    return [f"{own} ({text})" if text else own for own, text in zip(ids, words, strict=True)]
