"""One training, read by several validation objectives.

A method is trained once, and each objective keeps the epoch it likes best, as
:mod:`cnsdiff.training.selection` says. Training ends when none has found a better one for as long
as the configured patience says, or when the budget is spent.

An objective may pick the *dial* too (equation 22). While training it knows an epoch by the best of
a few dials on a sample of the users; the epoch that it keeps is read again, finely and on all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from cnsdiff.benchmark.grid import is_dialled, without_dial
from cnsdiff.data import Dataset
from cnsdiff.evaluation import EmbeddingScorer, Scorer
from cnsdiff.evaluation.dial import Dialled
from cnsdiff.recommender.config import Config
from cnsdiff.recommender.fitting import Training
from cnsdiff.references import Reference
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.processes import make_fabric
from cnsdiff.training.progress import Reporter
from cnsdiff.training.selection import Selection


def objectives(
    names: Iterable[str], metric: str, settings: TrainingConfig
) -> dict[str, TrainingConfig]:
    """The validation objectives of a benchmark, as training configurations.

    Parameters
    ----------
    names
        ``"valid"``, or names of :data:`~cnsdiff.evaluation.anticipation.Anticipated`; with
        ``"+dial"`` behind, at the dial where the objective is best.
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
        Training ends with the first validation that ends after so long.
    clock
        In seconds; for tests.

    Raises
    ------
    TrainingError
        A loss became NaN or infinite.
    """
    started = clock()
    training = Training.of(
        config,
        dataset,
        make_fabric(config.device, config.precision, config.threads),
        objectives=objectives(selections, metric, config.training),
        ks=_ks(metric),
    )
    training.warn_of_full_users(dataset)
    state = training.trainer.fit(
        training.selection,
        Reporter(),
        stop=lambda record: (
            bool(record["validation"]) and seconds is not None and clock() - started >= seconds
        ),
    )
    choices = {}
    for name, choice in state.choices.items():
        training.trainer.step.load_state_dict(choice.weights, strict=False)
        epoch = choice.stopping.best_epoch
        (value,) = choice.stopping.best.values()
        # Copies: embeddings may be the weights themselves, which the next choice replaces.
        scorer = EmbeddingScorer(*(table.clone() for table in training.embeddings()))
        choices[name] = Choice(scorer, value, epoch, state.history[epoch - 1]["train"])
    assert isinstance(training.selection, Selection)
    _place_dials(choices, training.selection)
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
) -> Fitted:
    """Fit a reference; every objective reads the same one."""
    started = time.monotonic()
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
