"""AdvInfoNCE (Zhang et al., NeurIPS 2023): an adversary weighs uniform negatives."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.search_space import Searched
from cnsdiff.data.positives import Positives
from cnsdiff.samplers.base import SAMPLERS, Batch, Context, Items, Sampler, SamplerConfig
from cnsdiff.samplers.candidates import candidate_scores


class AdversarialConfig(SamplerConfig):
    """Settings of :class:`AdversarialSampler`."""

    n_negatives: int = Field(128, ge=2, le=10**6, description="N, negatives per positive")
    hidden: int = Field(16, ge=1, le=2**14, description="size of the adversary's vectors")
    learning_rate: Annotated[float, Searched(low=1e-5, high=1e-2, log=True)] = Field(
        1e-4, gt=0, description="of the adversary"
    )
    interval: int = Field(5, ge=1, le=10**6, description="it learns in every so many epochs")
    rounds: Annotated[int, Searched(low=1, high=20, integer=True)] = Field(
        12, ge=0, le=10**6, description="in how many epochs in all, which bounds how hard it gets"
    )


@SAMPLERS.register("adversarial")
class AdversarialSampler(Sampler):
    """Uniform negatives, each with the weight ``p(j|u) = softmax_j a_u·b_j`` of an adversary.

    In a softmax (``objective.loss=softmax``) this is AdvInfoNCE: a negative's term is
    ``N p(j|u) e^{s(u,j)/τ}``, where ``log N p(j|u)`` is the paper's hardness ``δ_j``. The adversary
    raises that loss, the model lowers it.

    The paper bounds the divergence of ``p`` from the uniform distribution, and its code does so by
    the number of epochs in which the adversary learns (its regulariser of the adversary is that of
    the model by a slip): so does this. Their model rests in these epochs, ours goes on; and
    their code multiplies all negatives by 64, this does not, as the paper.
    """

    Config = AdversarialConfig
    config: AdversarialConfig

    def __init__(
        self,
        positives: Positives,
        dim: int,
        config: AdversarialConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__(positives, dim, config, generator)
        sizes = positives.n_users, positives.n_items
        self.users, self.items = (
            nn.Parameter(torch.empty(n, config.hidden).normal_(0, 0.1, generator=generator))
            for n in sizes
        )

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Items:
        n = self.config.n_negatives
        items = self.positives.sample_negatives(batch.users, n, context.negatives)
        learns = torch.is_grad_enabled() and self._learns(context.epoch)
        with torch.set_grad_enabled(learns):
            vectors = self.users[batch.users], self.items[items]
            hardness = torch.einsum("bd,bnd->bn", *vectors).log_softmax(dim=1)
        share = hardness.detach().exp()
        divergence = (share * hardness.detach()).sum(dim=1).mean() + math.log(n)
        return Items(
            items,
            weights=share,
            loss=-self._softmax(batch, embeddings, context, items, hardness) if learns else None,
            diagnostics={"hardness": divergence},
        )

    def _learns(self, epoch: int) -> bool:
        turn, rest = divmod(epoch - 1, self.config.interval)
        return rest == 0 and turn < self.config.rounds

    def _softmax(
        self,
        batch: Batch,
        embeddings: Embeddings,
        context: Context,
        items: Tensor,
        hardness: Tensor,
    ) -> Tensor:
        """The model's loss, with gradient to the adversary alone."""
        users, catalogue = embeddings.users.detach()[batch.users], embeddings.items.detach()
        own = (users * catalogue[batch.positives]).sum(dim=1, keepdim=True)
        scores = candidate_scores(users, catalogue, items.unsqueeze(1)).squeeze(1)
        ahead = (scores - own) / context.temperature + hardness
        return F.softplus(torch.logsumexp(ahead, dim=1) + math.log(items.shape[1])).mean()

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        return iter([self.users, self.items])

    @property
    def learning_rate(self) -> float:
        """Of the adversary."""
        return self.config.learning_rate
