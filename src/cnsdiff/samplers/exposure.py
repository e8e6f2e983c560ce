"""Exposure sampling: negatives as the environment would have shown them (equation 21)."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.search_space import Searched
from cnsdiff.data.positives import Positives
from cnsdiff.samplers.base import (
    SAMPLERS,
    Batch,
    Context,
    Negatives,
    Sampler,
    SamplerConfig,
    SharedItems,
)


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
        self,
        positives: Positives,
        dim: int,
        config: ExposureConfig,
        generator: torch.Generator,
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
