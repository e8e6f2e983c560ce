"""Conditional logit (McFadden, 1974): coefficients from choices.

Of a set ``S`` of alternatives one is chosen, with the probability::

    P(i | S) = exp(b · x_i) / Σ_{j ∈ S} exp(b · x_j)

The mean negative log-likelihood with a ridge is strictly convex; Newton's method takes a few steps
to its only minimum.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Newton's decrement at which the minimum is reached; more steps than any problem has needed.
_DECREMENT, _STEPS = 1e-12, 100


def fit_conditional_logit(
    features: Tensor, available: Tensor | None = None, *, ridge: float = 1e-4
) -> Tensor:
    """The coefficients ``(K,)`` under which the chosen alternatives are most likely.

    Parameters
    ----------
    features
        ``(n, S, K)`` float64 of the alternatives of ``n`` choices; the first is the chosen one.
    available
        ``(n, S)`` whether an alternative could be chosen; all by default.
    ridge
        ``λ`` of ``λ/2 · |b|²``, added to the mean negative log-likelihood.
    """
    n, _, k = features.shape
    relative = features - features[:, :1]
    absent = None if available is None else ~available
    eye = torch.eye(k, dtype=features.dtype, device=features.device)

    def logits(b: Tensor) -> Tensor:
        values = relative @ b
        return values if absent is None else values.masked_fill(absent, -torch.inf)

    def loss(b: Tensor) -> Tensor:
        return torch.logsumexp(logits(b), dim=1).mean() + ridge / 2 * b.square().sum()

    b = features.new_zeros(k)
    value = loss(b)
    for _ in range(_STEPS):
        share = torch.softmax(logits(b), dim=1)
        means = torch.einsum("ns,nsk->nk", share, relative)
        second = torch.einsum("nsk,nsl->kl", relative * share[:, :, None], relative)
        gradient = means.mean(dim=0) + ridge * b
        hessian = (second - means.T @ means) / n + ridge * eye
        step = torch.linalg.solve(hessian, gradient)
        if float(gradient @ step) < _DECREMENT:
            break
        # Newton's full step may overshoot far from the minimum; half of it, then a quarter …
        size = 1.0
        while (new := loss(b - size * step)) > value and size > 1e-9:
            size /= 2
        b, value = b - size * step, new
    return b
