"""LightGCN (He et al. 2020): embeddings smoothed over the user-item graph."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from cnsdiff.backbones.base import BACKBONES, Backbone, BackboneConfig, Embeddings
from cnsdiff.base.search_space import Searched
from cnsdiff.data.positives import Positives
from cnsdiff.kernels.sparse_matrix import SparseMatrix


class LightGCNConfig(BackboneConfig):
    """Settings of :class:`LightGCN`."""

    layers: Annotated[int, Searched(low=1, high=3, integer=True)] = Field(
        2, ge=0, le=1000, description="K, propagation steps"
    )


@BACKBONES.register("lightgcn")
class LightGCN(Backbone):
    """``E^(k+1) = Â E^(k)``, output the mean over layers ``0..K`` (equation 1).

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
        self.user_item, self.item_user = normalised_adjacency(positives)

    def forward(self) -> Embeddings:
        if not self.n_layers:
            return self.layer_zero()
        return Embeddings(
            *_Propagation.apply(*self.graph(), self.n_layers, *self.layer_zero())  # type: ignore[no-untyped-call]
        )

    def graph(self) -> tuple[SparseMatrix, SparseMatrix]:
        """The blocks of ``Â``: users × items, and its transpose."""
        return self.user_item, self.item_user

    def layers(self) -> tuple[Embeddings, ...]:
        layers = [self.layer_zero()]
        user_item, item_user = self.graph()
        for _ in range(self.n_layers):
            users, items = layers[-1]
            layers.append(
                Embeddings(
                    _Product.apply(user_item, item_user, items),  # type: ignore[no-untyped-call]
                    _Product.apply(item_user, user_item, users),  # type: ignore[no-untyped-call]
                )
            )
        return tuple(layers)


def normalised_adjacency(positives: Positives) -> tuple[SparseMatrix, SparseMatrix]:
    """``R̂ = D_U^-1/2 R D_I^-1/2`` ``(U, I)`` and its transpose."""
    matrix = positives.normalised_matrix()
    return SparseMatrix(matrix), SparseMatrix(matrix.T)


class _Product(torch.autograd.Function):
    """``M @ x`` whose backward multiplies by the transpose kept beside it, both in CSR.

    Autograd's own backward of a CSR product would transpose the matrix at every step.
    """

    @staticmethod
    def forward(ctx: Any, matrix: SparseMatrix, transpose: SparseMatrix, dense: Tensor) -> Tensor:
        ctx.transpose = transpose
        return matrix.product(dense)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.transpose.product(gradients[0])


class _Propagation(torch.autograd.Function):
    """``(1 + Â + … + Â^K) E / (K + 1)``, by Horner's rule: ``E + Â (E + Â (E + …))``.

    A polynomial of the symmetric ``Â`` is symmetric, so the gradient is propagated as the
    embeddings are. No layer is kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        matrix: SparseMatrix,
        transpose: SparseMatrix,
        n_layers: int,
        users: Tensor,
        items: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.graph = matrix, transpose, n_layers
        return _propagate(matrix, transpose, n_layers, users, items)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None, Tensor, Tensor]:
        return None, None, None, *_propagate(*ctx.graph, *gradients)


def _propagate(
    matrix: SparseMatrix, transpose: SparseMatrix, n_layers: int, users: Tensor, items: Tensor
) -> tuple[Tensor, Tensor]:
    of_users, of_items = users, items
    for layer in range(1, n_layers + 1):
        # The mean is taken within the last product and sum, without a pass of its own.
        share = 1 / (n_layers + 1) if layer == n_layers else 1.0
        of_users, of_items = (
            matrix.product(of_items, share).add_(users, alpha=share),
            transpose.product(of_users, share).add_(items, alpha=share),
        )
    return of_users, of_items
