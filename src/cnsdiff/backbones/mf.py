"""Matrix factorisation: the embedding tables as they are (LightGCN with no layers)."""

from __future__ import annotations

from cnsdiff.backbones.base import BACKBONES, Backbone


@BACKBONES.register("mf")
class MF(Backbone):
    """Matrix factorisation (Rendle et al. 2009): ``s(u, i) = z_u · z_i``."""
