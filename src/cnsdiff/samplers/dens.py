"""DENS (Lai et al., WSDM 2023): negatives chosen by factors that gates part from one another."""

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
from cnsdiff.samplers.base import SAMPLERS, Batch, Context, Sampler, Vectors
from cnsdiff.samplers.candidates import CandidateConfig, draw_candidates, pick


class DENSConfig(CandidateConfig):
    """Settings of :class:`DENSSampler`."""

    candidates: Annotated[int, Searched(low=2, high=32, integer=True, log=True)] = Field(
        6, ge=1, le=10**5, description="N, candidates per negative"
    )
    warmup: float = Field(100.0, gt=0, description="T, epochs until relevance alone decides")
    disentangling: Annotated[float, Searched(low=0.03, high=1.0, log=True)] = Field(
        0.3, ge=0, description="γ, weight of the disentangling loss"
    )


@SAMPLERS.register("dens")
class DENSSampler(Sampler):
    """Disentangled negative sampling.

    Gates split the embedding of each layer ``l`` into a relevant and an irrelevant factor::

        p_r = p ⊙ σ(W_i p + W_u u)        p_ir = p - p_r
        n_r = n ⊙ σ(W_n n + W_r p_r)      n_ir = n - n_r       (each W with a bias)

    In each layer the candidate with the largest ``u_l·[(1 - min(1, t/T)) n_l - n_r,l]`` is
    kept, ``t`` the epochs completed: at first the hardest by its irrelevant factor, from ``T``
    on the least relevant. The negative is the mean of the kept ``n_l`` over layers, with
    gradient; the choice is without. Its layers may come from different items, so it is a vector.

    The own loss is ``γ`` times :func:`disentangling` of the factors' scores, a factor being
    pooled over layers and scored by ``u·x``, ``u`` the user's embedding. It alone trains the
    gates: with ``disentangling=0`` they stay as they started.

    Under the cosine, factors are divided by the length of the pooled vector that they add up to,
    so that their scores add up to its cosine; the choice compares inner products all the same.
    """

    Config = DENSConfig
    config: DENSConfig
    wants_layers = True

    def __init__(
        self, positives: Positives, dim: int, config: DENSConfig, generator: torch.Generator
    ) -> None:
        super().__init__(positives, dim, config, generator)
        self.item_gate = _linear(dim, generator)
        self.user_gate = _linear(dim, generator)
        self.negative_gate = _linear(dim, generator)
        self.relevance_gate = _linear(dim, generator)

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        return self.parameters() if self.config.disentangling else iter(())

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Vectors:
        config = self.config
        candidates = draw_candidates(
            self.positives, batch.users, config.n_negatives, config.candidates, context.negatives
        )
        share = 1 - min(1.0, (context.epoch - 1) / config.warmup)
        parts = []
        for layer in context.layers:
            user, positive = layer.users[batch.users], layer.items[batch.positives]
            relevant = positive * torch.sigmoid(self.item_gate(positive) + self.user_gate(user))
            choice = pick(candidates, self._worth(user, relevant, layer.items, candidates, share))
            negative = layer.items[choice]
            relevant_negative = self._relevant_negative(negative, relevant.unsqueeze(1))
            parts.append(
                (positive.unsqueeze(1), relevant.unsqueeze(1), negative, relevant_negative)
            )
        positive, relevant, negative, relevant_negative = (
            torch.stack(layers).mean(dim=0) for layers in zip(*parts, strict=True)
        )
        loss = None
        if config.disentangling:
            users = embeddings.users[batch.users]
            loss = config.disentangling * disentangling(
                *_factor_scores(users, positive, relevant, context.cosine),
                *_factor_scores(users, negative, relevant_negative, context.cosine),
            )
        vectors = F.normalize(negative, dim=-1) if context.cosine else negative
        return Vectors(vectors, loss=loss)

    def _relevant_negative(self, negative: Tensor, relevant: Tensor) -> Tensor:
        """``n_r`` of ``n``, given ``p_r``; both ``(…, d)``, and they broadcast."""
        gate = torch.sigmoid(self.negative_gate(negative) + self.relevance_gate(relevant))
        return negative * gate

    @torch.no_grad()
    def _worth(
        self, user: Tensor, relevant: Tensor, items: Tensor, candidates: Tensor, share: float
    ) -> Tensor:
        """``u·[share · n - n_r]`` of each candidate in one layer, ``(B, n, N)``."""
        vectors = F.embedding(candidates, items)  # (B, n, N, d): one layer's alone at a time
        target = share * vectors - self._relevant_negative(vectors, relevant[:, None, None])
        return (target * user[:, None, None]).sum(dim=-1)


def disentangling(
    relevant: Tensor,
    irrelevant: Tensor,
    relevant_negatives: Tensor,
    irrelevant_negatives: Tensor,
) -> Tensor:
    """The contrastive loss between factors, from their scores.

    A positive's relevant factor shall score above its irrelevant one, a negative's below; the
    positive shall score above its negatives in what is relevant, below in what is not::

        1/4 mean over rows of [   log(1 + exp(p_ir - p_r))
                                + log(1 + Σ_k exp(n_r,k - n_ir,k))
                                + log(1 + Σ_k exp(n_r,k - p_r))
                                + log(1 + Σ_k exp(p_ir - n_ir,k)) ]

    Shapes ``(B, 1)`` of the positives, ``(B, n)`` of the negatives. The sums over ``k`` are the
    published code's; at ``n = 1`` all four terms are BPR.
    """
    gaps = (
        irrelevant - relevant,
        relevant_negatives - irrelevant_negatives,
        relevant_negatives - relevant,
        irrelevant - irrelevant_negatives,
    )
    losses = [torch.logsumexp(F.pad(gap, (1, 0)), dim=1).mean() for gap in gaps]
    return torch.stack(losses).mean()


def _factor_scores(
    users: Tensor, whole: Tensor, relevant: Tensor, cosine: bool
) -> tuple[Tensor, Tensor]:
    """Scores ``(B, n)`` of the relevant and irrelevant factors of ``whole`` ``(B, n, d)``."""
    scale = whole.norm(dim=-1).clamp(min=1e-12) if cosine else 1.0
    total, part = (torch.einsum("bd,bnd->bn", users, x) / scale for x in (whole, relevant))
    return part, total - part


def _linear(dim: int, generator: torch.Generator) -> nn.Linear:
    """A square linear map, initialised as PyTorch does, but from ``generator``."""
    # nn.Linear's own initialisation would draw from PyTorch's global stream.
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, dim, dim)  # type: ignore[no-untyped-call]
    bound = 1 / math.sqrt(dim)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer
