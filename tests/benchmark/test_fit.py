"""One training read by several objectives is as good as a training for each."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, ClassVar, get_args

import numpy as np
import pytest
import torch

from cnsdiff import Recommender
from cnsdiff.base.errors import TrainingError
from cnsdiff.benchmark.fit import Fitted, best_of, fit_model, fit_reference, selection_by
from cnsdiff.data import Dataset
from cnsdiff.evaluation import EmbeddingScorer, anticipate, evaluate_split
from cnsdiff.evaluation.anticipation import Anticipated, anticipated_name
from cnsdiff.evaluation.dial import (
    COARSE,
    FINE,
    Dialled,
    exposure_counts,
    exposure_score,
    prudent_dial,
    readings,
)
from cnsdiff.recommender.config import Config, resolve_config
from cnsdiff.recommender.fitting import assemble
from cnsdiff.references import EASE, MostPop, RandomScores, RecentMostPop
from cnsdiff.simulate import ConfoundedWorld
from cnsdiff.training import selection as module
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.loop import Trainer
from cnsdiff.training.processes import make_fabric
from cnsdiff.training.progress import Reporter
from cnsdiff.training.selection import Selection

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
    given = options(**{"dial": "off", **training})
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
    both = (
        [(r["train"], r["validation"].get(name)) for r in history]
        for history in (choice.history, model.history_)
    )
    assert next(both) == next(both)
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
    selection = selection_by(world, ALL, METRIC, TrainingConfig())
    assert min(choice.epoch for choice in fitted.choices.values()) < 20
    for on, choice in fitted.choices.items():
        assert value_of(selection, choice.scorer, on) == choice.value


def value_of(selection: Selection, scorer: Any, on: str) -> float:
    return selection(scorer, [on])[on][selection.objectives[on].selection_metrics[0]]


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
    selection = selection_by(world, ("valid", "recency"), "recall@5", settings.training)
    for on, choice in fitted.choices.items():
        assert choice.value == value_of(selection, choice.scorer, on)


def test_what_the_configuration_selects_by_is_not_used(world):
    fitted = fit_model(config(epochs=4, patience=None), world, ("valid", "tempered"), METRIC)
    other = config(epochs=4, patience=None, select_on="recency", select_metric="recall@10")
    again = fit_model(other, world, ("valid", "tempered"), METRIC)
    for on, choice in fitted.choices.items():
        assert (choice.epoch, choice.value) == (again.choices[on].epoch, again.choices[on].value)


# --- the dial

DIALLED = tuple(f"{name}+dial" for name in ALL)


def test_the_joint_choice_is_that_of_brute_force(world):
    """Over all epochs and dials, from the formulas; then finely at the epoch chosen."""
    names = ("valid+dial", "inverse-popularity+dial")
    fitted = fit_model(config(epochs=7, patience=None), world, names, METRIC)
    tables = embeddings_of_epochs(config(epochs=7, patience=None), world)
    for name in names:
        weighted = name.startswith("inverse")
        coarse = [
            {gamma: ndcg_by_hand(*table, world, gamma, weighted) for gamma in COARSE}
            for table in tables
        ]
        epochs = [max(values.values()) for values in coarse]
        choice = fitted.choices[name]
        assert choice.epoch == 1 + next(
            at for at, value in enumerate(epochs) if value > max(epochs) - 1e-9
        )
        table = tables[choice.epoch - 1]
        assert choice.gamma == placed(EmbeddingScorer(*map(torch.as_tensor, table)), world, name)
        value = ndcg_by_hand(*table, world, choice.gamma, weighted)
        assert choice.value == pytest.approx(value, abs=1e-9)
        assert isinstance(choice.scorer, Dialled) and choice.scorer.gamma == choice.gamma
    assert any(choice.gamma != 0 for choice in fitted.choices.values()), "nothing was turned"


def placed(scorer: Any, world: Dataset, name: str) -> float:
    """The prudent dial, from one whole evaluation at each."""
    on, valid = name.removesuffix("+dial"), world.split("valid")
    train = world.split("train").csr(world.n_users, world.n_items)
    shifts = [] if on == "valid" else [anticipate(on, valid, train, ks=(20,))]
    key = METRIC if on == "valid" else anticipated_name(METRIC, on)
    columns = {}
    for gamma in FINE:
        dialled = Dialled(scorer, exposure_score(world), gamma)
        found = evaluate_split(
            dialled, valid, train, ks=(20,), anticipations=shifts, per_user=True
        ).per_user
        columns[gamma] = found[key].to_numpy()
    return prudent_dial(columns)


def embeddings_of_epochs(settings: Config, dataset: Dataset) -> list[tuple[Any, Any]]:
    """Users' and items' after each epoch, of a training that stops nowhere."""
    step, positives, *_ = assemble(settings, dataset)
    found: list[tuple[Any, Any]] = []

    class Keeping:
        objectives: ClassVar = {"valid": TrainingConfig(select_metric=METRIC)}

        def __call__(self, scorer: Any, names: Any) -> dict[str, dict[str, float]]:
            tables = scorer.user_embeddings, scorer.item_embeddings
            found.append(tuple(table.clone().numpy() for table in tables))
            return {"valid": {METRIC: 0.0}}

    training = settings.training.model_copy(update={"patience": None})
    fabric = make_fabric("cpu", settings.precision, 1)
    Trainer(training, step, positives, seed=settings.seed, fabric=fabric).fit(Keeping(), Reporter())
    return found


def ndcg_by_hand(users: Any, items: Any, dataset: Dataset, gamma: float, weighted: bool) -> float:
    """NDCG@20 on validation, pairs weighing 1 or ``1 / pop_i``, at a dial."""
    train, valid = dataset.split("train"), dataset.split("valid")
    counts = np.bincount(train.items, minlength=dataset.n_items)
    logs = np.log(exposure_counts(dataset).numpy().clip(1))
    scores = users @ items.T
    sigma = np.mean([np.std(row.astype(float)) for row in scores])
    scores = scores + gamma * sigma * (logs - logs.mean()) / logs.std()
    total = norm = 0.0
    for user in set(valid.users.tolist()):
        seen = set(train.items[train.users == user].tolist())
        wanted = valid.items[valid.users == user].tolist()
        gains = {item: 1 / counts[item] if weighted else 1.0 for item in wanted}
        order = sorted(set(range(dataset.n_items)) - seen, key=lambda i: -scores[user, i])[:20]
        dcg = sum(gains.get(item, 0.0) / math.log2(at + 2) for at, item in enumerate(order))
        best = sorted(gains.values(), reverse=True)[:20]
        ideal = sum(gain / math.log2(at + 2) for at, gain in enumerate(best))
        weight = sum(gains.values()) / len(gains)
        total, norm = total + weight * dcg / ideal, norm + weight
    return total / norm


@pytest.mark.parametrize("dial_users", [2000, 9])
def test_a_training_by_itself_chooses_the_same_dial(world, monkeypatch, dial_users):
    monkeypatch.setattr(module, "DIAL_USERS", dial_users)
    training = {"epochs": 12, "patience": 2}
    fitted = fit_model(config(**training), world, DIALLED, METRIC)
    for on in ("valid", "inverse-popularity", "worst-slice"):
        choice, model = fitted.choices[f"{on}+dial"], alone(world, on, dial="auto", **training)
        assert (choice.epoch, choice.gamma) == (model.best_epoch_, model.dial_)
        assert choice.training == model.history_[choice.epoch - 1]["train"]
        assert isinstance(choice.scorer, Dialled)
        assert torch.equal(choice.scorer.scorer.item_embeddings, model.item_embeddings_)


@pytest.mark.parametrize("dial_users", [2000, 17])
def test_a_dial_beside_changes_nothing_else(world, monkeypatch, dial_users):
    """Bit by bit, in both directions, also where one goes on after the other has stopped."""
    monkeypatch.setattr(module, "DIAL_USERS", dial_users)
    settings = config(epochs=30, patience=2)
    both = fit_model(settings, world, (*ALL, *DIALLED), METRIC)
    plain = fit_model(settings, world, ALL, METRIC)
    dialled = fit_model(settings, world, DIALLED, METRIC)
    assert list(both.choices) == [*ALL, *DIALLED]
    for name in (*ALL, *DIALLED):
        one, other = both.choices[name], {**plain.choices, **dialled.choices}[name]
        assert (one.epoch, one.value, one.gamma) == (other.epoch, other.value, other.gamma)
        assert one.training == other.training
        users = torch.arange(world.n_users)
        scores = [
            scorer.score_block(users, 0, world.n_items) for scorer in (one.scorer, other.scorer)
        ]
        assert torch.equal(*scores)
    assert all(plain.choices[name].gamma is None for name in ALL)
    assert plain.epochs != dialled.epochs, "both stopped together, so nothing was tested"


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


def test_a_reference_is_read_at_its_best_dial(world):
    names = ("valid", "valid+dial", "inverse-popularity+dial", "inverse-popularity")
    fitted = fit_reference(EASE(l2=10), world, names, METRIC, TrainingConfig())
    assert list(fitted.choices) == list(names)
    plain = fit_reference(EASE(l2=10), world, names[::3], METRIC, TrainingConfig())
    model = EASE(l2=10).fit(world)
    train = world.split("train").csr(world.n_users, world.n_items)
    shift = anticipate("inverse-popularity", world.split("valid"), train, ks=(20,))

    def read(gammas: Sequence[float]) -> dict[float, dict[str, float]]:
        return readings(
            model,
            exposure_score(world),
            world.split("valid"),
            train,
            gammas=gammas,
            ks=(20,),
            anticipations=[shift],
        )

    for name, choice in fitted.choices.items():
        if name in plain.choices:
            assert choice.gamma is None and choice.value == plain.choices[name].value
            continue
        on = name.removesuffix("+dial")
        key = METRIC if on == "valid" else anticipated_name(METRIC, on)
        assert choice.gamma == placed(model, world, name)
        assert choice.value == read([choice.gamma])[choice.gamma][key]
        assert isinstance(choice.scorer, Dialled) and choice.scorer.gamma == choice.gamma
    assert fitted.choices["valid+dial"].gamma != 0


@pytest.mark.parametrize("reference", [MostPop(), RandomScores(seed=1)], ids=["mostpop", "random"])
def test_what_is_the_environment_or_noise_has_no_dial(world, reference):
    fitted = fit_reference(reference, world, (*ALL, *DIALLED), METRIC, TrainingConfig())
    for on in ALL:
        assert fitted.choices[f"{on}+dial"].gamma == 0
        assert fitted.choices[f"{on}+dial"].value == fitted.choices[on].value
        users = torch.arange(world.n_users)
        expected = reference.score_block(users, 0, world.n_items)
        scorer = fitted.choices[f"{on}+dial"].scorer
        assert torch.equal(scorer.score_block(users, 0, world.n_items), expected)


def test_all_objectives_read_one_reference(world):
    fitted = fit_reference(EASE(l2=10), world, ALL, METRIC, TrainingConfig())
    assert (fitted.epochs, fitted.stopped_by) == (0, "itself")
    assert fitted.seconds > 0
    assert list(fitted.choices) == list(ALL)
    selection, model = selection_by(world, ALL, METRIC, TrainingConfig()), EASE(l2=10).fit(world)
    expected = {on: value_of(selection, model, on) for on in ALL}
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


def test_a_half_life_left_to_validation_is_the_best_of_its_candidates():
    """Each objective keeps its own, with a rehearsal and without."""
    world = ConfoundedWorld(n_users=80, n_items=50, exposures=30, periods=6, seed=1)
    dataset = world.dataset("temporal")
    config = RecentMostPop.Config(name="recent-mostpop")
    for selections in (("valid", "recency"), ("rehearsal+dial",)):
        fits = [
            fit_reference(own, dataset, selections, "ndcg@20", TrainingConfig())
            for own in RecentMostPop.candidates(config)
        ]
        chosen = best_of(fits).choices
        for name in selections:
            values = [fitted.choices[name].value for fitted in fits]
            assert chosen[name].value == max(values)
            best = chosen[name].candidate
            assert values[best] == max(values)
            assert chosen[name].scorer is fits[best].choices[name].scorer


def test_a_budget_of_cpu_is_not_used_up_by_waiting(world, monkeypatch):
    """Time that other work takes counts on the wall alone, which is what is recorded."""
    processor = Clock()
    monkeypatch.setattr(time, "process_time", processor)
    settings = config(epochs=20, patience=None)
    fitted = fit_model(settings, world, ("valid",), METRIC, seconds=4.5, clock=time.process_time)
    assert (fitted.epochs, fitted.stopped_by) == (5, "time")
    assert fitted.seconds < 4.5 < processor.now
