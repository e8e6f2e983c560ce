"""What is known of the environment that a model is for, beside the log: item counts, judged users.

*Counts* say how often each item is asked for there, and nothing of who asks. A *sample* is some
users judged as under the shift: a randomised experiment, a pilot, a panel. Both are tables beside
the splits; whoever is in the sample is in no test.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from narwhals.typing import IntoFrame

from cnsdiff.base.errors import DataError
from cnsdiff.base.text import parameter
from cnsdiff.data.dataset import Dataset
from cnsdiff.data.directory import SplitCounts
from cnsdiff.data.interactions import Interactions
from cnsdiff.data.reading.tables import read_features
from cnsdiff.data.side_tables import add_to_hash
from cnsdiff.data.splits import Split

if TYPE_CHECKING:
    from numpy.typing import NDArray

COUNTS, SAMPLE = "target_counts", "target_sample"
#: Counts are below this, so that all of them add up.
_MOST = 2**53


def with_target(
    dataset: Dataset,
    *,
    counts: str | Path | IntoFrame | None = None,
    sample: Interactions | None = None,
    literal_ids: bool = False,
) -> Dataset:
    """The dataset with what is known of the target environment.

    Parameters
    ----------
    dataset
        Whose users and items they are.
    counts
        A table of items with one column of counts; an item that is not in it counts 0.
    sample
        Pairs of users as under the shift. Pairs of unknown users or items, and those of train, are
        left out, and all users of the sample are taken out of the tests.
    literal_ids
        As for :func:`~cnsdiff.data.read_interactions`.

    Raises
    ------
    DataError
        Nothing in a table is known to train, the counts are none, or nobody would be left in a
        test.
    """
    tables: dict[str, pl.DataFrame] = {}
    told: dict[str, object] = {}
    splits = {name: dataset.split(name) for name in dataset.split_names}
    records = dict(dataset.manifest.splits)
    if counts is not None:
        place = str(counts) if isinstance(counts, str | Path) else "target counts"
        tables[COUNTS], told = _counts(dataset, counts, place, literal_ids=literal_ids)
    if sample is not None:
        tables[SAMPLE], users, more = _sample(dataset, sample)
        told |= more
        for name in ("test_iid", "test_ood"):
            if name not in splits:
                continue
            whole = splits[name]
            left = whole.of_users(np.setdiff1d(whole.users, users))
            if not len(left):
                raise DataError(
                    f"{sample.source}: its users are all that the {name} split has, so nobody "
                    "would be left to judge; give fewer users"
                )
            told[f"taken out of {name}"] = len(whole) - len(left)
            splits[name] = left
            before = records[name].model_dump(exclude_unset=True)
            records[name] = SplitCounts(**before | left.sizes)
    if not tables:
        return dataset
    beside = {name: dataset.table(name) for name in dataset.table_names} | tables
    if sample is not None and "new_item_pairs" in beside:  # of nobody who is judged already
        pairs = beside["new_item_pairs"]
        judged = pl.col("user").is_in(tables[SAMPLE]["user"].implode())
        kept = pairs.filter((pl.col("split") == "valid") | ~judged)
        beside["new_item_pairs"] = kept
        for name, record in records.items():
            if record.new_item_pairs:
                n = kept.filter(pl.col("split") == name).height
                records[name] = record.model_copy(update={"new_item_pairs": n})
    manifest = dataset.manifest.model_copy(
        update={
            "fingerprint": add_to_hash(dataset.manifest.fingerprint, tables),
            "splits": records,
            "tables": list(beside),
            "log": {**dataset.manifest.log, **told},
        }
    )
    return Dataset(
        users=dataset.users,
        items=dataset.items,
        manifest=manifest,
        splits=splits,
        tables=beside,
        seen=dataset.seen(),
    )


def target_sample(dataset: Dataset) -> Split:
    """The pairs of the judged users.

    Raises
    ------
    DataError
        The dataset has none.
    """
    if SAMPLE not in dataset.table_names:
        raise DataError(
            f"{dataset.path or dataset.name}: has no sample of the target; prepare it again with "
            f"{parameter('target_sample', 'FILE')}"
        )
    table = dataset.table(SAMPLE)
    return Split(SAMPLE, table["user"].to_numpy(), table["item"].to_numpy())


def target_counts(dataset: Dataset) -> NDArray[np.int64]:
    """``(I,)`` how often each item is asked for in the target environment.

    Raises
    ------
    DataError
        The dataset does not say.
    """
    if COUNTS not in dataset.table_names:
        raise DataError(
            f"{dataset.path or dataset.name}: has no item counts of the target; prepare it again "
            f"with {parameter('target_counts', 'FILE')}"
        )
    return dataset.table(COUNTS)[COUNTS].to_numpy()


def _counts(
    dataset: Dataset, source: str | Path | IntoFrame, place: str, *, literal_ids: bool
) -> tuple[pl.DataFrame, dict[str, object]]:
    """The counts of all items, and what became of the file's."""
    table = read_features(source, "item", literal_ids=literal_ids)
    columns = [name for name in table.columns if name != "item"]
    if len(columns) != 1:
        listed = ", ".join(map(repr, columns)) or "none"
        raise DataError(
            f"{place}: needs one column of counts beside the items, and has {listed}; keep the one"
        )
    values = table[columns[0]]
    whole = values.dtype.is_numeric() and bool(
        (values.is_finite() & (values >= 0) & (values < _MOST) & (values == values.round()))
        .fill_null(False)
        .all()
    )
    if not whole:
        raise DataError(
            f"{place}: column {columns[0]!r} holds what is no count; give whole numbers from 0 "
            "to 9e15"
        )
    numbers = dataset.encode_items(table["item"])
    known = numbers >= 0
    if not known.any():
        raise DataError(
            f"{place}: none of its {len(table):,} items is known to train: it has "
            f"{table['item'][0]!r}, and train {dataset.items[0]!r}; write the ids alike"
        )
    if not (values.filter(pl.Series(known)) > 0).any():
        raise DataError(
            f"{place}: the counts of all {int(known.sum()):,} items that train knows are 0, so "
            "they tell nothing; give a file of the target's own counts"
        )
    if values.filter(pl.Series(known)).cast(pl.Float64).sum() >= 2**62:
        raise DataError(
            f"{place}: the counts add up to more than 4e18, which nobody counts; give the number "
            "of times that each item was asked for"
        )
    counts = np.zeros(dataset.n_items, dtype=np.int64)
    counts[numbers[known]] = values.cast(pl.Int64).to_numpy()[known]
    told: dict[str, object] = {
        "items with target counts": int(known.sum()),
        "unknown items in the target counts": int((~known).sum()),
    }
    return pl.DataFrame({COUNTS: counts}), told


def _sample(
    dataset: Dataset, sample: Interactions
) -> tuple[pl.DataFrame, NDArray[np.int64], Mapping[str, object]]:
    """The pairs of a sample, its users, and what became of its rows."""
    frame = sample.frame
    users = dataset.encode_users(frame["user"])
    items = dataset.encode_items(frame["item"])
    known = (users >= 0) & (items >= 0)
    if not known.any():
        raise DataError(
            f"{sample.source}: none of its {len(frame):,} pairs is of a user and an item that "
            f"train knows: it has user {frame['user'][0]!r} and item {frame['item'][0]!r}, and "
            f"train {dataset.users[0]!r} and {dataset.items[0]!r}; write the ids alike"
        )
    pairs = np.unique(np.stack([users[known], items[known]], axis=1), axis=0)
    train = dataset.split("train").csr(dataset.n_users, dataset.n_items)
    had = np.asarray(train[pairs[:, 0], pairs[:, 1]]).ravel() != 0
    if had.all():
        raise DataError(
            f"{sample.source}: train holds all of its {len(pairs):,} pairs already, so they judge "
            "nothing; give pairs that were found out later"
        )
    judged = pairs[~had]
    told: dict[str, object] = {
        "users in the target sample": len(np.unique(judged[:, 0])),
        "unknown pairs in the target sample": int((~known).sum()),
        "pairs of the target sample in train": int(had.sum()),
    }
    # Whoever is in the sample at all, if by a pair that train has, is known from it.
    return pl.DataFrame(judged, schema=["user", "item"]), np.unique(pairs[:, 0]), told
