"""A backbone of one's own."""

from __future__ import annotations

import torch
from torch import nn

from cnsdiff.backbones import Backbone, BackboneConfig, Embeddings
from cnsdiff.data.positives import Positives


class Projected(Backbone):
    """Matrix factorisation whose items share a linear map: ``s(u, i) = z_u · W z_i``."""

    def __init__(
        self, positives: Positives, config: BackboneConfig, generator: torch.Generator
    ) -> None:
        super().__init__(positives, config, generator)
        self.map = nn.Parameter(torch.eye(config.dim))

    def layers(self) -> tuple[Embeddings, ...]:
        return (Embeddings(self.user_embedding, self.item_embedding @ self.map),)
