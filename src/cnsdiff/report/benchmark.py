"""The report of a benchmark: who ranks best, how surely, and at what cost."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cnsdiff.benchmark.findings import Findings, find
from cnsdiff.benchmark.grid import Grid
from cnsdiff.benchmark.headline import ABLATION
from cnsdiff.benchmark.run import Results
from cnsdiff.benchmark.stored import read_stored
from cnsdiff.benchmark.verdict import benchmark_verdict, deployed
from cnsdiff.evaluation.significance import Interval
from cnsdiff.palette import SPLITS, Style, method_styles
from cnsdiff.report.charts import chart, error_bars
from cnsdiff.report.document import Block, Document, Facts, Figure, Prose, Section, Source
from cnsdiff.tables import MARK, Cell, Column, Table, metric_title

#: Methods that a figure can name one by one; of more it shows the groups.
NAMED = 12
ALPHA = 0.05
_NAN = float("nan")


def benchmark_document(path: Path) -> Document:
    """The report of a directory of results; what is missing or failed is said.

    Raises
    ------
    RunError
        It holds no benchmark, is damaged, or a dataset of it is gone.
    """
    grid, results = read_stored(path)
    found = find(grid, results)
    again = f"cnsdiff benchmark GRID.yaml --out {shlex.quote(str(path))}"
    grid_section = Section("Grid", _grid(path, grid, results))
    title = f"Benchmark {grid.name}"
    if found is None:
        return Document(
            title,
            "There are no results yet.",
            [grid_section],
            f"{results.missing} results are missing; `{again}` goes on.",
        )
    tables = found.tables()
    styles = _styles(found.table)
    verdict = benchmark_verdict(found.summary, found.metric)
    sections = [
        Section("Overview", [*_ranks(found), *tables["overview"]]),
        Section("IID and OOD", list(_tests(found, styles))),
        Section("Leaderboards", tables["leaderboards"]),
    ]
    if tables["headline"]:
        sections.append(Section("Headline", [*_duels(found), *tables["headline"]]))
    if found.comparison is not None and found.comparison.height:
        sections.append(Section("Significance", list(_significance(found))))
    if ABLATION in found.table["group"]:
        sections.append(Section("Ablation", list(_ablation(found))))
    sections.append(Section("Cost", [*_cost(found, styles), *tables["trainings"]]))
    sections.append(grid_section)
    return Document(
        title,
        verdict or f"There are results of too few methods to rank them by {found.metric}.",
        sections,
        _summary(found, results, again),
    )


def _summary(found: Findings, results: Results, again: str) -> str:
    told = []
    if found.headline is not None:
        for row in found.headline.gains.tail(2).iter_rows(named=True):
            ends = "" if np.isnan(row["low"]) else f" ({row['low']:+.1%} to {row['high']:+.1%})"
            told.append(
                f"Over the best of **{row['group']}** in each cell, {row['method']} gains "
                f"{row['mean']:+.1%}{ends} on average, {row['median']:+.1%} in the median, under "
                f"{row['selection']}."
            )
    if results.missing:
        told.append(f"**{results.missing} results are not there yet**; `{again}` goes on.")
    if results.failures.height:
        told.append(f"**{results.failures.height} tasks failed**: [see which](#grid).")
    return " ".join(told)


# --- How methods look


def _styles(table: pl.DataFrame) -> dict[str, Style]:
    """The look of each method: its own where there are few, else that of its group."""
    methods = dict(table.select("method", "group").unique(maintain_order=True).iter_rows())
    # Our own first: the first looks are the easiest to tell apart.
    ours = [name for name, group in methods.items() if group == "cnsdiff"]
    if len(methods) <= NAMED:
        return method_styles([*ours, *methods])
    groups = list(dict.fromkeys(methods.values()))
    of_groups = method_styles(sorted(groups, key=lambda group: group != "cnsdiff"))
    return {name: of_groups[group] for name, group in methods.items()}


def _points(
    figure: Any,
    rows: pl.DataFrame,
    styles: dict[str, Style],
    x: Sequence[float],
    y: Sequence[float],
    x_error: Sequence[Interval] | None = None,
    y_error: Sequence[Interval] | None = None,
) -> None:
    """A point per method, named in the legend by method, or by group where there are many."""
    many = len(styles) > NAMED
    named: set[str] = set()
    for at, row in enumerate(rows.iter_rows(named=True)):
        name = row["group"] if many else row["method"]
        figure.add_scatter(
            x=[x[at]],
            y=[y[at]],
            mode="markers",
            name=name,
            legendgroup=name,
            showlegend=name not in named,
            text=[row["method"]],
            marker={**styles[row["method"]].marker, "size": 10},
            error_x=error_bars(x_error[at : at + 1]) if x_error else None,
            error_y=error_bars(y_error[at : at + 1]) if y_error else None,
            hovertemplate="%{text}: %{x:.4g}, %{y:.4f}<extra></extra>",
        )
        named.add(name)


# --- Sections


def _ranks(found: Findings) -> Iterator[Block]:
    """The average rank of each method, over the datasets."""
    rows = found.summary.filter(
        pl.col("group") != ABLATION, pl.col("mean").is_finite(), metric=found.metric
    )
    both = {}
    for split in ("test_ood", "test_iid"):
        own = deployed(rows.filter(split=split))
        ranked = own.with_columns(rank=pl.col("mean").rank(descending=True).over("dataset"))
        both[split] = ranked.group_by("method", maintain_order=True).agg(
            pl.col("rank").mean(), n=pl.len()
        )
    ood, iid = both["test_ood"], both["test_iid"]
    if not ood.height:
        return
    joined = ood.join(iid, on="method", how="left", suffix="_iid").sort("rank")
    figure = chart(x="average rank (1 is best)", height=90 + 26 * joined.height)
    for split, column, title in (
        ("test_iid", "rank_iid", "IID test"),
        ("test_ood", "rank", "OOD test"),
    ):
        figure.add_scatter(
            x=joined[column].to_list(),
            y=joined["method"].to_list(),
            mode="markers",
            name=title,
            marker={**SPLITS[split].marker, "size": 10},
        )
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=joined["method"].to_list()[::-1],
        dtick=1,
    )
    figure.update_xaxes(rangemode="tozero")
    label = deployed(rows.filter(split="test_ood"))["label"][0]
    n = rows["dataset"].n_unique()
    yield Figure(
        "Average rank",
        f"By {metric_title(found.metric)}, over {n} datasets, selected on {label}. A method that "
        "is far left in one colour and far right in the other is good in one world only.",
        figure,
        joined.rename({"rank": "rank_ood", "n": "datasets"}).select(
            "method", "rank_ood", "rank_iid", "datasets"
        ),
    )


def _tests(found: Findings, styles: dict[str, Style]) -> Iterator[Block]:
    yield Prose(
        "Each method on both tests, selected alike, with 95 % intervals over seeds where there "
        "are several. Right is better in the world of training, up is better in the shifted one; "
        "the dotted line is where nothing is lost."
    )
    rows = found.summary.filter(metric=found.metric)
    datasets = rows["dataset"].unique(maintain_order=True).to_list()
    for dataset in datasets:
        here = deployed(rows.filter(dataset=dataset))
        wide = here.filter(split="test_iid").join(
            here.filter(split="test_ood").select("method", "mean", "low", "high"),
            on="method",
            suffix="_ood",
            maintain_order="left",
        )
        wide = wide.filter(pl.col("mean").is_finite() & pl.col("mean_ood").is_finite())
        if not wide.height:
            continue
        figure = chart(
            x=f"IID {metric_title(found.metric)}",
            y=f"OOD {metric_title(found.metric)}",
            height=420,
        )
        top = float(max(wide["mean"].max(), wide["mean_ood"].max()))  # type: ignore[arg-type, type-var]
        figure.add_scatter(
            x=[0, top],
            y=[0, top],
            mode="lines",
            line={"dash": "dot", "width": 1, "color": SPLITS["train"].colour},
            showlegend=False,
            hoverinfo="skip",
        )
        iid = _intervals(wide, "")
        ood = _intervals(wide, "_ood")
        _points(
            figure, wide, styles, [one.mean for one in iid], [one.mean for one in ood], iid, ood
        )
        for axis in (figure.update_xaxes, figure.update_yaxes):
            axis(rangemode="tozero")
        # The line of no loss would squeeze the points where little survives.
        figure.update_yaxes(range=[0, 1.12 * max(one.high for one in ood)])
        yield Figure(
            str(dataset),
            f"Selected on {here['selection'][0]}.",
            figure,
            wide.select(
                "method",
                "group",
                iid="mean",
                iid_low="low",
                iid_high="high",
                ood="mean_ood",
                ood_low="low_ood",
                ood_high="high_ood",
            ),
            small=len(datasets) > 1,
        )


def _intervals(rows: pl.DataFrame, suffix: str) -> list[Interval]:
    """Of each row; the mean alone where there is one seed."""
    found = []
    for row in rows.iter_rows(named=True):
        mean, low, high = (row[f"{name}{suffix}"] for name in ("mean", "low", "high"))
        known = np.isfinite(low)
        found.append(
            Interval(mean, low if known else mean, high if known else mean, row["n_seeds"])
        )
    return found


def _duels(found: Findings) -> Iterator[Block]:
    """What the method gains over each rival by itself."""
    assert found.headline is not None
    duels = found.headline.duels
    if not duels.height:
        return
    label = duels["selection"][-1]
    own = duels.filter(selection=label).sort("median", maintain_order=True)
    ours = own["method"][0]
    figure = chart(x=f"{ours} over the rival", height=90 + 26 * own.height)
    groups = own["group"].unique(maintain_order=True).to_list()
    styles = method_styles([ours, *groups])
    for group in groups:
        rows = own.filter(group=group)
        figure.add_scatter(
            x=(1 + rows["median"]).to_list(),
            y=rows["rival"].to_list(),
            mode="markers",
            name=group,
            marker={**styles[group].marker, "size": 11},
            hovertemplate="%{y}: ×%{x:.3g}",
        )
    figure.add_vline(x=1, line={"dash": "dot", "width": 1, "color": SPLITS["train"].colour})
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=own["rival"].to_list()[::-1],
        dtick=1,
    )
    # Twice as good and half as good are equally far from 1.
    ticks = (0.1, 0.2, 0.5, 0.8, 1, 1.25, 2, 5, 10, 20, 50, 100)
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"×{tick:g}" for tick in ticks])
    yield Figure(
        "Gain over each rival by itself",
        f"Median over datasets and metrics of {ours} over the rival under the shift, selected on "
        f"{label}. Left of the dotted line the rival is better.",
        figure,
        own,
    )


def _significance(found: Findings) -> Iterator[Block]:
    assert found.comparison is not None
    yield Prose(
        "Each method against the baseline of its dataset, on the same users, averaged over seeds: "
        "paired bootstrap over users, Holm's correction over the methods of a dataset."
    )
    chosen = found.comparison.filter(metric=found.metric)
    for (dataset, selection), rows in chosen.group_by("dataset", "selection", maintain_order=True):
        baseline = rows["baseline"][0]
        yield Table(
            f"{dataset}, selected on {selection}: OOD {metric_title(found.metric)} less that of "
            f"{baseline}",
            ("group", "method"),
            (Column("difference", "difference"), Column("p", "p"), Column("p_holm", "p (Holm)")),
            tuple(
                (
                    (row["group"], row["method"]),
                    (
                        Cell(
                            row["difference"],
                            (row["high"] - row["low"]) / 2,
                            differs=row["p_holm"] < ALPHA,
                        ),
                        Cell(row["p"]),
                        Cell(row["p_holm"]),
                    ),
                )
                for row in rows.sort("group", maintain_order=True).iter_rows(named=True)
            ),
            (
                "± half the width of the 95 % interval over users",
                f"{MARK} differs from {baseline} at p < {ALPHA:g}; {rows['n_users'][0]:,} users",
            ),
        )


def _ablation(found: Findings) -> Iterator[Block]:
    """Our own methods and their parts, as a share of the first of them."""
    kept = found.summary.filter(pl.col("group").is_in(["cnsdiff", ABLATION]), metric=found.metric)
    whole = kept.filter(group="cnsdiff")["method"].unique(maintain_order=True).to_list()
    for split, title in (("test_ood", "OOD"), ("test_iid", "IID")):
        rows = deployed(kept.filter(split=split))
        if not rows.height:
            continue
        datasets = rows["dataset"].unique(maintain_order=True).to_list()
        values = {(row["dataset"], row["method"]): row for row in rows.iter_rows(named=True)}
        methods = (
            rows.select("group", "method")
            .unique(maintain_order=True)
            .sort(pl.col("group") == ABLATION, maintain_order=True)
        )

        def cell(dataset: str, method: str, values: dict[Any, Any] = values) -> Cell:
            row = values.get((dataset, method))
            return Cell(_NAN) if row is None else Cell(row["mean"], row["high"] - row["mean"])

        def change(dataset: str, method: str, values: dict[Any, Any] = values) -> Cell:
            row, base = values.get((dataset, method)), values.get((dataset, (whole or [""])[0]))
            if row is None or base is None or not base["mean"]:
                return Cell(_NAN)
            return Cell(row["mean"] / base["mean"] - 1)

        yield Table(
            f"{title} {metric_title(found.metric)}, selected on {rows['label'][0]}",
            ("group", "method"),
            tuple(
                column
                for name in datasets
                for column in (
                    Column(str(name), str(name)),
                    *(
                        [Column(f"{name}/change", f"to {whole[0]}", 1, percent=True)]
                        if whole
                        else []
                    ),
                )
            ),
            tuple(
                (
                    (group, method),
                    tuple(
                        made(name, method)
                        for name in datasets
                        for made in ((cell, change) if whole else (cell,))
                    ),
                )
                for group, method in methods.iter_rows()
            ),
            ("± half the width of the interval of the mean over seeds",),
        )


def _cost(found: Findings, styles: dict[str, Style]) -> Iterator[Block]:
    yield Prose(
        "What a fit took, with all its validations, beside what it reached under the shift. "
        "Seconds are those of the machine that ran the benchmark: compare them within a figure."
    )
    rows = found.table.filter(split="test_ood", metric=found.metric)
    datasets = rows["dataset"].unique(maintain_order=True).to_list()
    for dataset in datasets:
        here = deployed(rows.filter(dataset=dataset))
        means = here.group_by("method", "group", maintain_order=True).agg(
            pl.col("seconds").mean(), ood=pl.col("value").mean()
        )
        means = means.filter(pl.col("ood").is_finite() & (pl.col("seconds") > 0))
        if not means.height:
            continue
        figure = chart(x="seconds of a fit", y=f"OOD {metric_title(found.metric)}", height=380)
        _points(figure, means, styles, means["seconds"].to_list(), means["ood"].to_list())
        figure.update_xaxes(type="log", tickformat="~g", dtick="D2")
        figure.update_yaxes(rangemode="tozero")
        yield Figure(
            f"{dataset}: accuracy and cost",
            f"Means over seeds, selected on {here['selection'][0]}; time on a logarithmic scale.",
            figure,
            means,
            small=len(datasets) > 1,
        )


def _grid(path: Path, grid: Grid, results: Results) -> list[Block]:
    table = results.table
    written = table["created_by"].unique(maintain_order=True).to_list() if table.height else []
    machines = table["machine"].n_unique() if table.height else 0
    blocks: list[Block] = [
        Facts(
            [
                ("datasets", ", ".join(grid.datasets)),
                ("methods", f"{len(grid.methods)}"),
                ("seeds", ", ".join(map(str, grid.seeds))),
                ("budget", _budget(grid)),
                ("settings tried for each", f"{grid.search.trials}"),
                ("selected on", ", ".join(grid.select_on)),
                ("results missing", f"{results.missing}"),
                ("tasks failed", f"{results.failures.height}"),
                ("machines", f"{machines}"),
                ("written by", ", ".join(written) or "nothing yet"),
                ("this report by", f"cnsdiff {version('cnsdiff')}"),
                ("directory", str(path)),
            ]
        )
    ]
    failures = [
        f"{row['dataset']} {row['method']} {row['kind']} seed {row['seed']} {row['setting']}: "
        f"{row['error']}"
        for row in results.failures.iter_rows(named=True)
    ]
    if failures:
        blocks.append(Source("failures.txt", "\n".join(failures) + "\n"))
    blocks.append(Source("grid.yaml", (path / "grid.yaml").read_text(encoding="utf-8")))
    return blocks


def _budget(grid: Grid) -> str:
    minutes = grid.budget.minutes
    return f"{grid.budget.epochs} epochs" + (f", {minutes:g} minutes" if minutes else "")
