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

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from cnsdiff.benchmark.grid import REHEARSAL, is_dialled, without_dial
from cnsdiff.data import Dataset
from cnsdiff.environment import Environment, Rehearsal, rehearse
from cnsdiff.evaluation import EmbeddingScorer, Scorer
from cnsdiff.evaluation.dial import Dialled, spread
from cnsdiff.recommender.config import Config
from cnsdiff.recommender.fitting import Training, for_so_long
from cnsdiff.references import Reference
from cnsdiff.training.checkpoint import EpochRecord
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.processes import make_fabric
from cnsdiff.training.progress import Reporter
from cnsdiff.training.selection import EnvironmentSelection, Selection


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
    """

    scorer: Scorer
    value: float
    epoch: int = 0
    training: Mapping[str, float] = field(default_factory=dict)
    gamma: float | None = None


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


def fit_model(
    config: Config,
    dataset: Dataset,
    selections: Sequence[str],
    metric: str,
    *,
    seconds: float | None = None,
    refit: bool = True,
    clock: Callable[[], float] = time.monotonic,
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
        In seconds; for tests.

    Raises
    ------
    TrainingError
        A loss became NaN or infinite.
    """
    started = clock()
    fabric = make_fabric(config.device, config.precision, config.threads)
    rehearsal = None
    if rehearses(selections):
        rehearsal = rehearse(dataset, config.training.horizon)
    training = Training.of(
        config,
        dataset if rehearsal is None else rehearsal.dataset,
        fabric,
        objectives=objectives(selections, metric, config.training),
        ks=_ks(metric),
    )
    training.warn_of_full_users(dataset)
    trained = 0.0

    def late(record: EpochRecord) -> bool:
        nonlocal trained
        trained += record["seconds"]
        if seconds is None or not record["validation"]:
            return False
        to_come = trained / rehearsal.share**2 if rehearsal is not None and refit else 0.0
        return clock() - started + to_come >= seconds

    state = training.trainer.fit(training.selection, Reporter(), stop=late)
    choices = {}
    for name, choice in state.choices.items():
        training.trainer.step.load_state_dict(choice.weights, strict=False)
        epoch = choice.stopping.best_epoch
        (value,) = choice.stopping.best.values()
        # Copies: embeddings may be the weights themselves, which the next choice replaces.
        scorer = EmbeddingScorer(*(table.clone() for table in training.embeddings()))
        choices[name] = Choice(scorer, value, epoch, state.history[epoch - 1]["train"])
    if rehearsal is None:
        assert isinstance(training.selection, Selection)
        _place_dials(choices, training.selection)
    elif refit:
        assert isinstance(training.selection, EnvironmentSelection)
        environments = {
            name: training.selection.environment(choice.scorer, name)
            for name, choice in choices.items()
        }

        def fitted(epoch: int) -> Scorer:
            assert rehearsal is not None
            again = Training.of(
                for_so_long(config, rehearsal.epochs(epoch)), rehearsal.whole, fabric, select=False
            )
            again.trainer.fit(None, Reporter())
            return EmbeddingScorer(*again.embeddings())

        _learn_all(choices, environments, rehearsal, fitted)
    ended = "epochs" if state.epoch == config.training.epochs else "time"
    if all(choice.stopping.should_stop for choice in state.choices.values()):
        ended = "patience"
    return Fitted(choices, state.epoch, clock() - started, ended)


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
    choices: dict[str, Choice]
    if rehearses(selections):
        rehearsal = rehearse(dataset, settings.horizon)
        part = rehearsal.dataset
        scorer = reference.fit(part)
        wanted = objectives(selections, metric, settings)
        if not reference.dialled:  # what is the environment's own has no other
            wanted = {
                name: objective.model_copy(update={"dial": "off"})
                for name, objective in wanted.items()
            }
        train = part.split("train").csr(part.n_users, part.n_items)
        rehearsed = EnvironmentSelection(wanted, part, train, _ks(metric))
        choices = {
            name: Choice(scorer, values[wanted[name].selection_metrics[0]])
            for name, values in rehearsed(scorer).items()
        }
        if refit:
            environments = {name: rehearsed.environment(scorer, name) for name in choices}
            _learn_all(choices, environments, rehearsal, lambda _: reference.fit(rehearsal.whole))
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


def _learn_all(
    choices: Mapping[str, Choice],
    environments: Mapping[str, Environment | None],
    rehearsal: Rehearsal,
    fit: Callable[[int], Scorer],
) -> None:
    """Fit each choice of a rehearsal on everything, and read it under its environment.

    ``fit`` is given the best epoch of the rehearsal, and called once for each.
    """
    whole = rehearsal.whole
    scorers: dict[int, Scorer] = {}
    for name, choice in choices.items():
        if choice.epoch not in scorers:
            scorers[choice.epoch] = fit(choice.epoch)
        choice.scorer, environment = scorers[choice.epoch], environments[name]
        if environment is not None:
            bias = environment.bias(whole.split("train"), whole.n_items, spread(choice.scorer))
            choice.scorer = Dialled(choice.scorer, bias, 1.0, sigma=1.0)


def _place_dials(
    choices: Mapping[str, Choice], selection: Selection, dials: Sequence[float] | None = None
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
