"""LightGCN (He et al. 2020): embeddings smoothed over the user-item graph."""

from __future__ import annotations

import warnings
from typing import Any

import torch
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
    items) and its transpose; both are kept in CSR form, so that the forward and the backward
    product of each are row-parallel and need no conversion.
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

    def layers(self) -> tuple[Embeddings, ...]:
        layers = [self.layer_zero()]
        for _ in range(self.n_layers):
            users, items = layers[-1]
            layers.append(
                Embeddings(
                    _product(self.user_item, self.item_user, items),
                    _product(self.item_user, self.user_item, users),
                )
            )
        return tuple(layers)


def normalised_adjacency(positives: Positives) -> tuple[Tensor, Tensor]:
    """``R̂ = D_U^-1/2 R D_I^-1/2`` ``(U, I)`` and its transpose, as sparse CSR tensors."""
    matrix = normalised_matrix(positives)
    return _csr_tensor(matrix), _csr_tensor(matrix.T.tocsr())


def _csr_tensor(matrix: Any) -> Tensor:
    matrix.sort_indices()
    with warnings.catch_warnings():
        # PyTorch announces once per process that its CSR tensors are in beta.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype("int64")),
            torch.from_numpy(matrix.indices.astype("int64")),
            torch.from_numpy(matrix.data),
            size=matrix.shape,
            check_invariants=True,
        )


def _product(matrix: Tensor, transpose: Tensor, dense: Tensor) -> Tensor:
    result: Tensor = _SparseProduct.apply(matrix, transpose, dense)  # type: ignore[no-untyped-call]
    return result


class _SparseProduct(torch.autograd.Function):
    """``M @ x`` whose backward multiplies by the transpose kept beside it, both in CSR.

    Autograd's own backward of a CSR product would transpose the matrix at every step.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transpose: Tensor, dense: Tensor) -> Tensor:
        ctx.transpose = transpose
        # Sparse products know no half precision on the CPU.
        with torch.autocast(dense.device.type, enabled=False):
            return matrix @ dense.float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.transpose @ gradients[0].contiguous()
