"""The validation objective for tastes that change by the time of the test (equation 23).

With probability ``δ`` a held-out pair comes from a changed taste. Nobody knows to what it will
change, so it is modelled as somebody else's: each of the users with validation pairs gets the pairs
of another of them, drawn at random, less those that are its own training pairs::

    metric = (1 - δ) · metric(pairs) + δ · metric(pairs of others)

What a model knows of the one user alone counts for less, what it knows of all for more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.base.errors import ConfigError
from cnsdiff.base.seeding import numpy_generator
from cnsdiff.data import Split
from cnsdiff.evaluation.anticipation import Anticipation


class Drift(Anticipation):
    """Metrics after a share of the tastes has changed, in place of weights.

    Parameters
    ----------
    split
        The validation pairs.
    train
        ``(U, I)`` training pairs.
    ks
        Cut-offs.
    share
        ``δ``, from 0 (no drift) to 1.
    seed
        Of the draw.

    Raises
    ------
    ConfigError
        Every pair of another user is one that trains.
    """

    def __init__(
        self, split: Split, train: csr_array, ks: Sequence[int], share: float, seed: int = 0
    ) -> None:
        n_users, n_items = train.shape
        equal = np.ones((1, len(split)))
        super().__init__("drift", split, n_users, n_items, equal, ks)
        users = _somebody_else(split.users, numpy_generator(seed, "anticipation/drift"))
        trained = np.repeat(np.arange(n_users), np.diff(train.indptr)) * n_items + train.indices
        new = ~np.isin(users * n_items + split.items, trained)
        if not new.any():
            raise ConfigError(
                "every validation pair, given to another user, is a training pair, so nothing "
                "stands for a changed taste; select on 'valid'"
            )
        changed = Split(split.name, users[new], split.items[new])
        self.share = share
        self._changed = Anticipation(self.name, changed, n_users, n_items, equal[:, new], ks)
        self._pair_weights = (1 - share) / len(split) + share * new / new.sum()

    @property
    def effective_pairs(self) -> float:
        """Kish's number for the validation pairs, each with what it weighs in both metrics."""
        return float(self._pair_weights.sum() ** 2 / np.square(self._pair_weights).sum())

    def __call__(self, users: Tensor, items: Tensor) -> dict[str, float]:
        """As of :class:`Anticipation`, named ``"ndcg@10 (drift)"``."""
        now, then = super().__call__(users, items), self._changed(users, items)
        return {key: (1 - self.share) * now[key] + self.share * then[key] for key in now}


def _somebody_else(users: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """For each of ``users`` another of them: a random cycle, so that nobody is their own.

    Of one user alone there is no other.
    """
    distinct = np.unique(users)
    cycle = generator.permutation(len(distinct))
    other = np.empty_like(cycle)
    other[cycle] = np.roll(cycle, 1)
    return distinct[other[np.searchsorted(distinct, users)]]
