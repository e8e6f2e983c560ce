r"""What a shift costs a recommender, with an interval over users.

With :math:`\bar a_{IID}` its mean accuracy on today's traffic and :math:`\bar a_{OOD}` that on
traffic that has shifted, it ::

    kept = OOD / IID        lost = 1 - kept                                            (a)

Two tests seldom ask the same: a user with more items to find is easier to please. *Matched*, the
IID accuracy is read at the OOD test's numbers of items to find. Users are put in classes ``c`` by
that number (1, 2, 3-4, 5-8, ...), and the mean of each class in the IID test is weighted by the
share of the class in the OOD test::

    IID matched = sum_c share_OOD(c) * mean_IID(c)                                     (b)

which is direct standardisation; with it in the place of IID, (a) is a ratio of standardised means
(Miettinen, 1972, "Standardization of risk ratios"). What is matched says so in its name.

Intervals are percentiles of a bootstrap of users (Efron & Tibshirani, 1993, §13.3), drawn once for
all models and both tests, so that a user who is in both tests is drawn in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cnsdiff.base.errors import InputError
from cnsdiff.base.seeding import numpy_generator
from cnsdiff.evaluation.significance import Interval, resampled_sums

#: A class of users holds at least so many of the IID test.
LEAST_IN_CLASS = 10
#: Share of the OOD test's users that the IID test must have the like of, or nothing is matched.
LEAST_OVERLAP = 0.75


def kept_share(iid: float, ood: float) -> float:
    """``OOD / IID``: 1 where nothing is lost, NaN where there is nothing to lose."""
    return ood / iid if iid else math.nan


def lost(kept: Interval) -> Interval:
    """``1 - kept``: an interval's ends change places."""
    return replace(kept, value=1 - kept.value, low=1 - kept.high, high=1 - kept.low)


@dataclass(frozen=True)
class UserAccuracy:
    """A metric of each user of one test under each of ``S`` models.

    Attributes
    ----------
    users
        ``(n,)`` rising.
    values
        ``(n, S)``.
    n_relevant
        ``(n,)`` how many items each has to find; needed for what is matched only.
    """

    users: NDArray[np.int64]
    values: NDArray[np.float64]
    n_relevant: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Kept:
    """Accuracies on both tests and the share between them, of each model in order.

    Attributes
    ----------
    iid, ood
        Mean accuracy on the two tests.
    iid_matched
        Equation (b); the IID accuracy as it is if nothing was to be matched.
    kept
        Equation (a), of ``ood`` and ``iid_matched``.
    overlap
        Share of the OOD test's users who have as many items to find as some of the IID test's.
    """

    iid: tuple[Interval, ...]
    ood: tuple[Interval, ...]
    iid_matched: tuple[Interval, ...]
    kept: tuple[Interval, ...]
    overlap: float = 1.0

    @property
    def comparable(self) -> bool:
        """Whether the tests can be matched; if not, ``iid_matched`` and ``kept`` are NaN."""
        return self.overlap >= LEAST_OVERLAP


def kept(iid: UserAccuracy, ood: UserAccuracy, *, seed: int, n_resamples: int = 2_000) -> Kept:
    """The kept share of each model, whoever is in the two tests: equation (a).

    Parameters
    ----------
    iid, ood
        The same models on both tests.
    seed
        Of the bootstrap.
    n_resamples
        How often users are drawn again.

    Raises
    ------
    InputError
        A test has no user, or the two have other numbers of models.
    """
    one_class = [np.zeros(len(test.users), dtype=np.int64) for test in (iid, ood)]
    return _kept(iid, ood, one_class, seed, n_resamples)


def kept_matched(
    iid: UserAccuracy, ood: UserAccuracy, *, seed: int, n_resamples: int = 2_000
) -> Kept:
    """The kept share of each model at equal numbers of items to find: equations (a) and (b).

    Parameters and errors as of :func:`kept`; both tests need ``n_relevant``.
    """
    assert iid.n_relevant is not None and ood.n_relevant is not None
    octaves = [_octave(n) for n in (iid.n_relevant, ood.n_relevant)]
    result = _kept(iid, ood, _classes(*octaves), seed, n_resamples)
    common = np.flatnonzero(np.bincount(octaves[0]) >= LEAST_IN_CLASS)
    result = replace(result, overlap=float(np.isin(octaves[1], common).mean()))
    if result.comparable:
        return result
    unknown = (Interval(np.nan, np.nan, np.nan),) * len(result.kept)
    return replace(result, iid_matched=unknown, kept=unknown)


def _kept(
    iid: UserAccuracy,
    ood: UserAccuracy,
    classes: list[NDArray[np.int64]],
    seed: int,
    n_resamples: int,
) -> Kept:
    n_models = iid.values.shape[1]
    if ood.values.shape[1] != n_models or not len(iid.users) or not len(ood.users):
        raise InputError(
            "a ratio over users needs the same models on both tests and at least one user in each, "
            f"not the shapes {iid.values.shape} and {ood.values.shape}"
        )
    # A row for each user of either test; for each test and class a column for each model, and one
    # that counts the users.
    users = np.union1d(iid.users, ood.users)
    shape = (2, max(int(each.max()) for each in classes) + 1, n_models + 1)
    table = np.zeros((len(users), *shape))
    for at, (test, own) in enumerate(zip((iid, ood), classes, strict=True)):
        rows = np.searchsorted(users, test.users)
        table[rows, at, own, :-1] = test.values
        table[rows, at, own, -1] = 1.0
    table = table.reshape(len(users), -1)
    rng = numpy_generator(seed, "retained-bootstrap")
    drawn = _means(resampled_sums(table, rng, n_resamples).reshape(-1, *shape))
    observed = _means(table.sum(0).reshape(1, *shape))

    def intervals(name: str, n: int) -> tuple[Interval, ...]:
        values, draws = observed[name][0], drawn[name].T
        pairs = zip(values, draws, strict=True)
        return tuple(Interval.of_draws(value, of_model, n=n) for value, of_model in pairs)

    return Kept(
        iid=intervals("iid", len(iid.users)),
        ood=intervals("ood", len(ood.users)),
        iid_matched=intervals("iid_matched", len(users)),
        kept=intervals("kept", len(users)),
    )


def _means(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Each ``(R, S)`` of ``sums (R, 2, C, S + 1)``, whose last column counts users."""
    by_class, counts = sums[..., :-1], sums[..., -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        iid, ood = np.moveaxis(by_class.sum(2) / counts.sum(2), 1, 0)
        of_class = by_class[:, 0] / counts[:, 0]
        # A class that a resample has nobody of in the IID test counts as the whole test.
        of_class = np.where(np.isfinite(of_class), of_class, iid[:, None])
        shares = counts[:, 1] / counts[:, 1].sum(1, keepdims=True)
        matched = (of_class * shares).sum(1)
        return {"iid": iid, "ood": ood, "iid_matched": matched, "kept": ood / matched}


def _octave(n: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 for 1, 1 for 2, 2 for 3 and 4, 3 for 5 to 8, ..."""
    return np.ceil(np.log2(np.maximum(n, 1))).astype(np.int64)


def _classes(iid: NDArray[np.int64], ood: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The class of each user of either test, of their octaves.

    An octave of few users of the IID test is joined with the one below (the lowest with the next).
    """
    top = int(max(iid.max(), ood.max()))
    counts = np.bincount(iid, minlength=top + 1)
    joined = np.zeros(top + 1, dtype=np.int64)
    current = size = 0
    for octave in range(top + 1):
        if size >= LEAST_IN_CLASS and counts[octave:].sum() >= LEAST_IN_CLASS:
            current, size = current + 1, 0
        joined[octave] = current
        size += counts[octave]
    return [joined[iid], joined[ood]]
