"""Matrix factorisation is its two tables."""

from __future__ import annotations

import pytest
import torch

from cnsdiff.backbones.base import MF, Backbone, BackboneConfig, Embeddings
from cnsdiff.backbones.lightgcn import LightGCN, LightGCNConfig
from cnsdiff.testing import check_backbone, tiny_positives


def test_embeddings_are_the_tables_themselves() -> None:
    backbone = MF(tiny_positives(), BackboneConfig(dim=4), torch.Generator().manual_seed(0))
    assert backbone().users is backbone.user_embedding
    assert backbone().items is backbone.item_embedding


def test_it_is_lightgcn_without_layers() -> None:
    positives = tiny_positives()
    mf = MF(positives, BackboneConfig(dim=4), torch.Generator().manual_seed(0))
    config = LightGCNConfig(dim=4, layers=0)
    gcn = LightGCN(positives, config, torch.Generator().manual_seed(0))
    for one, other in zip(mf(), gcn(), strict=True):
        assert torch.equal(one, other)


def test_it_keeps_the_contract() -> None:
    check_backbone(MF)


def test_the_contract_catches_a_backbone_that_loses_the_gradient() -> None:
    class Detached(MF):
        def forward(self) -> Embeddings:
            return Embeddings(self.user_embedding, self.item_embedding.detach())

        def layer_zero(self) -> Embeddings:
            return self()

    with pytest.raises(AssertionError, match="does not move item_embedding"):
        check_backbone(Detached)


def test_the_contract_catches_a_backbone_of_the_wrong_shape() -> None:
    class Swapped(MF):
        def forward(self) -> Embeddings:
            return Embeddings(self.item_embedding, self.user_embedding)

    with pytest.raises(AssertionError, match=r"users are \(17, 6\), not \(12, 6\)"):
        check_backbone(Swapped)


def test_the_contract_catches_global_randomness_in_the_initial_weights() -> None:
    class Global(MF):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            torch.nn.init.normal_(self.user_embedding)

    with pytest.raises(AssertionError, match="differ in user_embedding"):
        check_backbone(Global)


def test_the_contract_holds_for_a_backbone_without_tables() -> None:
    class Projected(Backbone):
        """Both sides are a linear map of fixed features: no ``layer_zero``."""

        layer_zero = None  # type: ignore[assignment]

        def __init__(self, positives, config, generator) -> None:  # type: ignore[no-untyped-def]
            torch.nn.Module.__init__(self)
            matrix = torch.from_numpy(positives.matrix.toarray())
            self.register_buffer("matrix", matrix, persistent=False)
            self.map = torch.nn.Parameter(
                torch.randn(positives.n_items, config.dim, generator=generator)
            )

        def forward(self) -> Embeddings:
            return Embeddings(self.matrix @ self.map, self.map)

    check_backbone(Projected)
