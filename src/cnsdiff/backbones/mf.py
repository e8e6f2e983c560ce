"""Matrix factorisation: the embedding tables as they are (LightGCN with no layers)."""

from __future__ import annotations

from cnsdiff.backbones.base import BACKBONES, Backbone, Embeddings


@BACKBONES.register("mf")
class MF(Backbone):
    """Matrix factorisation (Rendle et al. 2009): ``s(u, i) = z_u · z_i``."""

    def forward(self) -> Embeddings:
        return self.layer_zero()
