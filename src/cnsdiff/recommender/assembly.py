"""From a configuration and a dataset to what trains."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from torch import nn

from cnsdiff.backbones import BACKBONES
from cnsdiff.base.errors import CnsdiffWarning
from cnsdiff.base.seeding import torch_generator
from cnsdiff.data import Dataset
from cnsdiff.data.positives import Positives
from cnsdiff.objectives.objective import Objective
from cnsdiff.recommender.config import Config
from cnsdiff.samplers import SAMPLERS
from cnsdiff.training.several.processes import Processes
from cnsdiff.training.several.sharding import Shard, ShardedBackbone, require_shardable
from cnsdiff.training.step import TrainingStep


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
        train.environments,
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
