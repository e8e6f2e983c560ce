"""The benchmark in a few lines: how much better one method is, and how all methods rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import compress
from typing import TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cnsdiff.base.errors import InputError
from cnsdiff.benchmark.grid import ANTICIPATED, DIAL, OURS
from cnsdiff.benchmark.statistics import METRICS, check, distinct, require, summarise
from cnsdiff.evaluation.significance import average_ranks, improvement_interval

#: The group of parts of our own methods, and their controls: neither rivals of any nor ranked.
ABLATION = "ablation"
#: Stands for a group: every method outside of one's own.
ALL = "all others"


@dataclass(frozen=True)
class Headline:
    """The gain of one method over the best of some others, and the ranks of all methods.

    Attributes
    ----------
    gains
        One row per selection and group (of the rivals): mean, low, high, median, n_seeds, n_cells,
        n_left_out, n_won; ``mean`` and ``median`` (over cells) are shares: .1 is 10% better.
    cells
        One row per selection, group, dataset and metric: value, rival (the best), rival_value,
        gain, n_rivals (measured there). Where the cell is left out ``rival`` is null and ``gain``
        NaN.
    ranks
        One row per selection and method: group, rank (mean over the cells that all methods
        have), n_cells. Where no cell has them all, the methods that all cells have are ranked.
    duels
        As ``gains``, of each rival by itself, in the cells that have both: nobody can know
        beforehand which rival will be best in a cell.
    """

    gains: pl.DataFrame
    cells: pl.DataFrame
    ranks: pl.DataFrame
    duels: pl.DataFrame


def rivals_in(results: pl.DataFrame, ours: str, group: str) -> list[str]:
    """The methods of a group but ``ours``.

    Of :data:`ALL`: every method outside the group ``"ablation"`` and, where ``ours`` is one of our
    own, outside the group ``"ours"``.
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
    gains: list[_Row] = []
    cells: list[_Row] = []
    ranks: list[_Row] = []
    duels: list[_Row] = []
    group_of = dict(results.select("method", "group").iter_rows())
    for (label,), rows in chosen.group_by(pooled().alias("label"), maintain_order=True):
        selection = str(label)
        datasets = distinct(rows, "dataset")
        if rows.select("dataset", "selection").n_unique() > len(datasets):
            raise InputError("a dataset has two selections that anticipate its shift; drop one")
        places = [(name, metric) for name in datasets for metric in metrics]
        # Over the best rival of each group.
        for group, methods in rivals.items():
            gain, parts = _gain(rows, places, ours, methods, level)
            gains.append({"selection": selection, "method": ours, "group": group, **gain})
            cells += [{"selection": selection, "group": group, **part} for part in parts]
        # Over each rival by itself, where both were run.
        there = set(rows["method"])
        for rival in dict.fromkeys(name for group in rivals.values() for name in group):
            if {ours, rival} <= there:
                gain, _ = _gain(rows, places, ours, [rival], level)
                duel = {"method": ours, "group": group_of[rival], "rival": rival}
                duels.append({"selection": selection, **duel, **gain})
        ranks += [{"selection": selection, **rank} for rank in _ranks(rows, places)]
    return Headline(
        *(
            pl.DataFrame(data, schema=schema).select(*schema)
            for data, schema in ((gains, _GAINS), (cells, _CELLS), (ranks, _RANKS), (duels, _DUELS))
        )
    )


_Row: TypeAlias = dict[str, str | int | float | None]
_GAIN = {
    **dict.fromkeys(("mean", "low", "high", "median"), pl.Float64),
    **dict.fromkeys(("n_seeds", "n_cells", "n_left_out", "n_won"), pl.Int64),
}
_GAINS = dict.fromkeys(("selection", "method", "group"), pl.String) | _GAIN
_CELLS = {
    **dict.fromkeys(("selection", "group", "dataset", "metric"), pl.String),
    "value": pl.Float64,
    "rival": pl.String,
    **dict.fromkeys(("rival_value", "gain"), pl.Float64),
    "n_rivals": pl.Int64,
}
_DUELS = dict.fromkeys(("selection", "method", "group", "rival"), pl.String) | _GAIN
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
) -> tuple[_Row, list[_Row]]:
    """The gain over the best of ``rivals`` under one selection, and what it is in each cell."""
    values = _by_seed(rows, places, [ours, *rivals])
    gain = improvement_interval(values[:, :, 0], values[:, :, 1:], level)
    known = gain.gains[np.isfinite(gain.gains)]
    cells: list[_Row] = []
    for at, (mine, *others) in enumerate(values.mean(0).tolist()):
        best = int(gain.best[at])
        cells.append(
            {
                "dataset": places[at][0],
                "metric": places[at][1],
                "value": mine,
                "rival": rivals[best] if best >= 0 else None,
                "rival_value": others[best] if best >= 0 else None,
                "gain": float(gain.gains[at]),
                "n_rivals": int(np.isfinite(others).sum()),
            }
        )
    mean, low, high, n_seeds = astuple(gain.interval)
    summary: _Row = {
        "mean": mean,
        "low": low,
        "high": high,
        "median": float(np.median(known)) if len(known) else float("nan"),
        "n_seeds": n_seeds,
        "n_cells": gain.n_cells,
        "n_left_out": gain.n_left_out,
        "n_won": int((known > 0).sum()),
    }
    return summary, cells


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
        by_seed = values.get((method, *place), {})
        if method not in seeded:
            return next(iter(by_seed.values()), float("nan"))
        return by_seed.get(seed, float("nan"))

    return np.array([[[value(m, p, s) for m in methods] for p in places] for s in seeds], float)


def _ranks(rows: pl.DataFrame, places: Sequence[tuple[str, str]]) -> list[_Row]:
    """Method, group, mean rank and number of cells of every method but ablations."""
    summary = summarise(rows.filter(pl.col("group") != ABLATION))
    groups = dict(summary.select("method", "group").iter_rows())
    means = {
        (dataset, metric, method): mean
        for dataset, metric, method, mean in summary.select(
            "dataset", "metric", "method", "mean"
        ).iter_rows()
    }
    scores = np.array(
        [[means.get((*place, method), float("nan")) for method in groups] for place in places]
    )
    average = average_ranks(scores)
    everywhere = np.isfinite(scores).all(axis=0)
    if not average.n_cells and everywhere.any():  # no cell has them all: those that all cells have
        average = average_ranks(scores[:, everywhere])
        groups = dict(compress(groups.items(), everywhere))
    return [
        {"method": method, "group": group, "rank": rank, "n_cells": average.n_cells}
        for (method, group), rank in zip(groups.items(), average.ranks.tolist(), strict=True)
    ]
