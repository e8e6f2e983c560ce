"""What an audit found under a shift, as one JSON document: numbers, and the words they bear out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnsdiff.audit.advice import recommendation
from cnsdiff.audit.distances import distances
from cnsdiff.audit.external import Outside
from cnsdiff.audit.external_result import external_result
from cnsdiff.audit.judging import TESTS, Choice, Judged, Setting, choose, judge, to_list
from cnsdiff.audit.limits import limits_of
from cnsdiff.audit.log import Log, Reading
from cnsdiff.audit.methods import KS
from cnsdiff.audit.shifts import Shift
from cnsdiff.benchmark.grid import PLAIN
from cnsdiff.data import Dataset
from cnsdiff.evaluation.dial import exposure_counts
from cnsdiff.evaluation.significance import holm
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.selection import as_configured


@dataclass(frozen=True)
class Found:
    """What was measured under one shift, before it is put into words."""

    shift: Shift
    dataset: Dataset
    settings: tuple[Setting, ...]
    outside: tuple[Outside, ...]
    unfinished: tuple[str, ...]


def shift_result(
    found: Found, *, reading: Reading, log: Log, metric: str, seed: int, names: Mapping[str, Path]
) -> dict[str, Any]:
    """All that is said of one shift.

    Parameters
    ----------
    found
        What was measured.
    reading, log
        Of which the commands are made.
    metric, seed
        Of the audit.
    names
        ``data`` and ``run``: directories for the commands.
    """
    shift, dataset = found.shift, found.dataset
    every = (*found.settings, *(s for one in found.outside for s in one.settings))
    choice = choose(found.settings, shift.anticipate)
    judged = judge(every, dataset, metric, seed=seed)
    told: dict[str, Any] = {
        "name": shift.name,
        "title": shift.title,
        "phrase": shift.phrase,
        "meaning": shift.meaning,
        "anticipate": shift.anticipate,
        "settings": dict(shift.settings),
        "dataset": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "users": dataset.n_users,
            "items": dataset.n_items,
            "pairs": {name: dataset.manifest.splits[name].rows for name in dataset.split_names},
        },
        "size": distances(dataset, seed),
        "n_users": dict(judged.n_users),
        "effective_pairs": _effective_pairs(dataset, shift),
        "table": _table(judged, choice),
        "usual": choice.usual.row,
        "recommendation": recommendation(shift, dataset, judged, choice, reading, log, seed, names),
        "outside": [
            external_result(one, dataset, judged, choice, metric, seed) for one in found.outside
        ],
        "unfinished": list(found.unfinished),
    }
    told["limits"] = limits_of(told, judged)
    return told


def _table(judged: Judged, choice: Choice) -> list[dict[str, Any]]:
    """A row for each setting, beside the usual recommender on both tests."""
    others = [s for s in judged.settings if s.key != choice.usual.key]
    against: dict[str, dict[str, Any]] = {s.key: {} for s in judged.settings}
    for test in TESTS:
        differences = judged.differences(test, [(s, choice.usual) for s in others])
        adjusted = holm([one.p_value for one in differences]).tolist() if differences else []
        for setting, one, p_holm in zip(others, differences, adjusted, strict=True):
            against[setting.key][test] = {
                "difference": to_list(one),
                "p": one.p_value,
                "p_holm": p_holm,
            }
    return [
        {
            "key": s.key,
            "method": s.method,
            "selection": s.selection,
            "title": s.title,
            "validation": s.validation,
            "dial": s.dial,
            "epochs": s.epochs,
            "seconds": s.seconds,
            "stopped_by": s.stopped_by,
            **judged.estimates(s),
            "against_usual": against[s.key],
        }
        for s in judged.settings
        # What is popularity itself has no dial: all selections read it alike.
        if s.method != "mostpop" or s.selection == PLAIN
    ]


def _effective_pairs(dataset: Dataset, shift: Shift) -> float:
    """How many equal pairs the validation pairs are worth under the shift's objective."""
    train = dataset.split("train").csr(dataset.n_users, dataset.n_items)
    found = as_configured(
        shift.anticipate,
        TrainingConfig(**shift.training),
        dataset.split("valid"),
        train,
        KS,
        exposure_counts(dataset).numpy(),
    )
    return found.effective_pairs
