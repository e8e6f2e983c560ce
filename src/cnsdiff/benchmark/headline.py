"""The benchmark in a few lines: how much better one method is, and how all methods rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cnsdiff.base.errors import InputError
from cnsdiff.benchmark.grid import ANTICIPATED, DIAL
from cnsdiff.benchmark.statistics import METRICS, check, distinct, require, summarise
from cnsdiff.evaluation.significance import average_ranks, improvement_interval

#: The group of the methods of this package: no rivals of one another.
OURS = "cnsdiff"
#: The group of their parts and controls: neither rivals of any nor ranked.
ABLATION = "ablation"
#: Stands for a group: every method outside of one's own.
ALL = "all references"


@dataclass(frozen=True)
class Headline:
    """How much better one method is than the best of some others, and how all methods rank.

    Attributes
    ----------
    gains
        One row per selection and group (of the rivals): selection, method, group, mean, low, high,
        median, n_seeds, n_cells, n_left_out; ``mean`` and ``median`` (over cells) are shares: .1
        is 10% better.
    cells
        One row per selection, group, dataset and metric: value, rival (the best), rival_value,
        gain, n_rivals (measured there). Where the cell is left out ``rival`` is null and ``gain``
        NaN.
    ranks
        One row per selection and method: group, rank (mean over cells), n_cells.
    duels
        One row per selection and rival of any group: method, group, rival, mean, low, high, median,
        n_won, n_cells. Nobody can know beforehand which rival will be best in a cell; this is what
        each is worth by itself, in the cells that have both.
    """

    gains: pl.DataFrame
    cells: pl.DataFrame
    ranks: pl.DataFrame
    duels: pl.DataFrame


def rivals_in(results: pl.DataFrame, ours: str, group: str) -> list[str]:
    """The methods of a group but ``ours``.

    Of :data:`ALL`: every method outside the group ``"ablation"`` and, where ``ours`` is one of our
    own, outside the group ``"cnsdiff"``.
    """
    family = {OURS, ABLATION}
    own = family if family & set(results.filter(method=ours)["group"]) else {ABLATION}
    there = results.filter(
        ~pl.col("group").is_in(list(own)) if group == ALL else pl.col("group") == group
    )
    return [name for name in distinct(there, "method") if name != ours]


def pooled() -> pl.Expr:
    """The selection; those that anticipate their dataset's own shift are one."""
    dial = pl.col("selection").str.ends_with(DIAL)
    own = pl.when(dial).then(pl.lit(ANTICIPATED + DIAL)).otherwise(pl.lit(ANTICIPATED))
    return pl.when("anticipated").then(own).otherwise("selection")


def headline(
    results: pl.DataFrame,
    ours: str,
    groups: Sequence[str] = ("sampler", ALL),
    *,
    metrics: Sequence[str] = METRICS,
    split: str = "test_ood",
    level: float = 0.95,
) -> Headline:
    """Average relative improvement of ``ours`` over the best of each group, and average ranks.

    A cell is a dataset and a metric. Selections that anticipate their dataset's shift are taken
    together as ``"anticipated"`` (with the dial as ``"anticipated+dial"``), each other selection
    by its own name; methods under different selections are never compared. The interval is that of
    :func:`cnsdiff.evaluation.significance.improvement_interval`, over the seeds that all methods
    concerned have everywhere; a method that has one seed on every dataset is taken not to depend
    on it, and stands beside each seed of the others. Ranks are of the means over all seeds, of
    every method but those of the group ``"ablation"``.

    Raises
    ------
    InputError
        The method, a group or a metric is unknown, a group has no other method, or no seed is
        common to all.
    """
    check(results)
    require("method", [ours], results)
    require("group", [group for group in groups if group != ALL], results)
    require("metric", metrics, results)
    rivals = {group: rivals_in(results, ours, group) for group in groups}
    for group, methods in rivals.items():
        if not methods:
            raise InputError(f"the group {group!r} has no method but {ours}, so there is no rival")
    chosen = results.filter(pl.col("split") == split, pl.col("metric").is_in(list(metrics)))
    gains: list[tuple[Any, ...]] = []
    cells: list[tuple[Any, ...]] = []
    ranks: list[tuple[Any, ...]] = []
    duels: list[tuple[Any, ...]] = []
    names = dict(results.select("method", "group").iter_rows())
    for (selection,), rows in chosen.group_by(pooled().alias("label"), maintain_order=True):
        datasets = distinct(rows, "dataset")
        if rows.select("dataset", "selection").n_unique() > len(datasets):
            raise InputError("a dataset has two selections that anticipate its shift; drop one")
        places = [(name, metric) for name in datasets for metric in metrics]
        for group, methods in rivals.items():
            gain, of_cells = _gain(rows, places, ours, methods, level)
            gains.append((selection, ours, group, *gain))
            cells += [(selection, group, *cell) for cell in of_cells]
        ranks += [(selection, *row) for row in _ranks(rows, places)]
        there = set(rows["method"])
        for rival in dict.fromkeys(name for group in rivals.values() for name in group):
            if {ours, rival} <= there:
                over, of_cells = _gain(rows, places, ours, [rival], level)
                mean, low, high, median, _, n_cells, _ = over
                won = sum(gain > 0 for *_, gain, _ in of_cells)
                values = (mean, low, high, median, won, n_cells)
                duels.append((selection, ours, names[rival], rival, *values))
    return Headline(
        pl.DataFrame(gains, schema=_GAINS, orient="row"),
        pl.DataFrame(cells, schema=_CELLS, orient="row"),
        pl.DataFrame(ranks, schema=_RANKS, orient="row"),
        pl.DataFrame(duels, schema=_DUELS, orient="row"),
    )


_GAINS = {
    **dict.fromkeys(("selection", "method", "group"), pl.String),
    **dict.fromkeys(("mean", "low", "high", "median"), pl.Float64),
    **dict.fromkeys(("n_seeds", "n_cells", "n_left_out"), pl.Int64),
}
_CELLS = {
    **dict.fromkeys(("selection", "group", "dataset", "metric"), pl.String),
    "value": pl.Float64,
    "rival": pl.String,
    **dict.fromkeys(("rival_value", "gain"), pl.Float64),
    "n_rivals": pl.Int64,
}
_DUELS = {
    **dict.fromkeys(("selection", "method", "group", "rival"), pl.String),
    **dict.fromkeys(("mean", "low", "high", "median"), pl.Float64),
    **dict.fromkeys(("n_won", "n_cells"), pl.Int64),
}
_RANKS = {
    **dict.fromkeys(("selection", "method", "group"), pl.String),
    "rank": pl.Float64,
    "n_cells": pl.Int64,
}


def _gain(
    rows: pl.DataFrame,
    places: Sequence[tuple[str, str]],
    ours: str,
    rivals: Sequence[str],
    level: float,
) -> tuple[tuple[Any, ...], list[tuple[Any, ...]]]:
    """What stands in ``gains`` and in ``cells`` of one group under one selection."""
    values = _by_seed(rows, places, [ours, *rivals])
    found = improvement_interval(values[:, :, 0], values[:, :, 1:], level)
    mean, low, high, n_seeds = astuple(found.interval)
    known = found.gains[np.isfinite(found.gains)]
    median = float(np.median(known)) if len(known) else float("nan")
    cells = []
    for place, mine, best, gain in zip(
        places, values.mean(0), found.best.tolist(), found.gains.tolist(), strict=True
    ):
        rival = (rivals[best], float(mine[1 + best])) if best >= 0 else (None, None)
        n_rivals = int(np.isfinite(mine[1:]).sum())
        cells.append((*place, float(mine[0]), *rival, gain, n_rivals))
    return (mean, low, high, median, n_seeds, found.n_cells, found.n_left_out), cells


def _by_seed(
    rows: pl.DataFrame, places: Sequence[tuple[str, str]], methods: Sequence[str]
) -> NDArray[np.float64]:
    """``(S, C, M)`` values of the methods in each cell under each common seed; NaN if absent."""
    values: dict[tuple[str, str, str], dict[int, float]] = {}
    units: dict[tuple[str, str], set[int]] = {}
    for row in rows.filter(pl.col("method").is_in(list(methods))).iter_rows(named=True):
        method, dataset, seed = row["method"], row["dataset"], row["seed"]
        values.setdefault((method, dataset, row["metric"]), {})[seed] = row["value"]
        units.setdefault((method, dataset), set()).add(seed)
    seeded = {method for (method, _), seeds in units.items() if len(seeds) > 1}
    several = [seeds for (method, _), seeds in units.items() if method in seeded]
    seeds = sorted(set.intersection(*several)) if several else [0]
    if not seeds:
        raise InputError(
            f"no seed is common to {', '.join(methods)} on every dataset; run what is missing, or "
            "the headline has no values to pair"
        )

    def value(method: str, place: tuple[str, str], seed: int) -> float:
        found = values.get((method, *place), {})
        if method not in seeded:
            return next(iter(found.values()), float("nan"))
        return found.get(seed, float("nan"))

    return np.array([[[value(m, p, s) for m in methods] for p in places] for s in seeds], float)


def _ranks(
    rows: pl.DataFrame, places: Sequence[tuple[str, str]]
) -> list[tuple[str, str, float, int]]:
    """Method, group, mean rank and number of cells of every method but ablations."""
    summary = summarise(rows.filter(pl.col("group") != ABLATION))
    groups = dict(summary.select("method", "group").iter_rows())
    means = {
        (row["dataset"], row["metric"], row["method"]): row["mean"]
        for row in summary.iter_rows(named=True)
    }
    scores = [[means.get((*place, method), float("nan")) for method in groups] for place in places]
    found = average_ranks(scores)
    counted = zip(groups.items(), found.ranks.tolist(), found.n_cells.tolist(), strict=True)
    return [(*names, rank, n) for names, rank, n in counted]
