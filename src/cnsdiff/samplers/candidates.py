"""Candidates of the samplers that pick hard negatives: how they are drawn and scored.

``C_u`` of METHOD §7: ``N`` items drawn uniformly, with replacement, from those outside the user's
training positives, afresh for each negative.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cnsdiff.data.positives import Positives
from cnsdiff.samplers.base import SamplerConfig

#: Scores of the whole catalogue cost a product of matrices, those of candidates a gather from
#: memory: up to so many items per candidate the product is the faster one.
_PRODUCT_UP_TO = 24


class CandidateConfig(SamplerConfig):
    """Settings of a sampler that picks from candidates."""

    candidates: int = Field(32, ge=1, description="N, candidates per negative")


def draw_candidates(
    positives: Positives, users: Tensor, n: int, candidates: int, generator: torch.Generator
) -> Tensor:
    """``(B, n, N)`` item ids, never a training positive of the row's user."""
    drawn = positives.sample_negatives(users, n * candidates, generator)
    return drawn.view(len(users), n, candidates)


def candidate_scores(users: Tensor, items: Tensor, candidates: Tensor) -> Tensor:
    """The inner products of each row's user with its candidates, without gradient.

    Parameters
    ----------
    users
        ``(B, d)`` a vector per row.
    items
        ``(I, d)`` the catalogue.
    candidates
        ``(B, n, N)`` ids.

    Returns
    -------
    Tensor
        ``(B, n, N)``.
    """
    with torch.no_grad():
        flat = candidates.flatten(1)
        if len(items) <= _PRODUCT_UP_TO * flat.shape[1]:
            scores = (users @ items.T).gather(1, flat)
        else:
            scores = torch.bmm(F.embedding(flat, items), users.unsqueeze(-1)).squeeze(-1)
        return scores.view(candidates.shape)


def pick(candidates: Tensor, worth: Tensor) -> Tensor:
    """Of each row's candidates ``(B, n, N)`` the one worth most, ``(B, n)``."""
    return candidates.gather(2, worth.argmax(dim=2, keepdim=True)).squeeze(2)
