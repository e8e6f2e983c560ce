"""Losses of rivals over a row's positive and its negatives, from their papers' formulas.

Each replaces the sampled softmax (equation 4), with scores that are cosines:

- *PSL* (Yang et al., NeurIPS 2024) puts a gentler function in the place of the exponential;
- *BSL* (Wu et al., ICDE 2024) gives the positive a temperature of its own;
- *SL@K* (Yang et al., KDD 2025) weighs a row by how near its positive is to the user's top K;
- the *BC loss* (Zhang et al., NeurIPS 2022) asks for a margin where popularity alone does not tell
  the pair.

All take scores ``s``, not yet divided by a temperature: ``(B,)`` of the positives and ``(B, N)`` of
the negatives, with ``admissible`` ``(B, N)`` false where a "negative" is the row's own positive,
and return the ``(B,)`` losses of the rows.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cnsdiff.base.search_space import Searched
from cnsdiff.base.settings import Settings
from cnsdiff.data.positives import Positives
from cnsdiff.objectives.losses import log_sum

#: What keeps the logarithm of PSL's ReLU, and the derivative of arccos, finite.
_EPSILON = 1e-6
#: In the place of minus infinity, with which the gradient of a sum over nothing is not a number.
_NEVER = -1e30

Activation = Literal["tanh", "atan", "relu"]


#: The settings of each loss beside the temperature.
OPTIONS = {
    "psl": ("activation",),
    "bsl": ("positive_temperature",),
    "sl@k": ("k", "weight_temperature"),
    "bc": ("popularity_temperature",),
}


class RivalConfig(Settings):
    """What the losses of rivals have beside the temperature, each its own (:data:`OPTIONS`)."""

    activation: Activation = "tanh"
    """σ of PSL."""
    positive_temperature: Annotated[float, Searched(low=0.05, high=0.8, log=True)] = Field(
        0.2, gt=0
    )
    """τ₁ of BSL, of the positive; the loss's temperature is τ₂."""
    k: int = Field(20, ge=1, le=10**4)
    """K of SL@K."""
    weight_temperature: Annotated[float, Searched(low=0.05, high=2.0, log=True)] = Field(1.0, gt=0)
    """τ_w of SL@K's weight."""
    popularity_temperature: Annotated[float, Searched(low=0.05, high=0.5, log=True)] = Field(
        0.1, gt=0
    )
    """τ₂ of the BC loss, of the scores by popularity alone."""


def psl(
    positive: Tensor,
    negative: Tensor,
    admissible: Tensor | None,
    temperature: float,
    activation: Activation,
) -> Tensor:
    """``log Σ_j σ(d_j)^{1/τ}`` with ``d_j = (s_j - s_p) / 2``, over the positive (``d = 0``), too.

    The activation is ``tanh(d) + 1``, ``arctan(d) + 1`` or ``max(d + 1, 0)``; with ``e^d`` it is
    the softmax at twice the temperature. Cosines are halved, as in the paper, so that
    ``d`` is in ``[-1, 1]``, where each activation is between the step function and ``e^d``.
    """
    difference = (negative - positive.unsqueeze(1)) / 2
    match activation:
        case "tanh":
            logs = difference.tanh().log1p()
        case "atan":
            logs = difference.atan().log1p()
        case "relu":
            logs = (difference + 1).clamp(min=_EPSILON).log()
    return log_sum(positive.new_zeros(positive.shape), logs / temperature, admissible)


def bsl(
    positive: Tensor,
    negative: Tensor,
    admissible: Tensor | None,
    temperature: float,
    positive_temperature: float,
) -> Tensor:
    """``-s_p / τ₁ + (τ₂ / τ₁) log Σ_j e^{s_j / τ₂}``.

    The authors' pseudo-code has ``(Σ_j e^{s_j / τ₂})^{τ₂ / τ₁}``, this, where the formula of
    their paper takes the logarithm of a mean over the user's positives: a batch has one. The
    positive is not in the sum; a row without a negative has no loss.
    """
    logits = negative / temperature
    if admissible is not None:
        logits = logits.masked_fill(~admissible, _NEVER)
    others = torch.logsumexp(logits, dim=1)
    losses = (temperature * others - positive) / positive_temperature
    return losses if admissible is None else losses * admissible.any(dim=1)


def sl_at_k(
    positive: Tensor,
    negative: Tensor,
    admissible: Tensor | None,
    temperature: float,
    threshold: Tensor,
    weight_temperature: float,
) -> Tensor:
    """``σ((s_p - β) / τ_w) · log Σ_j e^{(s_j - s_p) / τ}``, where the sum has the positive, too.

    ``threshold`` is ``β``, ``(B,)`` without gradient: the user's K-th best score.
    """
    softmax = log_sum(positive / temperature, negative / temperature, admissible)
    weights = torch.sigmoid((positive - threshold) / weight_temperature)
    return weights * (softmax - positive / temperature)


def bc(
    positive: Tensor,
    negative: Tensor,
    admissible: Tensor | None,
    temperature: float,
    margin: Tensor,
) -> Tensor:
    """The softmax in which the positive's cosine is ``cos(θ + min(ξ, π - θ))``.

    ``θ`` is its angle and ``margin`` is ``ξ``, ``(B,)`` without gradient: the angle by popularity
    alone (:func:`popularity_angles`).
    """
    moved = (_angle(positive) + margin).clamp(max=torch.pi).cos() / temperature
    return log_sum(moved, negative / temperature, admissible) - moved


def kth_best(row: Tensor, scores: Tensor, sampled: Tensor, k: int) -> Tensor:
    """``(B,)`` each row's ``k``-th best score among its user's positives and its negatives.

    So the authors estimate the threshold of SL@K: too low, as a sample has fewer good items than
    the catalogue. Theirs is renewed every 20 epochs, this with each batch.

    Parameters
    ----------
    row, scores
        ``(m,)`` rows, rising, and the scores of their users' positives.
    sampled
        ``(B, N)`` scores of negatives, minus infinity for what does not count.
    k
        From 1; of fewer scores the worst.
    """
    counts = torch.bincount(row, minlength=len(sampled))
    # The best k of each row's positives, in columns.
    order = scores.argsort(descending=True, stable=True)
    order = order[row[order].argsort(stable=True)]
    rank = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    best = scores.new_full((len(sampled), k), _NEVER)
    best[row[rank < k], rank[rank < k]] = scores[order[rank < k]]
    top = torch.cat([best, sampled], dim=1).topk(k, dim=1).values
    some = (counts + sampled.isfinite().sum(dim=1)).clamp(max=k)
    return top.gather(1, some.unsqueeze(1) - 1).squeeze(1)


def popularity_angles(
    positives: Positives, temperature: float, *, dim: int = 16, steps: int = 300
) -> tuple[Tensor, Tensor, Tensor]:
    """The angles ``ξ`` by popularity alone, of which the BC loss makes its margins.

    A vector for each number of interactions that users have, and one for each that items have,
    are trained by a softmax over all items on their cosines. The authors train them beside the
    model at first, and then hold them; here that is done before, and by counts, so that pairs that
    are alike are computed once.

    Parameters
    ----------
    positives
        All training pairs.
    temperature
        ``τ₂``.
    dim, steps
        Size of the vectors, and steps of Adam, at a rate of .05.

    Returns
    -------
    tuple
        The class of each user ``(U,)`` and of each item ``(I,)``, and the angles of classes
        ``(A, C)``, float32.
    """
    of_users, of_items = (
        torch.from_numpy(np.unique(counts.cpu().numpy(), return_inverse=True)[1])
        for counts in (positives.user_counts, positives.item_counts)
    )
    # How many items each class has, and what share of the pairs each two classes.
    sizes = of_items.bincount().float()
    shape = int(of_users.max()) + 1, len(sizes)
    users, items = of_users[positives.pairs[:, 0]], of_items[positives.pairs[:, 1]]
    pairs = (users * shape[1] + items).bincount(minlength=shape[0] * shape[1]).view(shape)
    shares = pairs / len(positives)
    generator = torch.Generator().manual_seed(0)
    tables = [torch.randn(n, dim, generator=generator).requires_grad_() for n in shape]
    optimiser = torch.optim.Adam(tables, lr=0.05)

    def cosines() -> Tensor:
        return F.normalize(tables[0], dim=1) @ F.normalize(tables[1], dim=1).T

    for _ in range(steps):
        logits = cosines() / temperature
        losses = torch.logsumexp(logits + sizes.log(), dim=1, keepdim=True) - logits
        optimiser.zero_grad()
        (shares * losses).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return of_users, of_items, _angle(cosines().detach())


def _angle(cosines: Tensor) -> Tensor:
    return cosines.clamp(-1 + _EPSILON, 1 - _EPSILON).acos()
