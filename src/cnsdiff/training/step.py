"""One training step: backbone, sampler and objective put together.

The loop calls it and sees only a loss and named scalars; what is saved after training is the
backbone's embeddings, which this module holds apart from what merely trains them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cnsdiff.backbones.base import Embeddings, layers_of, mean_of
from cnsdiff.objectives.objective import Objective, counted
from cnsdiff.samplers.base import Batch, Context, Sampler
from cnsdiff.training.probe import FalseNegativeProbe


@dataclass(frozen=True)
class Propagated:
    """Outputs of the backbone that all rows of a batch share.

    Attributes
    ----------
    embeddings
        All embeddings, with gradient.
    projected
        Whether they have been brought to the form whose inner product is the score.
    layer_zero
        The free parameters behind them.
    layers
        Layer by layer, if the sampler wants them.
    """

    embeddings: Embeddings
    projected: bool
    layer_zero: Embeddings
    layers: tuple[Embeddings, ...] = ()


class Cut:
    """Propagated embeddings, cut off from the backbone.

    The gradients of several slices of a batch gather at the cut, and go through the backbone
    together, once. Parameters themselves are not cut off: their gradients gather anyhow.
    """

    def __init__(self, whole: Propagated) -> None:
        self._leaves: dict[int, tuple[Tensor, Tensor]] = {}
        self._parameters: list[Tensor] = []
        self.propagated = Propagated(
            self._cut(whole.embeddings),
            whole.projected,
            self._cut(whole.layer_zero),
            tuple(self._cut(layer) for layer in whole.layers),
        )

    def _cut(self, tables: Embeddings) -> Embeddings:
        return Embeddings(*(self._leaf(table) for table in tables))

    def _leaf(self, table: Tensor) -> Tensor:
        if table.is_leaf:
            if table.requires_grad:
                self._parameters.append(table)
            return table
        if id(table) not in self._leaves:
            self._leaves[id(table)] = table, table.detach().requires_grad_()
        return self._leaves[id(table)][1]

    def backward(self) -> None:
        """Send what has gathered on through the backbone; nothing counts as zeros."""
        if self._leaves:
            tables, leaves = zip(*self._leaves.values(), strict=True)
            torch.autograd.backward(tables, [_gradient(leaf) for leaf in leaves])
        for parameter in self._parameters:
            parameter.grad = _gradient(parameter)


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


class TrainingStep(nn.Module):
    """``(batch, context) -> (loss, scalars)``.

    Parameters
    ----------
    backbone
        Gives all embeddings.
    sampler
        Gives the negatives, and perhaps a loss of its own.
    objective
        Makes the loss terms.
    """

    def __init__(self, backbone: nn.Module, sampler: Sampler, objective: Objective) -> None:
        super().__init__()
        self.backbone = backbone
        self.sampler = sampler
        self.objective = objective

    @property
    def needs_free_items(self) -> bool:
        """Whether every row must have an item that its user lacks."""
        return self.objective.calls_sampler and self.sampler.needs_free_items

    def propagate(self) -> Propagated:
        """Run the backbone: what :meth:`forward` needs of it, whatever the batch."""
        needed = self.objective.calls_sampler
        layers = layers_of(self.backbone) if needed and self.sampler.wants_layers else ()
        embeddings = mean_of(layers) if layers else self.backbone()
        projected = needed and self.sampler.reads_embeddings
        if projected:
            embeddings = self.objective.project(embeddings)
        return Propagated(embeddings, projected, self._layer_zero(embeddings), layers)

    def forward(
        self,
        batch: Batch,
        context: Context,
        probe: FalseNegativeProbe | None = None,
        propagated: Propagated | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch (scalar, with gradient) and detached scalars to log.

        ``probe`` is shown the negatives, if the objective uses any of the sampler's. What is
        ``propagated`` already is not propagated again.
        """
        propagated = propagated or self.propagate()
        config = self.objective.config
        context = replace(
            context,
            cosine=config.score == "cosine",
            temperature=config.temperature,
            layers=propagated.layers,
        )
        negatives = None
        if self.objective.calls_sampler:
            negatives = self.sampler(batch, propagated.embeddings, context)
        if probe is not None and negatives is not None:
            embeddings = propagated.embeddings
            if not propagated.projected:
                embeddings = self.objective.project(embeddings)
            probe(batch, embeddings, counted(config, negatives, batch, embeddings, context.epoch))
        terms = self.objective(
            batch,
            propagated.embeddings,
            propagated.layer_zero,
            negatives,
            context,
            projected=propagated.projected,
        )
        first, *others = (term.float() for term in terms.values())
        loss = sum(others, start=first)
        scalars = {"loss": loss.detach()} | {name: term.detach() for name, term in terms.items()}
        if negatives is not None:
            scalars |= negatives.diagnostics
        return loss, scalars

    def embeddings(self) -> Embeddings:
        """The embeddings whose inner product is the score."""
        embeddings: Embeddings = self.objective.project(self.backbone())
        return embeddings

    def _layer_zero(self, embeddings: Embeddings) -> Embeddings:
        # A backbone of the user's own need not have free embedding tables.
        layer_zero = getattr(self.backbone, "layer_zero", None)
        return layer_zero() if layer_zero is not None else embeddings

    def parameter_groups(self, lr: float) -> Iterator[dict[str, object]]:
        """Adam's parameter groups: the backbone's, and the sampler's with its own rate."""
        yield {"params": list(self.backbone.parameters()), "lr": lr}
        learnt = list(self.sampler.trained_parameters())
        if learnt:
            # A loss weight as small as the published λ_diff = 1e-6 would drown in Adam's usual
            # eps, and the denoiser hardly move; without it Adam does not feel the weight at all.
            rate = self.sampler.learning_rate or lr
            yield {"params": learnt, "lr": rate, "eps": 1e-16}
