"""What a shift costs, with intervals over users.

The accuracy on the IID and the OOD test is not comparable as it stands: a user with more items to
find is easier to please, and the two tests differ in how many there are. So IID accuracy is read at
the OOD test's numbers of items to find (direct standardisation): users are put in classes by that
number, and the IID means of the classes are weighted as the OOD test's users are divided among
them. All intervals are percentiles of a bootstrap of users, drawn once for all methods and both
tests, so that a user who is in both is drawn in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnsdiff.base.seeding import numpy_generator

#: Resamples, and entries of one block of draws.
RESAMPLES = 2000
_BLOCK = 2**23
#: A class of users by their number of items to find holds at least so many users of the IID test.
_LEAST_IN_CLASS = 10
#: Share of the OOD test's users that the IID test must have the like of, or nothing is matched.
_LEAST_MATCHED = 0.75


@dataclass(frozen=True)
class Estimate:
    """A value and its interval; NaN where it cannot be told."""

    value: float
    low: float
    high: float

    def to_list(self) -> list[float | None]:
        """For JSON: value, low, high."""
        return [x if np.isfinite(x) else None for x in (self.value, self.low, self.high)]

    @classmethod
    def from_list(cls, values: Sequence[float | None]) -> Estimate:
        """What :meth:`to_list` wrote."""
        return cls(*(float("nan") if value is None else float(value) for value in values))

    @classmethod
    def of(cls, value: float, draws: NDArray[np.float64], level: float = 0.95) -> Estimate:
        """A value with the percentiles of its bootstrap distribution."""
        if not np.isfinite(value) or not np.isfinite(draws).all():
            known = draws[np.isfinite(draws)]
            if not np.isfinite(value) or len(known) < 0.9 * len(draws):
                return cls(float(value), float("nan"), float("nan"))
            draws = known
        tail = (1 - level) / 2
        low, high = np.quantile(draws, [tail, 1 - tail])
        return cls(float(value), float(low), float(high))


@dataclass(frozen=True)
class Measured:
    """A metric of each user of one split.

    Attributes
    ----------
    users
        ``(n,)`` ascending.
    n_relevant
        ``(n,)`` items to find of each.
    values
        ``(n, S)`` the metric of each user under each of ``S`` settings.
    """

    users: NDArray[np.int64]
    n_relevant: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Losses:
    """Of each setting, in order.

    Attributes
    ----------
    iid, ood
        Mean accuracy on the two tests, as measured.
    iid_matched
        On the IID test at the OOD test's numbers of items to find.
    loss
        ``1 - ood / iid_matched``: the share that is lost under the shift.
    matched
        Share of the OOD test's users that have as many items to find as some of the IID test's; if
        it is small, ``iid_matched`` and ``loss`` are NaN.
    """

    iid: tuple[Estimate, ...]
    ood: tuple[Estimate, ...]
    iid_matched: tuple[Estimate, ...]
    loss: tuple[Estimate, ...]
    matched: float

    @property
    def comparable(self) -> bool:
        """Whether the two tests can be compared."""
        return self.matched >= _LEAST_MATCHED


def losses(iid: Measured, ood: Measured, *, seed: int, n_resamples: int = RESAMPLES) -> Losses:
    """Means of both tests and the loss between them, with intervals over users.

    Parameters
    ----------
    iid, ood
        The same settings on both.
    seed
        Of the resampling.
    n_resamples
        How often users are drawn again.
    """
    classes = _classes(iid.n_relevant, ood.n_relevant)
    n_classes = int(max(each.max() for each in classes)) + 1
    n_settings = iid.values.shape[1]
    users = np.union1d(iid.users, ood.users)
    sums = {}
    for name, test, own in (("iid", iid, classes[0]), ("ood", ood, classes[1])):
        rows = np.searchsorted(users, test.users)
        # One column for each class and setting, and one that counts the class's users.
        table = np.zeros((len(users), n_classes, n_settings + 1), dtype=np.float32)
        table[rows, own, :-1] = test.values
        table[rows, own, -1] = 1.0
        sums[name] = table.reshape(len(users), -1)
    whole = np.concatenate(list(sums.values()), axis=1)
    drawn = resampled_sums(whole, numpy_generator(seed, "audit/users"), n_resamples)
    observed = whole.sum(axis=0, dtype=np.float64)[None]

    def means(of: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        shape = (len(of), n_classes, n_settings + 1)
        width = n_classes * (n_settings + 1)
        first, second = of[:, :width].reshape(shape), of[:, width:].reshape(shape)
        with np.errstate(invalid="ignore", divide="ignore"):
            plain = first[..., :-1].sum(1) / first[..., -1].sum(1)[:, None]
            shifted = second[..., :-1].sum(1) / second[..., -1].sum(1)[:, None]
            by_class = first[..., :-1] / first[..., -1:]
            shares = second[..., -1] / second[..., -1].sum(1)[:, None]
            # A class that a resample has nobody of in the IID test counts as the whole test.
            by_class = np.where(np.isfinite(by_class), by_class, plain[:, None, :])
            matched = (by_class * shares[..., None]).sum(1)
            lost = 1 - shifted / matched
        return {"iid": plain, "ood": shifted, "iid_matched": matched, "loss": lost}

    value, draws = means(observed), means(drawn)
    found = {
        name: tuple(Estimate.of(value[name][0, s], draws[name][:, s]) for s in range(n_settings))
        for name in value
    }
    matched = float(np.isin(_octave(ood.n_relevant), _common(_octave(iid.n_relevant))).mean())
    if matched < _LEAST_MATCHED:
        unknown = (Estimate(np.nan, np.nan, np.nan),) * n_settings
        found |= {"iid_matched": unknown, "loss": unknown}
    return Losses(**found, matched=matched)


def _octave(n: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 for 1, 1 for 2, 2 for 3 and 4, 3 for 5 to 8, …"""
    return np.ceil(np.log2(np.maximum(n, 1))).astype(np.int64)


def _common(octaves: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of at least so many users that a mean means something."""
    return np.flatnonzero(np.bincount(octaves) >= _LEAST_IN_CLASS)


def _classes(
    iid: NDArray[np.int64], ood: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The class of each user of either test by items to find: 1, 2, 3-4, 5-8, …

    Classes of few users of the IID test are joined with the one below (the lowest with the next).
    """
    first, second = _octave(iid), _octave(ood)
    top = int(max(first.max(), second.max()))
    counts = np.bincount(first, minlength=top + 1)
    joined = np.zeros(top + 1, dtype=np.int64)
    current, held = 0, 0
    for at in range(top + 1):
        left = counts[at:].sum()
        if held >= _LEAST_IN_CLASS and left >= _LEAST_IN_CLASS:
            current, held = current + 1, 0
        joined[at] = current
        held += counts[at]
    return joined[first], joined[second]


def resampled_sums(
    values: NDArray[np.floating[Any]], rng: np.random.Generator, n_resamples: int
) -> NDArray[np.float64]:
    """Sums ``(n_resamples, J)`` over the rows of ``values (U, J)``, drawn with replacement."""
    n_users = len(values)
    found = np.empty((n_resamples, values.shape[1]))
    step = max(1, _BLOCK // n_users)
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        at = rng.integers(n_users, size=(size, n_users)) + np.arange(size)[:, None] * n_users
        counts = np.bincount(at.ravel(), minlength=size * n_users).reshape(size, n_users)
        found[start : start + size] = counts.astype(values.dtype) @ values
    return found
