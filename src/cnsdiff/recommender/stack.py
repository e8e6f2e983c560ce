"""The stack of two models (equation 28).

The scores of both, each in units of how far the user's scores spread over the items, are added::

    s(u, i) = w_1 s_1(u, i) / σ_1u + w_2 s_2(u, i) / σ_2u

Each is an inner product of embeddings, so their sum is one, too, of the embeddings one beside the
other: a stack is saved and served as any model. Validation chooses the weights, and one of them
may be 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.settings import Record
from cnsdiff.evaluation import EmbeddingScorer
from cnsdiff.training.selection import Choice, Selects, only_choice

#: Of the first model and the second.
Weights = tuple[float, float]
ALONE: Weights = (1.0, 0.0)
#: To choose from; where validation likes several alike, the first of these.
WEIGHTS: tuple[Weights, ...] = (ALONE, (2.0, 1.0), (1.0, 1.0), (1.0, 2.0), (0.0, 1.0))


class Stack(Record):
    """What validation chose of two models."""

    weights: list[float] = Field(min_length=2, max_length=2)
    """Of the first and the second."""
    best_epoch: int
    """Of the second."""


def stacked(tables: Sequence[Embeddings], weights: Weights) -> Embeddings:
    """The embeddings whose inner products are the stack.

    Parameters
    ----------
    tables
        Of one model or two: ``(U, d_m)`` and ``(I, d_m)``.
    weights
        Of the two. A model of weight 0 is left out, and the other one stays as it is.

    Returns
    -------
    Embeddings
        ``(U, d_1 + d_2)`` and ``(I, d_1 + d_2)``.
    """
    used = [(weight, table) for weight, table in zip(weights, tables, strict=False) if weight]
    if len(used) == 1:
        return used[0][1]
    users = [weight * table.in_own_units().users for weight, table in used]
    items = [table.items for _, table in used]
    return Embeddings(torch.cat(users, dim=1), torch.cat(items, dim=1))


def best_stack(
    selection: Selects, tables: Sequence[Embeddings], name: str
) -> tuple[Choice, Weights]:
    """What suits a trained model best by an objective, or two and their weights."""
    if len(tables) == 1:
        return only_choice(selection, EmbeddingScorer(*tables[0]), name), ALONE
    candidates = (
        (selection.choice(EmbeddingScorer(*stacked(tables, weights)), name), weights)
        for weights in WEIGHTS
    )
    return max(candidates, key=lambda candidate: candidate[0].value)  # of equal ones the first
