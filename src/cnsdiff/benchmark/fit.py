"""One training, read by several validation objectives.

The epochs of one training are what early stopping chooses from. Which epoch is best depends on the
validation objective, the epochs themselves do not: so a method is trained once, and each objective
keeps the epoch it likes best. Training ends when none has found a better one for as long as the
configured patience says, or when the budget is spent.

An objective may pick the *dial* too (equation 22). While training it knows an epoch by the best of a
few dials on a sample of the users; the epoch that it keeps is read again, finely and on all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cnsdiff.backbones.base import Embeddings
from cnsdiff.benchmark.grid import PLAIN, is_dialled
from cnsdiff.benchmark.validation import Validation
from cnsdiff.data import Dataset
from cnsdiff.evaluation import EmbeddingScorer, Scorer
from cnsdiff.recommender.config import Config
from cnsdiff.recommender.fitting import assemble, tell_of_full_users
from cnsdiff.references import Reference
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.loop import Trainer
from cnsdiff.training.probe import false_negative_probe
from cnsdiff.training.processes import make_fabric
from cnsdiff.training.progress import Reporter
from cnsdiff.training.selection import DIAL_USERS, EarlyStopping


@dataclass
class Choice:
    """What one validation objective chose.

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


class _Track:
    """What one objective has chosen so far."""

    def __init__(self, name: str, patience: int | None) -> None:
        self.name = name
        self.stopping = EarlyStopping([name], patience)
        self.embeddings: Embeddings | None = None

    def update(self, epoch: int, values: Mapping[str, float], embeddings: Embeddings) -> None:
        if self.stopping.update(epoch, values):
            self.embeddings = Embeddings(*(table.detach().clone() for table in embeddings))


def fit_model(
    config: Config,
    dataset: Dataset,
    selections: Sequence[str],
    metric: str,
    *,
    seconds: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    dial_users: int = DIAL_USERS,
) -> Fitted:
    """Train a configuration and let each validation objective pick its epoch.

    Parameters
    ----------
    config
        Its ``training.select_on``, ``select_metric`` and ``dial`` are not used.
    dataset
        No test split is read.
    selections, metric, dial_users
        See :class:`~cnsdiff.benchmark.validation.Validation`.
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
    step, positives = assemble(config, dataset)
    tell_of_full_users(step, dataset)
    fabric = make_fabric(config.device, config.precision, config.threads)
    settings = config.training
    # The trainer's own choice goes by plain validation and never ends the training.
    plain = {"select_on": "valid", "select_metric": metric, "patience": None}
    validation = Validation(dataset, selections, metric, settings, fabric.device, dial_users)
    size = settings.batch_size_for(len(positives))
    patience = settings.patience_in_validations(-(-len(positives) // size))
    tracks = [_Track(name, patience) for name in selections]
    done = 0
    fresh = False  # whether the epoch just trained has been validated

    def validate(embeddings: Embeddings) -> dict[str, float]:
        nonlocal done, fresh
        fresh = True
        done = min(done + settings.validate_every, settings.epochs)
        # Out of patience, it would have stopped: what others train on for is not its own.
        going = [track for track in tracks if not track.stopping.should_stop]
        values = validation(EmbeddingScorer(*embeddings), [track.name for track in going])
        for track in going:
            track.update(done, values, embeddings)
        return {metric: values.get(PLAIN, next(iter(values.values())))}

    def late() -> bool:
        return seconds is not None and clock() - started >= seconds

    def stale() -> bool:
        return all(track.stopping.should_stop for track in tracks)

    def ends() -> bool:
        nonlocal fresh
        validated, fresh = fresh, False
        return validated and (stale() or late())

    trainer = Trainer(
        settings.model_copy(update=plain),
        seed=config.seed,
        fabric=fabric,
        probe=false_negative_probe(settings, dataset, positives, config.seed, fabric.device),
    )
    state = trainer.fit(step, positives, validate, Reporter(), stop=ends)
    history = {record["epoch"]: record["train"] for record in state.history}
    choices = {}
    for track in tracks:
        assert track.embeddings is not None
        epoch = track.stopping.best_epoch
        choices[track.name] = Choice(
            EmbeddingScorer(*track.embeddings),
            track.stopping.best[track.name],
            epoch,
            history[epoch],
        )
    _place_dials(choices, validation)
    ended = "patience" if stale() else "epochs" if state.epoch == settings.epochs else "time"
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
    validation = Validation(dataset, selections, metric, settings)
    values = validation(scorer, [name for name in selections if not is_dialled(name)])
    choices = {name: Choice(scorer, values.get(name, float("nan"))) for name in selections}
    _place_dials(choices, validation, None if reference.dialled else (0.0,))
    return Fitted(choices, 0, time.monotonic() - started, "itself")


def _place_dials(
    choices: Mapping[str, Choice], validation: Validation, gammas: Sequence[float] | None = None
) -> None:
    """Read each choice that has a dial at the best; those of one epoch are read together."""
    by_epoch: dict[int, list[str]] = {}
    for name in filter(is_dialled, choices):
        by_epoch.setdefault(choices[name].epoch, []).append(name)
    for names in by_epoch.values():
        for name, found in validation.read(choices[names[0]].scorer, names, gammas).items():
            choice = choices[name]
            choice.scorer, choice.gamma, choice.value = found
