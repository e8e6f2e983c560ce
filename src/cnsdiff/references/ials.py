"""Implicit ALS: weighted matrix factorisation of the whole matrix, zeros included."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_array, csr_matrix
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.errors import ConfigError, InputError
from cnsdiff.base.search_space import Searched
from cnsdiff.base.text import install_command
from cnsdiff.kernels.memory import require_memory
from cnsdiff.references.base import Reference, ReferenceConfig


class IALSConfig(ReferenceConfig):
    """Settings of :class:`IALS`."""

    factors: Annotated[int, Searched(low=16, high=256, integer=True, log=True)] = Field(
        64, ge=1, le=2**16, description="size of the factors"
    )
    regularisation: Annotated[float, Searched(low=0.1, high=100.0, log=True)] = Field(
        10.0, gt=0, description="λ"
    )
    alpha: Annotated[float, Searched(low=1.0, high=50.0, log=True)] = Field(
        10.0, gt=0, description="α, what a positive counts for beyond other pairs"
    )
    iterations: int = Field(15, ge=1, le=10**6, description="sweeps over users and items")


class IALS(Reference):
    """Implicit-feedback alternating least squares (Hu, Koren & Volinsky, ICDM 2008).

    Minimises ``Σ_ui c_ui (p_ui - x_u·y_i)² + λ (Σ_u |x_u|² + Σ_i |y_i|²)`` over *all* pairs, with
    ``p_ui = 1``, ``c_ui = 1 + α w_ui`` for a training positive (of weight ``w_ui``, 1 where the
    dataset has none) and ``p_ui = 0``, ``c_ui = 1`` for any
    other. Solved by the library ``implicit`` on the CPU, a few conjugate-gradient steps per row
    and half step (Takács, Pilászy & Tikk, RecSys 2011). Needs the extra ``cnsdiff[bench]``.

    The factors are a function of the training split and ``seed``; ``threads`` does not change
    them, for each row of a half step is solved by one thread, and BLAS is held to one.

    Parameters
    ----------
    factors : int
        Size of the factors, at least 1.
    regularisation : float
        ``λ``, above 0.
    alpha : float
        ``α``, what a positive counts for beyond other pairs; above 0.
    iterations : int
        Sweeps, each over the users and then the items; at least 1.
    seed : int
        Of the initial factors; at least 0.
    threads : int
        CPU threads; 0 takes as many as there are cores.

    Attributes
    ----------
    user_factors_ : Tensor of float32, shape (n_users, factors)
    item_factors_ : Tensor of float32, shape (n_items, factors)
    """

    deterministic: ClassVar[bool] = False
    weighted: ClassVar[bool] = True
    Config: ClassVar[type[ReferenceConfig]] = IALSConfig

    user_factors_: Tensor
    item_factors_: Tensor

    def __init__(
        self,
        factors: int = 64,
        *,
        regularisation: float = 10.0,
        alpha: float = 10.0,
        iterations: int = 15,
        seed: int = 0,
        threads: int = 0,
    ) -> None:
        self.factors = factors
        self.regularisation = regularisation
        self.alpha = alpha
        self.iterations = iterations
        self.seed = seed
        self.threads = threads

    def _fit(self, train: csr_array) -> None:
        self._check()
        try:
            from implicit.cpu.als import AlternatingLeastSquares
            from implicit.recommender_base import ModelFitError
            from threadpoolctl import threadpool_limits
        except ModuleNotFoundError as error:
            raise InputError(
                "IALS needs the package implicit, which is not installed; "
                f"install it with: {install_command('bench')}"
            ) from error
        # Factors in single precision, the pairs' weights by user and by item.
        require_memory(
            4 * self.factors * sum(train.shape) + 24 * train.nnz,
            f"IALS with {self.factors:,} factors of {sum(train.shape):,} users and items",
            "lower factors",
        )
        # The library takes the stored values for c_ui themselves.
        confidence = csr_matrix(train, dtype=np.float32, copy=True)
        confidence.data[:] = 1.0 + self.alpha * confidence.data.astype(np.float64)
        with threadpool_limits(1, "blas"):
            model = AlternatingLeastSquares(
                self.factors,
                self.regularisation,
                iterations=self.iterations,
                num_threads=self.threads,
                random_state=self.seed,
            )
            try:
                model.fit(confidence, show_progress=False)
            except ModelFitError as error:
                raise ConfigError(
                    f"IALS diverged at regularisation={self.regularisation}, alpha={self.alpha}; "
                    "raise the one or lower the other"
                ) from error
        self.user_factors_ = torch.from_numpy(model.user_factors)
        self.item_factors_ = torch.from_numpy(model.item_factors)

    def _check(self) -> None:
        for name, least in {"factors": 1, "iterations": 1, "seed": 0, "threads": 0}.items():
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"IALS' {name} is {value}; give {least} or more")
        for name in ("regularisation", "alpha"):
            value = getattr(self, name)
            if not value > 0:
                raise ConfigError(f"IALS' {name} is {value}; it must be above 0")

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        self._fitted()
        rows = self.user_factors_[users.cpu()]
        return (rows @ self.item_factors_[start:stop].T).to(users.device)

    def solution(self) -> Embeddings:
        """The factors."""
        self._fitted()
        return Embeddings(self.user_factors_, self.item_factors_)
