"""Candidates of the samplers that pick hard negatives: how they are drawn and scored.

``C_u``: ``N`` items drawn uniformly, with replacement, from those outside the user's
training positives, afresh for each negative.
"""

from __future__ import annotations

import warnings
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.search_space import Searched
from cnsdiff.data.positives import Positives
from cnsdiff.samplers.base import Batch, Context, Sampler, SamplerConfig


class CandidateConfig(SamplerConfig):
    """Settings of a sampler that picks from candidates."""

    candidates: Annotated[int, Searched(low=2, high=64, integer=True, log=True)] = Field(
        32, ge=1, le=10**5, description="N, candidates per negative"
    )


class CandidateSampler(Sampler):
    """Base of the samplers that choose among candidates by their scores."""

    Config = CandidateConfig
    config: CandidateConfig

    def scored(
        self, batch: Batch, embeddings: Embeddings, context: Context, n: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Candidates and their scores ``s(u, ·)``, ``(B, n_negatives, N)`` each.

        ``n`` instead of ``N`` of them, if given.
        """
        n = self.config.candidates if n is None else n
        drawn = draw_candidates(
            self.positives, batch.users, self.config.n_negatives, n, context.negatives
        )
        users = embeddings.users.detach()[batch.users]
        return drawn, candidate_scores(users, embeddings.items, drawn)


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
        if len(items) <= flat.shape[1]:
            way = _whole_product
        elif items.device.type == "cpu" and items.dtype in (torch.float32, torch.float64):
            way = _sampled_product
        else:
            way = _gathered
        return way(users, items, flat).view(candidates.shape)


def pick(candidates: Tensor, worth: Tensor) -> Tensor:
    """Of each row's candidates ``(B, n, N)`` the one worth most, ``(B, n)``."""
    return candidates.gather(2, worth.argmax(dim=2, keepdim=True)).squeeze(2)


def _whole_product(users: Tensor, items: Tensor, flat: Tensor) -> Tensor:
    """``(B, m)`` scores of the items ``flat``, found among those of the whole catalogue."""
    return (users @ items.T).gather(1, flat)


def _gathered(users: Tensor, items: Tensor, flat: Tensor) -> Tensor:
    """The same from the items' vectors, laid out as ``(B, m, d)``."""
    return torch.bmm(F.embedding(flat, items), users.unsqueeze(-1)).squeeze(-1)


def _sampled_product(users: Tensor, items: Tensor, flat: Tensor) -> Tensor:
    """The same without that copy, which takes a CPU most of the time; for ``m <= I`` only.

    The candidates are the places of a sparse matrix ``(B, I)`` at which the product of users and
    items is wanted. The CPU's routine goes through the places one by one, so that they may come
    in any order and repeatedly (but it drops those beyond the number of cells); that of CUDA does
    not say as much, and a GPU copies quickly.
    """
    rows, m = flat.shape
    with warnings.catch_warnings():
        # PyTorch announces once per process that its CSR tensors are in beta.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        places = torch.sparse_csr_tensor(
            torch.arange(0, rows * m + 1, m),
            flat.flatten(),
            items.new_zeros(rows * m),
            size=(rows, len(items)),
            check_invariants=False,
        )
    product: Tensor = torch.sparse.sampled_addmm(places, users, items.T, beta=0.0)
    return product.values().view(rows, m)
