"""From a configuration and a dataset to what trains."""

from __future__ import annotations

from typing import Any

from cnsdiff.backbones import BACKBONES
from cnsdiff.config import Config
from cnsdiff.data import Dataset
from cnsdiff.data.positives import Positives
from cnsdiff.objectives import Objective
from cnsdiff.samplers import SAMPLERS
from cnsdiff.seeding import torch_generator
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
    train = dataset.split("train")
    positives = Positives(
        train.users,
        train.items,
        dataset.n_users,
        dataset.n_items,
        train.timestamps,
        train.environments,
    )
    backbone = backbone or BACKBONES.find(config.backbone.name)
    sampler = sampler or SAMPLERS.find(config.sampler.name)
    step = TrainingStep(
        backbone(positives, config.backbone, torch_generator(config.seed, "backbone")),
        sampler(
            positives, config.backbone.dim, config.sampler, torch_generator(config.seed, "sampler")
        ),
        Objective(config.objective, positives),
    )
    return step, positives
