"""Static samplers: negatives drawn from a distribution that training does not change.

Uniform and by popularity over the items outside the user's training positives, and by exposure,
which knows no user (equation 21).
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.search_space import Searched
from cnsdiff.data.positives import Positives
from cnsdiff.samplers.base import (
    SAMPLERS,
    Batch,
    Context,
    Items,
    Negatives,
    Sampler,
    SamplerConfig,
    SharedItems,
)

#: Bits of the mass that is divided among the items; fewer where there are very many users.
_MOST_BITS = 40


@SAMPLERS.register("random")
class RandomSampler(Sampler):
    """``n ~ U(I ∖ I_u⁺)``, exactly."""

    shardable: ClassVar[bool] = True
    reads_embeddings: ClassVar[bool] = False

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Items:
        n = self.config.n_negatives
        return Items(self.positives.sample_negatives(batch.users, n, context.negatives))


class PopularityConfig(SamplerConfig):
    """Settings of :class:`PopularitySampler`."""

    exponent: Annotated[float, Searched(low=0.0, high=1.0)] = Field(
        0.75, ge=0, le=10, description="α of pop^α; 0 is uniform"
    )


@SAMPLERS.register("popularity")
class PopularitySampler(Sampler):
    """``P(n) ∝ pop_n^α`` over ``I ∖ I_u⁺``, exactly.

    ``pop`` is the number of training interactions. A mass of about ``2^40`` units is divided among
    the items, at least one unit each. The units outside the user's positives are numbered
    ``0 … free - 1``; one is drawn, and two binary searches find its item: the first counts the
    positives below it, as :meth:`~cnsdiff.data.positives.Positives.sample_negatives` does, the
    second is in the cumulative mass of all items. No rejection, and memory for the training pairs
    only.
    """

    Config = PopularityConfig
    shardable: ClassVar[bool] = True
    reads_embeddings: ClassVar[bool] = False
    config: PopularityConfig
    _mass_below: Tensor
    _positive_mass: Tensor
    _free_keys: Tensor
    _starts: Tensor

    def __init__(
        self, positives: Positives, dim: int, config: PopularityConfig, generator: torch.Generator
    ) -> None:
        super().__init__(positives, dim, config, generator)
        bits = mass_bits(positives.n_users, positives.n_items)
        mass = units(positives.item_counts.cpu().numpy(), config.exponent, bits)
        below = np.concatenate([[0], np.cumsum(mass)])
        items, starts = (
            x.astype(np.int64) for x in (positives.matrix.indices, positives.matrix.indptr)
        )
        row = np.repeat(np.arange(positives.n_users), np.diff(starts))
        positive_mass = np.concatenate([[0], np.cumsum(mass[items])])
        # Free mass below each positive: like the items' numbers it never falls within a row.
        free_below = below[items] - (positive_mass[:-1] - positive_mass[starts[row]])
        tensors = {
            "_mass_below": below,
            "_positive_mass": positive_mass,
            "_free_keys": row * (below[-1] + 1) + free_below,
            "_starts": starts,
        }
        for name, value in tensors.items():
            self.register_buffer(name, torch.from_numpy(value), persistent=False)

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Items:
        users = batch.users
        uniform = torch.rand(
            (len(users), self.config.n_negatives),
            generator=context.negatives,
            device=users.device,
            dtype=torch.float64,
        )
        # Of 53 random bits: any item's probability is off by 2^-52 at most.
        rank = (uniform * self.free_mass(users).unsqueeze(1)).long()
        return Items(self.item_at(users.unsqueeze(1), rank))

    def free_mass(self, users: Tensor) -> Tensor:
        """Units of the items outside each user's training positives, the shape of ``users``."""
        first, last = self._starts[users], self._starts[users + 1]
        return self._mass_below[-1] - (self._positive_mass[last] - self._positive_mass[first])

    def item_at(self, users: Tensor, rank: Tensor) -> Tensor:
        """The item that the user's free unit of number ``rank`` belongs to; shapes broadcast."""
        keys = users * (self._mass_below[-1] + 1) + rank
        n_positives = torch.searchsorted(self._free_keys, keys, right=True)
        unit = rank + self._positive_mass[n_positives] - self._positive_mass[self._starts[users]]
        items = torch.searchsorted(self._mass_below, unit, right=True) - 1
        # A user who has every item has no free unit, and gets any item.
        return items.clamp_(max=self.positives.n_items - 1)


class ExposureConfig(SamplerConfig):
    """Settings of :class:`ExposureSampler`."""

    n_negatives: int = Field(128, ge=1, le=10**6, description="M, negatives shared by a batch")
    exponent: Annotated[float, Searched(low=0.0, high=1.0)] = Field(
        0.5, ge=0, le=10, description="α of pop^α: 0 a uniform environment, 1 the one observed"
    )


@SAMPLERS.register("exposure")
class ExposureSampler(Sampler):
    """``q(i | e) ∝ pop_i^α``, free of the user, ``M`` draws shared by all rows of a batch.

    The optimum of a softmax over negatives from ``q`` is ``s*(u, i) = log p(i|u) - log q(i|e)``
    up to a constant of the user: taste relative to the environment. So ``q`` knows no user, leaves
    nobody's positives out, and "hard" means shown, not liked. ``α`` moves between an environment
    that shows all items alike and the one that was observed, whose popularity the score then
    forgets altogether; what is wanted back is added when the model is read
    (:mod:`cnsdiff.evaluation.dial`).
    """

    Config = ExposureConfig
    shardable: ClassVar[bool] = True
    reads_embeddings: ClassVar[bool] = False
    shares_draws: ClassVar[bool] = True
    needs_free_items: ClassVar[bool] = False
    config: ExposureConfig
    _shown_below: Tensor

    def __init__(
        self, positives: Positives, dim: int, config: ExposureConfig, generator: torch.Generator
    ) -> None:
        super().__init__(positives, dim, config, generator)
        share = positives.item_counts.double() ** config.exponent
        self.register_buffer("_shown_below", (share / share.sum()).cumsum(0), persistent=False)

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Negatives:
        return SharedItems(self.draw(context))

    def draw(self, context: Context) -> Tensor:
        """``(M,)`` items from ``q``, with replacement."""
        device = self._shown_below.device
        uniform = torch.rand(
            self.config.n_negatives,
            generator=context.negatives,
            device=device,
            dtype=torch.float64,
        )
        # The sum of shares may fall short of one by a rounding.
        items = torch.searchsorted(self._shown_below, uniform, right=True)
        return items.clamp_(max=self.positives.n_items - 1)


def mass_bits(n_users: int, n_items: int) -> int:
    """The most bits, up to 40, for which ``n_users (total + 1)`` is an int64.

    ``total``, the mass of all items, is no more than ``2^bits + n_items``, since each item's
    share is rounded up by one at the most.
    """
    room = (2**63 - 1) // n_users - n_items - 1
    return min(_MOST_BITS, room.bit_length() - 1)


def units(popularity: NDArray[np.int64], exponent: float, bits: int) -> NDArray[np.int64]:
    """Each item's share of ``pop^α`` in units of ``2^-bits``, at least one; ``(n_items,)``."""
    weight = np.power(popularity, exponent, dtype=np.float64)
    mass: NDArray[np.int64] = np.round(weight / weight.sum() * 2.0**bits).astype(np.int64)
    return np.maximum(mass, 1)
