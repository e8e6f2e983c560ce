"""A sampler as training left it, asked for negatives once more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import normalize

from cnsdiff.backbones import BACKBONES, BackboneConfig, Embeddings
from cnsdiff.backbones.base import layers_of
from cnsdiff.base.errors import InputError, RunError
from cnsdiff.base.seeding import torch_generator
from cnsdiff.data import Dataset
from cnsdiff.data.positives import Positives
from cnsdiff.evaluation.fhn import FalseNegatives, measure_false_negatives
from cnsdiff.evaluation.judges import Judge
from cnsdiff.objectives.objective import counted
from cnsdiff.recommender.embedding_model import EmbeddingModel
from cnsdiff.recommender.run_directory import Fitted
from cnsdiff.samplers import SAMPLERS, Sampler
from cnsdiff.samplers.base import Batch, Context, Items, Negatives, Vectors
from cnsdiff.training.processes import make_fabric


class SampledNegatives(NamedTuple):
    """Negatives of a trained sampler for some training pairs, on its device.

    Attributes
    ----------
    batch
        The ``B`` pairs.
    negatives
        One for each: ``Items`` ``(B, 1)`` or ``Vectors`` ``(B, 1, d)``.
    embeddings
        Those it was asked with, whose inner product is the score.
    positives
        All training pairs.
    """

    batch: Batch
    negatives: Items | Vectors
    embeddings: Embeddings
    positives: Positives


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
    InputError
        The model was solved in closed form, without a sampler.
    """

    def __init__(self, fitted: Fitted, dataset: Dataset, classes: Mapping[str, type[Any]]) -> None:
        config, model = fitted.config, fitted.model
        if not isinstance(config.backbone, BackboneConfig) or not isinstance(model, EmbeddingModel):
            raise InputError(
                f"a model {config.backbone.name!r} is solved in closed form, without a sampler, so "
                "it has no negatives to look at"
            )
        if fitted.stack is not None and fitted.stack.weights[1]:
            raise InputError(
                "this model is a stack of two, whose scores no sampler trained with; ask one that "
                "was trained alone (without stack.preset)"
            )
        device = make_fabric(config.device, config.precision, config.threads).device
        positives = Positives.of_split(dataset.split("train"), dataset.n_users, dataset.n_items)
        positives.require_negatives()
        # What initialises the weights does not matter: trained ones replace them.
        generator = torch_generator(config.seed, "sampler")
        sampler_class = classes.get("sampler") or SAMPLERS.find(config.sampler.name)
        sampler = sampler_class(positives, config.backbone.dim, config.sampler, generator)
        self.sampler: Sampler = _with_weights(sampler, "sampler", fitted).to(device)
        self.positives = positives.to(device)
        self.embeddings = Embeddings(
            model.user_embeddings.to(device), model.item_embeddings.to(device)
        )
        self.layers: tuple[Embeddings, ...] = ()
        cosine = config.objective.score == "cosine"
        if model.own_units and cosine:  # it trained with unit vectors, whose direction is the same
            users = normalize(self.embeddings.users, dim=1)
            self.embeddings = self.embeddings._replace(users=users)
        as_trained = not model.own_units or cosine
        if self.sampler.wants_layers or not as_trained:
            backbone_class = classes.get("backbone") or BACKBONES.find(config.backbone.name)
            started_plainly = config.backbone.model_copy(update={"init": "xavier"})
            backbone = backbone_class(positives, started_plainly, generator)
            backbone = _with_weights(backbone, "backbone", fitted).to(device)
            with torch.no_grad():
                if self.sampler.wants_layers:
                    self.layers = layers_of(backbone)
                if not as_trained:
                    self.embeddings = Embeddings(*(table.detach() for table in backbone()))
        self.device = device
        self.progress = fitted.best_epoch / config.training.epochs
        self.epoch = fitted.best_epoch + 1
        self.objective = config.objective
        self.cosine = cosine

    def false_negatives(
        self, judge: Judge, *, n: int, neighbours: int, seed: int
    ) -> FalseNegatives:
        """See :func:`cnsdiff.evaluation.fhn.measure_false_negatives`."""
        return measure_false_negatives(
            self._negatives,
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

    def _negatives(self, batch: Batch, embeddings: Embeddings, context: Context) -> Negatives:
        """Those that the loss counted."""
        negatives = self.sampler(batch, embeddings, context)
        return counted(self.objective, negatives, batch, embeddings, context.epoch)

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
            sampled = self._negatives(batch, self.embeddings, context)
            # One for each pair: as the loss weighs them, or the first of those that count alike.
            match sampled.deal(len(batch), stream("choice")):
                case Items(items):
                    negatives: Items | Vectors = Items(items[:, :1])
                case Vectors(vectors):
                    negatives = Vectors(vectors[:, :1])
        return SampledNegatives(batch, negatives, self.embeddings, self.positives)


def _with_weights(module: nn.Module, part: str, fitted: Fitted) -> Any:
    """The module with the weights that training left of this part."""
    prefix = f"{part}."
    own = {
        name.removeprefix(prefix): value
        for name, value in fitted.weights.items()
        if name.startswith(prefix)
    }
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        name = getattr(fitted.config, part).name
        raise RunError(
            f"the weights are not of the configured {part} {name} ({reason}); train again"
        ) from error
    return module
