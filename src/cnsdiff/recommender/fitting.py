"""Training from a configuration and a dataset to what it leaves."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from cnsdiff.backbones import BACKBONES, BackboneConfig
from cnsdiff.backbones.base import Embeddings
from cnsdiff.backbones.spectral import listening, remembering
from cnsdiff.base.errors import CnsdiffWarning, ConfigError, DataError
from cnsdiff.base.seeding import torch_generator
from cnsdiff.base.text import parameter
from cnsdiff.content.choice import TRIED, choose_content, learnt_on
from cnsdiff.content.features import FeatureEncoder, require_content
from cnsdiff.content.model import Content, ContentChoice, ContentModel, Learnt
from cnsdiff.data import Dataset
from cnsdiff.data.positives import Positives
from cnsdiff.data.side_tables import Seen
from cnsdiff.data.target import target_counts
from cnsdiff.environment import Rehearsal, hold_out, hold_out_items, known_shift, rehearse
from cnsdiff.evaluation import EmbeddingScorer
from cnsdiff.evaluation.dial import dial_bias, exposure_score, spread
from cnsdiff.kernels.memory import require_memory, shortage_told
from cnsdiff.objectives.objective import Objective
from cnsdiff.recommender import run_directory
from cnsdiff.recommender.callbacks import Callback, FitContext, Listeners
from cnsdiff.recommender.config import Config, second_config
from cnsdiff.recommender.embedding_model import EmbeddingModel
from cnsdiff.recommender.run_directory import Fitted
from cnsdiff.recommender.stack import Stack, Weights, best_stack, stacked
from cnsdiff.recommender.warm_start import Rehearsed, WarmStart, begin_at
from cnsdiff.samplers import SAMPLERS
from cnsdiff.training.checkpoint import EpochRecord, TrainingState
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.loop import Trainer
from cnsdiff.training.probe import false_negative_probe
from cnsdiff.training.processes import Processes, joined, make_fabric
from cnsdiff.training.progress import Reporter
from cnsdiff.training.selection import (
    FEW_USERS,
    Choice,
    EnvironmentSelection,
    Selection,
    selection_of,
)
from cnsdiff.training.sharding import Shard, ShardedBackbone, require_shardable
from cnsdiff.training.slices import Layout
from cnsdiff.training.step import TrainingStep

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: The name of the objective that a configuration itself states.
CONFIGURED = "configured"


@shortage_told(
    "training", "lower training.batch_size, backbone.dim or the sizes that the sampler has"
)
def fit(
    config: Config,
    dataset: Dataset,
    *,
    keep: Callable[[Fitted], None],
    classes: Mapping[str, type[Any]],
    run: Path | None = None,
    reporter: Reporter | None = None,
    callbacks: Sequence[Callback] = (),
    stop: Callable[[EpochRecord], bool] | None = None,
    start: WarmStart | None = None,
) -> None:
    """Train, and write the run directory.

    Parameters
    ----------
    config, dataset
        What to train, and on what.
    keep
        Given what training leaves before anything is written, so that a full disk does not lose
        it; of processes that share the tables, called in the first alone.
    classes
        Components to take in place of those named, by ``"backbone"`` and ``"sampler"``.
    run, reporter, callbacks, stop
        See :meth:`cnsdiff.Recommender.fit`, whose errors these are.
    start
        Where the tables of the first model begin, for a dataset that has only train. A run that
        was begun with one goes on with its own.
    """
    listeners = Listeners(reporter, callbacks)
    if run is not None and (run / run_directory.START).exists():
        start = WarmStart.load(run / run_directory.START)
    fabric = make_fabric(config.device, config.precision, config.threads)
    with joined(fabric.device) as processes, ExitStack() as context:
        if not processes.first:
            listeners = Listeners()
        if not processes.several:  # the tables may be cut among them, or lie on other machines
            _require_memory(config, dataset, on_cpu=fabric.device.type == "cpu")
        # Prepare: components, trainer and selection; then the run directory.
        provenance = run_directory.provenance(config, dataset)
        fingerprints = {
            "configuration": provenance.config_fingerprint,
            "dataset": provenance.dataset.fingerprint,
        }

        exponent = None
        if config.training.select_on == "target-counts":
            exponent = negatives_exponent(config)
        encoded = None
        if config.content.prior != "none":
            _require_content(config, dataset)
            encoded = _encoded(config, dataset, listeners.reporter)
        stated = config
        known_until = None if start is None else start.rehearsed.moment
        config, part = decided(stated, dataset, listeners.note, known_until)
        chosen_on = dataset if part is None else part.dataset
        if part is not None:  # refuse now what would fail in the end
            pairs = part.whole.split("train")
            if len(pairs) == dataset.n_users * dataset.n_items:
                Positives.of_split(pairs, dataset.n_users, dataset.n_items).require_negatives()

        def training_of(
            place: int, data: Dataset, *, epochs: int | None = None, file: str
        ) -> Training:
            """That of the first model or the second: to choose, or for a number of epochs."""
            own = configs[place] if epochs is None else for_so_long(configs[place], epochs)
            begun: Embeddings | None = None
            if start is not None and place == 0:
                if epochs is None:
                    begun = start.of_part(data.users, data.items).rehearsed.tables
                    # There is no plateau to sit out.
                    training = own.training.model_copy(update={"patience_steps": 0})
                    own = own.model_copy(update={"training": training})
                elif data is dataset:
                    begun = start.trained
            with listeners.starting() as tell, listening(tell):
                return Training.of(
                    own,
                    data,
                    fabric=fabric,
                    select=epochs is None,
                    processes=processes,
                    classes=classes if place == 0 else {},
                    checkpoint=None if run is None else run / file,
                    identity=fingerprints,
                    start=begun,
                )

        other = second_config(config)
        configs = [config] if other is None else [config, other]
        if other is not None:
            context.enter_context(remembering())
        files = run_directory.CHECKPOINTS
        trainings = {
            place: training_of(place, chosen_on, file=files[place]) for place in range(len(configs))
        }
        for note in trainings[0].notes:
            listeners.note(note)
        if processes.first:
            trainings[0].warn_of_full_users(chosen_on)
        if run is not None:
            opened = run_directory.training_in(run, stated, dataset)
            processes.from_first(lambda: context.enter_context(opened))
            if start is not None and processes.first:
                start.save(run / run_directory.START)
        fit_context = FitContext(stated, provenance, run, listeners.reporter.note)
        try:
            # Train, and choose dial or environment, and of two models the weights.
            processes.from_first(lambda: listeners.begin_fit(fit_context))
            states = [trainings[0].fit(listeners, stop=stop)]
            if other is not None:
                listeners.note(f"now the second model, {stated.stack.preset}")
                states.append(trainings[1].fit(listeners.reporter))
            epochs = [state.stopping["best_epoch"] for state in states]
            history = states[0].history
            rehearsed = None
            if part is not None and config.training.rehearses and not trainings[0].sharded:
                times = part.dataset.split("train").timestamps
                assert times is not None
                rehearsed = Rehearsed.of_part(
                    states[0].best,
                    (part.dataset.users, part.dataset.items),
                    (dataset.n_users, dataset.n_items),
                    float(times.max()),
                )
            # Each process gives its share.
            tables = [training.embeddings() for training in trainings.values()]
            selection = trainings[0].selection
            assert selection is not None
            choice, weights = processes.from_first(
                lambda: best_stack(selection, tables, CONFIGURED)
            )
            stack = None
            if other is not None:
                stack = Stack(weights=list(weights), best_epoch=epochs[1])
                listeners.note("weights of the two: {:g} and {:g}".format(*weights))
            # Choose what is made of the items' features.
            content_choice = None
            if encoded is not None:
                content_choice = _choose_content(
                    config, dataset, part, encoded[1],
                    _in_units_of(choice, stacked(tables, weights)), choice,
                    training_of, epochs, weights, listeners.reporter,
                )  # fmt: skip
            # Train on everything.
            learnt = dataset
            if part is not None:
                learnt = part.whole
                for place, best in enumerate(epochs):
                    if not weights[place]:
                        continue
                    listeners.note(
                        f"epoch {best} is best; training on all {len(learnt.split('train')):,} "
                        f"pairs for {part.epochs(best)} epochs"
                    )
                    del trainings[place]  # its room is needed
                    again = training_of(
                        place, learnt, epochs=part.epochs(best), file=files[2 + place]
                    )
                    states[place] = again.fit(listeners.reporter)
                    trainings[place], tables[place] = again, again.embeddings()
            # Put the model together, and write.
            training = trainings[0 if weights[0] else 1]
            if training.sharded and not processes.first:
                return  # what it has is no model
            embeddings, content = _in_units_of(choice, stacked(tables, weights)), None
            own_units = choice.environment is not None
            sigma = 1.0 if own_units else spread(EmbeddingScorer(*embeddings))
            if content_choice is not None and content_choice.used:
                assert encoded is not None
                listeners.note("learning from the features of all items")
                content, embeddings = _learn_content(
                    content_choice, *encoded, learnt, embeddings, config.seed
                )
                sigma, own_units = 1.0, False  # of the part that was learnt from pairs alone
            bias, activity = None, None
            if learnt is dataset and isinstance(selection, Selection):  # it has counted already
                score = selection.exposure_score
            else:
                score = exposure_score(learnt)
            if exponent is not None:
                counts = np.bincount(learnt.split("train").items, minlength=dataset.n_items)
                temperature = config.objective.temperature
                bias = known_shift(counts, target_counts(dataset), temperature, exponent)
            if choice.environment is not None:
                activity = choice.environment.activity(learnt.split("train"), dataset.n_items)
                bias = choice.environment.bias(activity)
            model = EmbeddingModel(
                users=dataset.users,
                items=dataset.items,
                user_embeddings=embeddings.users.detach().float().cpu(),
                item_embeddings=embeddings.items.detach().float().cpu(),
                train=training.train,
                dial_step=sigma * score,
                dial=choice.dial,
                seen=seen_of(dataset, listeners),
                environment=choice.environment,
                bias=bias,
                activity=activity,
                sigma=sigma,
                own_units=own_units,
                content=content,
                content_choice=content_choice,
            )
            # A first model that is left out has not trained on everything, if that was asked for.
            best = states[0].best if weights[0] else {}
            fitted = Fitted(stated, model, best, history, epochs[0], provenance, stack, rehearsed)
            keep(fitted)
            if run is not None and processes.first:
                fitted.write(run)
        except BaseException as error:
            listeners.abort_fit(error)
            raise
        listeners.end_fit(fitted)


def _require_content(config: Config, dataset: Dataset) -> None:
    """Refuse now what would fail when all is trained."""
    require_content()
    if "item_features" not in dataset.table_names:
        raise DataError(
            f"{dataset.path or dataset.name}: has no item features to learn from; prepare it with "
            f"{parameter('item_features', ...)}, or train without content (content.prior: none)"
        )
    if config.training.select_on == "target-counts" or config.training.shard:
        setting = "shard" if config.training.shard else "select_on: target-counts"
        raise ConfigError(
            f"content.prior={config.content.prior} does not go with training.{setting}; leave one "
            "of them out"
        )


def _encoded(config: Config, dataset: Dataset, reporter: Reporter) -> tuple[FeatureEncoder, Tensor]:
    """What encodes features, and ``(I, r)`` those of all items; refused before anything trains."""
    own = config.content
    encoder = FeatureEncoder.fit(
        dataset.table("item_features"), rank=own.rank, kinds=own.kinds, seed=config.seed
    )
    for text in encoder.notes:
        reporter.note(text)
    features = torch.from_numpy(encoder.vectors(dataset.table("item_features")))
    if not encoder.width or not features.any():
        raise DataError(
            f"{dataset.path or dataset.name}: its item features tell nothing that items share; "
            "give others, or train without content (content.prior: none)"
        )
    return encoder, features


def _choose_content(
    config: Config,
    dataset: Dataset,
    part: Rehearsal | None,
    features: Tensor,
    tables: Embeddings,
    choice: Choice,
    training_of: Callable[..., Training],
    epochs: Sequence[int],
    weights: Weights,
    reporter: Reporter,
) -> ContentChoice:
    """Choose content on the new items of a rehearsal or, for want of them, on items held out.

    Items are held out of a training of their own, for as many steps as were best.
    """
    own = config.content
    on: Rehearsal | None = part if choice.environment is not None else None
    share = 1.0
    if on is not None:
        learnt, warm, new = learnt_on(on, tables, _bias_on(on.dataset, choice), features)
        if len(np.unique(new.users)) < FEW_USERS:
            reporter.note(
                f"fewer than {FEW_USERS} users take an item that is new to the rehearsal, so items "
                "are held out at random to choose content"
            )
            on = None
    if on is None:
        on = hold_out_items(dataset, own.held_out, seed=config.seed)
        chosen_on = dataset if part is None else part.dataset
        steps = len(chosen_on.split("train")) / len(on.dataset.split("train"))
        again = []
        for place, best in enumerate(epochs):
            if weights[place]:
                n = max(1, round(best * steps))
                reporter.note(f"training without {own.held_out:.0%} of the items for {n} epochs")
                training = training_of(
                    place, on.dataset, epochs=n, file=run_directory.HELD_OUT[place]
                )
                training.fit(reporter)
                again.append(training.embeddings())
            else:
                again.append(tables)  # is not looked at
        tables = _in_units_of(choice, stacked(again, weights))
        learnt, warm, new = learnt_on(on, tables, _bias_on(on.dataset, choice), features)
        if dataset.scenario != "new-items":
            # As many pairs of a new item as of another, where nothing says that there are more.
            n_known = on.dataset.n_items
            share = len(warm) / n_known * (dataset.n_items - n_known) / max(len(new), 1)
    priors = TRIED if own.prior == "auto" else (own.prior,)
    metric = config.training.select_metric
    chosen = choose_content(
        learnt, warm, new, metric, priors=priors, share=share, seed=config.seed, note=reporter.note
    )
    if own.prior != "auto":  # it is asked for
        chosen = chosen.model_copy(update={"used": True})
    told = chosen.metrics
    reporter.note(
        f"content by {chosen.prior}: {metric} {told['with']:.4f} of held-out pairs, of new items "
        f"and old, and {told['without']:.4f} without"
        + ("" if chosen.used else ", no more than by chance: nothing is learnt from the features")
    )
    return chosen


def _in_units_of(choice: Choice, tables: Embeddings) -> Embeddings:
    """Embeddings whose scores are in the units of what was chosen to be added to them."""
    return tables if choice.environment is None else tables.in_own_units()


def _bias_on(dataset: Dataset, choice: Choice) -> Tensor | None:
    """``(I,)`` what was chosen adds to the scores of a part, in units of their spread."""
    if choice.environment is not None:
        activity = choice.environment.activity(dataset.split("train"), dataset.n_items)
        return choice.environment.bias(activity)
    return dial_bias(exposure_score(dataset), choice.dial) if choice.dial else None


def _learn_content(
    choice: ContentChoice,
    encoder: FeatureEncoder,
    features: Tensor,
    learnt: Dataset,
    tables: Embeddings,
    seed: int,
) -> tuple[Content, Embeddings]:
    """The content model of everything, and the embeddings with what it adds."""
    train = learnt.split("train").csr(learnt.n_users, learnt.n_items)
    users, items = (table.detach().float().cpu() for table in tables)
    known = Learnt(Embeddings(users, items), train, torch.zeros(len(items)), features)
    model = ContentModel.fit(choice, known, seed=seed)
    vectors = model.items(features, items, known.counts)
    return Content(encoder, model), Embeddings(model.users(known, vectors), vectors)


@dataclass(frozen=True)
class Training:
    """The trainer of this process and the selection of epochs: all that fitting prepares.

    Attributes
    ----------
    config
        The resolved configuration.
    trainer
        Has the step, the pairs whose rows are here, and where the tables lie.
    selection
        The objectives; ``None`` where nothing is to be selected.
    train
        ``(U, I)`` the training pairs of all users.
    """

    config: Config
    trainer: Trainer
    selection: Selection | EnvironmentSelection | None
    train: csr_array

    @classmethod
    def of(
        cls,
        config: Config,
        dataset: Dataset,
        fabric: Fabric,
        *,
        select: bool = True,
        objectives: Mapping[str, TrainingConfig] | None = None,
        ks: Sequence[int] | None = None,
        processes: Processes | None = None,
        classes: Mapping[str, type[Any]] | None = None,
        checkpoint: Path | None = None,
        identity: Mapping[str, str] | None = None,
        start: Embeddings | None = None,
    ) -> Self:
        """Prepare a training.

        Parameters
        ----------
        config, dataset, fabric
            What to train, on what, and on which device.
        select
            Whether a split selects an epoch; else all epochs train.
        objectives, ks
            What picks epochs, and cut-offs; by default what the configuration says.
        processes, classes, checkpoint, identity
            As in :func:`fit` and :class:`~cnsdiff.training.loop.Trainer`.
        start
            Tables to begin with, of the rows of ``dataset``; not where they are sharded.
        """
        settings = config.training
        processes = processes or Processes()
        parts = assemble(config, dataset, classes=classes, processes=processes)
        sharded = isinstance(parts.layout, Shard)
        if start is not None:
            begin_at(parts.step.backbone, start)
        probe = None
        if processes.first and not sharded:
            probe = false_negative_probe(
                settings, dataset, parts.positives, config.seed, fabric.device
            )
        selection = None
        if select:
            selection = selection_of(
                objectives or {CONFIGURED: settings},
                dataset,
                parts.train,
                ks or config.evaluation.ks,
                parts.layout.device(fabric.device),
            )
        trainer = Trainer(
            settings,
            parts.step,
            parts.positives,
            seed=config.seed,
            fabric=fabric,
            checkpoint=checkpoint,
            identity=identity,
            probe=probe,
            processes=processes,
            layout=parts.layout,
        )
        return cls(config, trainer, selection, parts.train)

    @property
    def sharded(self) -> bool:
        """Whether the tables are cut among processes."""
        return isinstance(self.trainer.layout, Shard)

    @property
    def notes(self) -> list[str]:
        """Remarks for the user before training, each in one line."""
        notes = [] if self.selection is None else self.selection.notes
        probe = self.trainer.probe
        if probe is not None and probe.note is not None:
            notes.append(probe.note)
        if self.sharded and self.config.training.fhn_every is not None:
            notes.append("with training.shard no false negatives are counted while training")
        return notes

    def warn_of_full_users(self, dataset: Dataset) -> None:
        """Warn of users whose rows are not trained on, as they have every item."""
        counts = np.diff(self.train.indptr)
        full = np.flatnonzero(counts == dataset.n_items)
        if not len(full) or not self.trainer.step.needs_free_items:
            return
        single = len(full) == 1
        warnings.warn(
            f"{len(full):,} user{' has' if single else 's have'} all {dataset.n_items:,} items and "
            f"give{'s' if single else ''} no negatives, e.g. {dataset.users[int(full[0])]!r}: "
            f"{int(counts[full].sum()):,} training pairs are left out of the loss",
            CnsdiffWarning,
            stacklevel=2,
        )

    def fit(
        self, reporter: Reporter, *, stop: Callable[[EpochRecord], bool] | None = None
    ) -> TrainingState:
        """Train as :meth:`~cnsdiff.training.loop.Trainer.fit`; what is chosen of the state is left.

        The optimiser's moments and the last weights are let go: the next training needs the room.
        """
        state = self.trainer.fit(self.selection, reporter, stop=stop)
        state.model, state.optimizer = {}, {}
        return state

    def embeddings(self) -> Embeddings:
        """Gather the current embeddings on the first process."""
        with torch.no_grad():
            return self.trainer.layout.embeddings(self.trainer.step.embeddings())


def decided(
    config: Config,
    dataset: Dataset,
    note: Callable[[str], None],
    known_until: float | None = None,
) -> tuple[Config, Rehearsal | None]:
    """A configuration with ``select_on="auto"`` decided for a dataset, and what chooses.

    A rehearsal cuts after ``known_until`` (:func:`cnsdiff.environment.rehearse`).

    Returns
    -------
    tuple
        The configuration, and the part of the training data that chooses epoch and environment
        before everything trains; ``None``: the dataset as it is.
    """
    if config.training.select_on == "target-counts":
        target_counts(dataset)  # refuse now what would fail in the end
        if config.closed_form:
            raise ConfigError(
                f"select_on='target-counts' needs a model that is trained against negatives, and "
                f"{config.backbone.name!r} has none; select on 'valid'"
            )
    log = dataset.split("train")
    training = config.training.on(dataset.scenario, dated=log.timestamps is not None)
    if training.rehearses:
        try:
            part = rehearse(dataset, training.horizon, known_until=known_until)
        except DataError as error:
            if config.training.rehearses:
                raise
            note(f"validation chooses, as no shift in time can be rehearsed: {error}")
            training = training.model_copy(update={"select_on": "valid"})
        else:
            few = len(np.unique(part.dataset.split("valid").users)) < FEW_USERS
            if config.training.rehearses or not few:
                if not config.training.rehearses:
                    note(
                        "the log has times and no shift is named, so the one in time is rehearsed "
                        "(training.select_on)"
                    )
                return _on_part(config, training, note), part
            note(
                f"validation chooses, as fewer than {FEW_USERS} users come again after the cut of "
                "a rehearsal (training.select_on)"
            )
            training = training.model_copy(update={"select_on": "valid"})
    config = config.model_copy(update={"training": training})
    splits = dataset.split_names
    judged = any(name.startswith("test") for name in splits)
    if not training.refits(held_out=judged and "valid" in splits):
        return config, None
    if "valid" not in splits:
        return _on_part(config, training, note), hold_out(dataset, seed=config.seed)
    whole = dataset.merged()
    return config, Rehearsal(dataset, len(log) / len(whole.split("train")), whole)


def negatives_exponent(config: Config) -> float:
    """``α - γ``: negatives are drawn in proportion to ``pop^α``, and log-Q corrects for ``pop^γ``.

    Trained on such negatives, ``s(u, i) / τ + (α - γ) log pop_i`` is the logarithm of how often the
    user takes the item in train, up to a constant.

    Raises
    ------
    ConfigError
        Their distribution is none of these, or pairs are weighted.
    """
    objective, sampler = config.objective, config.sampler
    known: float | None = None
    if objective.negatives == "uniform":
        known = 0.0
    elif objective.negatives == "in-batch":
        known = 1.0
    elif objective.negatives == "sampler" and sampler.name == "random":
        known = 0.0
    elif objective.negatives == "sampler" and sampler.name in ("popularity", "exposure"):
        known = float(getattr(sampler, "exponent"))  # noqa: B009
    stacked = config.stack.preset is not None
    if known is None or objective.propensity.exponent or objective.popularity_exponent or stacked:
        raise ConfigError(
            "select_on='target-counts' needs one model whose negatives are drawn by a power of "
            "popularity and whose pairs weigh alike: the sampler exposure, popularity or random, "
            "without propensity weights, popularity_exponent or a stack"
        )
    return known - objective.log_q


def _on_part(config: Config, training: TrainingConfig, note: Callable[[str], None]) -> Config:
    """These settings for a part of the training data, whose pairs alone can judge negatives."""
    if training.fhn_every is not None and training.fhn_on != "valid":
        note(
            f"training.fhn_on={training.fhn_on} judges by more than the part that chooses the "
            "epoch has, so no false negatives are counted while training"
        )
        training = training.model_copy(update={"fhn_every": None})
    return config.model_copy(update={"training": training})


def for_so_long(config: Config, epochs: int) -> Config:
    """The configuration for a number of epochs that was chosen before."""
    changes = {"epochs": epochs, "patience": None, "fhn_every": None}
    training = config.training.model_copy(update=changes)
    return config.model_copy(update={"training": training})


class Parts(NamedTuple):
    """Result of :func:`assemble`."""

    step: TrainingStep
    positives: Positives
    train: csr_array
    layout: Layout


def assemble(
    config: Config,
    dataset: Dataset,
    *,
    classes: Mapping[str, type[Any]] | None = None,
    processes: Processes | None = None,
) -> Parts:
    """Backbone, sampler and objective as one untrained step.

    Parameters
    ----------
    config
        Names the components and seeds their weights.
    dataset
        Only its train split is read.
    classes
        To take in place of those named, by ``"backbone"`` and ``"sampler"``.
    processes
        Who shares the tables, with ``training.shard``; the users of a share are renumbered.

    Returns
    -------
    Parts
        The step, the pairs of the users whose rows are here, ``(U, I)`` those of all, and where
        the tables lie.

    Raises
    ------
    ConfigError
        A name is unknown, or a component needs what the train split lacks, or it cannot be
        sharded.
    DataError
        Every user has every item.
    """
    classes = classes or {}
    assert isinstance(config.backbone, BackboneConfig)
    backbone = classes.get("backbone") or BACKBONES.find(config.backbone.name)
    sampler = classes.get("sampler") or SAMPLERS.find(config.sampler.name)
    sharded = config.training.shard and processes is not None and processes.several
    if sharded:
        require_shardable(backbone, sampler, config.precision, config.objective.loss)
    split = dataset.split("train")
    positives = whole = Positives.of_split(split, dataset.n_users, dataset.n_items)
    whole.require_negatives()
    generator = torch_generator(config.seed, "backbone")
    tables: nn.Module
    layout = Layout()
    if sharded and processes is not None:
        layout = Shard(whole, processes)
        positives = layout.positives(whole)
        tables = ShardedBackbone(whole, positives, config.backbone, generator, layout)
    else:
        tables = backbone(whole, config.backbone, generator)
    negatives = sampler(
        positives, config.backbone.dim, config.sampler, torch_generator(config.seed, "sampler")
    )
    step = TrainingStep(tables, negatives, Objective(config.objective, positives))
    return Parts(step, positives, whole.matrix, layout)


def _require_memory(config: Config, dataset: Dataset, *, on_cpu: bool) -> None:
    """Refuse sizes that main memory cannot hold; what is counted here is far from all.

    The system may promise more than it has, and end the process that then uses it.
    """
    assert isinstance(config.backbone, BackboneConfig)
    rows, dim = dataset.n_users + dataset.n_items, config.backbone.dim
    # The entries; training adds their gradients and the two moments of Adam.
    require_memory(
        (16 if on_cpu else 4) * rows * dim,
        f"a table of {rows:,} embeddings of size {dim:,}",
        "lower backbone.dim",
    )
    hidden, depth = (getattr(config.sampler, name, 1) for name in ("hidden", "depth"))
    require_memory(
        (16 if on_cpu else 4) * depth * hidden**2,
        f"a denoiser of {depth} hidden layers of width {hidden:,}",
        "lower sampler.hidden or sampler.depth",
    )
    if not on_cpu or not hasattr(config.sampler, "candidates"):
        return
    n_pairs = len(dataset.split("train"))
    batch = min(config.training.batch_size_for(n_pairs), n_pairs)
    drawn = config.sampler.n_negatives * config.sampler.candidates
    require_memory(
        12 * batch * drawn // config.training.slices,  # an identifier and a score
        f"{drawn:,} candidates for each of {batch:,} interactions of a batch",
        "lower sampler.candidates, sampler.n_negatives or training.batch_size",
    )


def seen_of(dataset: Dataset, listeners: Listeners) -> Seen | None:
    """Pairs that recommendations leave out beside train; read when all has been chosen."""
    if dataset.manifest.seen is None:
        listeners.note(
            f"{dataset.name}: was prepared before datasets kept all that a log says of its users, "
            "so recommendations will leave out its splits alone; prepare it again"
        )
    try:
        return Seen.of_table(dataset.seen(), dataset.n_users, dataset.n_items)
    except DataError as error:  # hours of training are worth more
        listeners.note(f"recommendations will leave out training pairs only: {error}")
        return None
