"""What an evaluation comes to, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnsdiff.evaluation import Evaluation

_UNDER = {"test_ood": "under the shift", "test_iid": "on the IID test", "valid": "on validation"}


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
    judged = next((name for name in _UNDER if name in splits), next(iter(splits)))
    where = _UNDER.get(judged, judged)
    values = {name: result[judged][metric] for name, result in results.items()}
    if model is None:
        best = max(values, key=lambda name: values[name])
        return f"The best reference {where} is {best}: {metric} {values[best]:.4f}."
    own = values[model]
    told = f"{model} has {metric} {own:.4f} {where}"
    if judged == "test_ood" and "test_iid" in splits:
        before = results[model]["test_iid"][metric]
        kept = f", {own / before:.0%} of the {before:.4f} on the IID test" if before else ""
        told += kept
    others = sorted(
        ((value, name) for name, value in values.items() if name != model), reverse=True
    )
    better = [f"{name} ({value:.4f})" for value, name in others if value >= own]
    if better:
        told += f"; better there: {', '.join(better)}"
    elif others:
        value, name = others[0]
        told += f"; the best reference, {name}, has {value:.4f}"
    return f"{told}."
