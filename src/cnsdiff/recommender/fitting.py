"""Training from a configuration and a dataset to what it leaves."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import nn

from cnsdiff.backbones import BACKBONES
from cnsdiff.base.errors import CnsdiffWarning, DataError
from cnsdiff.base.seeding import torch_generator
from cnsdiff.data import Dataset
from cnsdiff.data.positives import Positives
from cnsdiff.data.side_tables import Seen
from cnsdiff.evaluation import EmbeddingScorer
from cnsdiff.evaluation.dial import spread
from cnsdiff.kernels.memory import require_memory, shortage_told
from cnsdiff.objectives.objective import Objective
from cnsdiff.recommender import run_directory
from cnsdiff.recommender.callbacks import Callback, FitContext, Listeners
from cnsdiff.recommender.config import Config
from cnsdiff.recommender.embedding_model import EmbeddingModel
from cnsdiff.recommender.run_directory import Fitted
from cnsdiff.samplers import SAMPLERS
from cnsdiff.training.loop import Trainer
from cnsdiff.training.probe import FalseNegativeProbe, false_negative_probe
from cnsdiff.training.processes import Processes, joined, make_fabric
from cnsdiff.training.progress import Reporter
from cnsdiff.training.selection import Selection
from cnsdiff.training.sharding import Shard, ShardedBackbone, require_shardable
from cnsdiff.training.slices import Layout
from cnsdiff.training.step import TrainingStep

if TYPE_CHECKING:
    from lightning_fabric import Fabric


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
    run, reporter, callbacks
        See :meth:`cnsdiff.Recommender.fit`, whose errors these are.
    """
    listeners = Listeners(reporter, callbacks)
    fabric = make_fabric(config.device, config.precision, config.threads)
    with joined(fabric.device) as processes, ExitStack() as stack:
        if not processes.first:
            listeners = Listeners()
        if not processes.several:  # the tables may be cut among them, or lie on other machines
            _require_memory(config, dataset, on_cpu=fabric.device.type == "cpu")
        provenance = run_directory.provenance(config, dataset)
        parts = _Parts.of(config, dataset, classes, fabric, processes)
        trainer = Trainer(
            config.training,
            seed=config.seed,
            fabric=fabric,
            checkpoint=None if run is None else run / run_directory.CHECKPOINT,
            identity={
                "configuration": provenance["config_fingerprint"],
                "dataset": provenance["dataset"]["fingerprint"],
            },
            probe=parts.probe,
            processes=processes,
            layout=parts.layout,
        )
        trainer.require_fit(parts.step)
        for note in parts.notes(config):
            listeners.note(note)
        if processes.first:
            tell_of_full_users(parts.step, dataset)
        if run is not None:
            training = run_directory.training_in(run, config, dataset)
            processes.from_first(lambda: stack.enter_context(training))
        context = FitContext(config, provenance, run, listeners.reporter.note)
        try:
            processes.from_first(lambda: listeners.begin_fit(context))
            state = trainer.fit(parts.step, parts.positives, parts.selection, listeners)
            with torch.no_grad():
                embeddings = parts.layout.embeddings(parts.step.embeddings())
            dial = processes.from_first(lambda: parts.selection.dial(embeddings))
            if parts.sharded and not processes.first:
                return  # what it has is no model
            model = EmbeddingModel(
                users=dataset.users,
                items=dataset.items,
                user_embeddings=embeddings.users.detach().float().cpu(),
                item_embeddings=embeddings.items.detach().float().cpu(),
                train=parts.train,
                dial_step=spread(EmbeddingScorer(*embeddings)) * parts.selection.exposure_score,
                dial=dial,
                seen=_seen(dataset, listeners),
            )
            best_epoch = state.stopping["best_epoch"]
            fitted = Fitted(config, model, state.best, state.history, best_epoch, provenance)
            keep(fitted)
            if run is not None and processes.first:
                fitted.write(run)
        except BaseException as error:
            listeners.abort_fit(error)
            raise
        listeners.end_fit(fitted)


def _require_memory(config: Config, dataset: Dataset, *, on_cpu: bool) -> None:
    """Refuse sizes that main memory cannot hold; what is counted here is far from all.

    The system may promise more than it has, and end the process that then uses it.
    """
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


def _seen(dataset: Dataset, listeners: Listeners) -> Seen | None:
    """What recommendations leave out beside train; read when all has been chosen, not before."""
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


@dataclass(frozen=True)
class _Parts:
    """What trains, in this process.

    Attributes
    ----------
    train
        ``(U, I)`` the training pairs of all users.
    positives
        Those of the users whose rows are here.
    sharded
        Whether the tables are cut among processes.
    """

    step: TrainingStep
    positives: Positives
    train: csr_array
    layout: Layout
    probe: FalseNegativeProbe | None
    selection: Selection
    sharded: bool

    @classmethod
    def of(
        cls,
        config: Config,
        dataset: Dataset,
        classes: Mapping[str, type[Any]],
        fabric: Fabric,
        processes: Processes,
    ) -> _Parts:
        layout, probe = Layout(), None
        sharded = config.training.shard and processes.several
        if sharded:
            step, positives, layout = assemble_shard(config, dataset, processes, **classes)
            train = dataset.split("train").csr(dataset.n_users, dataset.n_items)
        else:
            step, positives = assemble(config, dataset, **classes)
            train = positives.matrix
            if processes.first:
                probe = false_negative_probe(
                    config.training, dataset, positives, config.seed, fabric.device
                )
        device = layout.device(fabric.device)
        selection = Selection(config.training, dataset, train, config.evaluation.ks, device)
        return cls(step, positives, train, layout, probe, selection, sharded)

    def notes(self, config: Config) -> list[str]:
        """What the user should know beforehand, each in one line."""
        uncounted = None
        if self.sharded and config.training.fhn_every is not None:
            uncounted = "with training.shard no false negatives are counted while training"
        found = (self.selection.note, None if self.probe is None else self.probe.note, uncounted)
        return [note for note in found if note is not None]


def assemble(
    config: Config,
    dataset: Dataset,
    *,
    backbone: type[Any] | None = None,
    sampler: type[Any] | None = None,
) -> tuple[TrainingStep, Positives]:
    """Backbone, sampler and objective as one untrained step, and the training pairs.

    Parameters
    ----------
    config
        Names the components and seeds their weights.
    dataset
        Only its train split is read.
    backbone, sampler
        Classes to take in place of those named.

    Raises
    ------
    ConfigError
        A name is unknown, or a component needs what the train split lacks.
    DataError
        Every user has every item.
    """
    positives = _training_pairs(dataset)
    backbone = backbone or BACKBONES.find(config.backbone.name)
    made = backbone(positives, config.backbone, torch_generator(config.seed, "backbone"))
    return _step(config, made, sampler, positives), positives


def assemble_shard(
    config: Config,
    dataset: Dataset,
    processes: Processes,
    *,
    backbone: type[Any] | None = None,
    sampler: type[Any] | None = None,
) -> tuple[TrainingStep, Positives, Shard]:
    """:func:`assemble`, but for one process's share of the tables; its users are renumbered.

    Raises
    ------
    ConfigError
        As there, or the backbone or the sampler cannot be sharded.
    DataError
        As there.
    """
    require_shardable(
        backbone or BACKBONES.find(config.backbone.name),
        sampler or SAMPLERS.find(config.sampler.name),
        config.precision,
    )
    whole = _training_pairs(dataset)
    shard = Shard(whole, processes)
    positives = shard.positives(whole)
    generator = torch_generator(config.seed, "backbone")
    made = ShardedBackbone(whole, positives, config.backbone, generator, shard)
    return _step(config, made, sampler, positives), positives, shard


def _training_pairs(dataset: Dataset) -> Positives:
    train = dataset.split("train")
    positives = Positives(
        train.users,
        train.items,
        dataset.n_users,
        dataset.n_items,
        train.timestamps,
        train.periods,
    )
    positives.require_negatives()
    return positives


def tell_of_full_users(step: TrainingStep, dataset: Dataset) -> None:
    """Warn of users whose rows are not trained on, as they have every item."""
    train = dataset.split("train")
    counts = np.bincount(train.users, minlength=dataset.n_users)
    full = np.flatnonzero(counts == dataset.n_items)
    if not len(full) or not step.needs_free_items:
        return
    one = len(full) == 1
    warnings.warn(
        f"{len(full):,} user{' has' if one else 's have'} all {dataset.n_items:,} items and "
        f"give{'s' if one else ''} no negatives, e.g. {dataset.users[int(full[0])]!r}: "
        f"{int(counts[full].sum()):,} training pairs are left out of the loss",
        CnsdiffWarning,
        stacklevel=2,
    )


def _step(
    config: Config, backbone: nn.Module, sampler: type[Any] | None, positives: Positives
) -> TrainingStep:
    sampler = sampler or SAMPLERS.find(config.sampler.name)
    made = sampler(
        positives, config.backbone.dim, config.sampler, torch_generator(config.seed, "sampler")
    )
    return TrainingStep(backbone, made, Objective(config.objective, positives))
