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
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.registry import Registry
from cnsdiff.base.settings import Settings
from cnsdiff.data.positives import Positives


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
    """The state of training that a sampler may know.

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
    epoch
        The epoch under way, from 1.
    layers
        The backbone's embeddings of layer ``0 … K``, whose mean is its output (before that is
        brought to unit length for the cosine), with gradient; only for a sampler that
        ``wants_layers``.
    """

    progress: float
    negatives: torch.Generator
    noise: torch.Generator
    cosine: bool = False
    epoch: int = 1
    layers: tuple[Embeddings, ...] = ()


#: The scores of a whole catalogue are one product of matrices, those of some items a gather from
#: memory and, in the backward pass, a scatter: up to so many items per negative the product wins.
_PRODUCT_UP_TO = 64


def inner_products(users: Tensor, vectors: Tensor) -> Tensor:
    """``(B, n)`` of users ``(B, d)`` with vectors ``(B, n, d)``, or ``(1, n, d)`` shared by all."""
    if len(vectors) == 1:
        return users @ vectors[0].T
    if vectors.shape[1] == 1:
        return (users * vectors[:, 0]).sum(dim=-1, keepdim=True)
    return torch.einsum("bd,bnd->bn", users, vectors)


@dataclass(frozen=True)
class Negatives:
    """Negatives for a batch: catalogue items, or vectors, with what the sampler adds.

    Attributes
    ----------
    items
        ``(B, n)`` item ids, or ``None`` for a sampler that makes vectors.
    vectors
        ``(B, n, d)`` vectors, or ``None`` for a sampler that picks items.
    shared
        Whether all rows have the same negatives: ``items`` are then ``(1, n)`` and ``vectors``
        ``(1, n, d)``. A softmax over hundreds of them costs one product of matrices. A row's
        training positives may be among them, as the distribution they come from has it.
    sources
        ``(1, n)`` the items that shared vectors were made from.
    weights
        ``(B, n)`` without gradient, how much each counts in the loss: BPR sums over a row with
        these weights, a softmax multiplies ``exp(s)`` by ``n w / Σ w``. ``None``: all alike, and
        BPR takes their mean.
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
    weights: Tensor | None = None
    pool: Tensor | None = None
    loss: Tensor | None = None
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    shared: bool = False
    sources: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.items is None) == (self.vectors is None):
            raise ValueError("Negatives needs either items (B, n) or vectors (B, n, d)")

    def embed(self, embeddings: Embeddings) -> Tensor:
        """The negatives as ``(B, n, d)`` vectors."""
        if self.vectors is not None:
            return self.vectors
        assert self.items is not None
        # Not by indexing, whose backward pass goes through the rows one by one.
        return F.embedding(self.items, embeddings.items)

    def scores(self, users: Tensor, embeddings: Embeddings) -> Tensor:
        """The inner products ``(B, n)`` with each row's user ``(B, d)``, with gradient."""
        if self.items is not None and self.wants_all(embeddings):
            return (users @ embeddings.items.T).gather(1, self.items)
        return inner_products(users, self.embed(embeddings))

    def wants_all(self, embeddings: Embeddings) -> bool:
        """Whether scores of the whole catalogue are the quickest way to those of these items."""
        few = len(embeddings.items) <= _PRODUCT_UP_TO * self.per_row
        return self.items is not None and not self.shared and few

    @property
    def made_of(self) -> Tensor | None:
        """``(B, n)`` or ``(1, n)`` the items that these are, or were made from."""
        return self.items if self.items is not None else self.sources

    @property
    def per_row(self) -> int:
        """``n``, how many there are for each positive."""
        made = self.items if self.items is not None else self.vectors
        assert made is not None
        return made.shape[1]

    def rows(self, index: Tensor) -> Negatives:
        """The negatives of some rows of the batch, without what the sampler adds."""
        if self.shared:
            n = len(index)
            if self.items is not None:
                return Negatives(self.items.expand(n, -1))
            assert self.vectors is not None
            return Negatives(vectors=self.vectors.expand(n, -1, -1))
        items, vectors, weights = (
            None if part is None else part[index]
            for part in (self.items, self.vectors, self.weights)
        )
        return Negatives(items, vectors, weights)

    def dealt(self, n: int, generator: torch.Generator) -> Negatives:
        """Of shared negatives one for each of ``n`` rows, at random; others as they are."""
        if not self.shared:
            return self
        made = self.items if self.items is not None else self.vectors
        assert made is not None
        chosen = torch.randint(self.per_row, (n,), generator=generator, device=made.device)
        one = made[0, chosen].unsqueeze(1)
        return Negatives(one) if self.items is not None else Negatives(vectors=one)

    def first(self) -> Negatives:
        """The first of each row's negatives, without what the sampler adds; not of shared ones."""
        if self.items is not None:
            return Negatives(self.items[:, :1])
        assert self.vectors is not None
        return Negatives(vectors=self.vectors[:, :1])

    def admissible(self, positives: Tensor) -> Tensor | None:
        """``(B, n)`` false where a shared negative is the row's own positive ``(B,)``.

        ``None`` where none can be.
        """
        if not self.shared or self.made_of is None:
            return None
        return self.made_of != positives.unsqueeze(1)

    def drawn(self, generator: torch.Generator) -> Negatives:
        """One negative per row, drawn by weight: what its loss is made of, on average.

        Without weights all count alike, and all stay.
        """
        if self.weights is None:
            return self
        chosen = torch.multinomial(self.weights.float(), 1, generator=generator)
        if self.items is not None:
            return Negatives(self.items.gather(1, chosen))
        assert self.vectors is not None
        return Negatives(vectors=torch.take_along_dim(self.vectors, chosen.unsqueeze(-1), dim=1))


class SamplerConfig(Settings):
    """Settings that all samplers share; each sampler's own ``Config`` adds its fields."""

    name: str = ""
    n_negatives: int = Field(1, ge=1, le=10**6, description="n, negatives per positive")


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
    #: Whether ``context.layers`` must hold the backbone's embeddings layer by layer.
    wants_layers: ClassVar[bool] = False
    #: Whether ``forward`` looks at its ``embeddings``. Those of a cosine are brought to unit length
    #: for it; a sampler that says it never looks may be given them as the backbone makes them.
    #: What is said here goes for the class itself, not for its subclasses.
    reads_embeddings: ClassVar[bool] = True
    #: Whether ``forward`` draws the same, whatever the rows of the batch: slices of one batch are
    #: then given streams in the same state, and have the same negatives as the whole would have.
    #: This, too, goes for the class itself.
    shares_draws: ClassVar[bool] = False
    #: Whether a row's negatives are items outside its user's training positives: the rows of a user
    #: who has every item are then not trained on. Again of the class itself.
    needs_free_items: ClassVar[bool] = True
    #: Whether ``forward`` needs, of the training pairs, those of the batch's users and the items'
    #: counts alone, so that processes may share the users. Again of the class itself.
    shardable: ClassVar[bool] = False

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        for name in ("reads_embeddings", "shares_draws", "needs_free_items", "shardable"):
            if name not in cls.__dict__:
                setattr(cls, name, getattr(Sampler, name))

    def __init__(
        self,
        positives: Positives,
        dim: int,
        config: SamplerConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.positives = positives
        self.dim = dim
        self.config = config

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Negatives:
        """Negatives for ``batch``; ``embeddings`` carry gradient."""
        raise NotImplementedError

    @property
    def n_negatives(self) -> int:
        """Number of negatives per positive that ``forward`` returns."""
        return self.config.n_negatives

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that training moves: all of them, unless a preset says otherwise."""
        return self.parameters()

    @property
    def learning_rate(self) -> float | None:
        """Own learning rate of the sampler's parameters; the training's when ``None``."""
        return None


#: Samplers by name.
SAMPLERS: Registry[Sampler] = Registry("sampler", Sampler)
