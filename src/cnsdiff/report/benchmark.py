"""The report of a benchmark: who ranks best, how surely, and at what cost."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from cnsdiff.base.errors import InputError, RunError
from cnsdiff.base.spelling import Command
from cnsdiff.benchmark.findings import Findings, Results, benchmark_verdict, find, read_stored
from cnsdiff.benchmark.grid import Grid
from cnsdiff.benchmark.headline import ABLATION
from cnsdiff.display.wording import percent
from cnsdiff.evaluation.results import protocol
from cnsdiff.report.benchmark_accuracy import average_ranks, both_tests, duels
from cnsdiff.report.benchmark_cost import cost
from cnsdiff.report.benchmark_differences import differences, parts
from cnsdiff.report.benchmark_methods import styles_of
from cnsdiff.report.document import Block, Document, Facts, Section, Source, verbatim


def benchmark_document(path: Path) -> Document:
    """The report of a directory of results; what is missing or failed is said.

    Raises
    ------
    RunError
        It holds no benchmark, is damaged, or a dataset of it is gone.
    """
    grid, results = read_stored(path)
    try:
        found = find(grid, results)
    except InputError as error:
        raise RunError(
            f"{path}: its results do not fit together ({error}); run the benchmark again"
        ) from error
    again = str(Command("benchmark", "GRID.yaml", out=path))
    grid_section = Section("Grid", _grid(path, grid, results))
    title = f"Benchmark {grid.name}"
    if found is None:
        return Document(
            title,
            "There are no results yet.",
            [grid_section],
            f"{results.missing} results are missing; `{verbatim(again)}` goes on.",
        )
    tables = found.tables()
    styles = styles_of(found.table)
    verdict = benchmark_verdict(found.summary, found.metric)
    sections = [
        Section("Overview", [*average_ranks(found), *tables["overview"]]),
        Section("IID and OOD", list(both_tests(found, styles))),
        Section("Leaderboards", tables["leaderboards"]),
    ]
    if tables["headline"]:
        sections.append(Section("Headline", [*duels(found), *tables["headline"]]))
    if found.comparison is not None and found.comparison.height:
        sections.append(Section("Significance", list(differences(found))))
    if ABLATION in found.table["group"]:
        sections.append(Section("Ablation", list(parts(found))))
    sections.append(Section("Cost", [*cost(found, styles), *tables["trainings"]]))
    sections.append(grid_section)
    return Document(
        title,
        verdict or f"There are results of too few methods to rank them by {found.metric}.",
        sections,
        _summary(found, results, again),
    )


def _summary(found: Findings, results: Results, again: str) -> str:
    gain = partial(percent, digits=1, signed=True)
    told = []
    if found.headline is not None:
        for row in found.headline.gains.tail(2).iter_rows(named=True):
            ends = "" if np.isnan(row["low"]) else f" ({gain(row['low'])} to {gain(row['high'])})"
            told.append(
                f"Over the best of **{verbatim(row['group'])}** in each cell, "
                f"{verbatim(row['method'])} gains {gain(row['mean'])}{ends} on average, "
                f"{gain(row['median'])} in the median, under {row['selection']}."
            )
    if results.missing:
        told.append(
            f"**{results.missing} results are not there yet**; `{verbatim(again)}` goes on."
        )
    if results.failures.height:
        told.append(f"**{results.failures.height} tasks failed**: [see which](#grid).")
    return " ".join(told)


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
                ("measured by", protocol()),
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
