"""Row ``environment``: what the environment of a rehearsal costs.

The covariates of 10^7 synthetic interactions (the largest of ``--growth-sizes``) with 10^5 items,
over sorting as many numbers. Then, on each dataset with times, the seconds that a rehearsed
training of ten epochs spends on covariates and on conditional logits (the scores of the
alternatives included), as a share of all its seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
from measurement import Finding, Options, Place, Target, at, ours_over, places, seconds_of

from cnsdiff import Recommender
from cnsdiff.environment import Choices, Environment, covariates_at
from cnsdiff.training import selection

ROW = "environment"
SORTS, SHARE = Target(10.0), Target(0.05)
ITEMS, EPOCHS = 10**5, 10


def measure(options: Options) -> Iterator[Finding]:
    yield _covariates(max(options.growth_sizes), options.rounds)
    for place in places(options):
        yield _share(place)


def _covariates(size: int, rounds: int) -> Finding:
    rng = np.random.default_rng(0)
    items = (ITEMS * rng.random(size) ** 2).astype(np.int64)
    times = rng.integers(10**9, 10**9 + 10**8, size)
    numbers = rng.random(size)
    ours, reference = [], []
    for _ in range(rounds):
        reference.append(seconds_of(lambda: np.sort(numbers), 1))
        ours.append(seconds_of(lambda: covariates_at(items, times, ITEMS), 1))
    what = f"covariates of {size:,} interactions over sorting as many numbers"
    return ours_over(Finding(ROW, what, target=SORTS), ours, reference)


def _share(place: Place) -> Finding:
    finding = at(ROW, "covariates and logit, of a rehearsed training", place, target=SHARE)
    if place.dataset.split("train").timestamps is None:
        finding.missing = "the dataset has no times"
        return finding
    spent = [0.0]

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return work(*args, **options)
            finally:
                spent[0] += time.perf_counter() - started

        return counted

    training = {"epochs": EPOCHS, "patience": None, "select_on": "rehearsal", "fhn_every": None}
    model = Recommender(training=training, threads=place.threads)
    with (
        mock.patch.object(selection, "covariates_at", timed(covariates_at)),
        mock.patch.object(Environment, "activity", timed(Environment.activity)),
        mock.patch.object(Environment, "bias", timed(Environment.bias)),
        mock.patch.object(Choices, "__init__", timed(Choices.__init__)),
        mock.patch.object(Choices, "coefficients", timed(Choices.coefficients)),
    ):
        started = time.perf_counter()
        model.fit(place.dataset)
        whole = time.perf_counter() - started
    finding.seconds, finding.reference_seconds = spent[0], whole
    return finding.of([spent[0] / whole])
