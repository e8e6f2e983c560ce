"""What a benchmark comes to, in a sentence."""

from __future__ import annotations

import polars as pl

from cnsdiff.benchmark.headline import ABLATION, pooled
from cnsdiff.display.wording import ON_SPLIT, number


def deployed(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of one selection: that which anticipates the shift where there is one.

    It is what one would deploy. Of a summary, with the name of the selection as ``label``.
    """
    rows = rows.with_columns(label=pooled())
    labels = rows["label"].unique(maintain_order=True).to_list()
    label = next((name for name in labels if name.startswith("anticipated")), None)
    return rows.filter(label=label or (labels[0] if labels else ""))


def benchmark_verdict(summary: pl.DataFrame, metric: str, split: str = "test_ood") -> str | None:
    """Who ranks best over all datasets; ``None`` where less than two methods can be ranked.

    Parameters
    ----------
    summary
        From :func:`cnsdiff.benchmark.statistics.summarise`.
    metric
        Such as ``"ndcg@20"``.
    """
    rows = summary.filter(pl.col("mean").is_finite(), split=split, metric=metric)
    rows = deployed(rows.filter(pl.col("group") != ABLATION))
    n_datasets = rows["dataset"].n_unique()
    ranked = (
        rows.with_columns(rank=pl.col("mean").rank(descending=True).over("dataset"))
        .group_by("method", maintain_order=True)
        .agg(rank=pl.col("rank").mean(), n=pl.len(), best=(pl.col("rank") == 1).sum())
        .filter(n=n_datasets)
        .sort("rank", maintain_order=True)
    )
    if ranked.height < 2:
        return None
    first, second = ranked.head(2).iter_rows(named=True)
    where = ON_SPLIT.get(split, split)
    chosen = f"({metric}, selected on {rows['label'][0]})"
    if n_datasets == 1:
        values = dict(rows.select("method", "mean").iter_rows())
        best, next_best = (
            f"{row['method']} with {number(values[row['method']])}" for row in (first, second)
        )
        return f"Best {where}: {best}, then {next_best}, of {ranked.height} methods {chosen}."
    return (
        f"Best average rank {where}: {first['method']} with {first['rank']:.2f}, best on "
        f"{first['best']} of {n_datasets} datasets, then {second['method']} with "
        f"{second['rank']:.2f}, of {ranked.height} methods {chosen}."
    )
