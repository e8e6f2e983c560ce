"""How large a shift is: how far each split is from train, beside what chance alone makes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cnsdiff.data import Dataset
from cnsdiff.diagnostics import describe
from cnsdiff.display.wording import percent


def distances(dataset: Dataset, seed: int) -> dict[str, Any]:
    """How far each split is from train, beside what chance alone makes, and that in words."""
    description = describe(dataset, seed=seed)
    splits = {}
    for name, split in description.splits.items():
        told: dict[str, Any] = {
            "pairs": split.pairs,
            "n_users": split.users.present,
            "n_items": split.items.present,
            "head": split.head,
            "deciles": list(split.deciles),
            "dropped_unknown": split.dropped_unknown,
        }
        for axis, shift in split.shift.items():
            chance = None if shift.chance is None else shift.chance.js
            told[axis] = {"js": shift.observed.js, "chance": chance}
        splits[name] = told
    return {"splits": splits, "words": _words(splits), "problems": list(description.problems)}


def _words(splits: Mapping[str, Mapping[str, Any]]) -> str:
    told = splits["test_ood"].get("items")
    if told is None or told["chance"] is None:
        return ""
    js, chance = told["js"], told["chance"]
    times = js / chance if chance else math.inf
    size = f"Items of the OOD test are {js:.3f} nats from train's, {chance:.3f} by chance alone"
    head = (
        f"{percent(splits['test_ood']['head'])} of its pairs are on the fifth of the items that is "
        f"most popular in train, {percent(splits['test_iid']['head'])} of the IID test's"
    )
    if times < 1.15:
        return f"{size}: no more shift of items than chance makes in a test of this size. {head}."
    return f"{size}: {'a strong' if times > 2 else 'a weak'} shift of items. {head}."
