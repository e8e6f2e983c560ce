"""The training positives, indexed for the two questions that samplers ask.

*Is this pair a positive?* and *which is the r-th item that is not one?* Both are answered for
whole batches by binary search on sorted integer keys: no loop, no rejection, no users × items
matrix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from cnsdiff.base.errors import DataError
from cnsdiff.base.text import parameter

if TYPE_CHECKING:
    from cnsdiff.data.splits import Split


class Positives(nn.Module):
    """The observed pairs of ``n_users × n_items``, as device tensors.

    Parameters
    ----------
    users, items
        Internal ids of the observed pairs, each ``(n,)``, without repetition.
    n_users, n_items
        Size of the catalogue.
    timestamps
        When each pair was observed, ``(n,)``, or ``None``.
    periods
        Number of the period each pair was observed in, ``(n,)`` int64, or ``None``.
    weights
        What each pair counts for in a loss, ``(n,)``, or ``None``: all alike.

    Attributes
    ----------
    pairs : Tensor
        ``(n, 2)`` user and item of every interaction, in the order given.
    item_counts : Tensor
        ``(n_items,)`` number of interactions per item (its popularity).
    user_counts : Tensor
        ``(n_users,)`` number of interactions per user.
    full_users : array of int64
        Users with every item, rising: no item can be a negative for them.
    """

    pairs: Tensor
    item_counts: Tensor
    user_counts: Tensor
    _pair_keys: Tensor
    _free_keys: Tensor
    _starts: Tensor

    def __init__(
        self,
        users: NDArray[np.int64],
        items: NDArray[np.int64],
        n_users: int,
        n_items: int,
        timestamps: NDArray[Any] | None = None,
        periods: NDArray[np.int64] | None = None,
        weights: NDArray[np.floating[Any]] | None = None,
    ) -> None:
        super().__init__()
        self.n_users, self.n_items = n_users, n_items
        self.matrix = sparse.csr_array(
            (np.ones(len(users), dtype=np.float32), (users, items)), shape=(n_users, n_items)
        )
        self.matrix.sort_indices()
        row = np.repeat(np.arange(n_users), np.diff(self.matrix.indptr))
        column = self.matrix.indices.astype(np.int64)
        starts = self.matrix.indptr.astype(np.int64)
        # The j-th positive p_j of a user has p_j - j non-positives before it: this sequence
        # never falls, so a search in it counts the positives below the r-th non-positive.
        free_before = column - (np.arange(len(column)) - starts[row])
        tensors = {
            "pairs": np.stack([users, items], axis=1).astype(np.int64),
            "item_counts": np.bincount(items, minlength=n_items),
            "user_counts": np.bincount(users, minlength=n_users),
            "_pair_keys": row * n_items + column,
            "_free_keys": row * (n_items + 1) + free_before,
            "_starts": starts,
        }
        if timestamps is not None:
            tensors["_timestamps"] = np.asarray(timestamps, dtype=np.float64)
        if periods is not None:
            tensors["_periods"] = np.asarray(periods, dtype=np.int64)
        if weights is not None:
            tensors["_weights"] = np.asarray(weights, dtype=np.float32)
        self.full_users = np.flatnonzero(tensors["user_counts"] == n_items)
        for name, value in tensors.items():
            self.register_buffer(name, torch.from_numpy(value), persistent=False)

    @classmethod
    def of_split(cls, split: Split, n_users: int, n_items: int) -> Self:
        """The pairs of a split, train as a rule, with what it knows of them.

        Weights are divided by their mean, so that losses keep their size.
        """
        weights = None if split.weights is None else split.weights / split.weights.mean()
        return cls(
            split.users, split.items, n_users, n_items, split.timestamps, split.periods, weights
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def normalised_matrix(self) -> sparse.csr_array:
        """``R̂ = D_U^-1/2 R D_I^-1/2``, ``(U, I)`` float32; rows without positives stay empty.

        An item's degree is its count, which may be over more users than the rows are.
        """
        user_degree: NDArray[np.float32] = self.matrix.sum(axis=1)
        item_degree: NDArray[np.float32] = self.item_counts.cpu().numpy().astype(np.float32)
        coo = self.matrix.tocoo()
        rows, columns = coo.coords
        coo.data = (1.0 / (user_degree[rows] * item_degree[columns]) ** 0.5).astype("float32")
        return coo.tocsr()

    @property
    def timestamps(self) -> Tensor | None:
        """When each pair was observed ``(n,)``, float64, or ``None``."""
        return getattr(self, "_timestamps", None)

    @property
    def periods(self) -> Tensor | None:
        """Period of each pair ``(n,)``, int64, or ``None``."""
        return getattr(self, "_periods", None)

    @property
    def weights(self) -> Tensor | None:
        """What each pair counts for in a loss ``(n,)``, float32, or ``None``: all alike."""
        return getattr(self, "_weights", None)

    def contains(self, users: Tensor, items: Tensor) -> Tensor:
        """Whether each pair was observed; shapes broadcast, boolean result."""
        keys = users * self.n_items + items
        place = torch.searchsorted(self._pair_keys, keys).clamp_(max=len(self) - 1)
        return self._pair_keys[place] == keys

    def pairs_of(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """All pairs of users ``(B,)``: ``(m,)`` the place of each in ``users``, and its item."""
        counts = self.user_counts[users]
        row = torch.repeat_interleave(counts)
        within = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        return row, self._pair_keys[self._starts[users][row] + within] % self.n_items

    def require_negatives(self) -> None:
        """Raise :class:`DataError` if every user has every item, so that no negative exists."""
        if len(self.full_users) == int((self.user_counts > 0).sum()):
            raise DataError(
                f"the training split: every user interacted with all {self.n_items} items, so "
                f"there are no negatives; give a larger log (or a rating {parameter('threshold')})"
            )

    def rows_with_negatives(self) -> Tensor | None:
        """``(m,)`` rows of :attr:`pairs` whose user lacks some item; ``None`` where all do."""
        if not len(self.full_users):
            return None
        lacks = self.user_counts < self.n_items
        return lacks[self.pairs[:, 0]].nonzero()[:, 0]

    def sample_negatives(self, users: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """``(B, n)`` items, uniform over those that each user ``(B,)`` has not interacted with.

        Draws are independent, with replacement, from ``generator`` on the same device. A user who
        has every item gets any item: see :meth:`rows_with_negatives`.
        """
        free = (self.n_items - self.user_counts[users]).unsqueeze(1)
        uniform = torch.rand(
            (len(users), n), generator=generator, device=users.device, dtype=torch.float64
        )
        rank = (uniform * free).long()
        keys = users.unsqueeze(1) * (self.n_items + 1) + rank
        below = torch.searchsorted(self._free_keys, keys, right=True)
        items = rank + below - self._starts[users].unsqueeze(1)
        # Beyond the last item there is none, but for users without a free one nothing points.
        return items.clamp_(max=self.n_items - 1) if len(self.full_users) else items
