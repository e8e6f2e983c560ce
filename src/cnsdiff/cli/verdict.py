"""What an evaluation comes to, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cnsdiff.display.wording import ON_SPLIT, number, percent

if TYPE_CHECKING:
    from cnsdiff.evaluation import Evaluation


def evaluation_verdict(results: Mapping[str, Evaluation], model: str | None, metric: str) -> str:
    """How much is kept under the shift, and which reference is better there.

    Parameters
    ----------
    results
        By name: the model and references, or references alone.
    model
        Which of them is the model, if one is.
    metric
        Such as ``"ndcg@20"``.
    """
    splits = next(iter(results.values())).splits
    judged = next((name for name in ON_SPLIT if name in splits), next(iter(splits)))
    where = ON_SPLIT.get(judged, judged)
    values = {name: result[judged][metric] for name, result in results.items()}
    if model is None:
        best = max(values, key=lambda name: values[name])
        return f"The best reference {where} is {best}: {metric} {number(values[best])}."
    own = values[model]
    told = f"{model} has {metric} {number(own)} {where}"
    if judged == "test_ood" and "test_iid" in splits:
        before = results[model]["test_iid"][metric]
        if before:
            told += f", {percent(own / before)} of the {number(before)} on the IID test"
    others = sorted(
        ((value, name) for name, value in values.items() if name != model), reverse=True
    )
    better = [f"{name} ({number(value)})" for value, name in others if value >= own]
    if better:
        told += f"; better there: {', '.join(better)}"
    elif others:
        value, name = others[0]
        told += f"; the best reference, {name}, has {number(value)}"
    return f"{told}."
