"""What commands share: tables for people, JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from cnsdiff.evaluation import Evaluation

#: Shown for each split; the rest is in --json and metrics.parquet.
HEADLINE = ("recall", "ndcg")
SPLIT_TITLES = {"valid": "valid", "test_iid": "IID test", "test_ood": "OOD test"}


def console() -> Console:
    """Standard output; wide enough not to cut tables when it is a file or a pipe."""
    return Console(width=None if sys.stdout.isatty() else 140, highlight=False)


def print_json(value: Any) -> None:
    """One JSON document on standard output; NaN becomes null."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str))


def comparison_table(title: str, evaluations: dict[str, Evaluation], ks: Sequence[int]) -> Table:
    """One row per model: headline metrics on each split, and the robustness gap."""
    splits = list(next(iter(evaluations.values())).splits)
    shown = [f"{metric}@{k}" for k in sorted(ks) for metric in HEADLINE]
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("model")
    for split in splits:
        for name in shown:
            metric, _, k = name.partition("@")
            title_ = f"{SPLIT_TITLES[split]}\n{metric[0].upper()}@{k}"
            table.add_column(title_, justify="right")
    gap_metric = shown[-1]
    with_gap = {"test_iid", "test_ood"} <= set(splits)
    if with_gap:
        table.add_column(f"OOD/IID\nN@{gap_metric.partition('@')[2]}", justify="right")
    for label, evaluation in evaluations.items():
        cells = [f"{evaluation[split][name]:.4f}" for split in splits for name in shown]
        if with_gap:
            cells.append(_ratio(evaluation.gap()[gap_metric]))
        table.add_row(label, *cells)
    return table


def metrics_table(title: str, evaluation: Evaluation) -> Table:
    """All metrics of one model, a row each: its value on every split, and the robustness gap."""
    gap = evaluation.gap() if {"test_iid", "test_ood"} <= set(evaluation.splits) else {}
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("metric")
    for split in evaluation.splits:
        table.add_column(SPLIT_TITLES[split], justify="right")
    if gap:
        table.add_column("OOD/IID", justify="right")
    for metric in next(iter(evaluation.splits.values())).metrics:
        cells = [f"{evaluation[split][metric]:.4f}" for split in evaluation.splits]
        if gap:
            cells.append(_ratio(gap.get(metric)))
        table.add_row(metric, *cells)
    return table


def _ratio(value: float | None) -> str:
    """A robustness gap; nothing where it is not defined."""
    return "-" if value is None or value != value else f"{value:.2f}"


def user_counts(evaluation: Evaluation) -> str:
    """How many users each split's means are over."""
    parts = [
        f"{SPLIT_TITLES[name]} {split.n_users:,} users ({split.n_users_without_test:,} without "
        "test items left out)"
        for name, split in evaluation.splits.items()
    ]
    return "; ".join(parts)
