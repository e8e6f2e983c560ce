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

#: Rows of a table taken to float64 at a time.
_ROWS = 2**16


class Embeddings(NamedTuple):
    """Embeddings of all users ``(U, d)`` and of all items ``(I, d)``."""

    users: Tensor
    items: Tensor

    def covariance(self, n: int | None = None) -> Tensor:
        """``C (d, d)`` float64 of the embeddings of the first ``n`` items, by default of all."""
        items = self.items[:n]
        mean = items.double().mean(dim=0)
        total = mean.new_zeros(len(mean), len(mean))
        for block in torch.split(items, _ROWS):
            centred = block.double() - mean
            total += centred.T @ centred
        return total / len(items)

    def deviations(self, covariance: Tensor | None = None) -> Tensor:
        """``(U,)`` float64 ``σ_u``: the standard deviation over the items of each user's scores.

        That of ``u · i`` is ``√(uᵀ C u)``, so that no score is computed; ``covariance`` is ``C`` if
        it is at hand. A user whose scores are all alike, but for rounding, has 1.
        """
        covariance = self.covariance() if covariance is None else covariance
        size = covariance.trace().sqrt()
        found = []
        for block in torch.split(self.users, _ROWS):
            users = block.double()
            deviations = ((users @ covariance) * users).sum(dim=1).clamp(min=0).sqrt()
            alike = deviations <= (1e-6 * size * users.norm(dim=1)).clamp(min=1e-12)
            found.append(torch.where(alike, 1.0, deviations))
        return torch.cat(found)

    def in_own_units(self, covariance: Tensor | None = None) -> Self:
        """The same with each user's scores divided by their ``σ_u``: no list changes."""
        users, units = self.users.clone(), self.deviations(covariance)
        for start in range(0, len(users), _ROWS):
            users[start : start + _ROWS] /= units[start : start + _ROWS, None]
        return self._replace(users=users)


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
