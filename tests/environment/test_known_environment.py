"""The fitted environment against the simulator's, of which ``log p(i | do(e'))`` is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff import ConfoundedWorld
from cnsdiff.data import Dataset
from cnsdiff.environment import HALF_LIVES, Choices, Environment, covariates_at
from cnsdiff.environment.covariates import Covariates
from cnsdiff.simulate import WorldTruth

Floats = NDArray[np.float64]


class Known:
    """Scores that are known, ``(U, I)``."""

    def __init__(self, scores: Floats) -> None:
        self.scores = torch.from_numpy(scores).float()
        self.n_users, self.n_items = scores.shape

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        return self.scores[users, start:stop]


class World(NamedTuple):
    """A shifted world: earlier pairs, tastes ``(U, I)``, and laws of exposure ``(I,)``."""

    dataset: Dataset
    seen: csr_array
    taste: Floats
    logged: Floats
    shifted: Floats


@pytest.fixture(scope="module", params=["resampled", "inverted", "temporal", "abrupt"])
def world(request) -> World:
    # Exposure is free of the user, so that its law is all there is to find.
    made = ConfoundedWorld(
        n_users=3000, n_items=300, exposures=30, periods=12,
        personalisation=0, confounding=1, seed=0,
    )  # fmt: skip
    if request.param in ("temporal", "abrupt"):
        dataset = made.dataset("temporal", abrupt=request.param == "abrupt")
    else:
        dataset = made.dataset("popularity", target=request.param)
    truth, shape = WorldTruth.of(dataset), (dataset.n_users, dataset.n_items)
    everyone, items = np.arange(shape[0])[:, None], np.arange(shape[1])[None]
    return World(
        dataset,
        sum(dataset.split(name).csr(*shape) for name in ("train", "valid", "test_iid")),
        np.log(truth.relevance_probability(everyone, items)),
        centred(np.log(truth.exposure_law("logged"))),
        centred(np.log(truth.exposure_law("test_ood"))),
    )


def centred(column: Floats) -> Floats:
    return column - column.mean()


@pytest.mark.parametrize("scores_hold_the_log", [False, True])
def test_the_law_under_the_shift_has_the_coefficient_1(world, scores_hold_the_log):
    """Taste alone lacks ``log p(i | do(e'))``; scores learnt under ``e`` hold that of ``e``, too.

    The coefficients are told within .1: sampling moves them by about .02, and up to .06 comes from
    pairs that were clicked before, which cannot be chosen again.
    """
    laws = np.stack([world.shifted, world.logged], axis=1)
    deviations = laws.std(axis=0)
    scorer = Known(world.taste + scores_hold_the_log * world.logged)
    choices = Choices(
        world.dataset.split("test_ood"),
        world.seen,
        Covariates(("shifted", "logged"), laws / deviations),
    )
    coefficients = choices.coefficients(scorer).numpy() / deviations
    assert coefficients == pytest.approx([1, -1 if scores_hold_the_log else 0], abs=0.1)


def test_counts_of_the_past_tell_of_the_environment_to_come(world):
    """What is added to each item's score has the sign and the scale of ``log p(i | do(e'))``.

    The coefficient of the truth on it is 1 within .2 wherever counts tell anything.
    """
    train, n_items = world.dataset.split("train"), world.dataset.n_items
    covariates = covariates_at(train.items, train.timestamps, n_items)
    scorer = Known(world.taste)
    choices = Choices(world.dataset.split("test_ood"), world.seen, covariates)
    environment = Environment(
        names=list(covariates.names),
        coefficients=choices.coefficients(scorer).tolist(),
        half_lives=list(HALF_LIVES),
        span=covariates.span,
        moment=covariates.moment,
    )
    bias = environment.bias(environment.activity(train, n_items))
    term = centred(bias.numpy().astype(np.float64))
    if np.corrcoef(world.logged, world.shifted)[0, 1] ** 2 < 0.1:
        # A popularity that was drawn anew has nothing to do with the past.
        assert term.std() < 0.4 * world.shifted.std()
        return
    assert world.shifted @ term / (term @ term) == pytest.approx(1, abs=0.2)
    # By all covariates better than by the count alone, which is what a dial has.
    count = Covariates(("count",), covariates.values[:, :1])
    alone = Choices(world.dataset.split("test_ood"), world.seen, count)
    dial = count.values @ alone.coefficients(scorer).numpy()
    left, left_by_dial = (np.square(world.shifted - own).mean() for own in (term, centred(dial)))
    assert left < left_by_dial < np.square(world.shifted).mean()
