"""The tables of a benchmark: what stands in them, apart from how they are written out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import polars as pl

from cnsdiff.benchmark.grid import ANTICIPATED
from cnsdiff.benchmark.headline import ABLATION, ALL, OURS, Headline, pooled
from cnsdiff.benchmark.task import DIALLED
from cnsdiff.display.tables import MARK, Cell, Column, Table
from cnsdiff.display.wording import SHORT_SPLIT_TITLES
from cnsdiff.evaluation.metrics import ACCURACY

#: Columns of a leaderboard: split and metric.
COLUMNS = (("test_iid", "ndcg@20"), ("test_ood", "recall@20"), ("test_ood", "ndcg@20"))

_METRICS = {"recall": "R", "ndcg": "N"}


def leaderboard(
    summary: pl.DataFrame,
    comparison: pl.DataFrame | None = None,
    *,
    columns: Sequence[tuple[str, str]] = COLUMNS,
    alpha: float = 0.05,
) -> list[Table]:
    """One table per dataset and selection: a row per method, grouped.

    Parameters
    ----------
    summary
        From :func:`cnsdiff.benchmark.statistics.summarise`.
    comparison
        From :func:`cnsdiff.benchmark.statistics.compare` (several, of different splits, may be
        concatenated): cells whose ``p_holm`` is below ``alpha`` are marked.
    columns
        Split and metric of each; those that no method was measured on are left out.
    alpha
        Family-wise error of the marks.
    """
    tables = []
    for (dataset, selection), here in summary.group_by("dataset", "selection", maintain_order=True):
        measured = set(here.select("split", "metric").iter_rows())
        shown = [column for column in columns if column in measured]
        tests = None
        if comparison is not None:
            tests = comparison.filter(
                pl.col("dataset") == dataset, pl.col("selection") == selection
            )
        cells = [_cells(here, tests, split, metric, alpha) for split, metric in shown]
        rows = [
            (label, tuple(column.get(label[1], Cell(float("nan"))) for column in cells))
            for label in _grouped(here)
        ]
        fits = ", which anticipates its shift" if here["anticipated"].any() else ""
        table = Table(
            f"{dataset}, selected on {selection}{fits}",
            ("group", "method"),
            tuple(Column(f"{split}/{metric}", _title(split, metric)) for split, metric in shown),
            tuple(rows),
            tuple(_notes(here, tests, shown, alpha)),
        )
        tables.append(table)
    return tables


def overview(
    summary: pl.DataFrame,
    comparison: pl.DataFrame | None = None,
    *,
    split: str = "test_ood",
    metric: str = "ndcg@20",
    alpha: float = 0.05,
) -> list[Table]:
    """One table per selection: a row per method, a column per dataset.

    Selections that anticipate their dataset's shift are taken together. Parameters as of
    :func:`leaderboard`.
    """
    chosen = summary.filter(split=split, metric=metric)
    tables = []
    for (selection,), here in chosen.group_by(pooled().alias("label"), maintain_order=True):
        columns, names = [], []
        for (dataset, own), rows in here.group_by("dataset", "selection", maintain_order=True):
            tests = None
            if comparison is not None:
                tests = comparison.filter(pl.col("dataset") == dataset, pl.col("selection") == own)
            columns.append(_cells(rows, tests, split, metric, alpha))
            names.append(str(dataset))
        note = "± half the width of the interval of the mean over seeds"
        marks = f"{MARK} differs from the baseline of that dataset at p < {alpha:g}"
        table = Table(
            f"{_title(split, metric)}, selected on {selection}",
            ("group", "method"),
            tuple(Column(name, name) for name in names),
            tuple(
                (label, tuple(column.get(label[1], Cell(float("nan"))) for column in columns))
                for label in _grouped(here)
            ),
            (note,) if comparison is None else (note, marks),
        )
        tables.append(table)
    return tables


def _grouped(rows: pl.DataFrame) -> list[tuple[str, str]]:
    """Group and method of each row, groups and methods in the order in which they first come."""
    methods = rows.select("group", "method").unique(maintain_order=True)
    order = {name: at for at, name in enumerate(methods["group"].unique(maintain_order=True))}
    return sorted(methods.iter_rows(), key=lambda label: order[label[0]])


def _cells(
    rows: pl.DataFrame, tests: pl.DataFrame | None, split: str, metric: str, alpha: float
) -> dict[str, Cell]:
    """The column of one split and metric, by method."""
    chosen = rows.filter(split=split, metric=metric)
    # Of how much is recommended of what, more is not better.
    ranked = metric.partition("@")[0] in ACCURACY
    best = chosen.filter(pl.col("mean").is_finite())["mean"].unique().sort(descending=True)
    places = {value: at for at, value in enumerate(best[:2], start=1)} if ranked else {}
    differing: set[str] = set()
    if tests is not None:
        found = tests.filter(pl.col("p_holm") < alpha, split=split, metric=metric)
        differing = set(found["method"])
    return {
        row["method"]: Cell(
            row["mean"],
            row["high"] - row["mean"],
            places.get(row["mean"]),
            row["method"] in differing,
        )
        for row in chosen.iter_rows(named=True)
    }


def _notes(
    rows: pl.DataFrame,
    tests: pl.DataFrame | None,
    shown: Sequence[tuple[str, str]],
    alpha: float,
) -> Iterable[str]:
    if (rows["n_seeds"] > 1).any():
        yield "± half the width of the interval of the mean over seeds"
    if tests is None:
        return
    against = {
        (row["split"], row["metric"]): row["baseline"]
        for row in tests.iter_rows(named=True)
        if (row["split"], row["metric"]) in shown
    }
    if not against:
        return
    tested = [column for column in shown if column in against]
    test = f"at p < {alpha:g} (paired bootstrap over users, Holm's correction)"
    which = ", ".join(_title(*column) for column in tested)
    if len(set(against.values())) == 1:
        yield f"{MARK} differs from {against[tested[0]]} {test}; tested: {which}"
        return
    each = ", ".join(f"{against[column]} in {_title(*column)}" for column in tested)
    yield f"{MARK} differs from the baseline {test}; tested against: {each}"


def headline_tables(headline: Headline) -> list[Table]:
    """Average relative improvement, over each rival, the cells behind it, and average ranks."""
    gain = Column("gain", "gain", digits=1, percent=True)
    median = Column("median", "median", digits=1, percent=True)
    counts = (
        Column("n_seeds", "seeds", digits=0),
        Column("n_cells", "cells", digits=0),
        Column("n_left_out", "left out", digits=0),
    )
    average = Table(
        "Average relative improvement over the best of a group",
        ("selection", "method", "over the best"),
        (gain, median, *counts),
        tuple(
            (
                (row["selection"], row["method"], row["group"]),
                (
                    Cell(row["mean"], row["high"] - row["mean"]),
                    Cell(row["median"]),
                    *(Cell(row[column.name]) for column in counts),
                ),
            )
            for row in headline.gains.iter_rows(named=True)
        ),
        (
            "mean over all datasets and metrics of the gain over the best rival of each, and the "
            "median, which a few small rivals cannot raise",
            "± half the width of the mean's interval over seeds",
            f"{ALL}: every method but the group {ABLATION} and, beside one of the group {OURS}, "
            "the rest of that",
            f"{ANTICIPATED}: each dataset under the selection that anticipates its shift",
        ),
    )
    duels = Table(
        "Relative improvement over each rival by itself",
        ("selection", "group", "rival"),
        (
            median,
            Column("n_won", "better in", digits=0),
            Column("n_cells", "of cells", digits=0),
            gain,
        ),
        tuple(
            (
                (row["selection"], row["group"], row["rival"]),
                (
                    Cell(row["median"]),
                    Cell(row["n_won"]),
                    Cell(row["n_cells"]),
                    Cell(row["mean"], row["high"] - row["mean"]),
                ),
            )
            for row in _within_selections(headline.duels, "median")
        ),
        ("in the cells (datasets and metrics) that have both",),
    )
    details = Table(
        "Relative improvement by dataset and metric",
        ("selection", "over the best", "dataset", "metric", "best rival"),
        (Column("value", "value"), Column("rival_value", "rival's"), gain),
        tuple(
            (
                (
                    row["selection"],
                    row["group"],
                    row["dataset"],
                    row["metric"],
                    row["rival"] or "-",
                ),
                tuple(Cell(_number(row[name])) for name in ("value", "rival_value", "gain")),
            )
            for row in headline.cells.iter_rows(named=True)
        ),
    )
    ranks = Table(
        "Average rank of each method",
        ("selection", "group", "method"),
        (Column("rank", "rank", digits=2), Column("n_cells", "cells", digits=0)),
        tuple(
            (
                (row["selection"], row["group"], row["method"]),
                (Cell(row["rank"]), Cell(row["n_cells"])),
            )
            for row in _within_selections(headline.ranks, "rank")
        ),
        (f"1 is the best; mean over datasets and metrics; without the group {ABLATION}",),
    )
    return [average, duels, details, ranks]


def _within_selections(frame: pl.DataFrame, by: str) -> Iterator[dict[str, Any]]:
    """The rows, selection after selection as they come, each from its least value upwards."""
    for selection in frame["selection"].unique(maintain_order=True):
        own = frame.filter(selection=selection)
        yield from own.sort(by, nulls_last=True, maintain_order=True).iter_rows(named=True)


def _title(split: str, metric: str) -> str:
    name, _, k = metric.partition("@")
    return f"{SHORT_SPLIT_TITLES.get(split, split)} {_METRICS.get(name, name)}@{k}"


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


_COLUMNS = (
    Column("dial", "dial", digits=2),
    Column("epoch", "best epoch", digits=1),
    Column("epochs", "epochs", digits=1),
    Column("seconds", "seconds", digits=1),
)


def trainings(results: pl.DataFrame) -> list[Table]:
    """One table per dataset: a row per selection and method, means over seeds.

    Parameters
    ----------
    results
        The table of :func:`cnsdiff.benchmark.run.collect`.

    The dial is NaN where the selection picks none; epochs are where nothing is trained by epochs.
    """
    place = ["dataset", "selection", "method"]
    trained = pl.col("epochs") > 0
    of_seeds = results.group_by(*place, "seed", maintain_order=True).agg(
        dial=pl.col("value").filter(split="valid", metric=DIALLED).first(),
        epoch=pl.col("epoch").filter(trained).first(),
        epochs=pl.col("epochs").filter(trained).first(),
        seconds=pl.col("seconds").first(),
    )
    names = [column.name for column in _COLUMNS]
    means = of_seeds.group_by(place, maintain_order=True).agg(pl.col(names).mean())
    means = means.with_columns(pl.col(names).fill_null(float("nan")))
    tables = []
    for (dataset,), here in means.group_by("dataset", maintain_order=True):
        selections = here["selection"].unique(maintain_order=True)
        rows = [
            ((row["selection"], row["method"]), tuple(Cell(row[name]) for name in names))
            for selection in selections
            for row in here.filter(selection=selection).iter_rows(named=True)
        ]
        table = Table(
            f"{dataset}, how the methods trained",
            ("selection", "method"),
            _COLUMNS,
            tuple(rows),
            (
                "means over seeds",
                "seconds of a fit with all its validations; selections that picked the same "
                "setting share it",
            ),
        )
        tables.append(table)
    return tables
