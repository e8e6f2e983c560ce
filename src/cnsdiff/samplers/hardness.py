"""The three knobs that control how hard a synthesised negative is (equations 16 to 18)."""

from __future__ import annotations

import torch
from torch import Tensor


def hardest(users: Tensor, candidates: Tensor) -> Tensor:
    """Of ``G`` candidates per row keep the one the user scores highest.

    ``users`` is ``(B, d)``, ``candidates`` ``(G, B, d)``; the result ``(B, d)``.
    """
    best = (candidates * users).sum(dim=-1).argmax(dim=0)
    return candidates[best, torch.arange(len(users), device=users.device)]


def curriculum_share(
    n: int,
    progress: float,
    start: tuple[float, float],
    end: tuple[float, float],
    generator: torch.Generator,
) -> Tensor:
    """``m ~ Beta(a_p, b_p)``, the generated share of a negative, ``(n, 1)``.

    ``(a_p, b_p)`` moves linearly from ``start`` to ``end`` with the training progress ``p``.
    """
    a, b = (first + (last - first) * progress for first, last in zip(start, end, strict=True))
    # A Beta variate is a ratio of Gamma variates; torch.distributions takes no generator.
    gamma = torch._standard_gamma(
        torch.tensor([a, b], device=generator.device).expand(n, 2).contiguous(),
        generator=generator,
    )
    return gamma[:, :1] / gamma.sum(dim=1, keepdim=True)


def cap(
    users: Tensor, positives: Tensor, negatives: Tensor, fallback: Tensor, margin: float
) -> tuple[Tensor, Tensor]:
    """Guard against synthetic false negatives: pull those scored too high toward ``fallback``.

    A negative may not score above its own positive by more than ``margin``. One that does is
    moved along the line to its fallback (a random item) until it scores exactly at the limit,
    or all the way if the fallback itself scores above it.

    Parameters
    ----------
    users, positives, negatives, fallback
        ``(B, d)`` each.
    margin
        Allowed excess in score.

    Returns
    -------
    tuple
        The guarded negatives ``(B, d)`` and which rows were pulled back ``(B,)``.
    """
    with torch.no_grad():
        limit = (users * positives).sum(-1) + margin
        score = (users * negatives).sum(-1)
        floor = (users * fallback).sum(-1)
        over = score > limit
        kept = ((limit - floor) / (score - floor)).clamp(0.0, 1.0)
        kept = torch.where(over & (floor < limit), kept, (~over).to(kept.dtype)).unsqueeze(-1)
    return kept * negatives + (1 - kept) * fallback, over
