"""What can be observed of users and items beside clicks."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cnsdiff.base.seeding import numpy_generator
from cnsdiff.simulate.settings import WorldSettings


def content_map(settings: WorldSettings) -> NDArray[np.float64]:
    """``W`` ``(features, dim)`` such that each feature of ``W φ_i`` has variance 1."""
    draw = numpy_generator(settings.seed, "content-map")
    rows = draw.normal(size=(settings.content_features, settings.dim))
    # φ has variance dim^-1/2 in each factor.
    result: NDArray[np.float64] = (
        rows * settings.dim**0.25 / np.linalg.norm(rows, axis=1, keepdims=True)
    )
    return result


def item_features(settings: WorldSettings, attributes: NDArray[np.float64]) -> pl.DataFrame:
    """``x_i = W φ_i + noise``: columns ``item``, ``content_0``, … ."""
    signal = attributes @ content_map(settings).T
    noise = numpy_generator(settings.seed, "content-noise").normal(size=signal.shape)
    features = signal + settings.content_noise * noise
    columns = {f"content_{number}": column for number, column in enumerate(features.T)}
    return pl.DataFrame({"item": np.arange(settings.n_items), **columns})


def user_features(settings: WorldSettings, tastes: NDArray[np.float64]) -> pl.DataFrame:
    """Columns ``user`` and ``group``: users of like taste tend to be in the same group.

    Each group has a direction of taste; a user is in group ``g`` with probability
    ``softmax_g(2 θ_u·m_g / sd)``.
    """
    draw = numpy_generator(settings.seed, "user-groups")
    directions = draw.normal(size=(settings.user_groups, settings.dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    pull = 2 * settings.dim**0.25 * tastes @ directions.T
    group = (pull + draw.gumbel(size=pull.shape)).argmax(1)
    names = pl.Series([f"group-{number}" for number in range(settings.user_groups)])
    return pl.DataFrame(
        {"user": np.arange(settings.n_users), "group": names.gather(pl.Series(group))}
    )
