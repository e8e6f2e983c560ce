"""What is trained under each shift, as a grid of the benchmark."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cnsdiff.audit.shifts import Shift
from cnsdiff.base.errors import ConfigError, did_you_mean
from cnsdiff.base.spelling import parameter
from cnsdiff.benchmark.grid import ANTICIPATED, DIAL, PLAIN, DatasetEntry, Grid, MethodEntry
from cnsdiff.display.wording import duration

#: Cut-offs, so that shorter lists of other recommenders can be judged too.
KS = (1, 5, 10, 20)
#: What picks: plain validation, with and without the dial, and the shift that is expected.
PLAIN_DIAL, EXPECTED = PLAIN + DIAL, ANTICIPATED + DIAL
#: The recommender that people have: its loss is the verdict.
USUAL = "usual"
OURS = "exposure"
#: Labels of methods in the audits of earlier versions.
FORMER = {"cnsdiff": OURS}
REFERENCES = ("mostpop", "itemknn", "ease")


@dataclass(frozen=True)
class Kind:
    """A method of the audit.

    Attributes
    ----------
    title
        For tables.
    about
        What it is, in a few words.
    plain
        The selection by which it is read when no shift is expected.
    train
        What ``cnsdiff train`` takes to make it; ``None`` for a reference.
    """

    title: str
    about: str
    plain: str
    train: Mapping[str, Any] | None


METHODS: dict[str, Kind] = {
    "mostpop": Kind("MostPop", "the most popular items for everybody", PLAIN, None),
    "itemknn": Kind("ItemKNN", "items like those a user has, by cosine", PLAIN, None),
    "ease": Kind("EASE", "a linear model of items, in closed form", PLAIN, None),
    USUAL: Kind(
        "the usual recommender",
        "LightGCN with BPR and random negatives, as usually trained",
        PLAIN,
        {"preset": "bpr-lightgcn", "set": {"training.dial": "auto"}},
    ),
    OURS: Kind("exposure sampling", "the default of cnsdiff", PLAIN_DIAL, {}),
}


def require_metric(metric: str) -> str:
    """The metric, if an audit measures it.

    Raises
    ------
    ConfigError
        It does not.
    """
    known = [f"{name}@{k}" for name in ("recall", "ndcg") for k in KS]
    if metric not in known:
        raise ConfigError(
            f"{parameter('metric')} {metric}: is not measured{did_you_mean(metric, known)}; there "
            f"are {', '.join(known)}"
        )
    return metric


@dataclass(frozen=True)
class Ease:
    """Whether EASE fits, and a sentence if it does not."""

    fits: bool
    reason: str = ""


def ease_fits(
    n_items: int,
    seconds: float,
    memory: float,
    *,
    speed: float | None = None,
) -> Ease:
    """Whether EASE can be fitted on so many items.

    Parameters
    ----------
    n_items
        Of the largest training split.
    seconds
        That one fit may take.
    memory
        Bytes that are free.
    speed
        Floating-point operations a second; measured if not given.
    """
    needed = 3 * 4 * n_items**2
    if n_items > 25_000 or needed > memory / 2:
        return Ease(
            False,
            f"EASE needs a dense matrix of {n_items:,} × {n_items:,} items, about "
            f"{needed / 1e9:.0f} GB, and was left out.",
        )
    # A Cholesky factor and an inverse; the product of the pairs with themselves comes cheaper.
    takes = 1.2 * n_items**3 / (speed or _speed())
    if takes > seconds:
        return Ease(
            False,
            f"EASE would take about {duration(takes)} on {n_items:,} items, too much of the "
            "budget, and was left out; a longer budget brings it back.",
        )
    return Ease(True)


def _speed() -> float:
    """Floating-point operations of a matrix product in a second on this machine."""
    matrix = torch.ones(512, 512)
    matrix @ matrix
    started = time.perf_counter()
    for _ in range(4):
        matrix @ matrix
    return 4 * 2 * 512**3 / max(time.perf_counter() - started, 1e-6)


def audit_grid(
    shifts: Sequence[Shift],
    paths: Mapping[str, Path],
    *,
    ease: bool,
    seed: int,
    metric: str,
) -> Grid:
    """Every method under every shift, one seed and no search; the clock is not the grid's.

    Parameters
    ----------
    shifts
        Those that are measured.
    paths
        The prepared dataset of each.
    ease
        Whether EASE is among the references.
    seed, metric
        Of the trainings; of the selection.
    """
    references = {name: name for name in REFERENCES if ease or name != "ease"}
    return Grid(
        name="audit",
        datasets={
            shift.name: DatasetEntry(
                path=str(paths[shift.name]),
                anticipate=shift.anticipate,
                scenario=shift.name,
                set={"training": dict(shift.training)} if shift.training else {},
            )
            for shift in shifts
        },
        methods={
            **{
                name: MethodEntry(reference=reference, group="reference")
                for name, reference in references.items()
            },
            USUAL: MethodEntry(preset="bpr-lightgcn", group="usual"),
            OURS: MethodEntry(group="cnsdiff"),
        },
        seeds=(seed,),
        # Of false negatives an audit says nothing.
        set={"training": {"fhn_every": None}},
        select_on=(PLAIN, PLAIN_DIAL, EXPECTED),
        select_metric=metric,
        ks=KS,
    )
