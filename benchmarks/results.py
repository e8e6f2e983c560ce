"""A grid in few tables and one figure: every method beside the best of its set, gains and ranks.

    python benchmarks/results.py benchmarks/accuracy/all.yaml results/all [--ours exposure]
                                 [--figure FIGURE.svg]

under two rules. ``named``: setting, epoch and dial are those of the objective that anticipates the
dataset's shift. ``default``: as ``cnsdiff train`` chooses where no shift is named, by rehearsal
where the log has times and by plain validation elsewhere. The figure is of ``named``. Needs
Matplotlib (``pip install 'cnsdiff[bench]'``).
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any

import matplotlib
import polars as pl
from frontier_figure import COLOURS, OURS, STYLE, write_svg
from matplotlib.figure import Figure

from cnsdiff.benchmark.findings import collect
from cnsdiff.benchmark.grid import DIAL, PLAIN, REHEARSAL, Grid, is_dialled, read_grid
from cnsdiff.benchmark.headline import ABLATION, ALL, headline
from cnsdiff.benchmark.plan import materialise, plan
from cnsdiff.benchmark.statistics import summarise
from cnsdiff.benchmark.store import Store
from cnsdiff.display.wording import NOTHING, SHORT_SPLIT_TITLES, number, percent

NAMED, DEFAULT = "named", "default"
METRIC = "ndcg@20"
#: Methods drawn larger: colour, marker, size and what the legend calls them.
_SHOWN: dict[str, tuple[str, str, float, str]] = {
    "cnsdiff": (COLOURS["sampler"], "v", 6, "cnsdiff: the diffusion sampler, trained"),
    "cnsdiff-authors": (COLOURS["sampler"], "x", 6, "cnsdiff-authors: as in the published code"),
    "stack": (COLOURS[OURS], "o", 8, "stack: the default and BPR"),
    "exposure": (COLOURS[OURS], "o", 6.5, "exposure: the default"),
}


def by_rule(table: pl.DataFrame, grid: Grid) -> dict[str, pl.DataFrame]:
    """The results that each rule has chosen, with the rule as their selection."""
    rehearsed = [n for n, entry in grid.datasets.items() if entry.anticipate == REHEARSAL]
    if any(map(is_dialled, grid.select_on)):
        table = table.filter(pl.col("selection").str.ends_with(DIAL))
    named, plain = pl.col("anticipated"), pl.col("selection").str.strip_suffix(DIAL) == PLAIN
    by_default = pl.when(pl.col("dataset").is_in(rehearsed)).then(named).otherwise(plain)
    return {
        rule: table.filter(chosen).with_columns(selection=pl.lit(rule), anticipated=False)
        for rule, chosen in ((NAMED, named), (DEFAULT, by_default))
    }


def _means(results: pl.DataFrame, split: str = "test_ood") -> pl.DataFrame:
    """By dataset and method, the mean NDCG@20 over seeds and its interval; no parts of our own."""
    return summarise(results.filter(pl.col("group") != ABLATION, split=split, metric=METRIC))


def beside_the_best(results: pl.DataFrame, split: str = "test_ood") -> str:
    """Ours, the published mechanism and the best of the others by dataset, as a table."""
    shown = [*reversed(_SHOWN)]
    means = _means(results, split)
    rows: dict[str, list[str]] = {}
    for (dataset,), there in means.group_by("dataset", maintain_order=True):
        of_method = {row["method"]: row for row in there.iter_rows(named=True)}
        best = max(row["mean"] for row in of_method.values())

        def cell(row: dict[str, Any] | None, named: bool = False, best: float = best) -> str:
            if row is None:
                return NOTHING
            text = number(row["mean"])
            text = f"**{text}**" if row["mean"] == best else text
            half = row["high"] - row["mean"]
            text += f" ± {number(half)}" if half == half else ""  # NaN with one seed
            return f"{text} `{row['method']}`" if named else text

        others = there.filter(pl.col("group") != OURS).sort("mean")
        samplers = others.filter(group="sampler")
        rows[str(dataset)] = [
            str(dataset),
            *(cell(of_method.get(method)) for method in shown),
            *(cell(some.row(-1, named=True), named=True) for some in (samplers, others)),
        ]
    titles = [f"{SHORT_SPLIT_TITLES[split]} NDCG@20", *shown, "best sampler", "best of all others"]
    return markdown(titles, list(rows.values()))


def shares(results: pl.DataFrame) -> dict[str, dict[str, float]]:
    """By dataset and method, OOD NDCG@20 over the best one's; the datasets as they come."""
    means = _means(results)
    by_dataset: dict[str, dict[str, float]] = {}
    for dataset, method, mean in means.select("dataset", "method", "mean").iter_rows():
        by_dataset.setdefault(dataset, {})[method] = mean
    for values in by_dataset.values():
        best = max(values.values())
        values.update({method: value / best for method, value in values.items()})
    return by_dataset


def draw(by_dataset: dict[str, dict[str, float]]) -> Figure:
    """The figure; the best method of a dataset is named at its right."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.1 + 0.3 * len(by_dataset)), layout="constrained")
        axes = figure.add_subplot()
        for place, values in enumerate(by_dataset.values()):
            axes.axhline(place, color="#e5e5e5", linewidth=0.6, zorder=0)
            others = [value for method, value in values.items() if method not in _SHOWN]
            axes.plot(
                *(others, [place] * len(others)), "|", color="#999999", ms=9, mew=1.1, zorder=1,
                label="another method" if place == 0 else None,
            )  # fmt: skip
            for method, (colour, marker, size, meaning) in _SHOWN.items():
                if method in values:
                    axes.plot(
                        *(values[method], place), marker, color=colour, ms=size, zorder=3,
                        mfc="white" if method == "stack" else colour, mew=1.6,
                        linestyle="", label=meaning if place == 0 else None,
                    )  # fmt: skip
            axes.text(1.02, place, max(values, key=values.__getitem__), va="center", fontsize=8)
        axes.set_yticks(range(len(by_dataset)), list(by_dataset))
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(by_dataset) - 0.5, -0.5)
        axes.set_xlim(-0.01, 1.01)
        axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f}%")
        axes.set_xlabel("OOD NDCG@20, of the best method's (named at the right)")
        figure.legend(
            loc="outside upper left", ncols=2, frameon=False, handletextpad=0.4, columnspacing=1.5
        )
        return figure


def markdown(columns: list[str], rows: list[list[Any]]) -> str:
    """A table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def tables(results: pl.DataFrame, ours: str, simulated: Collection[str] = ()) -> str:
    """Gains over the best rivals and over each rival, and ranks, under one rule.

    Gains stand also without the ``simulated`` datasets. Ranks are of the methods that all datasets
    have; beside them what each has of the best one's NDCG@20 where it has least (simulated datasets
    left out).
    """
    scopes = {"all": results}
    real = results.filter(~pl.col("dataset").is_in(list(simulated)))
    if 0 < real.height < results.height:
        scopes["real ones"] = real
    found = {scope: headline(some, ours) for scope, some in scopes.items()}
    gains = [
        [
            f"the best {'sampler' if group != ALL else 'of all'} of each cell",
            *(scope, f"{percent(mean, 1, signed=True)} ± {number(100 * (high - mean), 1)}"),
            *(percent(median, 1, signed=True), f"{won} of {cells}", seeds),
        ]
        for scope, some in found.items()
        for group, mean, high, median, won, cells, seeds in some.gains.select(
            "group", "mean", "high", "median", "n_won", "n_cells", "n_seeds"
        ).iter_rows()
    ]
    duels = [
        [rival, percent(mean, 1, signed=True), percent(median, 1, signed=True), f"{won} of {cells}"]
        for rival, mean, median, won, cells in found["all"]
        .duels.sort("median", "rival")
        .select("rival", "mean", "median", "n_won", "n_cells")
        .iter_rows()
    ]
    of_method = pl.col("dataset").n_unique().over("method")
    common = results.filter(of_method == results["dataset"].n_unique())
    least: dict[str, tuple[float, str]] = {}
    for dataset, values in shares(scopes.get("real ones", results)).items():
        for method, share in values.items():
            least[method] = min(least.get(method, (1.0, dataset)), (share, dataset))
    ranks = [
        [method, number(rank, 2), n, f"{percent(least[method][0])} {least[method][1]}"]
        for method, rank, n in headline(common, ours)
        .ranks.sort("rank", "method")
        .select("method", "rank", "n_cells")
        .iter_rows()
    ]
    return "\n".join(
        [
            markdown([f"`{ours}` over", "sets", "mean", "median", "cells won", "seeds"], gains),
            markdown([f"`{ours}` over", "mean", "median", "cells won"], duels),
            markdown(["method", "average rank", "cells", "least of a set's best"], ranks),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grid", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ours", default="exposure")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    grid, store = read_grid(options.grid), Store(options.out)
    datasets = {name: materialise(name, entry, store.data) for name, entry in grid.datasets.items()}
    simulated = [name for name, entry in grid.datasets.items() if entry.simulate is not None]
    rules = by_rule(collect(grid, plan(grid, datasets), store).table, grid)
    for rule, results in rules.items():
        print(f"### The rule `{rule}`\n")
        print(beside_the_best(results), beside_the_best(results, "test_iid"), sep="\n")
        print(tables(results, options.ours, simulated))
    if options.figure:
        write_svg(draw(shares(rules[NAMED])), options.figure)


if __name__ == "__main__":
    main()
