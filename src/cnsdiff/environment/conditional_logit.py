"""Conditional logit (McFadden, 1974): coefficients from choices.

Of a set ``S`` of alternatives one is chosen, with the probability::

    P(i | S) = exp(b · x_i) / Σ_{j ∈ S} exp(b · x_j)

The mean negative log-likelihood with a ridge is strictly convex; Newton's method takes a few steps
to its only minimum.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Newton's decrement after which one more step is the last, and more steps than any problem needs.
_DECREMENT, _STEPS = 1e-9, 100
#: Where there are many choices, each eighth finds most of the way.
_MANY, _EACH = 800, 8
#: Entries at once: they stay in the processor's cache.
_AT_ONCE = 2**17

Floats = NDArray[np.float64]


class _Point(NamedTuple):
    """The loss at some coefficients, its gradient ``(K,)`` and Hessian ``(K, K)``."""

    loss: float
    gradient: Floats
    hessian: Floats


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
    x = features.cpu().numpy()
    absent = None if available is None else ~available.cpu().numpy()
    b = np.zeros(x.shape[2])
    if len(x) >= _MANY:
        b = _minimum(b, x[::_EACH], None if absent is None else absent[::_EACH], ridge)
    return torch.from_numpy(_minimum(b, x, absent, ridge)).to(features.device)


def _minimum(b: Floats, x: Floats, absent: NDArray[np.bool_] | None, ridge: float) -> Floats:
    """Newton's method from ``b``."""
    here = _at(b, x, absent, ridge)
    for _ in range(_STEPS):
        step = np.linalg.solve(here.hessian, here.gradient)
        if here.gradient @ step < _DECREMENT:
            return b - step
        # A full step may overshoot far from the minimum; half of it, then a quarter …
        size = 1.0
        while (new := _at(b - size * step, x, absent, ridge)).loss > here.loss:
            if size < 1e-9:
                break
            size /= 2
        b, here = b - size * step, new
    return b


def _at(b: Floats, x: Floats, absent: NDArray[np.bool_] | None, ridge: float) -> _Point:
    """The mean negative log-likelihood with its ridge, and its derivatives, in one pass."""
    n, s, k = x.shape
    loss, gradient, second, outer = 0.0, np.zeros(k), np.zeros((k, k)), np.zeros((k, k))
    at_once = max(1, _AT_ONCE // (s * k))
    kept = np.empty((min(at_once, n), s, k))
    for start in range(0, n, at_once):
        part = x[start : start + at_once]
        relative = np.subtract(part, part[:, :1], out=kept[: len(part)])
        logits = relative @ b
        if absent is not None:
            logits[absent[start : start + at_once]] = -np.inf
        top = logits.max(axis=1, keepdims=True)
        weights = np.exp(logits - top)
        total = weights.sum(axis=1, keepdims=True)
        weights /= total
        means = (weights[:, None] @ relative)[:, 0]
        loss += float((top + np.log(total)).sum())
        gradient += means.sum(axis=0)
        rooted = np.multiply(relative, np.sqrt(weights)[:, :, None], out=relative).reshape(-1, k)
        second += rooted.T @ rooted
        outer += means.T @ means
    hessian = (second - outer) / n + ridge * np.eye(k)
    return _Point(loss / n + ridge / 2 * float(b @ b), gradient / n + ridge * b, hessian)
