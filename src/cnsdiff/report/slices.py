"""Accuracy on parts of the tests: by popularity of the item, activity of the user, and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

from cnsdiff.data import Split
from cnsdiff.display.tables import Cell, Column, Table
from cnsdiff.display.wording import SPLIT_TITLES, metric_title, percent
from cnsdiff.evaluation.significance import Interval, user_intervals
from cnsdiff.evaluation.slices import Cut, cut_counts, cut_times, sliced_accuracy
from cnsdiff.report.accuracy import Measured, interval_cell, placed
from cnsdiff.report.charts import split_lines
from cnsdiff.report.document import Block, Figure, Prose

#: Resamples of users behind the interval of a part.
RESAMPLES = 1_000


@dataclass(frozen=True)
class Parts:
    """One way to divide the tests.

    Attributes
    ----------
    title, axis
        Of its figure.
    sentence
        Begins with what a part holds, ``{}`` for its range.
    cut
        The ranges.
    of_pairs
        By split, ``(m,)`` the part of each pair.
    """

    title: str
    axis: str
    sentence: str
    cut: Cut
    of_pairs: Mapping[str, NDArray[np.int64]]

    @property
    def shares(self) -> dict[str, NDArray[np.float64]]:
        """By split, the share of its pairs in each part."""
        return {
            split: np.bincount(own, minlength=len(self.cut)) / len(own)
            for split, own in self.of_pairs.items()
        }


def slice_blocks(
    measured: Sequence[Measured],
    held_out: Mapping[str, Split],
    train: csr_array,
    metric: str,
    seed: int,
) -> list[Block]:
    """What each model reaches on parts of the tests.

    Parameters
    ----------
    measured
        The model that the report is of, then those it is compared with.
    held_out
        The tests they were measured on.
    train
        ``(U, I)`` training pairs, by which popularity and activity are counted.
    metric
        With its cut-off.
    seed
        Of the resampling of users.
    """
    intro = Prose(
        "A part of a test is measured as if it were the whole test: the lists stay as they are, "
        "and only the pairs of that part count as relevant. Where the shares of a part differ "
        "between the tests, the world has shifted."
    )
    divisions = _divisions(held_out, train)
    blocks: list[Block] = [intro]
    tables: list[Block] = []
    for parts in divisions:
        found = _measure(parts, measured, held_out, (train.shape[0], train.shape[1]), metric, seed)
        blocks.append(_figure(parts, found[measured[0].name], measured[0].name, metric))
        tables += [_table(parts, found, metric), _share_table(parts)]
    if len(divisions) < 3:
        blocks.append(Prose("The pairs have no timestamps, so there are no parts by time."))
    return [*blocks, *tables]


def _divisions(held_out: Mapping[str, Split], train: csr_array) -> list[Parts]:
    by_item = np.bincount(train.indices, minlength=train.shape[1])
    by_user = np.diff(train.indptr)
    items, users = cut_counts(by_item), cut_counts(by_user)
    found = [
        Parts(
            "Popularity of the item",
            "pairs of the item in train",
            "Items of {} pairs hold",
            items,
            {split: items.part_of(by_item[pairs.items]) for split, pairs in held_out.items()},
        ),
        Parts(
            "Activity of the user",
            "pairs of the user in train",
            "Users of {} pairs hold",
            users,
            {split: users.part_of(by_user[pairs.users]) for split, pairs in held_out.items()},
        ),
    ]
    times = {
        split: pairs.timestamps for split, pairs in held_out.items() if pairs.timestamps is not None
    }
    if len(times) == len(held_out):
        cut = cut_times(np.concatenate(list(times.values())))
        of_pairs = {split: cut.part_of(own) for split, own in times.items()}
        found.append(Parts("Time", "from (UTC)", "The time from {} holds", cut, of_pairs))
    return found


#: By method and split, an interval per part; ``None`` for a part without pairs.
Found = dict[str, dict[str, list[Interval | None]]]


def _measure(
    parts: Parts,
    measured: Sequence[Measured],
    held_out: Mapping[str, Split],
    shape: tuple[int, int],
    metric: str,
    seed: int,
) -> Found:
    k = int(metric.partition("@")[2])
    found: Found = {one.name: {} for one in measured}
    for split, pairs in held_out.items():
        of_pairs = parts.of_pairs[split]
        frames = [
            sliced_accuracy(one.users, one.lists, pairs, of_pairs, shape, (k,)) for one in measured
        ]
        # The users of a part are the same for all, so they are resampled once.
        rows = frames[0]["part"].to_numpy()
        values = np.column_stack([frame[metric].to_numpy() for frame in frames])
        intervals: list[list[Interval] | None] = [
            user_intervals(values[rows == part], seed=seed, n_resamples=RESAMPLES)
            if (rows == part).any()
            else None
            for part in range(len(parts.cut))
        ]
        for at, one in enumerate(measured):
            found[one.name][split] = [None if each is None else each[at] for each in intervals]
    return found


def _figure(
    parts: Parts, found: dict[str, list[Interval | None]], name: str, metric: str
) -> Figure:
    figure, numbers = split_lines(found, parts.cut.names, x=parts.axis, y=metric_title(metric))
    shares = {
        (split, part): float(share)
        for split, own in parts.shares.items()
        for part, share in zip(parts.cut.names, own, strict=True)
    }
    of_rows = [shares[split, part] for split, part in numbers.select("split", "part").iter_rows()]
    return Figure(
        parts.title,
        f"{metric_title(metric)} of {name}, with 95% intervals over users. {_in_words(parts)}",
        figure,
        numbers.with_columns(share_of_pairs=pl.Series(of_rows, dtype=pl.Float64)),
        small=True,
    )


def _in_words(parts: Parts) -> str:
    """The part in which the tests differ most, and how."""
    shares = parts.shares
    if len(shares) < 2:
        return ""
    first, second = shares.values()
    at = int(np.abs(first - second).argmax())
    told = " and ".join(
        f"{percent(own[at])} of the {SPLIT_TITLES[split]}" for split, own in shares.items()
    )
    return f"{parts.sentence.format(parts.cut.names[at])} {told}."


def _table(parts: Parts, found: Found, metric: str) -> Table:
    rows = []
    for split in parts.of_pairs:
        cells = [
            placed([interval_cell(one) for one in column])
            for column in zip(*(own[split] for own in found.values()), strict=True)
        ]
        rows += [
            ((SPLIT_TITLES[split], name), tuple(column[at] for column in cells))
            for at, name in enumerate(found)
        ]
    return Table(
        f"{metric_title(metric)} by {parts.title.lower()}",
        ("test", "method"),
        tuple(Column(name, name) for name in parts.cut.names),
        tuple(rows),
        (f"{parts.axis}, in ranges of about equal numbers; - where a test has no such pairs",),
    )


def _share_table(parts: Parts) -> Table:
    return Table(
        f"Share of the pairs by {parts.title.lower()}",
        ("test",),
        tuple(Column(name, name, 1, percent=True, signed=False) for name in parts.cut.names),
        tuple(
            ((SPLIT_TITLES[split],), tuple(Cell(float(share)) for share in own))
            for split, own in parts.shares.items()
        ),
    )
