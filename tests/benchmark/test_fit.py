"""One training read by several objectives is as good as a training for each."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch

from cnsdiff import Recommender
from cnsdiff.benchmark.fit import Fitted, Validation, fit_model, fit_reference
from cnsdiff.config import Config, resolve_config
from cnsdiff.data import Dataset
from cnsdiff.errors import TrainingError
from cnsdiff.evaluation import EmbeddingScorer
from cnsdiff.evaluation.anticipation import Anticipated, anticipated_name
from cnsdiff.references import EASE, MostPop
from cnsdiff.training.config import TrainingConfig

ALL = ("valid", *get_args(Anticipated))
METRIC = "ndcg@20"


def options(**training: Any) -> dict[str, Any]:
    return {
        "backbone": {"name": "lightgcn", "dim": 8},
        "sampler": {"name": "dns"},
        "training": {"batch_size": 128, "lr": 0.02, "patience_steps": 0, **training},
        "seed": 3,
        "threads": 1,
    }


def config(**training: Any) -> Config:
    return resolve_config(options(**training))


def alone(dataset: Dataset, select_on: str, **training: Any) -> Recommender:
    """An ordinary training that only this objective reads."""
    given = options(**training)
    parts = {f"{part}_options": given.pop(part) for part in ("backbone", "sampler")}
    return Recommender(**parts, **given).fit(dataset, select_on=select_on)


def assert_chosen_alike(fitted: Fitted, dataset: Dataset, on: str, **training: Any) -> int:
    """The same epoch, bit by bit; the epochs it took alone."""
    model, choice = alone(dataset, on, **training), fitted.choices[on]
    assert choice.epoch == model.best_epoch_
    record = model.history_[choice.epoch - 1]
    name = METRIC if on == "valid" else anticipated_name(METRIC, on)
    assert choice.value == record["validation"][name]
    assert choice.training == record["train"]
    assert isinstance(choice.scorer, EmbeddingScorer)
    assert torch.equal(choice.scorer.user_embeddings, model.user_embeddings_)
    assert torch.equal(choice.scorer.item_embeddings, model.item_embeddings_)
    return len(model.history_)


def test_each_objective_chooses_as_if_alone(world):
    training = {"epochs": 12, "patience": None}
    fitted = fit_model(config(**training), world, ALL, METRIC)
    assert list(fitted.choices) == list(ALL)
    for on in ALL:
        assert assert_chosen_alike(fitted, world, on, **training) == 12
    assert len({choice.epoch for choice in fitted.choices.values()}) > 1, "nothing was compared"


def test_what_is_chosen_stays_as_it_was(world):
    """The embeddings of plain factorisation are the weights themselves, which train on."""
    given = options(epochs=20, patience=None, lr=0.2)
    given["backbone"] = {"name": "mf", "dim": 8}
    fitted = fit_model(resolve_config(given), world, ALL, METRIC)
    validation = Validation(world, ALL, METRIC, TrainingConfig())
    assert min(choice.epoch for choice in fitted.choices.values()) < 20
    for on, choice in fitted.choices.items():
        assert validation(choice.scorer)[on] == choice.value


def test_patience_runs_out_for_each_alone(world):
    """An objective is not given the epochs that another goes on for."""
    seen = []
    for patience in (1, 2, 3):
        training = {"epochs": 30, "patience": patience}
        fitted = fit_model(config(**training), world, ALL, METRIC)
        lengths = {on: assert_chosen_alike(fitted, world, on, **training) for on in ALL}
        assert fitted.epochs == max(lengths.values())
        assert fitted.stopped_by == ("patience" if fitted.epochs < 30 else "epochs")
        seen.append(len(set(lengths.values())))
    assert max(seen) > 1, "all stopped together, so nothing was tested"


def test_patience_counts_steps_too(world):
    n_steps = -(-len(world.split("train")) // 128)
    training = {"epochs": 40, "patience": 1, "patience_steps": 4 * n_steps}
    fitted = fit_model(config(**training), world, ("valid",), METRIC)
    assert assert_chosen_alike(fitted, world, "valid", **training) == fitted.epochs
    assert fitted.epochs >= 5


def test_objectives_have_the_shape_that_is_set(world):
    """As the configured ``select_*`` fields say, in both."""
    training = {"epochs": 6, "patience": None, "select_strength": 2.0, "select_slices": 2}
    fitted = fit_model(config(**training), world, ("tempered", "worst-slice"), METRIC)
    plain = fit_model(config(epochs=6, patience=None), world, ("tempered", "worst-slice"), METRIC)
    for on in ("tempered", "worst-slice"):
        assert_chosen_alike(fitted, world, on, **training)
        assert fitted.choices[on].value != plain.choices[on].value


def test_another_metric(world):
    settings = config(epochs=5, patience=None)
    fitted = fit_model(settings, world, ("valid", "recency"), "recall@5")
    validation = Validation(world, ("valid", "recency"), "recall@5", settings.training)
    for on, choice in fitted.choices.items():
        assert choice.value == validation(choice.scorer)[on]


def test_what_the_configuration_selects_by_is_not_used(world):
    fitted = fit_model(config(epochs=4, patience=None), world, ("valid", "tempered"), METRIC)
    other = config(epochs=4, patience=None, select_on="recency", select_metric="recall@10")
    again = fit_model(other, world, ("valid", "tempered"), METRIC)
    for on, choice in fitted.choices.items():
        assert (choice.epoch, choice.value) == (again.choices[on].epoch, again.choices[on].value)


# --- when it ends


class Clock:
    """Each look at it is ``step`` later than the one before."""

    def __init__(self, step: float = 1.0) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_the_clock_ends_a_training(world):
    """With the first epoch that ends after so long, and the epochs before are as ever."""
    settings = config(epochs=20, patience=None)
    fitted = fit_model(settings, world, ("valid",), METRIC, seconds=4.5, clock=Clock())
    assert (fitted.epochs, fitted.stopped_by) == (5, "time")
    assert fitted.seconds == 6.0, "validation included"
    whole = alone(world, "valid", epochs=20, patience=None).history_
    values = [record["validation"][METRIC] for record in whole[:5]]
    assert fitted.choices["valid"].value == max(values)
    assert fitted.choices["valid"].epoch == values.index(max(values)) + 1


def test_the_last_epoch_is_no_matter_of_time(world):
    settings = config(epochs=3, patience=None)
    fitted = fit_model(settings, world, ("valid",), METRIC, seconds=2.5, clock=Clock())
    assert (fitted.epochs, fitted.stopped_by) == (3, "epochs")
    fitted = fit_model(settings, world, ("valid",), METRIC, seconds=100, clock=Clock())
    assert (fitted.epochs, fitted.stopped_by) == (3, "epochs")


def test_at_least_one_validation(world):
    settings = config(epochs=20, patience=None, validate_every=4)
    fitted = fit_model(settings, world, ("valid",), METRIC, seconds=0.5, clock=Clock())
    assert (fitted.epochs, fitted.stopped_by) == (4, "time")
    assert fitted.choices["valid"].epoch == 4


@pytest.mark.parametrize("epochs", [9, 11, 12])
def test_validations_are_some_epochs_apart(world, epochs):
    """And the last epoch is validated in any case."""
    training = {"epochs": epochs, "patience": None, "validate_every": 4}
    fitted = fit_model(config(**training), world, ALL, METRIC)
    assert fitted.epochs == epochs
    for on in ALL:
        assert_chosen_alike(fitted, world, on, **training)
        assert fitted.choices[on].epoch in (4, 8, epochs)


def test_patience_with_validations_apart(world):
    training = {"epochs": 40, "patience": 1, "validate_every": 2}
    fitted = fit_model(config(**training), world, ALL, METRIC)
    lengths = [assert_chosen_alike(fitted, world, on, **training) for on in ALL]
    assert fitted.epochs == max(lengths)


def test_a_training_that_explodes_says_so(world):
    with pytest.raises(TrainingError, match="NaN or infinite"):
        fit_model(config(epochs=50, lr=1e30), world, ("valid",), METRIC)


# --- references


def test_all_objectives_read_one_reference(world):
    fitted = fit_reference(EASE(l2=10), world, ALL, METRIC, TrainingConfig())
    assert (fitted.epochs, fitted.stopped_by) == (0, "itself")
    assert fitted.seconds > 0
    assert list(fitted.choices) == list(ALL)
    expected = Validation(world, ALL, METRIC, TrainingConfig())(EASE(l2=10).fit(world))
    assert {on: choice.value for on, choice in fitted.choices.items()} == expected
    assert len(set(expected.values())) > 1
    for choice in fitted.choices.values():
        assert (choice.epoch, choice.training) == (0, {})
        assert choice.scorer is fitted.choices["valid"].scorer


def test_objectives_of_references_have_the_shape_that_is_set(world):
    shaped = TrainingConfig(select_strength=2.0)
    fitted = [
        fit_reference(MostPop(), world, ("valid", "tempered"), METRIC, settings)
        for settings in (TrainingConfig(), shaped)
    ]
    plain, other = (f.choices for f in fitted)
    assert plain["valid"].value == other["valid"].value
    assert plain["tempered"].value != other["tempered"].value
    assert np.isfinite(plain["tempered"].value)
