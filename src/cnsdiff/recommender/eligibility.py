"""Items that a user may be shown: neither seen already nor ruled out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import narwhals as nw
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.base.errors import CnsdiffWarning, InputError
from cnsdiff.data.ids import IdIndex, id_list
from cnsdiff.data.reading.columns import known_roles
from cnsdiff.data.splits import pair_matrix
from cnsdiff.evaluation.ranking import Excluded, Scorer

#: What of a user's past is left out: all that the log says, the training pairs, or nothing.
SeenItems = Literal["all", "train", "none"]


@dataclass(frozen=True)
class ItemChoice:
    """Items named by the caller, for all users or for each.

    Attributes
    ----------
    items
        Internal numbers; those unknown to the model are left out.
    users
        Whose each of them is; ``None`` if they are for all.
    """

    items: NDArray[np.int64]
    users: Sequence[Any] | None

    @classmethod
    def of(cls, name: str, given: Any, index: IdIndex, hint: str = "") -> Self:
        """Read the argument ``exclude`` or ``only``.

        Parameters
        ----------
        name
            Which of the two, for messages.
        given
            A list of item ids for all users; a data frame with a column of items and, for those
            of each user, one of users (by any name that a log may have); or a mapping of users
            to lists of items.
        index
            The items known.
        hint
            How others get known, for messages.

        Raises
        ------
        InputError
            It has no column ``item``, or ``only`` names no item that the model knows.
        """
        if isinstance(given, pl.LazyFrame):
            given = given.collect()
        users: list[Any] | None = None
        if isinstance(given, Mapping):
            lists = {user: id_list(items) for user, items in given.items()}
            users = [user for user, items in lists.items() for _ in items]
            ids = [item for items in lists.values() for item in items]
        elif nw.dependencies.is_into_dataframe(given):
            frame = nw.from_native(given, eager_only=True)
            roles = known_roles(frame.columns)
            if "item" not in roles:
                raise InputError(
                    f"{name}: has no column 'item' (it has "
                    f"{', '.join(map(repr, frame.columns))}); call the column of item ids so"
                )
            ids = frame[roles["item"]].to_list()
            users = frame[roles["user"]].to_list() if "user" in roles else None
        else:
            ids = id_list(given)
        numbers = index.find(ids)
        known = numbers >= 0
        unknown = len(ids) - int(known.sum())
        if unknown:
            first = ids[int(np.argmin(known))]
            told = f"{name}: {unknown} of {len(ids)} items did not occur in training"
            if name == "only" and unknown == len(ids):
                raise InputError(
                    f"{told}, so nothing can be recommended; the first is {first!r}{hint}"
                )
            warnings.warn(f"{told}, the first is {first!r}{hint}", CnsdiffWarning, stacklevel=4)
        if name == "only" and not ids and users is None:
            raise InputError("only: names no item, so nothing can be recommended")
        if users is not None:
            users = [user for user, here in zip(users, known, strict=True) if here]
        return cls(numbers[known], users)

    def tell_strangers(self, name: str, keys: Sequence[int | str], users: IdIndex) -> None:
        """Warn of users who are neither known to the model nor asked for."""
        named = list(dict.fromkeys(self.users or ()))
        wanted = set(keys)
        strangers = [
            user
            for user, key in zip(named, user_keys(named, users.find(named)), strict=True)
            if isinstance(key, str) and key not in wanted
        ]
        if strangers:
            warnings.warn(
                f"{name}: {len(strangers)} of {len(named)} users did not occur in training, the "
                f"first is {strangers[0]!r}",
                CnsdiffWarning,
                stacklevel=5,
            )

    def rows(self, keys: Sequence[int | str], users: IdIndex, n_items: int) -> csr_array:
        """``(len(keys), I)`` the items of each user asked for, by :func:`user_keys`."""
        place: dict[int | str, int] = {}
        named = self.users or []
        rows = [place.setdefault(key, len(place)) for key in user_keys(named, users.find(named))]
        table = pair_matrix(np.array(rows, dtype=np.int64), self.items, (len(place), n_items))
        return rows_of(table, np.array([place.get(key, -1) for key in keys], dtype=np.int64))


def user_keys(ids: Sequence[Any], numbers: NDArray[np.int64]) -> list[int | str]:
    """Keys that tell users apart: the internal number, or the text of an id that has none."""
    pairs = zip(ids, numbers.tolist(), strict=True)
    return [number if number >= 0 else str(user) for user, number in pairs]


def barred(
    bias: Tensor | None, n_items: int, exclude: ItemChoice | None, only: ItemChoice | None
) -> Tensor | None:
    """The item bias ``(I,)`` with minus infinity at items that no user may be shown."""
    out = torch.zeros(n_items, dtype=torch.bool)
    if only is not None and only.users is None:
        out[:] = True
        out[only.items] = False
    if exclude is not None and exclude.users is None:
        out[exclude.items] = True
    if not out.any():
        return bias
    return (torch.zeros(n_items) if bias is None else bias).masked_fill(out, -torch.inf)


class Among:
    """A scorer under which each user has the items of a row alone; others are at minus infinity.

    Parameters
    ----------
    scorer
        Of ``n`` users and ``I`` items.
    allowed
        ``(n, I)``.
    """

    def __init__(self, scorer: Scorer, allowed: csr_array) -> None:
        self.scorer = scorer
        self.n_users, self.n_items = scorer.n_users, scorer.n_items
        self._allowed = Excluded(allowed, torch.device("cpu"))

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        scores = self.scorer.score_block(users, start, stop)
        rows, items = self._allowed.pairs(users)
        inside = (items >= start) & (items < stop)
        out = torch.ones_like(scores, dtype=torch.bool)
        out[rows[inside], items[inside] - start] = False
        return scores.masked_fill(out, -torch.inf)


def rows_of(matrix: csr_array, numbers: NDArray[np.int64]) -> csr_array:
    """``(len(numbers), I)`` the rows of ``matrix``; an empty one where the number is -1."""
    known = numbers >= 0
    taken = matrix[numbers[known]]
    counts = np.zeros(len(numbers), dtype=np.int64)
    counts[known] = np.diff(taken.indptr)
    starts = np.concatenate([[0], counts.cumsum()])
    return csr_array((taken.data, taken.indices, starts), shape=(len(numbers), matrix.shape[1]))
