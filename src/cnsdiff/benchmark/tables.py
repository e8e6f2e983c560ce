"""The tables of a benchmark: what stands in them, apart from how they are written out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from cnsdiff.benchmark.grid import ANTICIPATED, OURS, selected
from cnsdiff.benchmark.headline import ABLATION, ALL, Headline, pooled
from cnsdiff.benchmark.task import DIALLED
from cnsdiff.display.tables import HALF_WIDTH, HALF_WIDTH_OVER_SEEDS, MARK, Cell, Column, Table
from cnsdiff.display.wording import NOTHING, SHORT_SPLIT_TITLES, metric_title
from cnsdiff.evaluation.metrics import ACCURACY

#: Columns of a leaderboard: split and metric.
COLUMNS = (("test_iid", "ndcg@20"), ("test_ood", "recall@20"), ("test_ood", "ndcg@20"))


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
        tests = _tests(comparison, dataset, selection)
        cells = {
            Column(f"{split}/{metric}", _title(split, metric)): _cells(
                here, tests, split, metric, alpha
            )
            for split, metric in shown
        }
        fits = ", which anticipates its shift" if here["anticipated"].any() else ""
        title = f"{dataset}, {selected(str(selection))}{fits}"
        tables.append(_by_method(title, here, cells, *_notes(here, tests, shown, alpha)))
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
    notes = list(half_width_note(summary))
    if comparison is not None:
        notes.append(f"{MARK} differs from the baseline of that dataset at p < {alpha:g}")
    chosen = summary.filter(split=split, metric=metric)
    tables = []
    for (selection,), here in chosen.group_by(pooled().alias("label"), maintain_order=True):
        cells = {
            Column(str(dataset), str(dataset)): _cells(
                rows, _tests(comparison, dataset, own), split, metric, alpha
            )
            for (dataset, own), rows in here.group_by("dataset", "selection", maintain_order=True)
        }
        title = f"{_title(split, metric)}, {selected(str(selection))}"
        tables.append(_by_method(title, here, cells, *notes))
    return tables


def half_width_note(summary: pl.DataFrame) -> Iterable[str]:
    """What the intervals of a summary are over; nothing where it has none."""
    if (summary["n_seeds"] > 1).any():
        yield HALF_WIDTH_OVER_SEEDS
    elif summary["low"].is_finite().any():
        yield HALF_WIDTH


def _by_method(
    title: str, rows: pl.DataFrame, cells: Mapping[Column, Mapping[str, Cell]], *notes: str
) -> Table:
    """A row per method; groups and methods in the order in which they first come."""
    methods = rows.select("group", "method").unique(maintain_order=True)
    order = {name: at for at, name in enumerate(methods["group"].unique(maintain_order=True))}
    labels = sorted(methods.iter_rows(), key=lambda label: order[label[0]])
    missing = Cell(float("nan"))
    return Table(
        title,
        ("group", "method"),
        tuple(cells),
        tuple(
            (label, tuple(column.get(label[1], missing) for column in cells.values()))
            for label in labels
        ),
        notes,
    )


def _tests(
    comparison: pl.DataFrame | None, dataset: object, selection: object
) -> pl.DataFrame | None:
    """The tests on one dataset under one selection."""
    if comparison is None:
        return None
    return comparison.filter(dataset=dataset, selection=selection)


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
        significant = tests.filter(pl.col("p_holm") < alpha, split=split, metric=metric)
        differing = set(significant["method"])
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
    yield from half_width_note(rows)
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


_TRAINING = (
    Column("dial", "dial", digits=2),
    Column("epoch", "best epoch", digits=1),
    Column("epochs", "epochs", digits=1),
    Column("seconds", "seconds", digits=1),
)
_GAIN = Column("gain", "gain", digits=1, percent=True)
_MEDIAN = Column("median", "median", digits=1, percent=True)
_CELLS = Column("n_cells", "cells", digits=0)


def _whole(name: str, title: str) -> Column:
    return Column(name, title, digits=0)


def headline_tables(headline: Headline) -> list[Table]:
    """Average relative improvement, over each rival, the cells behind it, and average ranks."""
    return [
        _table(
            "Average relative improvement over the best of a group",
            headline.gains,
            {"selection": "selection", "method": "method", "over the best": "group"},
            (_GAIN, _MEDIAN, _whole("n_seeds", "seeds"), _CELLS, _whole("n_left_out", "left out")),
            "mean over all datasets and metrics of the gain over the best rival of each, and the "
            "median, which a few small rivals cannot raise",
            HALF_WIDTH_OVER_SEEDS,
            f"{ALL}: every method outside the group {ABLATION} and, where the method is in the "
            f"group {OURS}, outside that",
            f"{ANTICIPATED}: each dataset under the selection that anticipates its shift",
        ),
        _table(
            "Relative improvement over each rival by itself",
            _sorted(headline.duels, "median"),
            {"selection": "selection", "group": "group", "rival": "rival"},
            (_MEDIAN, _whole("n_won", "better in"), _whole("n_cells", "of cells"), _GAIN),
            "in the cells (datasets and metrics) that have both",
        ),
        _table(
            "Relative improvement by dataset and metric",
            headline.cells,
            {
                "selection": "selection",
                "over the best": "group",
                "dataset": "dataset",
                "metric": "metric",
                "best rival": "rival",
            },
            (Column("value", "value"), Column("rival_value", "rival's"), _GAIN),
        ),
        _table(
            "Average rank of each method",
            _sorted(headline.ranks, "rank"),
            {"selection": "selection", "group": "group", "method": "method"},
            (Column("rank", "rank", digits=2), _CELLS),
            "1 is the best; mean over the datasets and metrics that have all of these methods; "
            f"without the group {ABLATION}",
        ),
    ]


def _table(
    title: str,
    frame: pl.DataFrame,
    labels: Mapping[str, str],
    columns: tuple[Column, ...],
    *notes: str,
) -> Table:
    """A row per row of ``frame``, with label columns by their titles.

    Where the frame has a ``mean`` with its interval, it is the column ``gain``.
    """

    def cell(row: dict[str, Any], name: str) -> Cell:
        if name == "gain" and "mean" in row:
            return Cell(row["mean"], row["high"] - row["mean"])
        return Cell(float("nan") if row[name] is None else row[name])

    def label(row: dict[str, Any], name: str) -> str:
        text = row[name] or NOTHING
        return metric_title(text) if name == "metric" else text

    rows = [
        (
            tuple(label(row, name) for name in labels.values()),
            tuple(cell(row, column.name) for column in columns),
        )
        for row in frame.iter_rows(named=True)
    ]
    return Table(title, tuple(labels), columns, tuple(rows), notes)


def _sorted(frame: pl.DataFrame, by: str) -> pl.DataFrame:
    """Selection after selection as they come, each from its least value upwards."""
    parts = frame.partition_by("selection", maintain_order=True)
    return pl.concat(
        [frame.clear(), *(p.sort(by, nulls_last=True, maintain_order=True) for p in parts)]
    )


def _title(split: str, metric: str) -> str:
    return f"{SHORT_SPLIT_TITLES.get(split, split)} {metric_title(metric)}"


def trainings(results: pl.DataFrame) -> list[Table]:
    """One table per dataset: a row per selection and method, means over seeds.

    Parameters
    ----------
    results
        The table of :func:`cnsdiff.benchmark.findings.collect`.

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
    names = [column.name for column in _TRAINING]
    means = of_seeds.group_by(place, maintain_order=True).agg(pl.col(names).mean())
    return [
        _table(
            f"{dataset}, how the methods trained",
            pl.concat(here.partition_by("selection", maintain_order=True)),
            {"selection": "selection", "method": "method"},
            _TRAINING,
            "means over seeds",
            "seconds of a fit with all its validations; selections that picked the same setting "
            "share it",
        )
        for (dataset,), here in means.group_by("dataset", maintain_order=True)
    ]
