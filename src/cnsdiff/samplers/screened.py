"""Hard negatives that a model of taste has screened: what the user may well like is left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cnsdiff.backbones.base import Embeddings
from cnsdiff.backbones.spectral import spectral_tables
from cnsdiff.base.search_space import Searched
from cnsdiff.data.positives import Positives
from cnsdiff.kernels.gradients import rows_of, shared_softmax
from cnsdiff.samplers.base import SAMPLERS, Batch, Context, Items
from cnsdiff.samplers.candidates import (
    CandidateConfig,
    CandidateSampler,
    candidate_scores,
    pick,
)
from cnsdiff.samplers.static import ExposureConfig, ExposureSampler


class ScreenedConfig(CandidateConfig):
    """Settings of :class:`ScreenedSampler`."""

    share: Annotated[float, Searched(low=0.1, high=0.7)] = Field(
        0.3, ge=0, lt=1, description="ρ, the share of the candidates that the judge takes out"
    )
    judge: Literal["teacher", "self"] = Field(
        "teacher",
        description="a model of taste that learns beside, by the default's loss; or the model",
    )
    temperature: float = Field(0.2, gt=0, description="τ of the teacher's softmax, on cosines")
    learning_rate: float | None = Field(None, gt=0, description="of the teacher; None: training's")


@SAMPLERS.register("screened")
class ScreenedSampler(CandidateSampler):
    """``argmax s(u, n)`` over ``C_u`` without the ``⌊ρN⌋`` candidates that the judge likes best.

    An item that nobody has shown the user is a false negative if they would like it, and the harder
    a negative, the likelier it is one, unless what chooses it knows of taste
    (docs/false-negatives.md). The teacher is matrix factorisation from the spectral start, which
    learns by a softmax on cosines from negatives as the environment shows them: the default's loss.
    """

    Config = ScreenedConfig
    config: ScreenedConfig

    def __init__(
        self,
        positives: Positives,
        dim: int,
        config: ScreenedConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__(positives, dim, config, generator)
        self.teacher = nn.ParameterList()
        if config.judge == "teacher":
            self.teacher.extend(spectral_tables(positives, dim, generator))
            self.exposure = ExposureSampler(positives, dim, ExposureConfig(), generator)

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Items:
        candidates, scores = self.score_candidates(batch, embeddings, context)
        loss, worth = None, scores
        if len(self.teacher):
            users, items = self.teacher
            of_users = F.normalize(users.detach()[batch.users], dim=1)
            worth = candidate_scores(of_users, F.normalize(items.detach(), dim=1), candidates)
            loss = self._learn(batch, context) if torch.is_grad_enabled() else None
        liked = worth.topk(int(self.config.share * self.config.candidates), dim=2).indices
        return Items(pick(candidates, scores.scatter(2, liked, -torch.inf)), loss=loss)

    def _learn(self, batch: Batch, context: Context) -> Tensor:
        """The teacher's softmax (equation 4)."""
        drawn = self.exposure.draw(context)
        users, items = self.teacher
        (of_users,) = rows_of(users, batch.users)
        positives, negatives = rows_of(items, batch.positives, drawn)
        of_users, positives, negatives = (
            F.normalize(table, dim=1) for table in (of_users, positives, negatives)
        )
        rows = of_users / self.config.temperature
        weights = batch.weights
        if weights is None:
            weights = rows.new_ones(len(batch))
        return shared_softmax(
            rows,
            negatives,
            weights / len(batch),
            own=(rows * positives).sum(dim=1),
            barred=(batch.positives, drawn),
        )

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        return iter(self.teacher)

    @property
    def learning_rate(self) -> float | None:
        """Of the teacher."""
        return self.config.learning_rate
