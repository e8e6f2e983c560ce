"""What the report of a run says first: what it keeps under the shift, in a sentence."""

from __future__ import annotations

import math

import polars as pl

from cnsdiff.data import Dataset
from cnsdiff.display.wording import metric_title, number, number_span, percent, percent_span
from cnsdiff.evaluation.significance import Interval
from cnsdiff.recommender.recommender import Recommender
from cnsdiff.report.accuracy import ALPHA, Standing
from cnsdiff.report.document import verbatim


def _percent(found: Interval) -> str:
    if math.isnan(found.low):
        return percent(found.mean, 0)
    return f"{percent(found.mean, 0)} ({percent_span(found.low, found.high)})"


def verdict_on_tests(standing: Standing, data: Dataset) -> tuple[str, str]:
    """One sentence, and what has to be known beside it."""
    own, *others = standing.measured
    title = metric_title(standing.metric)
    judged = "test_ood" if "test_ood" in own.splits else "test_iid"
    means = {split: own.splits[split][standing.metric] for split in own.splits}
    best = max(others, key=lambda one: one.splits[judged][standing.metric])
    against = best.splits[judged][standing.metric]
    times = (
        f"{means[judged] / against:.2f} × the best reference ({best.name})"
        if against
        else f"where the best reference ({best.name}) has 0"
    )
    gap = standing.differences[best.name, judged]
    sure = gap.p_value < ALPHA
    summary = (
        f"The difference to that reference is {'more than' if sure else 'within what'} chance "
        f"makes ({number(gap.difference, signed=True)}, 95% interval "
        f"{number_span(gap.low, gap.high, signed=True)}, paired bootstrap over users)."
    )
    if len(means) < 2:
        where, other = ("IID", "OOD") if judged == "test_iid" else ("OOD", "IID")
        return (
            f"{title} of {number(means[judged])} on the {where} test, {times}.",
            f"{summary} The dataset has no {other} test, so what the shift costs is not known.",
        )
    kept = standing.kept[own.name]
    shift = "shift" if data.scenario == "given" else f"{data.scenario} shift"
    moved = f"{number(means['test_iid'])}\u00a0→\u00a0{number(means['test_ood'])}"
    if math.isnan(kept.mean):
        verdict = f"{title} under the {shift}: {moved}, {times}."
    elif kept.mean >= 1:
        verdict = f"Loses nothing of its {title} under the {shift} ({moved}), {times}."
    else:
        verdict = f"Keeps {_percent(kept)} of its {title} under the {shift} ({moved}), {times}."
    keeps = ", ".join(
        f"{one.name} {_percent(standing.kept[one.name])}"
        for one in others
        if not math.isnan(standing.kept[one.name].mean)
    )
    if keeps:
        summary += f" The references keep: {keeps}."
    today = max(others, key=lambda one: one.splits["test_iid"][standing.metric])
    if (of_today := today.splits["test_iid"][standing.metric]) > 0:
        share = means["test_iid"] / of_today
        summary += (
            f" What it costs today: on the IID test it has **{share:.2f} ×** the best reference "
            f"({verbatim(today.name)})."
        )
    return verdict, summary + " [What to run next](#next)."


def verdict_without_tests(
    model: Recommender, history: pl.DataFrame, missing: str | None
) -> tuple[str, str]:
    selecting = model.config_.training.selection_metrics[0]
    column = f"valid/{selecting}"
    best = history.filter(pl.col("epoch") == model.best_epoch_)
    reached = ""
    if column in history.columns and best.height:
        reached = f"{metric_title(selecting)} of {number(best[column][0])} on validation"
    why = missing or "Its dataset has no test split"
    verdict = f"{reached or 'Trained'} at epoch {model.best_epoch_}; nothing is known of a test."
    mend = (
        "name where it is now with `--dataset` for the rest of this report"
        if missing
        else "prepare it with a test for the rest of this report"
    )
    return verdict, f"{verbatim(why)}: {mend}. [What to run next](#next)."
