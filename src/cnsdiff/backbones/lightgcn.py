"""LightGCN (He et al. 2020): embeddings smoothed over the user-item graph."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cnsdiff.backbones.adjacency import normalised_matrix
from cnsdiff.backbones.base import BACKBONES, Backbone, BackboneConfig, Embeddings
from cnsdiff.data.positives import Positives


class LightGCNConfig(BackboneConfig):
    """Settings of :class:`LightGCN`."""

    layers: int = Field(2, ge=0, description="K, propagation steps")


@BACKBONES.register("lightgcn")
class LightGCN(Backbone):
    """``E^(k+1) = Â E^(k)``, output the mean over layers ``0..K`` (METHOD §2).

    ``Â = D^-1/2 A D^-1/2`` of a bipartite graph has only two non-zero blocks, ``R̂`` (users ×
    items) and its transpose; both are kept in CSR form, so that every product is row-parallel
    and needs no conversion.
    """

    Config = LightGCNConfig

    def __init__(
        self, positives: Positives, config: LightGCNConfig, generator: torch.Generator
    ) -> None:
        super().__init__(positives, config, generator)
        self.n_layers = config.layers
        matrix, transpose = normalised_adjacency(positives)
        self.register_buffer("user_item", matrix, persistent=False)
        self.register_buffer("item_user", transpose, persistent=False)
        self.user_item: Tensor
        self.item_user: Tensor

    def forward(self) -> Embeddings:
        if not self.n_layers:
            return self.layer_zero()
        return Embeddings(
            *_Propagation.apply(  # type: ignore[no-untyped-call]
                self.user_item, self.item_user, self.n_layers, *self.layer_zero()
            )
        )

    def layers(self) -> tuple[Embeddings, ...]:
        layers = [self.layer_zero()]
        for _ in range(self.n_layers):
            users, items = layers[-1]
            layers.append(
                Embeddings(
                    _Product.apply(self.user_item, self.item_user, items),  # type: ignore[no-untyped-call]
                    _Product.apply(self.item_user, self.user_item, users),  # type: ignore[no-untyped-call]
                )
            )
        return tuple(layers)


def normalised_adjacency(positives: Positives) -> tuple[Tensor, Tensor]:
    """``R̂ = D_U^-1/2 R D_I^-1/2`` ``(U, I)`` and its transpose, as sparse CSR tensors."""
    matrix = normalised_matrix(positives)
    return csr_tensor(matrix), csr_tensor(matrix.T.tocsr())


def csr_tensor(matrix: Any) -> Tensor:
    """A SciPy CSR matrix as a sparse tensor, its columns in order."""
    matrix.sort_indices()
    width = "int32" if matrix.nnz < 2**31 else "int64"
    with warnings.catch_warnings():
        # PyTorch announces once per process that its CSR tensors are in beta.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(width)),
            torch.from_numpy(matrix.indices.astype(width)),
            torch.from_numpy(matrix.data),
            size=matrix.shape,
            check_invariants=True,
        )


def product(matrix: Tensor, dense: Tensor, factor: float = 1.0) -> Tensor:
    """``factor · M @ x`` for a CSR matrix, without gradient.

    On the CPU a row of the product is a weighted bag of embeddings, and PyTorch's kernel for those
    is about three times as fast as its sparse product.
    """
    # Sparse products know no half precision on the CPU.
    with torch.autocast(dense.device.type, enabled=False):
        dense = dense.float() if dense.dtype.itemsize < 4 else dense
        if dense.device.type != "cpu":
            found = matrix.to(dense.dtype) @ dense
            return found if factor == 1 else found.mul_(factor)
        weights = matrix.values().to(dense.dtype)
        return F.embedding_bag(
            matrix.col_indices(),
            dense.detach().contiguous(),
            matrix.crow_indices(),
            mode="sum",
            per_sample_weights=weights if factor == 1 else weights * factor,
            include_last_offset=True,
        )


class _Product(torch.autograd.Function):
    """``M @ x`` whose backward multiplies by the transpose kept beside it, both in CSR.

    Autograd's own backward of a CSR product would transpose the matrix at every step.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transpose: Tensor, dense: Tensor) -> Tensor:
        ctx.transpose = transpose
        return product(matrix, dense)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        return None, None, product(ctx.transpose, gradients[0])


class _Propagation(torch.autograd.Function):
    """``(1 + Â + … + Â^K) E / (K + 1)``, by Horner's rule: ``E + Â (E + Â (E + …))``.

    A polynomial of the symmetric ``Â`` is symmetric, so the gradient is propagated as the
    embeddings are. No layer is kept.
    """

    @staticmethod
    def forward(
        ctx: Any, matrix: Tensor, transpose: Tensor, n_layers: int, users: Tensor, items: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.graph = matrix, transpose, n_layers
        return _propagate(matrix, transpose, n_layers, users, items)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None, Tensor, Tensor]:
        return None, None, None, *_propagate(*ctx.graph, *gradients)


def _propagate(
    matrix: Tensor, transpose: Tensor, n_layers: int, users: Tensor, items: Tensor
) -> tuple[Tensor, Tensor]:
    of_users, of_items = users, items
    for layer in range(1, n_layers + 1):
        # The mean is taken within the last product and sum, without a pass of its own.
        share = 1 / (n_layers + 1) if layer == n_layers else 1.0
        of_users, of_items = (
            product(matrix, of_items, share).add_(users, alpha=share),
            product(transpose, of_users, share).add_(items, alpha=share),
        )
    return of_users, of_items
