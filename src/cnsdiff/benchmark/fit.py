"""One training, read by several validation objectives.

A method is trained once, and each objective keeps the epoch it likes best, as
:mod:`cnsdiff.training.selection` says. Training ends when none has found a better one for as long
as the configured patience says, or when the budget is spent.

An objective may pick the *dial* too (equation 22). While training it knows an epoch by the best of
a few dials on a sample of the users; the epoch that it keeps is read again, finely and on all.

A *rehearsal* (:mod:`cnsdiff.environment`) has a training of its own, on the earlier part of train
and valid. What it chooses, with the environment in place of the dial (equation 27), then trains on
all of both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.backbones.spectral import remembering
from cnsdiff.benchmark.grid import DIAL, REHEARSAL, is_dialled, without_dial
from cnsdiff.data import Dataset
from cnsdiff.environment import Environment, Rehearsal, rehearse
from cnsdiff.environment.environment import OwnUnits
from cnsdiff.evaluation import EmbeddingScorer, Scorer
from cnsdiff.evaluation.dial import Dialled
from cnsdiff.recommender.callbacks import Listeners
from cnsdiff.recommender.closed_form import served
from cnsdiff.recommender.config import Config, EvaluationConfig, second_config
from cnsdiff.recommender.fitting import Training, for_so_long, seen_of
from cnsdiff.recommender.run_directory import Fitted as FittedRun
from cnsdiff.recommender.run_directory import provenance as provenance_of
from cnsdiff.recommender.stack import Stack, best_stack, stacked
from cnsdiff.references import REFERENCES, Reference
from cnsdiff.training.checkpoint import EpochRecord
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.processes import make_fabric
from cnsdiff.training.progress import Reporter
from cnsdiff.training.selection import Selection, only_choice, selection_of


def objectives(
    names: Iterable[str], metric: str, settings: TrainingConfig
) -> dict[str, TrainingConfig]:
    """The validation objectives of a benchmark, as training configurations.

    Parameters
    ----------
    names
        ``"valid"``, ``"rehearsal"`` or names of
        :data:`~cnsdiff.evaluation.anticipation.Anticipated`; with ``"+dial"`` behind, at the dial
        or under the environment where the objective is best.
    metric
        Recall or NDCG at a cut-off.
    settings
        Its ``select_*`` fields shape the anticipated ones.
    """
    return {
        name: settings.model_copy(
            update={
                "select_on": without_dial(name),
                "select_metric": metric,
                "dial": "auto" if is_dialled(name) else "off",
            }
        )
        for name in names
    }


def selection_by(
    dataset: Dataset,
    names: Iterable[str],
    metric: str,
    settings: TrainingConfig,
    device: torch.device | str = "cpu",
) -> Selection:
    """A selection by these :func:`objectives`, for a scorer that is not trained here."""
    train = dataset.split("train").csr(dataset.n_users, dataset.n_items)
    return Selection(objectives(names, metric, settings), dataset, train, _ks(metric), device)


def rehearses(selections: Iterable[str]) -> bool:
    """Whether these selections are rehearsals, of which all of a training's are or none."""
    return any(without_dial(name) == REHEARSAL for name in selections)


def _ks(metric: str) -> tuple[int]:
    return (int(metric.partition("@")[2]),)


@dataclass
class Choice:
    """The choice of one validation objective.

    Attributes
    ----------
    scorer
        The model at the chosen epoch.
    value
        The validation objective there.
    epoch
        Which, from 1; 0 for a reference, which has none.
    training
        The scalars of that epoch's training: loss terms, false negatives.
    gamma
        The dial at which ``scorer`` reads the model; ``None`` if none was to be picked.
    candidate
        Which of several settings of a reference.
    environment
        What a rehearsal chose, under which ``scorer`` reads the model.
    history
        The epochs of the training as this objective measured them, until it ran out of patience.
    weights
        Those of all parts at that epoch; of a rehearsal, once everything has trained.
    stack
        What was chosen of two models; all else but ``scorer`` is the first's.
    """

    scorer: Scorer
    value: float
    epoch: int = 0
    training: Mapping[str, float] = field(default_factory=dict)
    gamma: float | None = None
    candidate: int = 0
    environment: Environment | None = None
    history: list[EpochRecord] = field(default_factory=list)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    stack: Stack | None = None


@dataclass
class Fitted:
    """A method fitted once, as each objective reads it.

    Attributes
    ----------
    choices
        By the name of the objective.
    epochs
        Trained in all.
    seconds
        Of fitting, validation included.
    stopped_by
        ``"patience"``, ``"epochs"``, ``"time"``; ``"itself"`` for a reference.
    """

    choices: dict[str, Choice]
    epochs: int
    seconds: float
    stopped_by: str

    def as_run(
        self, selection: str, config: Config, dataset: Dataset, metric: str, ks: Sequence[int]
    ) -> FittedRun:
        """What a recommender leaves that was fitted alike and chose by this objective alone.

        Parameters
        ----------
        selection, metric
            The objective, as :func:`objectives` takes it.
        config, dataset
            What was fitted, and on what.
        ks
            Cut-offs to evaluate at.
        """
        choice, rehearsed = self.choices[selection], rehearses([selection])
        (training,) = objectives([selection], metric, config.training).values()
        training = training.model_copy(update={"refit": rehearsed})
        stated = config.model_copy(
            update={"training": training, "evaluation": EvaluationConfig(ks=tuple(ks))}
        )
        scorer = choice.scorer
        while isinstance(scorer, Dialled | OwnUnits):
            scorer = scorer.scorer
        assert isinstance(scorer, Reference | EmbeddingScorer)
        history = choice.history
        if isinstance(scorer, Reference):  # whose solution counts as its one epoch
            dial = {} if choice.gamma is None else {"dial": choice.gamma}
            solved: EpochRecord = {
                "epoch": 1,
                "train": scorer.chosen(),
                "validation": {training.selection_metrics[0]: choice.value, **dial},
                "seconds": self.seconds,
                "validation_seconds": 0.0,
            }
            history = [solved]
        return FittedRun(
            stated,
            served(
                scorer,
                dataset.merged() if rehearsed else dataset,
                dial=choice.gamma or 0.0,
                environment=choice.environment,
                seen=seen_of(dataset, Listeners()),
            ),
            choice.weights,
            history,
            choice.epoch or 1,
            provenance_of(stated, dataset),
            choice.stack,
        )


@remembering()
def fit_model(
    config: Config,
    dataset: Dataset,
    selections: Sequence[str],
    metric: str,
    *,
    seconds: float | None = None,
    refit: bool = True,
    clock: Callable[[], float] = time.monotonic,
    reporter: Reporter | None = None,
) -> Fitted:
    """Train a configuration and let each validation objective pick its epoch.

    Parameters
    ----------
    config
        Its ``training.select_on``, ``select_metric`` and ``dial`` are not used.
    dataset
        No test split is read.
    selections, metric
        See :func:`objectives`.
    seconds
        Training ends with the first validation that ends after so long; a rehearsal, when as many
        epochs on everything would end after so long.
    refit
        Whether everything trains after a rehearsal; else its values are all that is wanted.
    clock
        In seconds, of ``seconds``: ``time.process_time`` counts those of CPU.
    reporter
        Told of each training; silent by default.

    Raises
    ------
    TrainingError
        A loss became NaN or infinite.
    """
    reporter = reporter or Reporter()
    started, begun = clock(), time.monotonic()
    on_cpu = clock is time.process_time

    def pace() -> float:
        return (clock() - started) / (time.monotonic() - begun) if on_cpu else 1.0

    fabric = make_fabric(config.device, config.precision, config.threads)
    rehearsal = None
    if rehearses(selections):
        rehearsal = rehearse(dataset, config.training.horizon)
    # Train, one model after the other where there is a stack of two.
    other = second_config(config)
    configs = [config] if other is None else [config, other]
    models = []
    for place, own in enumerate(configs):
        training = Training.of(
            own,
            dataset if rehearsal is None else rehearsal.dataset,
            fabric,
            objectives=objectives(selections, metric, own.training),
            ks=_ks(metric),
        )
        training.warn_of_full_users(dataset)
        due = math.inf if seconds is None else seconds * (place + 1) / len(configs)
        share = rehearsal.share if rehearsal is not None and refit else None
        models.append(_trained(training, share, lambda: clock() - started, due, pace, reporter))
    # Of each objective: the choice by the first model, or by the stack that it likes best.
    first = models[0]
    choices, selection = dict(first.choices), first.training.selection
    assert selection is not None
    chosen, weights = {}, {}
    if other is not None or (rehearsal is not None and refit):
        for name, choice in choices.items():
            tables = [model.tables[name] for model in models]
            chosen[name], weights[name] = best_stack(selection, tables, name)
            if other is not None:
                second = models[1].choices[name].epoch
                choice.stack = Stack(weights=list(weights[name]), best_epoch=second)
                choice.weights = choice.weights if weights[name][0] else {}
                choice.value = chosen[name].value
                choice.scorer = EmbeddingScorer(*stacked(tables, weights[name]))
    if isinstance(selection, Selection):
        if other is None:
            _place_dials(choices, selection)
        for name in filter(is_dialled, chosen):
            choice, dial = choices[name], chosen[name].dial
            choice.scorer = Dialled(choice.scorer, selection.exposure_score, dial)
            choice.gamma = dial
    elif rehearsal is not None and refit:
        environments = {name: chosen[name].environment for name in choices}
        learnt: dict[tuple[int, int], tuple[Embeddings, Mapping[str, Tensor]]] = {}

        def scorer_of(name: str) -> Scorer:
            assert rehearsal is not None
            tables = []
            for place, (own, model) in enumerate(zip(configs, models, strict=True)):
                epoch = rehearsal.epochs(model.choices[name].epoch)
                if weights[name][place] and (place, epoch) not in learnt:
                    again = Training.of(
                        for_so_long(own, epoch), rehearsal.whole, fabric, select=False
                    )
                    state = again.fit(reporter)
                    learnt[place, epoch] = again.embeddings(), state.best
                table, parts = learnt.get((place, epoch), (model.tables[name], {}))
                tables.append(table)
                if place == 0:
                    choices[name].weights = parts if weights[name][place] else {}
            return EmbeddingScorer(*stacked(tables, weights[name]))

        _learn_all(choices, environments, rehearsal, scorer_of)
    # Whatever clock ended the training, its time on the wall is recorded.
    took = time.monotonic() - begun if on_cpu else clock() - started
    return Fitted(choices, first.epochs, took, first.stopped_by)


class _Trained(NamedTuple):
    """A model trained once: its tables and the choice, by objective."""

    training: Training
    tables: dict[str, Embeddings]
    choices: dict[str, Choice]
    epochs: int
    stopped_by: str


def _trained(
    training: Training,
    share: float | None,
    passed: Callable[[], float],
    due: float,
    pace: Callable[[], float],
    reporter: Reporter,
) -> _Trained:
    """Train until it is ``due`` by the time ``passed``, of which a second takes ``pace``.

    ``share`` is that of the pairs that train where all of them train afterwards.
    """
    trained = 0.0

    def late(record: EpochRecord) -> bool:
        nonlocal trained
        trained += record["seconds"]
        to_come = 0.0 if share is None else pace() * trained / share**2
        return bool(record["validation"]) and passed() + to_come >= due

    state = training.fit(reporter, stop=late)
    choices, tables = {}, {}
    for name, choice in state.choices.items():
        training.trainer.step.load_state_dict(choice.weights, strict=False)
        epoch = choice.stopping.best_epoch
        (value,) = choice.stopping.best.values()
        # Copies: embeddings may be the weights themselves, which the next choice replaces.
        tables[name] = Embeddings(*(table.clone() for table in training.embeddings()))
        history = [
            EpochRecord({**record, "validation": choice.validations.get(record["epoch"], {})})
            for record in state.history[: max(choice.validations)]
        ]
        choices[name] = Choice(
            EmbeddingScorer(*tables[name]),
            value,
            epoch,
            state.history[epoch - 1]["train"],
            history=history,
            weights=choice.weights,
        )
    ended = "epochs" if state.epoch == training.config.training.epochs else "time"
    if all(choice.stopping.should_stop for choice in state.choices.values()):
        ended = "patience"
    return _Trained(training, tables, choices, state.epoch, ended)


def fit_reference(
    reference: Reference,
    dataset: Dataset,
    selections: Sequence[str],
    metric: str,
    settings: TrainingConfig,
    *,
    refit: bool = True,
) -> Fitted:
    """Fit a reference; every objective reads the same one. ``refit`` as in :func:`fit_model`."""
    started = time.monotonic()
    if rehearses(selections):
        rehearsal = rehearse(dataset, settings.horizon)
        choices = _rehearsed(reference, rehearsal, selections, metric, settings, refit=refit)
        return Fitted(choices, 0, time.monotonic() - started, "itself")
    scorer = reference.fit(dataset)
    selection = selection_by(dataset, selections, metric, settings)
    values = selection(scorer, [name for name in selections if not is_dialled(name)])
    choices = {
        name: Choice(
            scorer,
            values[name][objective.selection_metrics[0]] if name in values else float("nan"),
        )
        for name, objective in selection.objectives.items()
    }
    _place_dials(choices, selection, None if reference.dialled else (0.0,))
    return Fitted(choices, 0, time.monotonic() - started, "itself")


def best_of(fits: Sequence[Fitted]) -> Fitted:
    """One method with several settings: each objective keeps the one whose value is best."""
    choices = {}
    for name in fits[0].choices:
        values = [fitted.choices[name].value for fitted in fits]
        best = max(range(len(fits)), key=values.__getitem__)
        choices[name] = replace(fits[best].choices[name], candidate=best)
    seconds = sum(fitted.seconds for fitted in fits)
    return replace(fits[0], choices=choices, seconds=seconds)


def _rehearsed(
    reference: Reference,
    rehearsal: Rehearsal,
    selections: Sequence[str],
    metric: str,
    settings: TrainingConfig,
    *,
    refit: bool,
) -> dict[str, Choice]:
    """The choices of a rehearsal for a reference."""
    part = rehearsal.dataset
    scorer = reference.fit(part)
    wanted = objectives(selections, metric, settings)
    if not reference.dialled:  # what is the environment's own has no other
        wanted = {
            name: objective.model_copy(update={"dial": "off"}) for name, objective in wanted.items()
        }
    train = part.split("train").csr(part.n_users, part.n_items)
    selection = selection_of(wanted, part, train, _ks(metric))
    choices = {
        name: Choice(scorer, values[wanted[name].selection_metrics[0]])
        for name, values in selection(scorer).items()
    }
    if refit:
        environments = {name: only_choice(selection, scorer, name).environment for name in choices}
        whole = reference.fit(rehearsal.whole)
        _learn_all(choices, environments, rehearsal, lambda _: whole)
    return choices


def reference_scorer(
    name: str,
    dataset: Dataset,
    *,
    rehearsal: Rehearsal | None = None,
    settings: TrainingConfig | None = None,
) -> Scorer:
    """A reference fitted on a dataset, or as a rehearsal chooses it.

    Parameters
    ----------
    name
        Of :data:`~cnsdiff.references.REFERENCES`.
    dataset
        With a rehearsal not read.
    rehearsal
        Chooses the environment, and a setting that is left to it; then all of it is learnt.
    settings
        Say how it is measured, usually those of a model that the reference stands beside.
    """
    kind = REFERENCES[name]
    if rehearsal is None:
        return kind().fit(dataset)
    selection, settings = REHEARSAL + DIAL, settings or TrainingConfig()

    def choice(reference: Reference, *, refit: bool) -> Choice:
        metric = settings.select_metric
        return _rehearsed(reference, rehearsal, [selection], metric, settings, refit=refit)[
            selection
        ]

    candidates = kind.candidates(kind.Config(name=name))
    best = candidates[0]
    if candidates[1:]:
        best = max(candidates, key=lambda reference: choice(reference, refit=False).value)
    return choice(best, refit=True).scorer


def _learn_all(
    choices: Mapping[str, Choice],
    environments: Mapping[str, Environment | None],
    rehearsal: Rehearsal,
    scorer_of: Callable[[str], Scorer],
) -> None:
    """Read each choice of a rehearsal, once it has learnt everything, under its environment."""
    whole = rehearsal.whole
    for name, choice in choices.items():
        choice.scorer, environment = scorer_of(name), environments[name]
        choice.environment = environment
        if environment is not None:
            activity = environment.activity(whole.split("train"), whole.n_items)
            own = OwnUnits(choice.scorer)
            choice.scorer = Dialled(own, environment.bias(activity), 1.0, sigma=1.0)


def _place_dials(
    choices: Mapping[str, Choice],
    selection: Selection,
    dials: Sequence[float] | None = None,
) -> None:
    """Read each choice that has a dial at the best; those of one epoch are read together."""
    by_epoch: dict[int, list[str]] = {}
    for name in filter(is_dialled, choices):
        by_epoch.setdefault(choices[name].epoch, []).append(name)
    for names in by_epoch.values():
        scorer = choices[names[0]].scorer
        for name, (dial, value) in selection.place(scorer, names, dials).items():
            choice = choices[name]
            choice.scorer = Dialled(scorer, selection.exposure_score, dial)
            choice.gamma, choice.value = dial, value
