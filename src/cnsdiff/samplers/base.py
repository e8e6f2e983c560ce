"""The contract of a negative sampler.

``sampler(batch, embeddings, context) -> Negatives``. A sampler is an ``nn.Module`` (without
parameters, often). What it returns says whether its negatives are items or vectors, of each row's
own or shared by the batch; one that learns adds its own loss. A sampler of your own is a subclass
of :class:`Sampler` with a ``forward``::

    class LastItem(Sampler):
        def forward(self, batch, embeddings, context):
            last = batch.positives.new_full((len(batch.users), 1), self.positives.n_items - 1)
            return Items(last)
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
    weights
        ``(B,)`` what each row counts for in the loss, or ``None``: all alike.
    """

    index: Tensor
    users: Tensor
    positives: Tensor
    weights: Tensor | None = None

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
    temperature
        By which the ranking loss divides scores.
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
    temperature: float = 1.0
    epoch: int = 1
    layers: tuple[Embeddings, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _SamplerOutput:
    """What any negatives may carry beside themselves.

    Attributes
    ----------
    loss
        The sampler's own loss, a scalar with gradient, already weighted.
    diagnostics
        Named scalars without gradient, averaged over an epoch and logged.
    """

    loss: Tensor | None = None
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Items(_SamplerOutput):
    """Catalogue items, ``n`` of each row's own.

    Attributes
    ----------
    items
        ``(B, n)`` ids, none of them a training positive of the row's user.
    weights
        ``(B, n)`` without gradient, how much each counts in the loss: BPR sums over a row with
        these weights, a softmax multiplies ``exp(s)`` by ``n w / Σ w``. ``None``: all alike, and
        BPR takes their mean.
    """

    items: Tensor
    weights: Tensor | None = None

    @property
    def n(self) -> int:
        """Negatives per row."""
        return self.items.shape[1]

    def embed(self, embeddings: Embeddings) -> Tensor:
        """``(B, n, d)`` their vectors."""
        # Not by indexing, whose backward pass goes through the rows one by one.
        return F.embedding(self.items, embeddings.items)

    def rows(self, index: Tensor) -> Items:
        """The negatives of some rows of the batch."""
        return Items(self.items[index], None if self.weights is None else self.weights[index])

    def deal(self, n_rows: int, generator: torch.Generator) -> Items:
        """One to each row, drawn by weight; all of them where all count alike."""
        if self.weights is None:
            return self
        choice = torch.multinomial(self.weights.float(), 1, generator=generator)
        return Items(self.items.gather(1, choice))


@dataclass(frozen=True)
class SharedItems(_SamplerOutput):
    """Catalogue items that all rows share: a softmax over hundreds costs one product of matrices.

    Attributes
    ----------
    items
        ``(n,)`` ids. A row's training positives may be among them, as the distribution they come
        from has it; the softmax leaves out a row's own positive.
    """

    items: Tensor

    @property
    def n(self) -> int:
        """Negatives per row."""
        return len(self.items)

    def rows(self, index: Tensor) -> Items:
        """All of them for each of some rows of the batch."""
        return Items(self.items.expand(len(index), -1))

    def deal(self, n_rows: int, generator: torch.Generator) -> Items:
        """One to each row, at random."""
        return Items(self.items[_choice(self.items, n_rows, generator)])


@dataclass(frozen=True)
class Vectors(_SamplerOutput):
    """Synthesised negatives, ``n`` of each row's own.

    Attributes
    ----------
    vectors
        ``(B, n, d)``, of unit length where the score is the cosine. In a correction for
        popularity each takes that of its row's positive.
    pool
        ``(M, d)`` the vectors they were made from, for the alignment term (equation 19); ``None``:
        the negatives themselves.
    """

    vectors: Tensor
    pool: Tensor | None = None

    @property
    def n(self) -> int:
        """Negatives per row."""
        return self.vectors.shape[1]

    def embed(self, embeddings: Embeddings) -> Tensor:
        """``(B, n, d)``, the vectors themselves."""
        return self.vectors

    def rows(self, index: Tensor) -> Vectors:
        """The negatives of some rows of the batch."""
        return Vectors(self.vectors[index])

    def deal(self, n_rows: int, generator: torch.Generator) -> Vectors:
        """All of them, which count alike."""
        return self


@dataclass(frozen=True)
class SharedVectors(_SamplerOutput):
    """Synthesised negatives that all rows share.

    Attributes
    ----------
    vectors
        ``(n, d)``, of unit length where the score is the cosine.
    items
        ``(n,)`` the item that each was made from. The softmax leaves out those of a row's own
        positive, and a correction for popularity takes theirs.
    """

    vectors: Tensor
    items: Tensor

    @property
    def n(self) -> int:
        """Negatives per row."""
        return len(self.vectors)

    def rows(self, index: Tensor) -> Vectors:
        """All of them for each of some rows of the batch."""
        return Vectors(self.vectors.expand(len(index), -1, -1))

    def deal(self, n_rows: int, generator: torch.Generator) -> Vectors:
        """One to each row, at random."""
        return Vectors(self.vectors[_choice(self.vectors, n_rows, generator)])


def _choice(negatives: Tensor, n_rows: int, generator: torch.Generator) -> Tensor:
    """``(n_rows, 1)`` which of the shared negatives each row is dealt."""
    size = (n_rows, 1)
    return torch.randint(len(negatives), size, generator=generator, device=negatives.device)


Negatives = Items | SharedItems | Vectors | SharedVectors
"""What a sampler returns for a batch of ``B`` rows; each may carry ``loss=`` and ``diagnostics=``.

- ``Items(items, weights=None)``: ``(B, n)`` ids of each row's own, weighted or all alike.
- ``SharedItems(items)``: ``(n,)`` ids that all rows share.
- ``Vectors(vectors, pool=None)``: ``(B, n, d)``, synthesised for each row; the alignment term
  contrasts the vectors ``pool`` in their place, if there is one.
- ``SharedVectors(vectors, items)``: ``(n, d)``, synthesised for all rows, and the ``(n,)`` items
  that they were made from.
"""


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
    # A subclass does not inherit what follows, as its ``forward`` is another: it says so itself.
    #: Whether ``forward`` looks at its ``embeddings``. If not, those of a cosine need not be
    #: brought to unit length for it.
    reads_embeddings: ClassVar[bool] = True
    #: Whether ``forward`` draws the same whatever the rows of the batch: slices of one batch then
    #: get streams in the same state, and the same negatives as the whole batch.
    shares_draws: ClassVar[bool] = False
    #: Whether a row's negatives are items outside its user's training positives: the rows of a
    #: user who has every item are then not trained on.
    needs_free_items: ClassVar[bool] = True
    #: Whether ``forward`` needs, of the training pairs, only those of the batch's users and the
    #: items' counts, so that processes may share the users.
    shardable: ClassVar[bool] = False

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        for name in ("reads_embeddings", "shares_draws", "needs_free_items", "shardable"):
            if name not in cls.__dict__:
                setattr(cls, name, getattr(Sampler, name))

    def __init__(
        self, positives: Positives, dim: int, config: SamplerConfig, generator: torch.Generator
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
