"""Intervals over seeds, tests over users, and ranks over data sets.

Pure functions of arrays; larger values are better throughout. Two kinds of noise are kept apart:
*seeds* (another initialisation, another order of the data), for which :func:`seed_interval`
speaks, and *users* (another sample of people), for which :func:`paired_bootstrap` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnsdiff.base.errors import InputError
from cnsdiff.base.seeding import numpy_generator

N_RESAMPLES = 10_000
#: Entries of one block of resampling counts: 16 MiB, whatever the numbers of users and resamples.
BLOCK = 2**21
#: Rounding in a sum of differences, relative to their mean size.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its interval.

    Attributes
    ----------
    value
        NaN where it is not defined.
    low, high
        NaN where they are unknown.
    n
        Seeds or users that it is of; 0 where nobody counted.
    """

    value: float
    low: float
    high: float
    n: int = field(default=0, kw_only=True)

    @property
    def half_width(self) -> float:
        """Half the way from end to end."""
        return (self.high - self.low) / 2

    @property
    def sign(self) -> Literal[-1, 0, 1]:
        """1 or -1 where the interval leaves 0 out, else 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0

    @classmethod
    def of_draws(
        cls, value: float, draws: NDArray[np.float64], *, n: int, level: float = 0.95
    ) -> Interval:
        """The percentile interval of bootstrap draws (Efron & Tibshirani, 1993, §13.3).

        Draws that are not finite are left out; where they are more than 1% of all, or the value
        is not finite, the ends are unknown.
        """
        defined = draws[np.isfinite(draws)]
        if not np.isfinite(value) or len(defined) < 0.99 * len(draws):
            return cls(float(value) if np.isfinite(value) else np.nan, np.nan, np.nan, n=n)
        tail = (1 - level) / 2
        low, high = np.quantile(defined, [tail, 1 - tail])
        return cls(float(value), float(low), float(high), n=n)


@dataclass(frozen=True)
class Difference(Interval):
    """A mean over users with the two-sided p-value of "it is 0"."""

    p_value: float


@dataclass(frozen=True)
class AverageRanks:
    """Mean rank of each method ``(M,)``, and the number of cells that all were ranked in.

    NaN for a method that was measured nowhere, and for all where no cell is common.
    """

    ranks: NDArray[np.float64]
    n_cells: int


@dataclass(frozen=True)
class Improvement:
    """Mean relative gain over the best rival of each cell.

    Attributes
    ----------
    interval
        Mean over cells, its interval over seeds, and the number of seeds.
    gains
        ``(C,)`` ``ours / best rival - 1``; NaN in a cell that is left out.
    best
        ``(C,)`` which rival is the best; -1 in a cell that is left out.
    """

    interval: Interval
    gains: NDArray[np.float64]
    best: NDArray[np.int64]

    @property
    def mean(self) -> float:
        """Mean gain over the cells that count."""
        return self.interval.value

    @property
    def n_cells(self) -> int:
        """Cells that count."""
        return int((self.best >= 0).sum())

    @property
    def n_left_out(self) -> int:
        """Cells without a measured rival above 0, or without a value of ours."""
        return len(self.best) - self.n_cells


def half_width(
    deviation: NDArray[np.float64], n: NDArray[np.int64], level: float = 0.95
) -> NDArray[np.float64]:
    """Half of Student's t-interval of a mean of ``n`` values with this sample deviation.

    Elementwise; NaN where ``n < 2``, as one value says nothing of its spread.
    """
    if not 0 < level < 1:
        raise InputError(f"the level of an interval lies between 0 and 1, not at {level}")
    from scipy.stats import t  # takes a second to import

    freedom = np.where(n > 1, n - 1, np.nan)
    result: NDArray[np.float64] = t.ppf((1 + level) / 2, freedom) * deviation / np.sqrt(freedom + 1)
    return result


def seed_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student's t-interval of the mean of ``values (n,)``, one per seed.

    One value has an unknown interval: both ends are NaN. A value that is NaN makes all NaN, since
    a seed that failed may not go unnoticed.
    """
    of_seeds = np.asarray(values, dtype=np.float64)
    if len(of_seeds) == 0:
        return Interval(np.nan, np.nan, np.nan)
    mean = float(of_seeds.mean())
    deviation = of_seeds.std(ddof=1) if len(of_seeds) > 1 else np.nan
    half = float(half_width(np.asarray(deviation), np.asarray(len(of_seeds)), level))
    return Interval(mean, mean - half, mean + half, n=len(of_seeds))


def clustered(
    value: float, influence: ArrayLike, clusters: ArrayLike, level: float = 0.95
) -> Interval:
    """Student's t-interval of an estimate whose observations come in clusters, such as of users.

    The variance is that of sums over clusters (Liang & Zeger 1986, with ``C / (C - 1)``).

    Parameters
    ----------
    value
        The estimate.
    influence
        ``(n,)`` what each observation contributes to its error; of a mean, its difference from the
        mean over ``n``. They sum to 0.
    clusters
        ``(n,)`` whole numbers of 0 and more.
    level
        Of the interval.
    """
    own = np.unique(np.asarray(clusters), return_inverse=True)[1]
    sums = np.bincount(own, np.asarray(influence, dtype=np.float64))
    n = np.asarray(len(sums))
    deviation = np.sqrt(n * np.square(sums).sum() / max(len(sums) - 1, 1))
    half = float(half_width(deviation * np.sqrt(n), n, level))
    return Interval(value, value - half, value + half, n=len(sums))


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    *,
    seed: int,
    n_resamples: int = N_RESAMPLES,
    level: float = 0.95,
) -> Difference:
    """Compare two methods on the same users by resampling users with replacement.

    Efron & Tibshirani (1993, §16.4), Sakai (2006) for information retrieval.

    Parameters
    ----------
    first, second
        ``(U,)`` a metric of each user, paired by position, averaged over seeds already.
    seed
        Of the resampling: the same input gives the same result.
    n_resamples
        How often all ``U`` users are redrawn.
    level
        Of the interval.

    Returns
    -------
    Difference
        The mean of ``first - second``; the percentile interval of its bootstrap distribution; and
        the share of that distribution, moved to mean 0, that lies as far out as the difference
        does, with one added above and below so that it is never 0.

    Raises
    ------
    InputError
        The two differ in length, are empty, or hold a value that is not finite.
    """
    ours, theirs = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if ours.shape != theirs.shape or ours.ndim != 1:
        raise InputError(
            f"a paired comparison needs two lists of the same users, not the shapes "
            f"{ours.shape} and {theirs.shape}"
        )
    columns = (ours - theirs)[:, None]
    return bootstrap_means(columns, seed=seed, n_resamples=n_resamples, level=level)[0]


def bootstrap_means(
    values: ArrayLike, *, seed: int, n_resamples: int = N_RESAMPLES, level: float = 0.95
) -> list[Difference]:
    """:func:`paired_bootstrap` for each column of ``values (U, J)``, values or differences.

    All columns share their resamples, so that ``J`` of them, for the same users, cost little more
    than one.
    """
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        raise InputError("a bootstrap needs at least one user and finite differences")
    if n_resamples < 1 or not 0 < level < 1:
        raise InputError(
            "a bootstrap needs at least one resample and a level between 0 and 1, "
            f"not {n_resamples} and {level}"
        )
    # Users whose values are all 0 add nothing to a sum: it only matters how often one of the
    # others is drawn. Hits are sparse, so these are few.
    moved = rows[(rows != 0).any(1)]
    rng = numpy_generator(seed, "paired-bootstrap")
    means = resampled_sums(moved, rng, n_resamples, n_users=len(rows)) / len(rows)
    observed = moved.sum(0) / len(rows)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    # Few users with a difference make ties with the observed value, which rounding must not break.
    threshold = np.abs(observed) - ROUNDING * np.abs(rows).mean(0)
    extreme = (np.abs(means - observed) >= threshold).sum(0)
    p_values = (1 + extreme) / (1 + n_resamples)
    columns = np.stack([observed, low, high, p_values], axis=1).tolist()
    return [Difference(*column, n=len(rows)) for column in columns]


def resampled_sums(
    values: NDArray[np.float64],
    rng: np.random.Generator,
    n_resamples: int,
    *,
    n_users: int | None = None,
) -> NDArray[np.float64]:
    """The bootstrap of this package: sums over users drawn again with replacement.

    Parameters
    ----------
    values
        ``(M, J)``, a row for each user.
    rng
        Of the draws.
    n_resamples
        How often ``n_users`` users are drawn.
    n_users
        With the users left out of ``values`` because all of theirs are 0; ``M`` by default.

    Returns
    -------
    ``(n_resamples, J)``.
    """
    n_rows, n_columns = values.shape
    n_users = n_rows if n_users is None else n_users
    sums = np.zeros((n_resamples, n_columns))
    if n_rows == 0:
        return sums
    # A resample holds a binomial number of the M, each of them drawn uniformly.
    sizes = rng.binomial(n_users, n_rows / n_users, n_resamples)
    step = max(1, BLOCK // n_rows)
    for start in range(0, n_resamples, step):
        size = sizes[start : start + step]
        cell = np.repeat(np.arange(len(size)) * n_rows, size)
        cell += rng.integers(n_rows, size=len(cell))
        counts = np.bincount(cell, minlength=len(size) * n_rows).reshape(len(size), n_rows)
        sums[start : start + step] = counts.astype(np.float64) @ values
    return sums


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjust ``p_values (n,)`` of one family so that any false rejection is rare (Holm, 1979).

    The k-th smallest is multiplied by ``n - k + 1``, made no smaller than the one before and at
    most 1. NaN is a test not made: it stays NaN and does not count in ``n``.
    """
    family = np.asarray(p_values, dtype=np.float64)
    made = np.flatnonzero(~np.isnan(family))
    if ((family[made] < 0) | (family[made] > 1)).any():
        raise InputError("p-values lie between 0 and 1")
    order = made[np.argsort(family[made], kind="stable")]
    adjusted = np.full(family.shape, np.nan)
    scaled = family[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def average_ranks(scores: ArrayLike) -> AverageRanks:
    """Rank ``M`` methods in each of ``C`` cells of ``scores (C, M)``, and average (Friedman, 1937).

    1 is the largest score; equal scores share their mean rank. Ranks over different cells do not
    compare, so a cell counts where no method is NaN; methods that are NaN everywhere are set aside.
    """
    from scipy.stats import rankdata  # takes a second to import

    cells = np.asarray(scores, dtype=np.float64)
    measured = ~np.isnan(cells)
    somewhere = measured.any(0)
    common = cells[np.ix_(measured[:, somewhere].all(1), somewhere)]
    mean = np.full(cells.shape[1], np.nan)
    if common.size:
        mean[somewhere] = rankdata(-common, axis=1).mean(0)
    return AverageRanks(mean, len(common) if common.size else 0)


def relative_improvement(ours: ArrayLike, rivals: ArrayLike) -> Improvement:
    """Mean over cells of ``ours / best rival - 1``: the paper's headline.

    Parameters
    ----------
    ours
        ``(C,)`` one value per cell (scenario × metric).
    rivals
        ``(C, M)``; NaN where a rival was not measured.

    A cell is left out, and counted, if its best rival is 0 or not measured or ours is NaN. The
    interval is unknown: there is one value of each.
    """
    return improvement_interval(np.asarray(ours)[None], np.asarray(rivals)[None])


def improvement_interval(ours: ArrayLike, rivals: ArrayLike, level: float = 0.95) -> Improvement:
    """:func:`relative_improvement` of the means over seeds, with an interval over seeds.

    Parameters
    ----------
    ours
        ``(S, C)``, seeds × cells.
    rivals
        ``(S, C, M)``. NaN for a rival in any seed of a cell: not measured there.
    level
        Of the interval.

    The best rival ``r`` of a cell is the one with the best mean over seeds. As a mean of ratios
    would favour ours (a noisy divisor makes it too large), the gain is the ratio of the means,
    ``ō / r̄ - 1``, and the interval that of its first-order parts (the ratio estimator; Cochran,
    1977, §6): the t-interval of the seeds' means over cells of ::

        (o_s - (ō / r̄) (r_s - r̄)) / r̄ - 1

    It holds for the seeds alone. Other users, other data sets and the choice of the best rival by
    the values it is then judged on (which makes the gain too small, if anything) are not in it.
    """
    own, others = np.asarray(ours, dtype=np.float64), np.asarray(rivals, dtype=np.float64)
    if others.ndim != 3 or others.shape[:2] != own.shape or not others.size:
        raise InputError(
            "a relative improvement needs at least one rival in the same seeds and cells, not the "
            f"shapes {own.shape} and {others.shape}"
        )
    own_mean, means = own.mean(0), others.mean(0)
    best = np.where(np.isnan(means), -np.inf, means).argmax(1)
    best_mean = means[np.arange(len(best)), best]
    defined = (best_mean > 0) & ~np.isnan(own_mean)
    by_seed = others[:, np.arange(len(best)), best]
    own, by_seed, divisor = own[:, defined], by_seed[:, defined], best_mean[defined]
    ratio = own_mean[defined] / divisor
    parts = (own - ratio * (by_seed - divisor)) / divisor - 1
    gains = np.full(len(best), np.nan)
    gains[defined] = ratio - 1
    of_seeds: Sequence[float] | NDArray[np.float64] = parts.mean(1) if defined.any() else ()
    return Improvement(seed_interval(of_seeds, level), gains, np.where(defined, best, -1))
