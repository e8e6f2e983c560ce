"""A sampler as training left it, asked for negatives once more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.errors import RunError
from cnsdiff.base.seeding import torch_generator
from cnsdiff.data import Dataset
from cnsdiff.data.positives import Positives
from cnsdiff.evaluation.fhn import FalseNegatives, measure_false_negatives
from cnsdiff.evaluation.judges import Judge
from cnsdiff.recommender.config import Config
from cnsdiff.recommender.fitting import assemble
from cnsdiff.recommender.run_directory import Fitted
from cnsdiff.samplers.base import Batch, Context, Negatives
from cnsdiff.training.processes import make_fabric


class SampledNegatives(NamedTuple):
    """Negatives of a trained sampler for some training pairs, on its device.

    Attributes
    ----------
    batch
        The ``B`` pairs.
    negatives
        One for each: items ``(B, 1)`` or vectors ``(B, 1, d)``.
    embeddings
        Those it was asked with, whose inner product is the score.
    positives
        All training pairs.
    """

    batch: Batch
    negatives: Negatives
    embeddings: Embeddings
    positives: Positives


def _started_plainly(config: Config) -> Config:
    """The same without a costly start of embeddings, which trained ones replace at once."""
    backbone = config.backbone
    if getattr(backbone, "init", "xavier") == "xavier":
        return config
    return config.model_copy(update={"backbone": backbone.model_copy(update={"init": "xavier"})})


class TrainedSampler:
    """The sampler and the embeddings it was trained with, on their device.

    Parameters
    ----------
    fitted
        The training.
    dataset
        The one trained on; of its splits only train is read.
    classes
        Components given as classes, by ``"backbone"`` and ``"sampler"``.

    Raises
    ------
    ConfigError
        A component is a class that is not at hand.
    """

    def __init__(self, fitted: Fitted, dataset: Dataset, classes: Mapping[str, type[Any]]) -> None:
        config = fitted.config
        step, positives, *_ = assemble(_started_plainly(config), dataset, classes=classes)
        try:
            step.load_state_dict(dict(fitted.weights))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise RunError(
                f"the weights are not of the configured {config.backbone.name} and "
                f"{config.sampler.name} ({reason}); train again"
            ) from error
        self.device = make_fabric(config.device, config.precision, config.threads).device
        step.to(self.device)
        self.positives = positives.to(self.device)
        with torch.no_grad():
            self.embeddings, self.layers = step.embeddings(), step.layers()
        self.sampler = step.sampler
        self.progress = fitted.best_epoch / config.training.epochs
        self.epoch = fitted.best_epoch + 1
        self.cosine = config.objective.score == "cosine"

    def false_negatives(
        self, judge: Judge, *, n: int, neighbours: int, seed: int
    ) -> FalseNegatives:
        """See :func:`cnsdiff.evaluation.fhn.measure_false_negatives`."""
        return measure_false_negatives(
            self.sampler,
            self.embeddings,
            self.positives,
            judge,
            n=n,
            seed=seed,
            progress=self.progress,
            epoch=self.epoch,
            layers=self.layers,
            cosine=self.cosine,
            neighbours=neighbours,
        )

    def sampled(self, n: int, seed: int) -> SampledNegatives:
        """See :meth:`cnsdiff.Recommender.sampled_negatives`."""

        def stream(purpose: str) -> torch.Generator:
            return torch_generator(seed, f"sampled negatives/{purpose}", device=self.device)

        with torch.no_grad():
            rows = self.positives.rows_with_negatives()
            order = torch.randperm(
                len(self.positives if rows is None else rows),
                generator=stream("pairs"),
                device=self.device,
            )
            order = order if rows is None else rows[order]
            batch = Batch(order[:n], *self.positives.pairs[order[:n]].unbind(dim=1))
            context = Context(
                progress=self.progress,
                negatives=stream("negatives"),
                noise=stream("noise"),
                cosine=self.cosine,
                epoch=self.epoch,
                layers=self.layers,
            )
            choose = stream("choice")
            drawn = self.sampler(batch, self.embeddings, context)
            negatives = drawn.dealt(len(batch), choose).drawn(choose).first()
        return SampledNegatives(batch, negatives, self.embeddings, self.positives)
