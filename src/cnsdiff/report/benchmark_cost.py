"""What the methods of a benchmark cost, beside what they reach."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from cnsdiff.benchmark.findings import Findings, deployed
from cnsdiff.display.palette import Style
from cnsdiff.display.wording import metric_title
from cnsdiff.report.benchmark_methods import add_points
from cnsdiff.report.charts import chart
from cnsdiff.report.document import Block, Figure, Prose


def cost(found: Findings, styles: dict[str, Style]) -> Iterator[Block]:
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
        add_points(figure, means, styles, means["seconds"].to_list(), means["ood"].to_list())
        figure.update_xaxes(type="log", tickformat="~g", dtick="D2")
        figure.update_yaxes(rangemode="tozero")
        yield Figure(
            f"{dataset}: accuracy and cost",
            f"Means over seeds, selected on {here['selection'][0]}; time on a logarithmic scale.",
            figure,
            means,
            small=len(datasets) > 1,
        )
