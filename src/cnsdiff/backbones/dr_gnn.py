"""DR-GNN (Wang et al., WWW 2024): LightGCN whose neighbours are weighed for the worst case."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from scipy import sparse
from torch import Tensor

from cnsdiff.backbones.base import BACKBONES
from cnsdiff.backbones.lightgcn import LightGCN, LightGCNConfig
from cnsdiff.base.search_space import Searched
from cnsdiff.data.positives import Positives
from cnsdiff.kernels.sparse_matrix import SparseMatrix

#: Edges whose vectors are gathered at once.
_EDGES = 2**18


class DRGNNConfig(LightGCNConfig):
    """Settings of :class:`DRGNN`."""

    robustness: Annotated[float, Searched(low=0.005, high=0.5, log=True)] = Field(
        0.05, gt=0, description="α: the smaller, the more do neighbours unlike the user count"
    )


@BACKBONES.register("dr-gnn")
class DRGNN(LightGCN):
    """While it is trained, ``Â`` has the entries ``w_ui / sqrt(d_u d_i)``.

    A layer averages over neighbours; for the worst distribution within a ball around theirs
    (Kullback–Leibler), neighbour ``i`` of a user has the weight::

        f_ui = exp(-cos(z_u, z_i) / (α sqrt(d_u d_i))),    w_ui = f_ui / mean of f_uj over j in N(u)

    of the free embeddings, without gradient: neighbours that are unlike the user count for more,
    as those that a shift may bring. Both directions of an edge have the user's weight, and what is
    served is LightGCN's graph: both as in the authors' code. The edges that it adds at random to
    what was observed are not part of this.
    """

    Config = DRGNNConfig
    rows: Tensor
    columns: Tensor
    places: Tensor
    degrees: Tensor

    def __init__(
        self, positives: Positives, config: DRGNNConfig, generator: torch.Generator
    ) -> None:
        super().__init__(positives, config, generator)
        self.robustness = config.robustness
        matrix = positives.matrix
        # The edges by user, and which of them stands at each place of the transpose.
        places = sparse.csr_array(
            (np.arange(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape
        )
        rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        for name, value in (
            ("rows", rows),
            ("columns", matrix.indices.astype(np.int64)),
            ("places", places.T.tocsr().data),
            ("degrees", np.diff(matrix.indptr)),
        ):
            self.register_buffer(name, torch.from_numpy(value), persistent=False)

    def graph(self) -> tuple[SparseMatrix, SparseMatrix]:
        if not self.training:
            return super().graph()
        values = self.user_item.csr.values() * self.weights()
        return (
            self.user_item.reweighted(values),
            self.item_user.reweighted(values[self.places]),
        )

    @torch.no_grad()
    def weights(self) -> Tensor:
        """``(n,)`` ``w_ui`` of each edge, by user and then by item; their mean is 1 by user."""
        users, items = (F.normalize(table, dim=1) for table in self.layer_zero())
        # 1 / sqrt(d_u d_i) is the entry itself.
        values = self.user_item.csr.values()
        logits = torch.empty_like(values)
        for begin in range(0, len(values), _EDGES):
            cut = slice(begin, begin + _EDGES)
            cosines = (users[self.rows[cut]] * items[self.columns[cut]]).sum(dim=1)
            logits[cut] = -cosines * values[cut] / self.robustness
        # A softmax over each user's edges, times their number.
        largest = logits.new_full((len(users),), -torch.inf)
        largest.scatter_reduce_(0, self.rows, logits, "amax")
        factors = (logits - largest[self.rows]).exp()
        sums = factors.new_zeros(len(users)).index_add_(0, self.rows, factors)
        return factors * (self.degrees / sums.clamp(min=torch.finfo(sums.dtype).tiny))[self.rows]
