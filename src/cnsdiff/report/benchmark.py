"""The report of a benchmark: who ranks best, how surely, and at what cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cnsdiff.base.errors import InputError, RunError
from cnsdiff.base.text import Command
from cnsdiff.benchmark.findings import (
    Findings,
    Results,
    benchmark_verdict,
    deployed,
    find,
    read_stored,
)
from cnsdiff.benchmark.grid import OURS, Grid, selected
from cnsdiff.benchmark.headline import ABLATION
from cnsdiff.benchmark.tables import half_width_note
from cnsdiff.display.tables import HALF_WIDTH, MARK, Cell, Column, Table
from cnsdiff.display.wording import SPLIT_TITLES, count, metric_title, percent
from cnsdiff.evaluation.protocol import protocol
from cnsdiff.report.charts import DOTTED, SPLITS, Style, chart, method_styles, rows_of, strokes
from cnsdiff.report.document import (
    Block,
    Document,
    Facts,
    Figure,
    Prose,
    Section,
    Source,
    verbatim,
)

#: Methods that a figure can name one by one; of more it shows the groups.
NAMED = 12
#: Of the marks of the section "Significance".
ALPHA = 0.05


def benchmark_document(path: Path) -> Document:
    """The report of a directory of results; what is missing or failed is said.

    Raises
    ------
    RunError
        It holds no benchmark, is damaged, or a dataset of it is gone.
    """
    grid, results = read_stored(path)
    try:
        findings = find(grid, results)
    except InputError as error:
        raise RunError(
            f"{path}: its results do not fit together ({error}); run the benchmark again"
        ) from error
    again = str(Command("benchmark", "GRID.yaml", out=path))
    grid_section = Section("Grid", _grid(path, grid, results))
    title = f"Benchmark {grid.name}"
    if findings is None:
        return Document(
            title,
            "There are no results yet.",
            [grid_section],
            f"{results.missing} results are missing; `{verbatim(again)}` goes on.",
        )
    tables = findings.tables()
    styles = _styles_of(findings.table)
    sections = [
        Section("Overview", [*_average_ranks(findings), *tables["overview"]]),
        Section("IID and OOD", list(_both_tests(findings, styles))),
        Section("Leaderboards", tables["leaderboards"]),
    ]
    if tables["headline"]:
        sections.append(Section("Headline", [*_duels(findings), *tables["headline"]]))
    if findings.comparison is not None and findings.comparison.height:
        sections.append(Section("Significance", list(_differences(findings, findings.comparison))))
    if ABLATION in findings.table["group"]:
        sections.append(Section("Ablation", list(_parts(findings))))
    sections.append(Section("Cost", [*_cost(findings, styles), *tables["trainings"]]))
    sections.append(grid_section)
    verdict = benchmark_verdict(findings.summary, findings.metric)
    return Document(
        title,
        verdict or f"There are results of too few methods to rank them by {findings.metric}.",
        sections,
        _summary(findings, results, again),
    )


def _summary(findings: Findings, results: Results, again: str) -> str:
    gain = partial(percent, digits=1, signed=True)
    sentences = []
    if findings.headline is not None:
        for row in findings.headline.gains.tail(2).iter_rows(named=True):
            ends = "" if np.isnan(row["low"]) else f" ({gain(row['low'])} to {gain(row['high'])})"
            sentences.append(
                f"Over the best of **{verbatim(row['group'])}** in each cell, "
                f"{verbatim(row['method'])} gains {gain(row['mean'])}{ends} on average, "
                f"{gain(row['median'])} in the median, {selected(row['selection'])}."
            )
    if results.missing:
        sentences.append(
            f"**Still missing: {count(results.missing, 'result')}**; `{verbatim(again)}` goes on."
        )
    if results.failures.height:
        sentences.append(
            f"**{count(results.failures.height, 'task')} failed**: [see which](#grid)."
        )
    return " ".join(sentences)


def _grid(path: Path, grid: Grid, results: Results) -> list[Block]:
    table, failures, budget = results.table, results.failures, grid.budget
    writers = table["created_by"].unique(maintain_order=True).to_list() if table.height else []
    machines = table["machine"].n_unique() if table.height else 0
    minutes = f", {budget.minutes:g} minutes" if budget.minutes else ""
    minutes = f", {budget.cpu_minutes:g} minutes of CPU" if budget.cpu_minutes else minutes
    facts = [
        ("datasets", ", ".join(grid.datasets)),
        ("methods", f"{len(grid.methods)}"),
        ("seeds", ", ".join(map(str, grid.seeds))),
        ("budget", f"{budget.epochs} epochs{minutes}"),
        ("settings tried for each", f"{grid.search.trials}"),
        ("selected on", ", ".join(grid.select_on)),
        ("measured by", protocol()),
        ("results missing", f"{results.missing}"),
        ("tasks failed", f"{failures.height}"),
        ("machines", f"{machines}"),
        ("written by", ", ".join(writers) or "nothing yet"),
        ("this report by", f"cnsdiff {version('cnsdiff')}"),
        ("directory", str(path)),
    ]
    blocks: list[Block] = [Facts(facts)]
    if failures.height:
        lines = [
            f"{row['dataset']} {row['method']} {row['kind']} seed {row['seed']} {row['setting']}: "
            f"{row['error']}\n"
            for row in failures.iter_rows(named=True)
        ]
        blocks.append(Source("failures.txt", "".join(lines)))
    return [*blocks, Source("grid.yaml", (path / "grid.yaml").read_text(encoding="utf-8"))]


# --- How methods look


def _styles_of(table: pl.DataFrame) -> dict[str, Style]:
    """The look of each method: its own where there are few, else that of its group."""
    methods = dict(table.select("method", "group").unique(maintain_order=True).iter_rows())
    # Our own first: the first looks are the easiest to tell apart.
    ours = [name for name, group in methods.items() if group == OURS]
    if len(methods) <= NAMED:
        return method_styles([*ours, *methods])
    groups = method_styles(sorted(methods.values(), key=lambda group: group != OURS))
    return {name: groups[group] for name, group in methods.items()}


#: A value with the ends of its interval.
Estimate = tuple[float, float, float]


def _add_points(
    figure: Any,
    rows: pl.DataFrame,
    styles: Mapping[str, Style],
    points: Sequence[tuple[float, float]],
    intervals: Sequence[tuple[Estimate, Estimate]] | None = None,
) -> None:
    """A point per method, named in the legend by method, or by group where there are many."""
    many = len(styles) > NAMED
    named: set[str] = set()
    for at, row in enumerate(rows.iter_rows(named=True)):
        name = row["group"] if many else row["method"]
        x, y = points[at]
        bars = [None, None] if intervals is None else [strokes([ends]) for ends in intervals[at]]
        figure.add_scatter(
            x=[x],
            y=[y],
            mode="markers",
            name=name,
            legendgroup=name,
            showlegend=name not in named,
            text=[row["method"]],
            marker={**styles[row["method"]].marker, "size": 10},
            error_x=bars[0],
            error_y=bars[1],
            hovertemplate="%{text}: %{x:.4g}, %{y:.4f}<extra></extra>",
        )
        named.add(name)


# --- Where the methods stand: by rank, on both tests, against each rival


def _average_ranks(findings: Findings) -> Iterator[Block]:
    """The average rank of each method, over the datasets."""
    rows = findings.summary.filter(
        pl.col("group") != ABLATION, pl.col("mean").is_finite(), metric=findings.metric
    )

    def ranks(split: str) -> pl.DataFrame:
        own = deployed(rows.filter(split=split))
        # Over the datasets that have all methods: ranks over different ones do not compare.
        common = own.filter(pl.col("method").n_unique().over("dataset") == own["method"].n_unique())
        ranked = common.with_columns(rank=pl.col("mean").rank(descending=True).over("dataset"))
        grouped = ranked.group_by("method", maintain_order=True)
        return grouped.agg(pl.col("rank").mean(), n=pl.len())

    ood = ranks("test_ood")
    if not ood.height:
        return
    joined = ood.join(ranks("test_iid"), on="method", how="left", suffix="_iid").sort("rank")
    names = joined["method"].to_list()
    figure = chart(x="average rank (1 is best)", height=90 + 26 * joined.height)
    for split, column in (("test_iid", "rank_iid"), ("test_ood", "rank")):
        figure.add_scatter(
            x=joined[column].to_list(),
            y=names,
            mode="markers",
            name=SPLIT_TITLES[split],
            marker={**SPLITS[split].marker, "size": 10},
        )
    rows_of(figure, names, dtick=1)
    figure.update_xaxes(rangemode="tozero")
    label = deployed(rows.filter(split="test_ood"))["label"][0]
    yield Figure(
        "Average rank",
        f"By {metric_title(findings.metric)}, over {count(joined['n'][0], 'dataset')} that all of "
        f"these methods have, {selected(label)}. A method that is far left in one colour and far "
        "right in the other "
        "is good in one world only.",
        figure,
        joined.select("method", "rank_iid", rank_ood="rank", datasets="n").select(
            "method", "rank_ood", "rank_iid", "datasets"
        ),
    )


def _both_tests(findings: Findings, styles: Mapping[str, Style]) -> Iterator[Block]:
    yield Prose(
        "Each method on both tests, selected alike, with 95% intervals over seeds, or over users "
        "where there is one seed. Right is better in the world of training, up is better in the "
        "shifted one; the dotted line is where nothing is lost."
    )
    rows, title = findings.summary.filter(metric=findings.metric), metric_title(findings.metric)
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
        pairs = list(zip(_estimates(wide, ""), _estimates(wide, "_ood"), strict=True))
        points = [(iid[0], ood[0]) for iid, ood in pairs]
        top = max(map(max, points))
        figure = chart(x=f"IID {title}", y=f"OOD {title}", height=420)
        figure.add_scatter(
            x=[0, top], y=[0, top], mode="lines", line=DOTTED, showlegend=False, hoverinfo="skip"
        )
        _add_points(figure, wide, styles, points, pairs)
        figure.update_xaxes(rangemode="tozero")
        # The line of no loss would squeeze the points where little survives.
        highest = max(high for _, (_, _, high) in pairs)
        figure.update_yaxes(rangemode="tozero", range=[0, 1.12 * highest])
        names = {"iid": "mean", "iid_low": "low", "iid_high": "high"}
        names |= {name.replace("iid", "ood"): f"{column}_ood" for name, column in names.items()}
        yield Figure(
            str(dataset),
            f"{selected(here['selection'][0]).capitalize()}.",
            figure,
            wide.select("method", "group", **names),
            small=len(datasets) > 1,
        )


def _estimates(rows: pl.DataFrame, suffix: str) -> list[Estimate]:
    """Of each row the mean and its interval; the mean alone where there is one seed."""
    columns = (rows[f"{name}{suffix}"] for name in ("mean", "low", "high"))
    return [
        (mean, low, high) if np.isfinite(low) else (mean, mean, mean)
        for mean, low, high in zip(*columns, strict=True)
    ]


def _duels(findings: Findings) -> Iterator[Block]:
    """The gain of the method over each single rival."""
    assert findings.headline is not None
    duels = findings.headline.duels
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
    figure.add_vline(x=1, line=DOTTED)
    rows_of(figure, own["rival"].to_list(), dtick=1)
    # Twice as good and half as good are equally far from 1.
    ticks = (0.1, 0.2, 0.5, 0.8, 1, 1.25, 2, 5, 10, 20, 50, 100)
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"×{tick:g}" for tick in ticks])
    yield Figure(
        "Gain over each rival by itself",
        f"Median over datasets and metrics of {ours} over the rival under the shift, "
        f"{selected(label)}. Left of the dotted line the rival is better.",
        figure,
        own,
    )


# --- What differs beyond chance, and what each part of the method is worth


def _differences(findings: Findings, comparison: pl.DataFrame) -> Iterator[Block]:
    yield Prose(
        "Each method against the baseline of its dataset, on the same users, averaged over seeds: "
        "paired bootstrap over users, Holm's correction over the methods of a dataset."
    )
    title = metric_title(findings.metric)
    chosen = comparison.filter(metric=findings.metric)
    for (dataset, selection), rows in chosen.group_by("dataset", "selection", maintain_order=True):
        baseline = rows["baseline"][0]
        lines = []
        for row in rows.sort("group", maintain_order=True).iter_rows(named=True):
            half, differs = (row["high"] - row["low"]) / 2, row["p_holm"] < ALPHA
            difference = Cell(row["difference"], half, differs=differs)
            lines.append(([row["group"], row["method"]], [difference, row["p"], row["p_holm"]]))
        yield Table.of(
            f"{dataset}, {selected(str(selection))}: OOD {title} less that of {baseline}",
            ["group", "method"],
            [Column("difference", "difference"), Column("p", "p"), Column("p_holm", "p (Holm)")],
            lines,
            HALF_WIDTH,
            f"{MARK} differs from {baseline} at p < {ALPHA:g}; {rows['n_users'][0]:,} users",
        )


def _parts(findings: Findings) -> Iterator[Block]:
    """Our own methods and their parts, beside the first of them."""
    own = findings.summary.filter(pl.col("group").is_in([OURS, ABLATION]), metric=findings.metric)
    ours = own.filter(group=OURS)["method"].unique(maintain_order=True).to_list()
    whole = ours[0] if ours else None
    for split, short in (("test_ood", "OOD"), ("test_iid", "IID")):
        rows = deployed(own.filter(split=split))
        if not rows.height:
            continue
        datasets = rows["dataset"].unique(maintain_order=True).to_list()
        columns = []
        for name in map(str, datasets):
            columns.append(Column(name, name))
            if whole is not None:
                columns.append(Column(f"{name}/change", f"to {whole}", 1, percent=True))
        values = {(row["dataset"], row["method"]): row for row in rows.iter_rows(named=True)}
        methods = rows.select("group", "method").unique(maintain_order=True)
        lines = []
        for group, method in methods.sort(
            pl.col("group") == ABLATION, maintain_order=True
        ).iter_rows():
            cells: list[Cell | float | None] = []
            for dataset in datasets:
                row, base = values.get((dataset, method)), values.get((dataset, whole))
                if row is None:
                    cells += [None] * (1 if whole is None else 2)
                    continue
                cells.append(Cell(row["mean"], row["high"] - row["mean"]))
                if whole is not None:
                    cells.append(row["mean"] / base["mean"] - 1 if base and base["mean"] else None)
            lines.append(([group, method], cells))
        yield Table.of(
            f"{short} {metric_title(findings.metric)}, {selected(rows['label'][0])}",
            ["group", "method"],
            columns,
            lines,
            *half_width_note(rows),
        )


# --- What they cost


def _cost(findings: Findings, styles: Mapping[str, Style]) -> Iterator[Block]:
    yield Prose(
        "What a fit took, with all its validations, beside what it reached under the shift. "
        "Seconds are those of the machine that ran the benchmark: compare them within a figure."
    )
    rows = findings.table.filter(split="test_ood", metric=findings.metric)
    datasets = rows["dataset"].unique(maintain_order=True).to_list()
    for dataset in datasets:
        here = deployed(rows.filter(dataset=dataset))
        means = here.group_by("method", "group", maintain_order=True).agg(
            pl.col("seconds").mean(), ood=pl.col("value").mean()
        )
        means = means.filter(pl.col("ood").is_finite() & (pl.col("seconds") > 0))
        if not means.height:
            continue
        figure = chart(x="seconds of a fit", y=f"OOD {metric_title(findings.metric)}", height=380)
        _add_points(figure, means, styles, list(means.select("seconds", "ood").iter_rows()))
        figure.update_xaxes(type="log", tickformat="~g", dtick="D2")
        figure.update_yaxes(rangemode="tozero")
        yield Figure(
            f"{dataset}: accuracy and cost",
            f"Means over seeds, {selected(here['selection'][0])}; time on a logarithmic scale.",
            figure,
            means,
            small=len(datasets) > 1,
        )
