"""From a configuration and a dataset to what trains."""

from __future__ import annotations

from typing import Any

from torch import nn

from cnsdiff.backbones import BACKBONES
from cnsdiff.config import Config
from cnsdiff.data import Dataset
from cnsdiff.data.positives import Positives
from cnsdiff.objectives import Objective
from cnsdiff.samplers import SAMPLERS
from cnsdiff.seeding import torch_generator
from cnsdiff.training.processes import Processes
from cnsdiff.training.sharding import Shard, ShardedBackbone, require_shardable
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
        A user has every item.
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
    whole.require_negatives()
    shard = Shard(whole, processes)
    positives = shard.positives(whole)
    generator = torch_generator(config.seed, "backbone")
    made = ShardedBackbone(whole, positives, config.backbone, generator, shard)
    return _step(config, made, sampler, positives), positives, shard


def _training_pairs(dataset: Dataset) -> Positives:
    train = dataset.split("train")
    return Positives(
        train.users,
        train.items,
        dataset.n_users,
        dataset.n_items,
        train.timestamps,
        train.environments,
    )


def _step(
    config: Config, backbone: nn.Module, sampler: type[Any] | None, positives: Positives
) -> TrainingStep:
    sampler = sampler or SAMPLERS.find(config.sampler.name)
    made = sampler(
        positives, config.backbone.dim, config.sampler, torch_generator(config.seed, "sampler")
    )
    return TrainingStep(backbone, made, Objective(config.objective, positives))
