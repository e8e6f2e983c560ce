"""EASE: a linear item-item model in closed form."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.base.errors import ConfigError, InputError
from cnsdiff.base.search_space import Searched
from cnsdiff.kernels.memory import require_memory
from cnsdiff.references.base import ReferenceConfig
from cnsdiff.references.item_item import ItemItemReference


class EASEConfig(ReferenceConfig):
    """Settings of :class:`EASE`."""

    l2: Annotated[float, Searched(low=20, high=2000, log=True)] = Field(
        200.0, gt=0, description="λ, the ridge"
    )
    max_items: int = Field(
        25_000,
        ge=1,
        le=10**6,
        description="largest catalogue to accept; the weights are items × items",
    )


class EASE(ItemItemReference):
    """Embarrassingly shallow autoencoder (Steck, WWW 2019).

    Least squares ``min_B |X - XB|² + l2 |B|²`` with ``diag(B) = 0``, whose solution is
    ``B_ij = -P_ij / P_jj`` off the diagonal, with ``P = (XᵀX + l2 I)⁻¹``.

    Parameters
    ----------
    l2 : float
        Ridge strength, above 0.
    max_items : int
        Largest catalogue to accept. ``B`` is dense: at 25,000 items it takes 2.5 GB in single
        precision and fitting about three times that, and the time grows with the cube. What the
        machine has no memory for is refused in any case, before anything is allocated.
    dtype : torch.dtype
        Precision of the fit, ``torch.float32`` or ``torch.float64``; the weights are kept in
        single precision.
    device : torch.device or str
        Where to fit and to score.

    Attributes
    ----------
    weights_ : Tensor of float32, shape (n_items, n_items)
    """

    Config: ClassVar[type[ReferenceConfig]] = EASEConfig

    weights_: Tensor

    def __init__(
        self,
        l2: float = 200.0,
        *,
        max_items: int = 25_000,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.l2 = l2
        self.max_items = max_items
        self.dtype = dtype
        self.device = torch.device(device)

    def _fit(self, train: csr_array) -> None:
        if not self.l2 > 0:
            raise ConfigError(f"EASE's l2 is {self.l2}; it must be above 0")
        n_items = train.shape[1]
        if n_items > self.max_items:
            gigabytes = 3 * n_items**2 * self.dtype.itemsize / 1e9
            raise InputError(
                f"EASE needs a dense matrix of {n_items:,} × {n_items:,} items, about "
                f"{gigabytes:.0f} GB while fitting, above its limit of {self.max_items:,} items; "
                "raise max_items if that fits in memory, or use ItemKNN"
            )
        require_memory(
            3 * n_items**2 * self.dtype.itemsize,
            f"EASE's dense matrix of {n_items:,} × {n_items:,} items",
            "use ItemKNN, or a machine with more",
        )
        # Co-occurrence counts are exact in single precision up to 2**24 users.
        gram = torch.from_numpy((train.T @ train).toarray()).to(self.device, self.dtype)
        gram.diagonal().add_(self.l2)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if int(failed):
            raise ConfigError(
                f"EASE's matrix is singular in {self.dtype} at l2={self.l2}; "
                "raise l2 or fit with dtype=torch.float64"
            )
        # The inverse comes column by column but is symmetric: read it by rows, which scoring
        # needs in one piece.
        weights = torch.cholesky_inverse(factor, out=gram).mT.contiguous()
        weights /= -weights.diagonal().clone()
        weights.diagonal().zero_()
        self.weights_ = weights.to(torch.float32)

    def solution(self) -> Tensor:
        """``(I, I)``: :attr:`weights_`."""
        self._fitted()
        return self.weights_
