"""The numbers that every tracker logs, by name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnsdiff.evaluation import Evaluation
from cnsdiff.recommender.run_directory import history_row


def of_epoch(record: Mapping[str, Any]) -> dict[str, float]:
    """``train/loss``, ``valid/ndcg@20``, ``seconds`` and so on of an epoch's record."""
    row = history_row(record)
    del row["epoch"]
    return {name: float(value) for name, value in row.items()}


def of_evaluation(evaluation: Evaluation) -> dict[str, float]:
    """``test_ood/ndcg@20`` of each split, and ``gap/ndcg@20``; what is not finite is left out."""
    found = {
        f"{split}/{name}": value
        for split, metrics in evaluation.metrics.items()
        for name, value in metrics.items()
    }
    if {"test_iid", "test_ood"} <= evaluation.splits.keys():
        found |= {f"gap/{name}": value for name, value in evaluation.gap().items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def settings(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a configuration by their dotted names, as ``--set`` takes them."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from settings(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
