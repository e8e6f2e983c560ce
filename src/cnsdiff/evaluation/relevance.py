"""The held-out positives of a split, ready for look-up, and the counts of the training pairs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.base.errors import DataError
from cnsdiff.data import Split


class Relevance:
    """Which items are relevant to which user, as sorted pair keys ``user * n_items + item``.

    Parameters
    ----------
    users, items : int64 arrays, shape (m,)
        Relevant pairs in any order; a pair given twice counts once.
    n_users, n_items : int
    device : torch.device or str

    Attributes
    ----------
    counts : Tensor of int64, shape (n_users,)
        Number of relevant items of each user.

    Raises
    ------
    DataError
        If a pair lies outside ``n_users`` × ``n_items``.
    """

    def __init__(
        self,
        users: NDArray[np.int64],
        items: NDArray[np.int64],
        n_users: int,
        n_items: int,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, index, size in (("user", users, n_users), ("item", items, n_items)):
            if len(index) and (index.min() < 0 or index.max() >= size):
                raise DataError(
                    f"held-out pairs hold {name} indices from {index.min()} to {index.max()}, but "
                    f"the model knows 0 to {size - 1}; drop pairs unknown to training"
                )
        keys = np.unique(users.astype(np.int64) * n_items + items)
        self._n_items = n_items
        self._keys = torch.from_numpy(keys).to(device)
        counts = np.bincount(keys // max(n_items, 1), minlength=n_users)
        self.counts = torch.from_numpy(counts.astype(np.int64)).to(device)

    @property
    def users(self) -> Tensor:
        """Users with at least one relevant item, ascending: int64, shape (n,)."""
        return self.counts.nonzero()[:, 0]

    def hits(self, users: Tensor, items: Tensor) -> Tensor:
        """Whether each listed item is relevant to its user.

        Parameters
        ----------
        users : Tensor of int64, shape (n,)
        items : Tensor of int64, shape (n, K)
            -1 where there is none.

        Returns
        -------
        Tensor of bool, shape (n, K)
        """
        return self.positions(users, items)[1]

    def positions(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Where each listed item stands among the sorted pairs, and whether it is one of them.

        Parameters
        ----------
        users, items
            As in :meth:`hits`.

        Returns
        -------
        Tensor of int64, Tensor of bool, both of shape (n, K)
            The place means nothing where the second is false.
        """
        if not len(self._keys):
            return torch.zeros_like(items), torch.zeros_like(items, dtype=torch.bool)
        wanted = users[:, None] * self._n_items + items
        at = torch.searchsorted(self._keys, wanted).clamp_(max=len(self._keys) - 1)
        # The padding's key, one below the user's first, is the previous user's last item.
        return at, (self._keys[at] == wanted) & (items >= 0)


def relevance_of(split: Split, name: str, shape: tuple[int, int]) -> Relevance:
    """The held-out pairs of a split of ``(users, items)``.

    Raises
    ------
    DataError
        There are none; ``name`` is what the message calls the split.
    """
    found = Relevance(split.users, split.items, *shape)
    if not len(found.users):
        raise DataError(f"{name} holds no interactions, so there is nothing to measure on it")
    return found


def item_counts(train: csr_array) -> Tensor:
    """``(I,)`` training pairs of each item."""
    return torch.from_numpy(np.bincount(train.indices, minlength=train.shape[1]))
