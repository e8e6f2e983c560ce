"""How accurate models are on the tests: as a whole, against one another, and on parts of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.data import Dataset, Split
from cnsdiff.display.tables import MARK, Cell, Column, Table
from cnsdiff.display.wording import SPLIT_TITLES, metric_title
from cnsdiff.evaluation import Scorer, SplitEvaluation, rank
from cnsdiff.evaluation.evaluate import item_counts, measure, relevance_of
from cnsdiff.evaluation.results import protocol
from cnsdiff.evaluation.significance import (
    Comparison,
    Interval,
    bootstrap_differences,
    holm,
    retained,
)
from cnsdiff.report.charts import split_dots
from cnsdiff.report.document import Block, Figure

TESTS = ("test_iid", "test_ood")
#: Family-wise error of the marks.
ALPHA = 0.05
#: Resamples of users behind an interval; the ends of a 95% interval settle to 2% of its width.
RESAMPLES, KEPT_RESAMPLES = 4_000, 1_000


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

    def per_user(self, split: str, metric: str) -> NDArray[np.float64]:
        """``(n,)`` of the users of a split, in rising order."""
        frame = self.splits[split].per_user
        assert frame is not None
        return frame[metric].to_numpy()

    def kept(self, metric: str, seed: int) -> Interval:
        """OOD over IID, with its interval over users."""
        aligned = []
        for split in TESTS:
            frame = self.splits[split].per_user
            assert frame is not None
            whole = np.full(int(self.users.max()) + 1, np.nan)
            whole[frame["user"].to_numpy()] = frame[metric].to_numpy()
            aligned.append(whole)
        return retained(*aligned, seed=seed, n_resamples=KEPT_RESAMPLES)


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
    relevant = {split: relevance_of(pairs, split, shape) for split, pairs in held_out.items()}
    users = torch.stack([one.counts for one in relevant.values()]).sum(0).nonzero()[:, 0]
    lists = rank(scorer, users, max(ks), exclude=train, device=device)[0].cpu()
    counts = item_counts(train)
    return Measured(
        name,
        users,
        lists,
        {
            split: measure(one, lists[one.counts[users] > 0], counts, ks, per_user=True)
            for split, one in relevant.items()
        },
    )


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
    reached
        By name, split and metric.
    differences
        By name of the other and split: the first less the other.
    kept
        By name, OOD over IID; empty where a test is missing.
    """

    measured: tuple[Measured, ...]
    metric: str
    metrics: tuple[str, ...]
    reached: Mapping[tuple[str, str, str], Interval]
    differences: Mapping[tuple[str, str], Comparison]
    kept: Mapping[str, Interval]

    @property
    def splits(self) -> tuple[str, ...]:
        """The tests they were measured on."""
        return tuple(self.measured[0].splits)

    @property
    def first(self) -> Measured:
        """The model that the report is of."""
        return self.measured[0]


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
    reached: dict[tuple[str, str, str], Interval] = {}
    differences: dict[tuple[str, str], Comparison] = {}
    for split in first.splits:
        asked = [(one, name) for one in measured for name in metrics]
        values = [one.per_user(split, name) for one, name in asked]
        own = first.per_user(split, metric)
        gaps = [own - other.per_user(split, metric) for other in others]
        found = bootstrap_differences(
            np.column_stack([*values, *gaps]), seed=seed, n_resamples=RESAMPLES
        )
        for (one, name), mean in zip(asked, found, strict=False):
            reached[one.name, split, name] = Interval(
                mean.difference, mean.low, mean.high, len(own)
            )
        compared = found[len(asked) :]
        differences |= {
            (other.name, split): gap for other, gap in zip(others, compared, strict=True)
        }
    both = set(TESTS) <= first.splits.keys()
    kept = {one.name: one.kept(metric, seed) for one in measured} if both else {}
    return Standing(tuple(measured), metric, metrics, reached, differences, kept)


def accuracy_blocks(standing: Standing) -> list[Block]:
    """The first against the rest: a figure, what each reaches and keeps, and who differs."""
    metric, splits = standing.metric, standing.splits
    figure, numbers = split_dots(
        {
            one.name: {split: standing.reached[one.name, split, metric] for split in splits}
            for one in standing.measured
        },
        metric_title(metric),
    )
    where = " and ".join(SPLIT_TITLES[split] for split in splits)
    of_intervals = "Mean over users, with the 95% interval that resampling users gives."
    of_lines = " The longer the line, the more a method depends on the world it was trained in."
    return [
        Figure(
            f"{metric_title(metric)} on the {where}",
            of_intervals + (of_lines if len(splits) > 1 else ""),
            figure,
            numbers,
        ),
        _reached_table(standing),
        *([_difference_table(standing)] if len(standing.measured) > 1 else []),
    ]


def _reached_table(standing: Standing) -> Table:
    columns, cells = [], []
    for split in standing.splits:
        for name in standing.metrics:
            short = SPLIT_TITLES[split].partition(" ")[0]
            columns.append(Column(f"{split}/{name}", f"{short} {metric_title(name)}"))
            found = [standing.reached[one.name, split, name] for one in standing.measured]
            cells.append(placed([interval_cell(one) for one in found]))
    notes = [protocol(), "± half the width of the 95% interval over users"]
    if standing.kept:
        columns.append(Column("kept", "kept", digits=0, percent=True, signed=False))
        cells.append([interval_cell(standing.kept[one.name]) for one in standing.measured])
        notes.append(
            f"kept: {metric_title(standing.metric)} on the OOD test over that on the IID test. "
            "The tests have other users and items, so what is missing to 100% is not all loss: "
            "compare it with the references"
        )
    rows = tuple(
        ((one.name,), tuple(column[at] for column in cells))
        for at, one in enumerate(standing.measured)
    )
    return Table("What each method reaches", ("method",), tuple(columns), rows, tuple(notes))


def _difference_table(standing: Standing) -> Table:
    first, *others = standing.measured
    found = standing.differences
    adjusted = dict(zip(found, holm([one.p_value for one in found.values()]), strict=True))
    rows = []
    for other in others:
        cells: list[Cell] = []
        for split in standing.splits:
            gap, p_value = found[other.name, split], float(adjusted[other.name, split])
            half = (gap.high - gap.low) / 2
            cells += [Cell(gap.difference, half, differs=p_value < ALPHA), Cell(p_value)]
        rows.append(((other.name,), tuple(cells)))
    return Table(
        f"{first.name} less the other, {metric_title(standing.metric)}",
        ("compared with",),
        tuple(
            column
            for split in standing.splits
            for column in (
                Column(f"{split}/difference", SPLIT_TITLES[split]),
                Column(f"{split}/p", "p"),
            )
        ),
        tuple(rows),
        (
            f"{MARK} differs at p < {ALPHA:g}: paired bootstrap over users, Holm's correction for "
            "all comparisons of the table",
        ),
    )


def interval_cell(found: Interval | None) -> Cell:
    """A mean with half the width of its interval; NaN for nothing."""
    if found is None:
        return Cell(float("nan"))
    return Cell(found.mean, (found.high - found.low) / 2)


def placed(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of a column, the best and the second marked; a single one is neither, nor is 0."""
    values = sorted({cell.value for cell in cells if cell.value > 0}, reverse=True)
    places = {value: at for at, value in enumerate(values[:2], start=1)} if len(cells) > 1 else {}
    return [
        Cell(cell.value, cell.half_width, places.get(cell.value), cell.differs) for cell in cells
    ]


def tests_of(dataset: Dataset) -> dict[str, Split]:
    """The tests that a dataset has and that hold anything."""
    found = {name: dataset.split(name) for name in TESTS if name in dataset.split_names}
    return {name: split for name, split in found.items() if len(split)}
