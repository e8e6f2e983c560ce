"""What the references have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.base.errors import DataError, NotFittedError, reason

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
