"""MixGCF (Huang et al., KDD 2021): hard negatives mixed from the positive, layer by layer."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.search_space import Searched
from cnsdiff.samplers.base import SAMPLERS, Batch, Context, Sampler, Vectors
from cnsdiff.samplers.candidates import (
    CandidateConfig,
    candidate_scores,
    draw_candidates,
    pick,
)


class MixGCFConfig(CandidateConfig):
    """Settings of :class:`MixGCFSampler`."""

    candidates: Annotated[int, Searched(low=2, high=64, integer=True, log=True)] = Field(
        16, ge=1, le=10**5, description="N, candidates per negative"
    )


@SAMPLERS.register("mixgcf")
class MixGCFSampler(Sampler):
    """Positive mixing and hop mixing.

    With ``u`` the user's embedding, pooled over layers, and per negative one set of candidates
    ``C`` and one ``a_l ~ U(0, 1)`` per layer::

        n'_l = a_l p_l + (1 - a_l) n_l            for each n in C, layers l = 0 … K
        m_l  = n'_l of the n with the largest u·n'_l
        negative = mean over l of m_l             (brought to unit length for the cosine)

    ``a_l`` is shared by the candidates of a negative, as in the published code. So
    ``u·n'_l = a_l (u·p_l) + (1 - a_l)(u·n_l)`` has the order of ``u·n_l``: candidates are
    compared without being mixed, one layer at a time, and only the chosen one is mixed. The
    choice is without gradient, the mixed vector carries it into ``p_l`` and ``n_l``.

    The vector is part positive and its layers may come from different items, so it is no item.
    Counts of false negatives judge it by its nearest items: often that is the
    positive itself, which then shows as ``known_positive`` (a complete judge calls it false).
    """

    Config = MixGCFConfig
    config: MixGCFConfig
    wants_layers = True

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Vectors:
        n, layers = self.config.n_negatives, context.layers
        users = embeddings.users[batch.users]
        candidates = draw_candidates(
            self.positives, batch.users, n, self.config.candidates, context.negatives
        )
        shares = torch.rand(
            (len(layers), len(batch), n, 1), generator=context.noise, device=users.device
        )
        pooled: Tensor | None = None
        for share, layer in zip(shares, layers, strict=True):
            choice = pick(candidates, candidate_scores(users, layer.items, candidates))
            positive = layer.items[batch.positives].unsqueeze(1)
            mixed = share * positive + (1 - share) * layer.items[choice]
            pooled = mixed if pooled is None else pooled + mixed
        assert pooled is not None
        vectors = pooled / len(layers)
        return Vectors(F.normalize(vectors, dim=-1) if context.cosine else vectors)
