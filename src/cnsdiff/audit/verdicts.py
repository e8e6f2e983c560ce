"""What an audit says first: a sentence on what each recommender of the reader's would lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cnsdiff.audit.judging import from_list
from cnsdiff.audit.methods import USUAL
from cnsdiff.audit.wording import verdict


def verdicts(metric: str, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each recommender that the reader has: their own, then the usual one.

    One of which there are signs that it has seen the held-out pairs gets none. For want of the
    usual recommender, the best today of those there are.
    """
    said = []
    outside = [one for result in results for one in result["outside"]]
    for name in dict.fromkeys(one["name"] for one in outside):
        own = [one for one in outside if one["name"] == name]
        if any(one["warnings"] for one in own) or len({one["metric"] for one in own}) > 1:
            continue
        losses = [
            (str(result["phrase"]), from_list(one["loss"]))
            for result in results
            for one in result["outside"]
            if one["name"] == name
        ]
        said.append(verdict(f"Your recommender {name}", own[0]["metric"], losses))
    usual = [result for result in results if result["usual"].startswith(f"{USUAL}/")]
    subject = "The usual recommender (LightGCN with random negatives)"
    if not usual:
        usual = list(results)
        titles = {row["title"] for r in results for row in r["table"] if row["key"] == r["usual"]}
        subject = titles.pop() if len(titles) == 1 else "The best of the references"
    losses = [
        (str(result["phrase"]), from_list(row["loss"]))
        for result in usual
        for row in result["table"]
        if row["key"] == result["usual"]
    ]
    return [*said, verdict(subject, metric, losses)]
