"""The losses (equations 3, 4, 19 and 20): BPR, sampled softmax, alignment, L2.

Functions of scores or vectors that return scalars;
:class:`~cnsdiff.objectives.objective.Objective` assembles
them for a batch as the configuration says.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cnsdiff.kernels.shared_softmax import shared_softmax


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
    if admissible is not None:
        negatives = negatives.masked_fill(~admissible, -torch.inf)
    logits = torch.cat([positive.unsqueeze(1), negatives], dim=1)
    losses = torch.logsumexp(logits, dim=1) - positive
    return (losses if row_weights is None else row_weights * losses).mean()


def alignment(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """``L_CL = - mean cos(a, p)/τ + mean logsumexp_n cos(a, n)/τ`` (equation 19).

    Shapes ``(B, d)``, ``(B, d)`` and ``(M, d)``.
    """
    anchors, positives, negatives = (
        F.normalize(x, dim=-1) for x in (anchors, positives, negatives)
    )
    attraction = (anchors * positives).sum(dim=-1) / temperature
    alike = anchors.new_full((len(anchors),), 1 / len(anchors))
    return shared_softmax(anchors / temperature, negatives, alike) - attraction.mean()


def l2_squared_of_drawn(table: Tensor, drawn: Tensor) -> Tensor:
    """``Σ ‖x‖² / (2m)`` over the rows ``drawn (m,)`` of a table that has fewer than ``m``."""
    counts = torch.bincount(drawn, minlength=len(table))
    return (counts * table.square().sum(dim=1)).sum() / (2 * len(drawn))


def l2_norm(*rows: Tensor) -> Tensor:
    """``Σ ‖X‖_F / B²``, what the authors' code computes: next to nothing at B = 2048."""
    return sum((x.norm() / len(x) ** 2 for x in rows), start=rows[0].new_zeros(()))
