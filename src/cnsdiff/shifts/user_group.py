"""Test on a group of users that train has hardly seen."""

from __future__ import annotations

import warnings
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse
from scipy.cluster.vq import kmeans2
from scipy.sparse.linalg import svds

from cnsdiff.base.errors import ConfigError, DataError, did_you_mean
from cnsdiff.shifts.base import register_scenario
from cnsdiff.shifts.drawing import others, rank_within
from cnsdiff.shifts.log_scenario import Log, LogScenario, Parts

Value = str | int | float | bool


@register_scenario
class UserGroup(LogScenario):
    """Most rows of one group of users are the OOD test; the others train as usual.

    The group has a value of an attribute (``attribute`` with ``value`` or ``range``), or is a
    cluster of users who interact with similar items: k-means on the scaled left singular vectors
    of the users × items matrix of the log, its rows scaled to length 1. Clusters are numbered
    from 0 by falling size.

    Every user of the group keeps at least one row in train, since a model with an embedding per
    user knows nothing of one without.
    """

    name: ClassVar[str] = "user-group"

    strength: float = Field(0.8, gt=0, lt=1)
    """Share of each group member's rows that go to the OOD test."""
    attribute: str | None = None
    """A column of the user features; None divides by clusters."""
    value: Value | tuple[Value, ...] | None = None
    """The value, or list of values, that is held out."""
    range: tuple[float | None, float | None] | None = None
    """Of a numeric attribute: least and first too large value, either of them None."""
    clusters: int = Field(5, ge=2, le=10**6)
    """Number of clusters, without an attribute."""
    cluster: int | None = Field(None, ge=0)
    """The cluster held out; None takes the smallest with ``min_share`` of the users."""
    min_share: float = Field(0.05, ge=0, lt=1)
    """See ``cluster``."""
    dimensions: int = Field(16, ge=1, le=2**16)
    """Number of singular vectors used."""

    def divide(self, log: Log, rng: np.random.Generator) -> Parts:
        """Hold out a share of the rows of each user of the group."""
        by_cluster = self.attribute is None
        group, facts = self._cluster(log, rng) if by_cluster else (self._with_attribute(log), {})
        rows = np.flatnonzero(group[log.users] & ~log.anchored)
        users = log.users[rows]
        sizes = np.bincount(log.users, minlength=log.n_users)
        counts = np.floor(self.strength * sizes + 0.5).astype(np.int64)
        ood = rows[rank_within(users, rng) < counts[users]]
        size = int(np.count_nonzero(group[np.flatnonzero(sizes)]))
        return Parts(others(ood, len(log)), ood, {**facts, "group_users": size})

    def _with_attribute(self, log: Log) -> NDArray[np.bool_]:
        """``(n_users,)`` whether each user has the attribute's value."""
        features = log.user_features()
        if self.attribute not in features.columns:
            raise ConfigError(
                f"scenario user-group: the user features have no attribute {self.attribute!r}"
                f"{did_you_mean(str(self.attribute), features.columns)}; they are "
                f"{', '.join(features.columns)}"
            )
        column = features[self.attribute]
        if (self.value is None) == (self.range is None):
            raise ConfigError(
                f"scenario user-group: attribute {self.attribute!r} needs either a value or a "
                f"range to hold out; its values are {_listed(column)}"
            )
        if self.range is not None:
            chosen = self._in_range(column, *self.range)
        else:
            chosen = self._with_value(column)
        group = chosen.fill_null(False).to_numpy()
        present = np.bincount(log.users, minlength=log.n_users) > 0
        if not (group & present).any():
            raise ConfigError(
                f"scenario user-group: no user of the log is in the group by {self.attribute!r}; "
                f"its values are {_listed(column)}"
            )
        if group[present].all():
            raise ConfigError(
                f"scenario user-group: every user of the log is in the group by "
                f"{self.attribute!r}; its values are {_listed(column)}"
            )
        return group

    def _in_range(self, column: pl.Series, low: float | None, high: float | None) -> pl.Series:
        if not column.dtype.is_numeric():
            raise ConfigError(
                f"scenario user-group: attribute {column.name!r} is not numeric, so it has no "
                "range; give a value"
            )
        inside = pl.Series([True]).new_from_index(0, len(column))
        if low is not None:
            inside &= column >= low
        if high is not None:
            inside &= column < high
        return inside

    def _with_value(self, column: pl.Series) -> pl.Series:
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        texts = _texts(column)
        # 25 and 25.0 are the same value of a numeric attribute.
        wanted = _texts(pl.Series(values, dtype=column.dtype, strict=False)).to_list()
        known = texts.drop_nulls().unique().to_list()
        for value, text in zip(values, wanted, strict=True):
            if text not in known:
                raise ConfigError(
                    f"scenario user-group: no user has {column.name} {value!r}"
                    f"{did_you_mean(str(value), known)}; its values are {_listed(column)}"
                )
        return texts.is_in(wanted)

    def _cluster(
        self, log: Log, rng: np.random.Generator
    ) -> tuple[NDArray[np.bool_], dict[str, object]]:
        """``(n_users,)`` whether each user is in the held-out cluster, and which that is."""
        ones = np.ones(len(log), dtype=np.float64)
        matrix = sparse.csr_array((ones, (log.users, log.items)), shape=(log.n_users, log.n_items))
        n_present = int(np.count_nonzero(np.diff(matrix.indptr)))
        if n_present < self.clusters:
            raise DataError(
                f"{log.source}: has {n_present} users, fewer than the {self.clusters} clusters "
                "asked for; lower clusters or give a larger log"
            )
        number = cluster_users(matrix, self.clusters, self.dimensions, rng)
        sizes = np.bincount(number[number >= 0], minlength=self.clusters)
        chosen = self.cluster
        if chosen is None:
            large = np.flatnonzero(sizes >= max(self.min_share * n_present, 1))
            if len(large) == 0:
                raise ConfigError(
                    f"scenario user-group: no cluster has min_share {self.min_share:g} of the "
                    f"users (the largest has {sizes[0] / n_present:.3f}); lower it"
                )
            chosen = int(large[-1])
        if chosen >= self.clusters or sizes[chosen] == 0:
            raise ConfigError(
                f"scenario user-group: there is no cluster {chosen}; they are numbered from 0 to "
                f"{int(np.count_nonzero(sizes)) - 1}"
            )
        return number == chosen, {"cluster": chosen, "cluster_sizes": sizes.tolist()}


def _texts(column: pl.Series) -> pl.Series:
    return column if column.dtype == pl.String else column.cast(pl.String)


def _listed(column: pl.Series) -> str:
    """A few of its values, the most frequent first."""
    counted = column.drop_nulls().value_counts(sort=True)[column.name]
    shown = ", ".join(str(value) for value in counted.head(8))
    return shown + (f" and {len(counted) - 8} more" if len(counted) > 8 else "")


def cluster_users(
    matrix: sparse.csr_array, clusters: int, dimensions: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """k-means on the scaled left singular vectors of a matrix, each row scaled to length 1.

    ``matrix`` is ``(n_users, n_items)``, at least 2 × 2, with a one for each interaction; it may
    allow fewer singular vectors than ``dimensions``. ``clusters`` is at most the number of users
    with an interaction.

    Returns ``(n_users,)`` the cluster of each user, numbered from 0 by falling size; -1 for users
    without interactions. A cluster may run empty, so that there are fewer.
    """
    present = np.flatnonzero(np.diff(matrix.indptr))
    # A start of our own makes the solver reproducible, whatever SciPy's version.
    start = rng.standard_normal(min(matrix.shape))
    left, values, _ = svds(matrix, k=min(dimensions, min(matrix.shape) - 1), v0=start)
    places = (left * values)[present]
    places /= np.maximum(np.linalg.norm(places, axis=1, keepdims=True), 1e-12)
    centres = places[rng.choice(len(places), size=clusters, replace=False)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty", UserWarning)
        labels = kmeans2(places, centres, iter=50, minit="matrix")[1]
    by_size = np.argsort(-np.bincount(labels, minlength=clusters), kind="stable")
    rank = np.empty(clusters, dtype=np.int64)
    rank[by_size] = np.arange(clusters)
    numbers = np.full(matrix.shape[0], -1, dtype=np.int64)
    numbers[present] = rank[labels]
    return numbers
