"""The contract of a negative sampler.

``sampler(batch, embeddings, context) -> Negatives``. A sampler is an ``nn.Module`` (without
parameters, often); one that learns returns its own loss, which the training step adds. A
sampler of your own is a subclass of :class:`Sampler` with a ``forward``::

    class LastItem(Sampler):
        def forward(self, batch, embeddings, context):
            last = batch.positives.new_full((len(batch.users), 1), self.positives.n_items - 1)
            return Negatives(items=last)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from pydantic import Field
from torch import Tensor, nn

from cnsdiff.backbones.base import Embeddings
from cnsdiff.data.positives import Positives
from cnsdiff.registry import Registry
from cnsdiff.settings import Settings


@dataclass(frozen=True)
class Batch:
    """``B`` training interactions.

    Attributes
    ----------
    index
        ``(B,)`` which training interactions these are (rows of ``Positives.pairs``).
    users, positives
        ``(B,)`` internal ids.
    """

    index: Tensor
    users: Tensor
    positives: Tensor

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class Context:
    """What a sampler may know of the state of training.

    Attributes
    ----------
    progress
        Share of the planned training that is done, in ``[0, 1]``.
    negatives
        Stream for choosing negatives.
    noise
        Stream for diffusion noise and dropout.
    cosine
        Whether the score is the cosine: embeddings are then unit vectors, and so should be the
        vectors that a sampler makes.
    """

    progress: float
    negatives: torch.Generator
    noise: torch.Generator
    cosine: bool = False


@dataclass(frozen=True)
class Negatives:
    """Negatives for a batch: catalogue items, or vectors, with what the sampler adds.

    Attributes
    ----------
    items
        ``(B, n)`` item ids, or ``None`` for a sampler that makes vectors.
    vectors
        ``(B, n, d)`` vectors, or ``None`` for a sampler that picks items.
    pool
        ``(M, d)`` the vectors the negatives were made from, for the contrastive term; ``None``
        when they are the negatives themselves.
    loss
        The sampler's own loss, a scalar with gradient, already weighted.
    diagnostics
        Named scalars without gradient, averaged over an epoch and logged.
    """

    items: Tensor | None = None
    vectors: Tensor | None = None
    pool: Tensor | None = None
    loss: Tensor | None = None
    diagnostics: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.items is None) == (self.vectors is None):
            raise ValueError("Negatives needs either items (B, n) or vectors (B, n, d)")

    def embed(self, embeddings: Embeddings) -> Tensor:
        """The negatives as ``(B, n, d)`` vectors."""
        if self.vectors is not None:
            return self.vectors
        assert self.items is not None
        return embeddings.items[self.items]


class SamplerConfig(Settings):
    """What all samplers share; each sampler's own ``Config`` adds its fields."""

    name: str = ""
    n_negatives: int = Field(1, ge=1, description="n, negatives per positive")


class Sampler(nn.Module):
    """Base of all samplers.

    Parameters
    ----------
    positives
        The training pairs.
    dim
        Size of the embeddings.
    config
        The sampler's settings.
    generator
        Source of initial weights (CPU).
    """

    Config: type[SamplerConfig] = SamplerConfig

    def __init__(
        self,
        positives: Positives,
        dim: int,
        config: SamplerConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        positives.require_negatives()
        self.positives = positives
        self.dim = dim
        self.config = config

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Negatives:
        """Negatives for ``batch``; ``embeddings`` carry gradient."""
        raise NotImplementedError

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that training moves: all of them, unless a preset says otherwise."""
        return self.parameters()

    @property
    def learning_rate(self) -> float | None:
        """Own learning rate of the sampler's parameters; the training's when ``None``."""
        return None


#: Samplers by name.
SAMPLERS: Registry[Sampler] = Registry("sampler")
