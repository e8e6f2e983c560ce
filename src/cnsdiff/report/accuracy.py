"""Accuracy on the tests: of each model, against one another, and on parts of the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.data import Dataset, Split
from cnsdiff.display.tables import HALF_WIDTH, MARK, Cell, Column, Table
from cnsdiff.display.wording import SHORT_SPLIT_TITLES, SPLIT_TITLES, metric_title, percent
from cnsdiff.evaluation import Scorer, SplitEvaluation, rank
from cnsdiff.evaluation.kept import UserAccuracy, kept
from cnsdiff.evaluation.metrics import item_counts, relevance_of
from cnsdiff.evaluation.protocol import measure, protocol
from cnsdiff.evaluation.significance import Difference, Interval, bootstrap_means, holm
from cnsdiff.evaluation.slices import Cut, cut_counts, cut_times, sliced_accuracy
from cnsdiff.report.charts import split_dots, split_lines
from cnsdiff.report.document import Block, Figure, Prose

TESTS = ("test_iid", "test_ood")
#: Family-wise error of the marks.
ALPHA = 0.05
#: Resamples of users behind an interval; the ends of a 95% interval settle to 2% of its width.
RESAMPLES, KEPT_RESAMPLES, SLICE_RESAMPLES = 4_000, 1_000, 1_000


def tests_of(dataset: Dataset) -> dict[str, Split]:
    """The tests that a dataset has and that hold anything."""
    splits = {name: dataset.split(name) for name in TESTS if name in dataset.split_names}
    return {name: split for name, split in splits.items() if len(split)}


# --- Measured and compared


@dataclass(frozen=True)
class Measured:
    """A model's lists and how good they are.

    Attributes
    ----------
    name
        As the report calls it.
    users, lists
        ``(n,)`` rising and ``(n, K)``: the users with held-out items in any of the splits.
    splits
        By name, with every user's accuracy.
    """

    name: str
    users: Tensor
    lists: Tensor
    splits: Mapping[str, SplitEvaluation]

    def per_user(self, split: str) -> pl.DataFrame:
        """A row for each user of a split, in rising order; a column for each metric."""
        frame = self.splits[split].per_user
        assert frame is not None
        return frame


def measure_model(
    name: str,
    scorer: Scorer,
    held_out: Mapping[str, Split],
    train: csr_array,
    ks: Sequence[int],
    device: torch.device | str | None = None,
) -> Measured:
    """Rank once for every user of the splits, and measure the lists on each."""
    shape = (train.shape[0], train.shape[1])
    relevances = {split: relevance_of(pairs, split, shape) for split, pairs in held_out.items()}
    users = torch.stack([each.counts for each in relevances.values()]).sum(0).nonzero()[:, 0]
    lists = rank(scorer, users, max(ks), exclude=train, device=device)[0].cpu()
    counts = item_counts(train)
    splits = {
        split: measure(relevance, lists[relevance.counts[users] > 0], counts, ks, per_user=True)
        for split, relevance in relevances.items()
    }
    return Measured(name, users, lists, splits)


@dataclass(frozen=True)
class Standing:
    """Several models on the same tests, as resampling their users tells them apart.

    Attributes
    ----------
    measured
        The model that the report is of, then those it is compared with.
    metric
        The one they are compared by.
    metrics
        That, and those shown beside it.
    means
        By name, split and metric.
    differences
        By name of the other and split: the first less the other.
    kept
        By name, OOD over IID; empty where a test is missing.
    """

    measured: tuple[Measured, ...]
    metric: str
    metrics: tuple[str, ...]
    means: Mapping[tuple[str, str, str], Interval]
    differences: Mapping[tuple[str, str], Difference]
    kept: Mapping[str, Interval]

    @property
    def splits(self) -> tuple[str, ...]:
        """The tests they were measured on."""
        return tuple(self.measured[0].splits)


def stand(measured: Sequence[Measured], metric: str, seed: int) -> Standing:
    """Resample the users of each test once for all models.

    Parameters
    ----------
    measured
        The model that the report is of, then those it is compared with, on the same splits.
    metric
        With its cut-off.
    seed
        Of the resampling.
    """
    first, *others = measured
    _, _, k = metric.partition("@")
    metrics = tuple(dict.fromkeys((metric, f"ndcg@{k}", f"recall@{k}")))
    means: dict[tuple[str, str, str], Interval] = {}
    differences: dict[tuple[str, str], Difference] = {}
    for split in first.splits:
        # One column for each mean, then one for each difference, under the same resampling.
        keys = [(model.name, split, name) for model in measured for name in metrics]
        columns = [model.per_user(split)[name].to_numpy() for model in measured for name in metrics]
        own = first.per_user(split)[metric].to_numpy()
        columns += [own - other.per_user(split)[metric].to_numpy() for other in others]
        results = bootstrap_means(np.column_stack(columns), seed=seed, n_resamples=RESAMPLES)
        for key, mean in zip(keys, results, strict=False):
            means[key] = mean
        for other, difference in zip(others, results[len(keys) :], strict=True):
            differences[other.name, split] = difference
    shares: dict[str, Interval] = {}
    if set(TESTS) <= first.splits.keys():
        iid, ood = (
            UserAccuracy(
                first.per_user(test)["user"].to_numpy(),
                np.column_stack([model.per_user(test)[metric].to_numpy() for model in measured]),
            )
            for test in TESTS
        )
        of_models = kept(iid, ood, seed=seed, n_resamples=KEPT_RESAMPLES).kept
        shares = {model.name: share for model, share in zip(measured, of_models, strict=True)}
    return Standing(tuple(measured), metric, metrics, means, differences, shares)


# --- The section "Accuracy"


def accuracy_blocks(standing: Standing) -> list[Block]:
    """The first against the rest: a figure, what each reaches and keeps, and who differs."""
    metric, splits = standing.metric, standing.splits
    figure, numbers = split_dots(
        {
            model.name: {split: standing.means[model.name, split, metric] for split in splits}
            for model in standing.measured
        },
        metric_title(metric),
    )
    caption = "Mean over users, with the 95% interval that resampling users gives."
    if len(splits) > 1:
        caption += " The longer the line, the more a method depends on the world it was trained in."
    where = " and ".join(SPLIT_TITLES[split] for split in splits)
    blocks: list[Block] = [
        Figure(f"{metric_title(metric)} on the {where}", caption, figure, numbers),
        _means_table(standing),
    ]
    return [*blocks, *([_difference_table(standing)] if len(standing.measured) > 1 else [])]


def _means_table(standing: Standing) -> Table:
    columns, cells = [], []
    for split in standing.splits:
        for metric in standing.metrics:
            title = f"{SHORT_SPLIT_TITLES[split]} {metric_title(metric)}"
            columns.append(Column(f"{split}/{metric}", title))
            means = [standing.means[model.name, split, metric] for model in standing.measured]
            cells.append(placed([interval_cell(mean) for mean in means]))
    notes = [protocol(), HALF_WIDTH]
    if standing.kept:
        columns.append(Column("kept", "kept", digits=0, percent=True, signed=False))
        cells.append([interval_cell(standing.kept[model.name]) for model in standing.measured])
        notes.append(
            f"kept: {metric_title(standing.metric)} on the OOD test over that on the IID test. "
            "The tests have other users and items, so what is missing to 100% is not all loss: "
            "compare it with the references"
        )
    rows = [
        ([model.name], [column[at] for column in cells])
        for at, model in enumerate(standing.measured)
    ]
    return Table.of("What each method reaches", ["method"], columns, rows, *notes)


def _difference_table(standing: Standing) -> Table:
    first, *others = standing.measured
    differences = standing.differences
    p_values = holm([difference.p_value for difference in differences.values()])
    adjusted = dict(zip(differences, map(float, p_values), strict=True))
    columns = []
    for split in standing.splits:
        columns += [
            Column(f"{split}/difference", SPLIT_TITLES[split]),
            Column(f"{split}/p", "p"),
        ]
    rows = []
    for other in others:
        cells: list[Cell | float] = []
        for split in standing.splits:
            difference, p_value = differences[other.name, split], adjusted[other.name, split]
            cells += [
                Cell(difference.value, difference.half_width, differs=p_value < ALPHA),
                p_value,
            ]
        rows.append(([other.name], cells))
    return Table.of(
        f"{first.name} less the other, {metric_title(standing.metric)}",
        ["compared with"],
        columns,
        rows,
        f"{MARK} differs at p < {ALPHA:g}: paired bootstrap over users, Holm's correction for all "
        "comparisons of the table",
    )


def interval_cell(mean: Interval | None) -> Cell:
    """A mean with half the width of its interval; NaN for ``None``."""
    if mean is None:
        return Cell(float("nan"))
    return Cell(mean.value, mean.half_width)


def placed(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of a column, the best and the second marked; a single one is neither, nor is 0."""
    values = sorted({cell.value for cell in cells if cell.value > 0}, reverse=True)
    places = {value: at for at, value in enumerate(values[:2], start=1)} if len(cells) > 1 else {}
    return [
        Cell(cell.value, cell.half_width, places.get(cell.value), cell.differs) for cell in cells
    ]


# --- The section "Slices": by popularity of the item, activity of the user, and time


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
    """Accuracy on parts of the tests.

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
    blocks: list[Block] = [
        Prose(
            "A part of a test is measured as if it were the whole test: the lists stay as they "
            "are, and only the pairs of that part count as relevant. Where the shares of a part "
            "differ between the tests, the world has shifted."
        )
    ]
    tables: list[Block] = []
    divisions = _divisions(held_out, train)
    for parts in divisions:
        means = _slice_means(parts, measured, held_out, train, metric, seed)
        blocks.append(_slice_figure(parts, means[measured[0].name], measured[0].name, metric))
        tables += [_slice_table(parts, means, metric), _share_table(parts)]
    if len(divisions) < 3:
        blocks.append(Prose("The pairs have no timestamps, so there are no parts by time."))
    return [*blocks, *tables]


def _divisions(held_out: Mapping[str, Split], train: csr_array) -> list[Parts]:
    by_item = np.bincount(train.indices, minlength=train.shape[1])
    by_user = np.diff(train.indptr)
    items, users = cut_counts(by_item), cut_counts(by_user)
    divisions = [
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
        divisions.append(Parts("Time", "from (UTC)", "The time from {} holds", cut, of_pairs))
    return divisions


#: By method and split, an interval per part; ``None`` for a part without pairs.
SliceMeans = dict[str, dict[str, list[Interval | None]]]


def _slice_means(
    parts: Parts,
    measured: Sequence[Measured],
    held_out: Mapping[str, Split],
    train: csr_array,
    metric: str,
    seed: int,
) -> SliceMeans:
    k, shape = int(metric.partition("@")[2]), (train.shape[0], train.shape[1])
    means: SliceMeans = {model.name: {} for model in measured}
    for split, pairs in held_out.items():
        frames = [
            sliced_accuracy(model.users, model.lists, pairs, parts.of_pairs[split], shape, (k,))
            for model in measured
        ]
        # The users of a part are the same for all, so they are resampled once.
        part_of_row = frames[0]["part"].to_numpy()
        values = np.column_stack([frame[metric].to_numpy() for frame in frames])
        for model in measured:
            means[model.name][split] = []
        for part in range(len(parts.cut)):
            own = values[part_of_row == part]
            intervals: Sequence[Interval | None] = [None] * len(measured)
            if len(own):
                intervals = bootstrap_means(own, seed=seed, n_resamples=SLICE_RESAMPLES)
            for model, interval in zip(measured, intervals, strict=True):
                means[model.name][split].append(interval)
    return means


def _slice_figure(
    parts: Parts, means: dict[str, list[Interval | None]], name: str, metric: str
) -> Figure:
    figure, numbers = split_lines(means, parts.cut.names, x=parts.axis, y=metric_title(metric))
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
    held = " and ".join(
        f"{percent(own[at])} of the {SPLIT_TITLES[split]}" for split, own in shares.items()
    )
    return f"{parts.sentence.format(parts.cut.names[at])} {held}."


def _slice_table(parts: Parts, means: SliceMeans, metric: str) -> Table:
    rows = []
    for split in parts.of_pairs:
        by_part = zip(*(own[split] for own in means.values()), strict=True)
        columns = [placed([interval_cell(mean) for mean in part]) for part in by_part]
        rows += [
            ([SPLIT_TITLES[split], name], [column[at] for column in columns])
            for at, name in enumerate(means)
        ]
    return Table.of(
        f"{metric_title(metric)} by {parts.title.lower()}",
        ["test", "method"],
        [Column(name, name) for name in parts.cut.names],
        rows,
        f"{parts.axis}, in ranges of about equal numbers; - where a test has no such pairs",
    )


def _share_table(parts: Parts) -> Table:
    return Table.of(
        f"Share of the pairs by {parts.title.lower()}",
        ["test"],
        [Column(name, name, 1, percent=True, signed=False) for name in parts.cut.names],
        [([SPLIT_TITLES[split]], own) for split, own in parts.shares.items()],
    )
