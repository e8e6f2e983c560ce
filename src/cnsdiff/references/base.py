"""Base of the references, and the two that learn nothing: popularity and chance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.base.errors import ConfigError, DataError, NotFittedError, reason
from cnsdiff.base.seeding import derive_seed, uniforms
from cnsdiff.evaluation.metrics import item_counts

if TYPE_CHECKING:
    from cnsdiff.data import Dataset


class Reference:
    """A model without learning by gradient, fitted on the training split alone.

    Implements :class:`cnsdiff.evaluation.Scorer`. A subclass gives :meth:`_fit` and
    :meth:`score_block`.

    Attributes
    ----------
    train_ : csr_array of float32, shape (n_users, n_items)
        Training positives as ones (repeated pairs count once).
    """

    #: Whether the training split alone decides the scores; otherwise the constructor takes a
    #: ``seed`` that changes them.
    deterministic: ClassVar[bool] = True
    #: Whether the dial has a meaning: not for scores that are the environment's own, or noise.
    dialled: ClassVar[bool] = True

    train_: csr_array

    def fit(self, dataset: Dataset) -> Self:
        """Fit on ``dataset.split("train")`` and return the model itself.

        Raises
        ------
        DataError
            If the training split is empty.
        """
        train = dataset.split("train").csr(dataset.n_users, dataset.n_items).astype(np.float32)
        if train.nnz == 0:
            raise DataError("the training split holds no interactions, so there is nothing to fit")
        train.sum_duplicates()
        train.data[:] = 1.0
        self._fit(train)
        self.train_ = train
        return self

    def _fit(self, train: csr_array) -> None:
        raise NotImplementedError

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        """Scores of the items ``start .. stop - 1``: float32, shape (B, stop - start)."""
        raise NotImplementedError

    @property
    def n_users(self) -> int:
        return int(self._fitted().shape[0])

    @property
    def n_items(self) -> int:
        return int(self._fitted().shape[1])

    def _fitted(self) -> csr_array:
        if not hasattr(self, "train_"):
            raise NotFittedError(
                f"this {type(self).__name__} is not fitted yet; call fit(dataset) first"
            )
        return self.train_

    def _history(self, users: Tensor) -> csr_array:
        """Training rows of the users: csr_array, shape (B, n_items)."""
        return self._fitted()[users.cpu().numpy()]


class MostPop(Reference):
    """Popularity: score an item by its number of users in training.

    Attributes
    ----------
    counts_ : Tensor of float32, shape (n_items,)
    """

    dialled: ClassVar[bool] = False

    counts_: Tensor

    def _fit(self, train: csr_array) -> None:
        self.counts_ = item_counts(train).float()

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        self._fitted()
        return self.counts_[start:stop].to(users.device).repeat(len(users), 1)


class RandomScores(Reference):
    """Chance: scores uniform in ``[0, 1]``, independent of one another and of the data.

    The score of a pair is a function of ``(seed, user, item)`` alone: it does not depend on the
    batch or the chunk it is asked for in, nor on the size of the catalogue.

    Parameters
    ----------
    seed : int
        At least 0.
    """

    deterministic: ClassVar[bool] = False
    dialled: ClassVar[bool] = False

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def _fit(self, train: csr_array) -> None:
        if self.seed < 0:
            raise ConfigError(f"RandomScores' seed is {self.seed}; it must not be negative")
        self._key = derive_seed(self.seed, "random scores")

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        self._fitted()
        # The pair's number: 32 bits each, so that no two pairs share one.
        rows = users.cpu().numpy().astype(np.int64)[:, np.newaxis] << 32
        scores = uniforms(self._key, rows | np.arange(start, stop))
        return torch.from_numpy(scores.astype(np.float32)).to(users.device)


@contextmanager
def left_out_if_it_fails(name: str, left_out: dict[str, str]) -> Iterator[None]:
    """Around the fit and the measuring of a reference, which nothing else depends on.

    Whatever goes wrong, a :class:`MemoryError` too, is remembered as its reason, and the rest goes
    on.

    Parameters
    ----------
    name
        Of the reference.
    left_out
        Where the reason goes, by name.
    """
    try:
        yield
    except Exception as error:
        left_out[name] = reason(error)
