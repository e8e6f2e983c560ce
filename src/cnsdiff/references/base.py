"""Base of the references, and the two that learn nothing: popularity and chance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, field_validator
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.errors import ConfigError, DataError, NotFittedError, reason
from cnsdiff.base.search_space import value_at
from cnsdiff.base.seeding import derive_seed, uniforms
from cnsdiff.base.settings import Settings
from cnsdiff.environment import HALF_LIVES

if TYPE_CHECKING:
    from cnsdiff.data import Dataset


class ReferenceConfig(Settings):
    """Settings that all references share; each reference's own ``Config`` adds its fields."""

    name: str = ""


class Reference:
    """A model without learning by gradient, fitted on the training split alone.

    Implements :class:`cnsdiff.evaluation.Scorer`. A subclass gives :meth:`_fit` and
    :meth:`score_block`; one that can be saved and served, :meth:`solution` and ``Config``, whose
    fields are the constructor's.

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
    #: Whether weights of training pairs change the scores; else each pair counts alike.
    weighted: ClassVar[bool] = False
    #: The constructor's arguments as settings.
    Config: ClassVar[type[ReferenceConfig]] = ReferenceConfig

    train_: csr_array

    @classmethod
    def candidates(
        cls,
        config: ReferenceConfig,
        *,
        seed: int = 0,
        threads: int | None = None,
        device: torch.device | str = "cpu",
    ) -> list[Self]:
        """Those that a configuration stands for, not fitted: several where validation chooses.

        Parameters
        ----------
        config
            An instance of ``Config``.
        seed, threads, device
            For those that take them; no thread count leaves the library's choice.
        """
        machine = {"seed": seed, "threads": threads or 0, "device": device}
        taken = signature(cls).parameters
        own = {name: value for name, value in machine.items() if name in taken}
        return [cls(**config.model_dump(exclude={"name"}), **own)]

    def fit(self, dataset: Dataset) -> Self:
        """Fit on ``dataset.split("train")`` and return the model itself.

        Raises
        ------
        DataError
            If the training split is empty.
        """
        self.require(dataset)
        split = dataset.split("train")
        train = split.csr(dataset.n_users, dataset.n_items).astype(np.float32)
        if train.nnz == 0:
            raise DataError("the training split holds no interactions, so there is nothing to fit")
        train.sum_duplicates()
        train.data[:] = 1.0
        counted = train
        if self.weighted and split.weights is not None:
            weights = (split.weights / split.weights.mean()).astype(np.float32)
            pairs = (split.users, split.items)
            counted = csr_array((weights, pairs), shape=train.shape)
            counted.sort_indices()
        self._fit(counted)
        self.train_ = train
        return self

    def require(self, dataset: Dataset) -> None:
        """Raise :class:`DataError` if a dataset lacks what :meth:`fit` needs beside its pairs."""

    def _fit(self, train: csr_array) -> None:
        raise NotImplementedError

    def solution(self) -> Embeddings | Tensor | csr_array:
        """What is served: embeddings, or item weights (:mod:`cnsdiff.references.item_item`)."""
        raise NotImplementedError

    def chosen(self) -> dict[str, float]:
        """In what it differs from the other :meth:`candidates`."""
        return {}

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
    """Popularity: score an item by its number of users in training, or the sum of their weights.

    Attributes
    ----------
    counts_ : Tensor of float32, shape (n_items,)
    """

    dialled: ClassVar[bool] = False
    weighted: ClassVar[bool] = True

    counts_: Tensor

    def _fit(self, train: csr_array) -> None:
        counts = np.bincount(train.indices, train.data, minlength=train.shape[1])
        self.counts_ = torch.from_numpy(counts.astype(np.float32))

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        self._fitted()
        return self.counts_[start:stop].to(users.device).repeat(len(users), 1)

    def solution(self) -> Embeddings:
        """Vectors of one number: 1 for each user, the count of each item."""
        return Embeddings(torch.ones(self.n_users, 1), self.counts_[:, None])


class RecentMostPopConfig(ReferenceConfig):
    """Settings of :class:`RecentMostPop`."""

    half_life: float | Literal["auto"] = Field(
        "auto",
        description="in which an interaction comes to count half, as a share of the time span of "
        "train; 'auto': what picks epochs chooses one",
    )

    @field_validator("half_life")
    @classmethod
    def _positive(cls, value: float | str) -> float | str:
        if value != "auto" and not float(value) > 0:
            raise ValueError("must be 'auto' or a number above 0")
        return value


class RecentMostPop(MostPop):
    """Popularity of late: interactions count, and halve with every ``half_life`` of their age.

    Parameters
    ----------
    half_life : float
        As a share of the time from the first to the last interaction of train; above 0.

    Attributes
    ----------
    counts_ : Tensor of float32, shape (n_items,)
        ``Σ w 2^(-age / half_life)`` over the interactions with the item, of weight ``w`` (1).
    """

    Config: ClassVar[type[ReferenceConfig]] = RecentMostPopConfig

    def __init__(self, half_life: float = 0.05) -> None:
        self.half_life = half_life

    @classmethod
    def candidates(cls, config: ReferenceConfig, **machine: Any) -> list[Self]:
        chosen = value_at(config, "half_life")
        return [cls(h) for h in (HALF_LIVES if chosen == "auto" else (chosen,))]

    def chosen(self) -> dict[str, float]:
        return {"half_life": self.half_life}

    def fit(self, dataset: Dataset) -> Self:
        """Fit on the training split and its times; see :meth:`Reference.fit`.

        Raises
        ------
        DataError
            The training split is empty, or has no timestamps.
        """
        if not self.half_life > 0:
            raise ConfigError(f"RecentMostPop's half_life is {self.half_life}; it must be above 0")
        super().fit(dataset)
        train = dataset.split("train")
        assert train.timestamps is not None
        times = train.timestamps.astype(np.float64)
        ages = (times.max() - times) / max(float(np.ptp(times)), 1.0)
        decay = np.exp2(-ages / self.half_life)
        if train.weights is not None:
            decay *= train.weights
        decayed = np.bincount(train.items, decay, dataset.n_items)
        self.counts_ = torch.from_numpy(decayed.astype(np.float32))
        return self

    def require(self, dataset: Dataset) -> None:
        """See :meth:`Reference.require`."""
        if dataset.split("train").timestamps is None:
            raise DataError(
                f"{dataset.path or dataset.name}: has no timestamps, so what is popular of late is "
                "not known; take mostpop, or prepare it from a log with times"
            )


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
