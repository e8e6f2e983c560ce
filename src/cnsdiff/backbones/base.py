"""Base of the backbones: modules that give every user and every item an embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from cnsdiff.backbones.spectral import spectral_tables, xavier_tables
from cnsdiff.base.registry import Registry
from cnsdiff.base.settings import Settings
from cnsdiff.data.positives import Positives


class Embeddings(NamedTuple):
    """Embeddings of all users ``(U, d)`` and of all items ``(I, d)``."""

    users: Tensor
    items: Tensor

    def covariance(self) -> Tensor:
        """``C (d, d)`` float64 of the item embeddings."""
        items = self.items.double()
        centred = items - items.mean(dim=0)
        return centred.T @ centred / len(items)

    def deviations(self, covariance: Tensor | None = None) -> Tensor:
        """``(U,)`` float64 ``σ_u``: the standard deviation over the items of each user's scores.

        That of ``u · i`` is ``√(uᵀ C u)``, so that no score is computed; ``covariance`` is ``C`` if
        it is at hand. A user whose scores are all alike has 1.
        """
        users, covariance = (
            self.users.double(),
            self.covariance() if covariance is None else covariance,
        )
        deviations = ((users @ covariance) * users).sum(dim=1).clamp(min=0).sqrt()
        return torch.where(deviations > 1e-12, deviations, 1.0)

    def in_own_units(self, covariance: Tensor | None = None) -> Self:
        """The same with each user's scores divided by their ``σ_u``: no list changes."""
        deviations = self.deviations(covariance)[:, None].to(self.users.dtype)
        return self._replace(users=self.users / deviations)


class BackboneConfig(Settings):
    """Settings that all backbones share; each backbone's own ``Config`` adds its fields."""

    name: str = ""
    dim: int = Field(64, ge=1, le=2**16, description="embedding size d")
    init: Literal["xavier", "spectral"] = Field(
        "xavier", description="where the embedding tables start"
    )


class Backbone(nn.Module):
    """Base of the built-in backbones: two embedding tables.

    They start as ``config.init`` says: Xavier-uniform, or at the leading singular vectors of the
    normalised adjacency (:mod:`cnsdiff.backbones.spectral`).

    A backbone of your own is any subclass whose ``forward()`` returns :class:`Embeddings`; its
    constructor takes the training positives, its ``Config`` and a generator for the initial
    weights. One with layers overrides ``layers()`` in place of ``forward()``.

    Parameters
    ----------
    positives
        The observed training pairs.
    config
        The backbone's settings.
    generator
        Source of the initial weights (on the CPU).
    """

    Config: type[BackboneConfig] = BackboneConfig

    def __init__(
        self, positives: Positives, config: BackboneConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        start = spectral_tables if config.init == "spectral" else xavier_tables
        users, items = start(positives, config.dim, generator)
        self.user_embedding = nn.Parameter(users)
        self.item_embedding = nn.Parameter(items)

    def layer_zero(self) -> Embeddings:
        """The free parameters behind the embeddings, which the L2 term acts on."""
        return Embeddings(self.user_embedding, self.item_embedding)

    def forward(self) -> Embeddings:
        """All embeddings, with gradient: the mean over the layers."""
        return mean_of(self.layers())

    def layers(self) -> tuple[Embeddings, ...]:
        """The embeddings of layer ``0 … K``, with gradient; one layer alone here."""
        return (self.layer_zero(),)


def mean_of(layers: Sequence[Embeddings]) -> Embeddings:
    """The mean over layers, of users and of items."""
    first, *rest = layers
    users, items = first
    for layer in rest:
        users, items = users + layer.users, items + layer.items
    if not rest:
        return first
    return Embeddings(users / len(layers), items / len(layers))


def layers_of(backbone: nn.Module) -> tuple[Embeddings, ...]:
    """The layers of a backbone; one of the user's own may know of none, and then is one."""
    layers = getattr(backbone, "layers", None)
    return (backbone(),) if layers is None else tuple(layers())


#: Backbones by name.
BACKBONES: Registry[Backbone] = Registry("backbone", Backbone)


@BACKBONES.register("mf")
class MF(Backbone):
    """Matrix factorisation (Rendle et al. 2009): ``s(u, i) = z_u · z_i``."""
