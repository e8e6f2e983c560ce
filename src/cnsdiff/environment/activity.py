"""Activity: what a log has told of each item until a moment, enough to go on without the log.

A decayed count is a sum over interactions of ``2^(-age / h)``. Later it is the same sum, decayed
as a whole, and what is new; so it follows a stream of interactions exactly, none of which has to
be read again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_array
from torch import Tensor

from cnsdiff.base.errors import DataError

Times = NDArray[np.int64] | NDArray[np.float64]

#: Half-lives of decayed counts, as shares of the time span.
HALF_LIVES = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.0025)
#: Interactions at once, or as many as there are items.
_AT_ONCE = 2**18
_NONE: NDArray[np.int64] = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Activity:
    """Counts and times of the interactions with each item until a moment.

    Attributes
    ----------
    counts
        ``(I,)`` int64.
    first, last
        ``(I,)`` float64 times of the first and the last interaction; infinity and minus infinity
        of an item without.
    decayed
        ``(I, K)`` float64, decayed to ``moment`` with each half-life.
    moment, span
        When, and the length of time that half-lives are shares of, in the units of the times.
    half_lives
        As shares of ``span``.
    n_known
        The items that were there at first, over which covariates are standardised; the others
        came later.
    """

    counts: NDArray[np.int64]
    first: NDArray[np.float64]
    last: NDArray[np.float64]
    decayed: NDArray[np.float64]
    moment: float
    span: float
    half_lives: tuple[float, ...]
    n_known: int

    @classmethod
    def of(
        cls,
        items: NDArray[np.int64],
        times: Times,
        n_items: int,
        *,
        moment: float | None = None,
        half_lives: Sequence[float] = HALF_LIVES,
        span: float | None = None,
    ) -> Self:
        """The activity of ``n_items`` items, from at least one interaction.

        Parameters
        ----------
        items, times
            ``(n,)`` the interactions, in any order.
        n_items
            Those without interactions count as never seen.
        moment
            By default that of the last interaction.
        half_lives
            As shares of ``span``.
        span
            By default from the first interaction to ``moment``.

        Raises
        ------
        DataError
            An interaction is later than the moment.
        """
        moment = float(times.max()) if moment is None else moment
        nothing = cls(
            counts=np.zeros(n_items, dtype=np.int64),
            first=np.full(n_items, np.inf),
            last=np.full(n_items, -np.inf),
            decayed=np.zeros((n_items, len(half_lives))),
            moment=moment,
            span=span or max(moment - float(times.min()), 1.0),
            half_lives=tuple(half_lives),
            n_known=n_items,
        )
        return nothing.followed_by(items, times, moment=moment)

    def followed_by(
        self,
        items: NDArray[np.int64],
        times: Times,
        *,
        moment: float | None = None,
        n_items: int | None = None,
    ) -> Self:
        """The activity with more interactions, at a later moment.

        In however many parts interactions are given, the result is that of all at once.

        Parameters
        ----------
        items, times
            ``(n,)`` the interactions, in any order; those from before the present moment count
            as if they had been known in time.
        moment
            By default that of the last interaction. An earlier one than the present is taken for
            the present: the moment never goes back.
        n_items
            How many items there are now; by default as many as before.

        Raises
        ------
        DataError
            An interaction is later than the moment.
        """
        if moment is None:
            moment = float(times.max(initial=self.moment))
        moment = max(self.moment, moment)
        late = int(np.count_nonzero(times > moment))
        if late:
            raise DataError(
                f"{late:,} of {len(times):,} interactions are later than the moment that the "
                "environment is computed at; leave them out"
            )
        n_known, n_items = len(self.counts), max(len(self.counts), n_items or 0)
        counts = np.bincount(items, minlength=n_items)
        counts[:n_known] += self.counts
        first, last = np.full(n_items, np.inf), np.full(n_items, -np.inf)
        first[:n_known], last[:n_known] = self.first, self.last
        decayed = np.zeros((n_items, len(self.half_lives)))
        gone = (moment - self.moment) / self.span
        decayed[:n_known] = self.decayed * np.exp2(gone / -np.array(self.half_lives))
        # One pass over the interactions, in blocks that stay in the processor's cache.
        at_once = max(_AT_ONCE, n_items)
        for start in range(0, len(items), at_once):
            some = items[start : start + at_once]
            now = times[start : start + at_once].astype(np.float64, copy=False)
            np.minimum.at(first, some, now)
            np.maximum.at(last, some, now)
            owner = csc_array(
                (np.ones(len(some)), some, np.arange(len(some) + 1)), shape=(n_items, len(some))
            )
            decayed += np.asarray(owner @ self._weights((moment - now) / self.span).T)
        return type(self)(
            counts, first, last, decayed, moment, self.span, self.half_lives, self.n_known
        )

    @property
    def memory(self) -> float:
        """The longest half-life, in the units of the times."""
        return max(self.half_lives) * self.span

    def at(self, moment: float) -> Self:
        """The activity at a later moment, nothing having happened since."""
        return self.followed_by(_NONE, _NONE, moment=moment)

    def with_items(self, n_items: int) -> Self:
        """The activity with items that nobody has interacted with yet, ``n_items`` in all."""
        more = 0, n_items - len(self.counts)
        return replace(
            self,
            counts=np.pad(self.counts, more),
            first=np.pad(self.first, more, constant_values=np.inf),
            last=np.pad(self.last, more, constant_values=-np.inf),
            decayed=np.pad(self.decayed, (more, (0, 0))),
        )

    def _weights(self, ages: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(K, n)`` what interactions of these ages count for."""
        weights = np.empty((len(self.half_lives), len(ages)))
        for k, half_life in enumerate(self.half_lives):
            if k and self.half_lives[k - 1] == 2 * half_life:
                np.square(weights[k - 1], out=weights[k])  # far cheaper than a power
            else:
                np.exp2(ages / -half_life, out=weights[k])
        return weights

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name."""
        columns = {name: getattr(self, name) for name in _COLUMNS}
        rest = {
            "half_lives": np.array(self.half_lives),
            "moment_and_span": np.array([self.moment, self.span]),
            "n_known": np.array(self.n_known),
        }
        return {name: torch.from_numpy(values) for name, values in (columns | rest).items()}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """What :meth:`tensors` gave; KeyError or ValueError if it is something else."""
        arrays = {name: tensors[name].numpy() for name in _COLUMNS}
        half_lives, moment, span = tensors["half_lives"], *tensors["moment_and_span"].tolist()
        n_items, n_known = len(arrays["counts"]), int(tensors["n_known"])
        shapes = dict.fromkeys(_COLUMNS, (n_items,)) | {"decayed": (n_items, len(half_lives))}
        for name, kind in _COLUMNS.items():
            array = arrays[name]
            if array.dtype != kind or array.shape != shapes[name]:
                raise ValueError(f"{name} of {array.dtype} and {array.shape}")
        finite = np.isfinite([moment, span, *half_lives.tolist()]).all()
        if not finite or not span > 0 or not np.isfinite(arrays["decayed"]).all():
            raise ValueError("numbers that are not finite")
        if not 0 < n_known <= n_items:
            raise ValueError(f"{n_known} of {n_items} items known at first")
        return cls(
            **arrays,
            moment=moment,
            span=span,
            half_lives=tuple(half_lives.tolist()),
            n_known=n_known,
        )


_COLUMNS = {"counts": np.int64, "first": np.float64, "last": np.float64, "decayed": np.float64}
