"""Describe a dataset: counts, long tail, overlaps, and how far each split is from train.

This reads every split, tests included: it is a diagnostic, and nothing that trains may use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnsdiff.base.errors import DataError
from cnsdiff.base.seeding import numpy_generator
from cnsdiff.data import Dataset, Split
from cnsdiff.data.reading.times import looks_unlike_seconds
from cnsdiff.diagnostics.concentration import (
    DECILES,
    decile_shares,
    effective_number,
    gini,
    long_tail_curve,
    popularity_deciles,
)
from cnsdiff.diagnostics.description import (
    Counts,
    Description,
    Overlap,
    SplitDescription,
    Time,
)
from cnsdiff.diagnostics.distances import shares
from cnsdiff.diagnostics.shift import (
    DRAWS,
    SECONDS_A_DAY,
    TIME_CELLS,
    Frame,
    Shift,
    measure_with_chance,
)


def describe(dataset: Dataset, *, seed: int = 0, draws: int = DRAWS) -> Description:
    """Describe all splits of ``dataset`` and measure the shift of each from train.

    Parameters
    ----------
    dataset
        Every split of it is read.
    seed
        Of the random re-divisions that give the levels of chance.
    draws
        How many of them; their mean is reported.

    Raises
    ------
    DataError
        A split has no pairs, or its file is damaged.
    """
    splits = {name: dataset.split(name) for name in dataset.split_names}
    for name, split in splits.items():
        if len(split) == 0:
            place = dataset.path or dataset.name
            raise DataError(f"{place}: its {name} split has no pairs; prepare the dataset again")
    frame = _frame(dataset, splits)
    train = splits["train"]
    deciles = popularity_deciles(np.bincount(train.items, minlength=frame.n_items))
    overlaps = tuple(_overlap(splits[a], splits[b], frame) for a, b in combinations(splits, 2))
    return Description(
        name=dataset.name,
        scenario=dataset.scenario,
        fingerprint=dataset.fingerprint,
        n_users=dataset.n_users,
        n_items=dataset.n_items,
        seed=seed,
        draws=draws,
        splits={
            name: _describe_split(dataset, train, split, frame, deciles, seed=seed, draws=draws)
            for name, split in splits.items()
        },
        overlaps=overlaps,
        time_edges=_time_edges(frame),
        problems=(*_problems_of_time(train), *_problems_of_overlap(overlaps)),
    )


def _problems_of_overlap(overlaps: Sequence[Overlap]) -> list[str]:
    return [
        f"{shared.pairs:,} pairs are both in {shared.left} and in {shared.right}; prepare the "
        "dataset again from splits that do not overlap"
        for shared in overlaps
        if shared.pairs
    ]


def _problems_of_time(train: Split) -> list[str]:
    unit = None if train.timestamps is None else looks_unlike_seconds(train.timestamps)
    return [] if unit is None else [f"its times {unit}; prepare the dataset again"]


def _frame(dataset: Dataset, splits: dict[str, Split]) -> Frame:
    times = [split.timestamps for split in splits.values() if split.timestamps is not None]
    return Frame(
        n_users=dataset.n_users,
        n_items=dataset.n_items,
        n_environments=len(dataset.environments),
        first=min((float(t.min()) for t in times), default=None),
        last=max((float(t.max()) for t in times), default=None),
    )


def _describe_split(
    dataset: Dataset,
    train: Split,
    split: Split,
    frame: Frame,
    deciles: NDArray[np.int64],
    *,
    seed: int,
    draws: int,
) -> SplitDescription:
    by_user = np.bincount(split.users, minlength=frame.n_users)
    by_item = np.bincount(split.items, minlength=frame.n_items)
    on_decile = decile_shares(deciles, by_item)
    counts = dataset.manifest["splits"][split.name]
    shift: dict[str, Shift] = {}
    if split is not train:
        # A stream for each split, so that leaving one out changes nothing for the others.
        generator = numpy_generator(seed, f"diagnostics.chance.{split.name}")
        shift = measure_with_chance(train, split, frame, generator, draws=draws)
    return SplitDescription(
        pairs=len(split),
        density=len(split) / (frame.n_users * frame.n_items),
        dropped_unknown=counts.get("dropped_unknown"),
        users=_counts(by_user),
        items=_counts(by_item),
        head=float(on_decile[: DECILES // 5].sum()),
        tail=float(on_decile[-(DECILES // 5) :].sum()),
        top_decile_items=float((deciles[by_item > 0] == 0).mean()),
        deciles=_floats(on_decile),
        long_tail=_floats(long_tail_curve(by_item)),
        activity=_activity(by_user),
        shift=shift,
        time=_time(train, split, shift, frame),
        environments=_environments(dataset, split),
    )


def _counts(counts: NDArray[Any]) -> Counts:
    present = counts[counts > 0]
    return Counts(
        present=present.size,
        mean=float(present.mean()),
        median=float(np.median(present)),
        gini=gini(counts),
        effective=effective_number(counts),
    )


def _activity(by_user: NDArray[Any]) -> tuple[float, ...]:
    """Share of the users with 1, 2-3, 4-7, … pairs, among those with any."""
    # frexp is exact where log2 of a whole number would round.
    octave = np.frexp(by_user[by_user > 0].astype(np.float64))[1] - 1
    return _floats(shares(np.bincount(octave)))


def _time(train: Split, split: Split, shift: Mapping[str, Shift], frame: Frame) -> Time | None:
    if split.timestamps is None:
        return None
    timestamps = split.timestamps
    first, last = float(timestamps.min()), float(timestamps.max())
    overlap = after = moved = None
    if train.timestamps is not None:
        train_first, train_last = float(train.timestamps.min()), float(train.timestamps.max())
        overlap = max(min(last, train_last) - max(first, train_first), 0.0) / SECONDS_A_DAY
        after = float((timestamps > train_last).mean())
        days = shift["time"].observed.wasserstein if "time" in shift else None
        if days is not None and train_last > train_first:
            moved = days / ((train_last - train_first) / SECONDS_A_DAY)
    return Time(
        first=_utc(first),
        median=_utc(float(np.median(timestamps))),
        last=_utc(last),
        span_days=(last - first) / SECONDS_A_DAY,
        overlap_days=overlap,
        after_train=after,
        moved_spans=moved,
        cells=_floats(shares(frame.time_cells(timestamps))),
    )


def _time_edges(frame: Frame) -> tuple[str, ...]:
    if frame.first is None or frame.last is None:
        return ()
    return tuple(map(_utc, np.linspace(frame.first, frame.last, TIME_CELLS + 1)))


def _utc(seconds: float) -> str:
    # datetime ends in the year 9999; datetime64 takes whatever stands in a file.
    return str(np.datetime64(int(seconds), "s"))


def _environments(dataset: Dataset, split: Split) -> dict[str, float] | None:
    if split.environments is None:
        return None
    labels = dataset.environments
    found = shares(np.bincount(split.environments, minlength=len(labels)))
    return {str(label): float(share) for label, share in zip(labels, found, strict=True)}


def _overlap(left: Split, right: Split, frame: Frame) -> Overlap:
    in_left, in_right = (split.users * frame.n_items + split.items for split in (left, right))
    return Overlap(
        left=left.name,
        right=right.name,
        pairs=np.intersect1d(in_left, in_right, assume_unique=True).size,
        users_jaccard=_jaccard(left.users, right.users, frame.n_users),
        items_jaccard=_jaccard(left.items, right.items, frame.n_items),
    )


def _jaccard(left: NDArray[np.int64], right: NDArray[np.int64], size: int) -> float:
    in_left, in_right = (np.bincount(numbers, minlength=size) > 0 for numbers in (left, right))
    return float((in_left & in_right).sum() / (in_left | in_right).sum())


def _floats(values: NDArray[Any]) -> tuple[float, ...]:
    return tuple(map(float, values))
