"""Models solved in closed form, from a configuration and a dataset to what is served.

There is one epoch: the solution. What picks the epoch of other models picks the dial, or the
environment of a rehearsal, and a setting that is left to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.errors import ConfigError
from cnsdiff.data import Dataset
from cnsdiff.data.side_tables import Seen
from cnsdiff.environment import Environment
from cnsdiff.evaluation import EmbeddingScorer
from cnsdiff.evaluation.dial import exposure_score, spread
from cnsdiff.kernels.memory import shortage_told
from cnsdiff.recommender import run_directory
from cnsdiff.recommender.callbacks import Callback, FitContext, Listeners
from cnsdiff.recommender.config import Config
from cnsdiff.recommender.embedding_model import EmbeddingModel, ItemItemModel, Model
from cnsdiff.recommender.fitting import CONFIGURED, decided, seen_of
from cnsdiff.recommender.run_directory import Fitted
from cnsdiff.references import CLOSED_FORM, Reference, ReferenceConfig
from cnsdiff.training.checkpoint import EpochRecord
from cnsdiff.training.processes import make_fabric, place
from cnsdiff.training.progress import Reporter
from cnsdiff.training.selection import (
    EarlyStopping,
    EnvironmentSelection,
    Selection,
    only_choice,
    selection_of,
)


@shortage_told("fitting", "take a model with fewer parameters, such as itemknn with few neighbours")
def fit_closed_form(
    config: Config,
    dataset: Dataset,
    *,
    keep: Callable[[Fitted], None],
    classes: Mapping[str, type[Any]],
    run: Path | None = None,
    reporter: Reporter | None = None,
    callbacks: Sequence[Callback] = (),
    stop: Callable[[EpochRecord], bool] | None = None,
) -> None:
    """Solve, and write the run directory; as :func:`cnsdiff.recommender.fitting.fit`."""
    assert isinstance(config.backbone, ReferenceConfig)
    name, listeners = config.backbone.name, Listeners(reporter, callbacks)
    if place().count > 1:
        raise ConfigError(f"a model {name!r} is solved in one process; train it without torchrun")
    device = make_fabric(config.device, config.precision, config.threads).device
    # Prepare: candidates, what is chosen on, and the selection; then the run directory.
    candidates = CLOSED_FORM[name].candidates(
        config.backbone, seed=config.seed, threads=config.threads, device=device
    )
    candidates[0].require(dataset)  # refuse before anything is written
    provenance = run_directory.provenance(config, dataset)
    stated = config
    config, part = decided(stated, dataset, listeners.note)
    chosen_on = dataset if part is None else part.dataset
    selection = _selection(config, chosen_on, device)
    for note in selection.notes:
        listeners.note(note)
    with ExitStack() as stack:
        if run is not None:
            stack.enter_context(run_directory.training_in(run, stated, dataset))
        try:
            # Solve, choose, place the dial, and write.
            listeners.begin_fit(FitContext(stated, provenance, run, listeners.reporter.note))
            reference, record = _best(candidates, chosen_on, selection, listeners, stop)
            learnt = dataset
            choice = only_choice(selection, reference, CONFIGURED)
            if part is not None:
                learnt = part.whole
                listeners.note(f"fitting all {len(learnt.split('train')):,} pairs")
                reference.fit(learnt)
            model = served(
                reference,
                learnt,
                dial=choice.dial,
                environment=choice.environment,
                seen=seen_of(dataset, listeners),
            )
            fitted = Fitted(stated, model, {}, [record], 1, provenance)
            keep(fitted)
            if run is not None:
                fitted.write(run)
        except BaseException as error:
            listeners.abort_fit(error)
            raise
        listeners.end_fit(fitted)


def _selection(
    config: Config, dataset: Dataset, device: torch.device
) -> Selection | EnvironmentSelection:
    """What chooses; scores that are the environment's own have neither dial nor environment."""
    settings = config.training
    if not config.dialled and settings.dial == "auto":
        settings = settings.model_copy(update={"dial": "off"})
    train = dataset.split("train").csr(dataset.n_users, dataset.n_items)
    return selection_of({CONFIGURED: settings}, dataset, train, config.evaluation.ks, device)


def _best(
    candidates: Sequence[Reference],
    dataset: Dataset,
    selection: Selection | EnvironmentSelection,
    listeners: Listeners,
    stop: Callable[[EpochRecord], bool] | None,
) -> tuple[Reference, EpochRecord]:
    """The candidate that the selection likes best, fitted, and its record as an epoch."""
    metrics = selection.objectives[CONFIGURED].selection_metrics
    stopping = EarlyStopping(metrics, None)
    best: Reference | None = None
    record: EpochRecord = {
        "epoch": 1, "train": {}, "validation": {}, "seconds": 0.0, "validation_seconds": 0.0
    }  # fmt: skip
    with listeners:
        listeners.before([], stopping)
        listeners.begin(0, 1, len(candidates))
        for candidate in candidates:
            started = time.perf_counter()
            candidate.fit(dataset)
            fitted = time.perf_counter()
            values = selection(candidate)[CONFIGURED]
            record["seconds"] += fitted - started
            record["validation_seconds"] += time.perf_counter() - fitted
            if stopping.update(1, values):
                best = candidate
                record["validation"] = {name: values[name] for name in metrics} | values
                if isinstance(selection, EnvironmentSelection):
                    record["validation"].setdefault("environment", 0.0)  # none is added
            listeners.step(1, None)
        assert best is not None
        record["train"] = best.chosen()
        if len(candidates) > 1:
            told = ", ".join(f"{name} {value:g}" for name, value in record["train"].items())
            listeners.note(f"of {len(candidates)} candidates, that with {told} is best")
        listeners.epoch(record, best=True)
        if stop is not None:
            stop(record)
    return best, record


def served(
    scorer: Reference | EmbeddingScorer,
    learnt: Dataset,
    *,
    dial: float,
    environment: Environment | None,
    seen: Seen | None,
) -> Model:
    """What is saved and served of a scorer that learnt the train split of a dataset.

    Parameters
    ----------
    scorer
        As it was fitted, at dial 0 and without an environment.
    dial, environment
        What was chosen to read it under.
    seen
        What else the log says of its users.
    """
    if isinstance(scorer, Reference):
        solution = scorer.solution()
    else:
        solution = Embeddings(scorer.user_embeddings, scorer.item_embeddings)
    model: Callable[..., Model]
    if isinstance(solution, tuple):
        tables = solution if environment is None else solution.in_own_units()
        users, items = (table.float().cpu() for table in tables)
        model = partial(EmbeddingModel, user_embeddings=users, item_embeddings=items)
    else:
        weights = solution.cpu() if isinstance(solution, Tensor) else solution
        model = partial(ItemItemModel, weights=weights)
    train = learnt.split("train")
    activity = bias = None
    if environment is None:
        sigma = spread(scorer)
    else:
        sigma = 1.0
        activity = environment.activity(train, learnt.n_items)
        bias = environment.bias(activity)
    return model(
        users=learnt.users,
        items=learnt.items,
        train=train.csr(learnt.n_users, learnt.n_items),
        dial_step=sigma * exposure_score(learnt),
        dial=dial,
        seen=seen,
        environment=environment,
        bias=bias,
        activity=activity,
        sigma=sigma,
        own_units=environment is not None,
    )
