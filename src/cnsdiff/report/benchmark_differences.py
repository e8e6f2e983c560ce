"""What differs from the baseline beyond chance, and what each part of the method is worth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from cnsdiff.benchmark.findings import Findings, deployed
from cnsdiff.benchmark.headline import ABLATION
from cnsdiff.display.tables import MARK, Cell, Column, Table
from cnsdiff.display.wording import metric_title
from cnsdiff.report.document import Block, Prose

ALPHA = 0.05
_NAN = float("nan")


def differences(found: Findings) -> Iterator[Block]:
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
                "± half the width of the 95% interval over users",
                f"{MARK} differs from {baseline} at p < {ALPHA:g}; {rows['n_users'][0]:,} users",
            ),
        )


def parts(found: Findings) -> Iterator[Block]:
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
