"""Where the methods of a benchmark stand: by rank, on both tests, against each rival."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from cnsdiff.benchmark.findings import Findings, deployed
from cnsdiff.benchmark.headline import ABLATION
from cnsdiff.display.palette import SPLITS, Style, method_styles
from cnsdiff.display.wording import metric_title
from cnsdiff.evaluation.significance import Interval
from cnsdiff.report.benchmark_methods import add_points
from cnsdiff.report.charts import chart, rows_of
from cnsdiff.report.document import Block, Figure, Prose


def average_ranks(found: Findings) -> Iterator[Block]:
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
    rows_of(figure, joined["method"].to_list(), dtick=1)
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


def both_tests(found: Findings, styles: dict[str, Style]) -> Iterator[Block]:
    yield Prose(
        "Each method on both tests, selected alike, with 95% intervals over seeds where there "
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
        add_points(
            figure, wide, styles, [one.value for one in iid], [one.value for one in ood], iid, ood
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


def duels(found: Findings) -> Iterator[Block]:
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
    rows_of(figure, own["rival"].to_list(), dtick=1)
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


def _intervals(rows: pl.DataFrame, suffix: str) -> list[Interval]:
    """Of each row; the mean alone where there is one seed."""
    found = []
    for row in rows.iter_rows(named=True):
        mean, low, high = (row[f"{name}{suffix}"] for name in ("mean", "low", "high"))
        known = np.isfinite(low)
        found.append(
            Interval(mean, low if known else mean, high if known else mean, n=row["n_seeds"])
        )
    return found
