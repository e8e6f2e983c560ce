r"""Two towers of content: who has taken what, told from features alone (equation 30).

A user is the sum of what is known of their items, an item its own features, and two linear maps are
learnt so that the ones lie near the others::

    s(u, i) = cos(A p_u, B x_i) / τ,        p_u = Σ_{j of u} x_j

The loss is a softmax over the items of a batch with log-Q correction (equation 6's, where negatives
are drawn by popularity); an item is left out of the profile of the user whom it is to be told for.
Both maps start at the identity, so that the score starts as the cosine of a user's profile, which
is a strong model of its own. New users and new items need no training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cnsdiff.base.seeding import torch_generator

#: Pairs of an epoch at most, and of a step.
PAIRS, BATCH = 200_000, 1024
LEARNING_RATE, TEMPERATURE, DROPOUT = 1e-3, 0.05, 0.3


class Towers(NamedTuple):
    """The maps of users and of items, ``(r, r)`` float32 each."""

    user_map: Tensor
    item_map: Tensor

    def users(self, profiles: Tensor) -> Tensor:
        """``(n, r)`` unit vectors of profiles ``(n, r)``; zeros of nobody."""
        return normalize(normalize(profiles, dim=1) @ self.user_map.T, dim=1)

    def items(self, vectors: Tensor) -> Tensor:
        """``(n, r)`` unit vectors of items of features ``(n, r)``; zeros of what is not known."""
        return normalize(vectors @ self.item_map.T, dim=1)


def profiles(train: csr_array, vectors: Tensor) -> Tensor:
    """``(U, r)`` the sum of the vectors ``(I, r)`` of each user's items."""
    return torch.from_numpy((train @ vectors.numpy()).astype(np.float32))


def fit_towers(
    train: csr_array,
    vectors: Tensor,
    epochs: int,
    *,
    seed: int = 0,
    each: Callable[[int, Towers], None] = lambda epoch, towers: None,
) -> Towers:
    """Learn both maps.

    Parameters
    ----------
    train
        ``(U, I)`` ones, the pairs to learn from.
    vectors
        ``(I, r)`` float32 unit vectors of the items' features; zeros where nothing is known.
    epochs
        Of :data:`PAIRS` pairs at most.
    seed
        Of batches and dropout.
    each
        Called after each epoch, from 1, with the towers so far.
    """
    generator = torch_generator(seed, "content towers")
    width = vectors.shape[1]
    maps = [torch.eye(width).requires_grad_() for _ in range(2)]
    optimizer = torch.optim.Adam(maps, lr=LEARNING_RATE)
    # Only pairs of items of which something is known.
    rows, columns = (torch.from_numpy(side.astype(np.int64)) for side in train.nonzero())
    known = vectors.any(dim=1)[columns]
    rows, columns = rows[known], columns[known]
    sums = profiles(train, vectors)
    log_counts = torch.from_numpy(np.log(np.maximum(train.sum(axis=0), 1))).float()
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(rows), generator=generator)[:PAIRS]
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            users, items = rows[batch], columns[batch]
            own = vectors[items]
            profile = _dropped(normalize(sums[users] - own, dim=1), generator)
            scores = (
                normalize(profile @ maps[0].T, dim=1)
                @ normalize(_dropped(own, generator) @ maps[1].T, dim=1).T
            ) / TEMPERATURE - log_counts[items]
            # Items that the user has, too, are no alternatives.
            has = torch.from_numpy(train[users.numpy()][:, items.numpy()].toarray() > 0)
            scores = scores.masked_fill(has.fill_diagonal_(False), -torch.inf)
            loss = cross_entropy(scores, torch.arange(len(batch)))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        each(epoch, Towers(*(own.detach().clone() for own in maps)))
    return Towers(*(own.detach() for own in maps))


def _dropped(vectors: Tensor, generator: torch.Generator) -> Tensor:
    """Entries left out at random, the others made larger by as much."""
    kept = torch.rand(vectors.shape, generator=generator) >= DROPOUT
    return vectors * kept / (1 - DROPOUT)
