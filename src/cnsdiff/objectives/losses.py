"""The losses (equations 3, 4, 19), and two rivals' treatments of popularity in them (24, 25).

:class:`~cnsdiff.objectives.objective.Objective` assembles them for a batch (equation 20).

*Inverse propensities* weigh the positives (Schnabel et al., ICML 2016; Saito et al., WSDM 2020):
a click on an item that is rarely shown counts for more. *Popularity deconfounding* (Zhang et al.,
SIGIR 2021) lets popularity explain a part of the click while training, and leaves it out when
ranking. Popularity ``m_i`` is an item's number of training interactions over that of the most
popular item, in ``[0, 1]``.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.search_space import Searched
from cnsdiff.base.settings import Settings
from cnsdiff.kernels.gradients import half_mean_squares, shared_softmax


def bpr(
    positive: Tensor,
    negative: Tensor,
    weights: Tensor | None = None,
    row_weights: Tensor | None = None,
) -> Tensor:
    """``- mean log σ(s_p - s_n)`` (Rendle et al. 2009); shapes ``(B,)`` and ``(B, n)``.

    With ``weights`` ``(B, n)`` the mean over rows of the weighted sum over each; ``row_weights``
    ``(B,)`` multiply the rows before that mean.
    """
    losses = F.softplus(negative - positive.unsqueeze(1))
    if row_weights is not None:
        losses = row_weights.unsqueeze(1) * losses
    return losses.mean() if weights is None else (weights * losses).sum(dim=1).mean()


def sampled_softmax(
    positive: Tensor,
    negatives: Tensor,
    admissible: Tensor | None,
    row_weights: Tensor | None = None,
) -> Tensor:
    """``- mean log( e^{l_p} / (e^{l_p} + Σ_n e^{l_n}) )`` over logits.

    Parameters
    ----------
    positive
        ``(B,)`` logits of the positives.
    negatives
        ``(B, N)`` logits of the negatives.
    admissible
        ``(B, N)`` boolean, false where a "negative" is in truth a positive of the row; all are
        admissible when ``None``.
    row_weights
        ``(B,)`` factors of the rows before the mean; 1 when ``None``.
    """
    losses = log_sum(positive, negatives, admissible) - positive
    return (losses if row_weights is None else row_weights * losses).mean()


def log_sum(own: Tensor, others: Tensor, admissible: Tensor | None) -> Tensor:
    """``(B,)`` log of ``e^own`` and the sum of ``e^others`` over what is ``admissible``."""
    if admissible is not None:
        others = others.masked_fill(~admissible, -torch.inf)
    return torch.logsumexp(torch.cat([own.unsqueeze(1), others], dim=1), dim=1)


def screened(scores: Tensor, admissible: Tensor | None, share: float) -> Tensor:
    """What is admissible after the best-scoring ``share`` of each row's negatives is left out.

    Unobserved items that a trained score puts on top are the likeliest to be liked
    (docs/false-negatives.md).

    Parameters
    ----------
    scores
        ``(B, N)`` of the negatives.
    admissible
        ``(B, N)``, false for what does not count anyhow; all count when ``None``.
    share
        ``⌊share · N⌋`` are left out.
    """
    if admissible is None:
        admissible = torch.ones_like(scores, dtype=torch.bool)
    worth = scores.detach().masked_fill(~admissible, -torch.inf)
    best = worth.topk(int(share * scores.shape[1]), dim=1).indices
    return admissible.scatter(1, best, value=False)


class ContrastiveConfig(Settings):
    """The alignment term ``L_CL`` (equation 19)."""

    weight: Annotated[float, Searched(low=0.01, high=1.0, log=True)] = Field(0.0, ge=0)
    """λ_cl; 0: off."""
    temperature: float = Field(2.0, gt=0)
    """τ of its cosines."""
    noise: float = Field(0.01, ge=0)
    """Scale of ε in cos(z_i, z_i + ε)."""
    negatives: int | None = Field(512, ge=1, le=10**6)
    """How many are drawn from the sampler's pool; None: all."""


def alignment(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    temperature: float,
    row_weights: Tensor | None = None,
) -> Tensor:
    """``L_CL = - mean cos(a, p)/τ + mean logsumexp_n cos(a, n)/τ`` (equation 19).

    Shapes ``(B, d)``, ``(B, d)`` and ``(M, d)``; ``row_weights`` ``(B,)`` multiply the rows before
    the means.
    """
    anchors, positives, negatives = (
        F.normalize(x, dim=-1) for x in (anchors, positives, negatives)
    )
    attraction = (anchors * positives).sum(dim=-1) / temperature
    shares = anchors.new_full((len(anchors),), 1 / len(anchors))
    if row_weights is not None:
        shares, attraction = shares * row_weights, row_weights * attraction
    repulsion = shared_softmax(anchors, negatives, shares, temperature=temperature)
    return repulsion - attraction.mean()


def moved_by(share: float, vectors: Tensor) -> Tensor:
    """The same vectors, but with ``share`` of the gradient (equation 5)."""
    return vectors if share == 1 else torch.lerp(vectors.detach(), vectors, share)


def l2_squared(
    tables: Embeddings, users: Tensor, positives: Tensor, negatives: Tensor | None
) -> Tensor:
    """``Σ ‖X‖² / (2m)`` over the rows of users, positives and drawn items, ``m`` ids each."""
    items, of_users = tables.items, half_mean_squares(tables.users, users)
    if negatives is None:
        return of_users + half_mean_squares(items, positives)
    if len(negatives) <= len(items):
        return of_users + half_mean_squares(items, positives, negatives)
    # More than the table has rows: each row counts as often as it was drawn.
    counts = torch.bincount(negatives, minlength=len(items))
    many = (counts * items.square().sum(dim=1)).sum() / (2 * len(negatives))
    return of_users + half_mean_squares(items, positives) + many


def l2_norm(
    tables: Embeddings, users: Tensor, positives: Tensor, negatives: Tensor | None
) -> Tensor:
    """``Σ ‖X‖_F / m²``, what the authors' code computes: next to nothing at m = 2048."""
    ids = [positives] if negatives is None else [positives, negatives]
    rows = [tables.users.index_select(0, users), *(tables.items.index_select(0, i) for i in ids)]
    return sum((x.norm() / len(x) ** 2 for x in rows), start=rows[0].new_zeros(()))


class PropensityConfig(Settings):
    """Inverse-propensity weights of the ranking loss (equation 24)."""

    exponent: Annotated[float, Searched(low=0.1, high=1.0)] = Field(0.0, ge=0, le=10)
    """η in p_i = m_i^η; 0: off."""
    floor: float = Field(0.01, gt=0, le=1)
    """Least p_i, which bounds the weights."""


def popularity_power(counts: Tensor, exponent: float) -> Tensor:
    """``m_i^exponent``, float64 of the shape of ``counts``."""
    return (counts.double() / counts.max()) ** exponent


def inverse_propensity(counts: Tensor, config: PropensityConfig) -> Tensor:
    """Weight of a positive by its item: ``w_i ∝ 1 / max(p_i, floor)`` with ``p_i = m_i^η``.

    Self-normalised: the mean of ``w`` over the training interactions is 1, so that the loss keeps
    its scale beside the other terms. That of a batch is 1 on average only.

    Parameters
    ----------
    counts
        ``(n_items,)`` training interactions of each item.

    Returns
    -------
    Tensor
        ``(n_items,)`` float32.
    """
    weights = 1 / popularity_power(counts, config.exponent).clamp(min=config.floor)
    return (weights * (counts.sum() / (weights * counts).sum())).float()


def deconfounded(scores: Tensor, popularity: Tensor) -> Tensor:
    """PDA's score while training, ``ELU'(s) · m^γ``.

    ``ELU'(s)`` is ``s + 1`` above 0 and ``e^s`` below. Ranking under ``do(popularity)`` drops
    ``m^γ``; ``ELU'`` is monotone, so the order is that of ``s`` itself and serving stays as it
    is. Zhang et al. count popularity by stage of time; here there is one stage, all of training.
    Injecting a popularity wanted at serving time, the second half of PDA, is not part of it.

    Parameters
    ----------
    scores
        ``s``, of any shape.
    popularity
        ``m^γ`` (:func:`popularity_power`), of a shape that broadcasts.
    """
    # Not elu(s) + 1, which rounds a small e^s away.
    positive = torch.where(scores > 0, scores + 1, scores.clamp(max=0).exp())
    return positive * popularity
