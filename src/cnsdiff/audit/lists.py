"""Ranked lists that another system made, read from a file and brought into a dataset's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.audit.shifts import SHIFTS
from cnsdiff.base.errors import DataError, did_you_mean
from cnsdiff.base.text import parameter
from cnsdiff.data import Dataset
from cnsdiff.data.ids import as_integers, id_values
from cnsdiff.data.reading.columns import ALIASES, RawTable, plain_name
from cnsdiff.data.reading.tables import read_raw

#: Names known for the columns that only such files have, as in :mod:`cnsdiff.data.reading.columns`.
NAMES: dict[str, tuple[str, ...]] = {
    "user": ALIASES["user"],
    "item": ALIASES["item"],
    "rank": ("rank", "position", "pos", "place", "ranking"),
    "score": (
        *("score", "scores", "prediction", "pred", "predicted", "predictedrating", "relevance"),
        *("probability", "prob", "similarity", "logit", "rating", "value", "weight"),
    ),
    "shift": ("shift", "scenario"),
}


@dataclass(frozen=True)
class Lists:
    """Recommended items, best first for each user, under the ids as given.

    Attributes
    ----------
    frame
        ``user``, ``item``, in the order of the lists; ``shift`` where the file has it.
    source
        The file, for messages.
    ordered_by
        ``"rank"``, ``"score"`` or ``"rows"``.
    """

    frame: pl.DataFrame
    source: str
    ordered_by: str

    def under(self, shift: str) -> Lists | None:
        """The lists made for a shift; ``None`` if the file has none for it."""
        if "shift" not in self.frame.columns:
            return self
        own = self.frame.filter(pl.col("shift") == shift)
        return Lists(own.drop("shift"), self.source, self.ordered_by) if own.height else None


def read_lists(file: Path, columns: Mapping[str, str | None] | None = None) -> Lists:
    """Read recommendations: a user, an item, and a rank or a score in each row.

    Without a rank and a score, rows are taken to come best first.

    Parameters
    ----------
    file
        CSV or TSV with a header, or Parquet.
    columns
        Column of each role of :data:`NAMES` where it is not to be guessed; a user's or item's
        that the file does not have is guessed all the same.

    Raises
    ------
    DataError
        A column is missing, a value is empty or no number, or a user has an item or a rank twice;
        the message names the row.
    """
    raw = read_raw(file, "recommendations")
    named = _roles(raw, columns or {})
    for role in ("user", "item"):
        if role not in named:
            raise DataError(
                f"{raw.source}: no column is known to hold the {role}s; its columns are "
                f"{', '.join(map(repr, raw.frame.columns))}: name one of them with "
                f"{parameter(role, ...)}"
            )
    table: dict[str, pl.Series] = {}
    for role in ("user", "item"):
        ids = id_values(raw.frame[named[role]], f"{raw.source}: column {named[role]!r}")
        _refuse(raw, named[role], ids.is_null(), f"the {role} is empty")
        table[role] = as_integers(ids)
    order = "rank" if "rank" in named else "score" if "score" in named else "rows"
    if order != "rows":
        table[order] = _numbers(raw, named[order])
    if "shift" in named:
        table["shift"] = raw.frame[named["shift"]].cast(pl.String)
        wrong = ~table["shift"].is_in(list(SHIFTS)).fill_null(False)
        if wrong.any():
            name = table["shift"].filter(wrong)[0]
            _refuse(
                raw,
                named["shift"],
                wrong,
                f"no shift is called {name!r}{did_you_mean(str(name), SHIFTS)}; there are "
                f"{', '.join(SHIFTS)}",
            )
    frame = pl.DataFrame([series.alias(name) for name, series in table.items()])
    place = [name for name in ("shift", "user") if name in table]
    twice = frame.select(*place, "item").is_duplicated()
    _refuse_twice(raw, frame, named["item"], twice, "the item {item!r} twice")
    if order == "rank":
        twice = frame.select(*place, "rank").is_duplicated()
        _refuse_twice(raw, frame, named["rank"], twice, "the rank {rank:g} twice")
        frame = frame.sort(*place, "rank", maintain_order=True)
    elif order == "score":
        frame = frame.sort(
            *place, "score", descending=[*(False for _ in place), True], maintain_order=True
        )
    columns_of_lists = [name for name in ("user", "item", "shift") if name in table]
    return Lists(frame.select(columns_of_lists), raw.source, order)


def _roles(raw: RawTable, wanted: Mapping[str, str | None]) -> dict[str, str]:
    """The column of each role: the one that is wanted, or the first with a known name."""
    names = raw.frame.columns
    plain: dict[str, str] = {}
    for name in names:
        plain.setdefault(plain_name(name), name)
    roles: dict[str, str] = {}
    for role, aliases in NAMES.items():
        column = wanted.get(role)
        if column is not None and column in names:
            roles[role] = column
        elif column is not None and role not in ("user", "item"):
            raise DataError(
                f"{raw.source}: has no column {column!r}{did_you_mean(column, names)}; its columns "
                f"are {', '.join(map(repr, names))}"
            )
        else:
            guess = next((plain[alias] for alias in aliases if alias in plain), None)
            if guess is not None and guess not in roles.values():
                roles[role] = guess
    return roles


def _numbers(raw: RawTable, column: str) -> pl.Series:
    series = raw.frame[column]
    if series.dtype == pl.String:
        numbers = series.str.strip_chars().cast(pl.Float64, strict=False)
    elif series.dtype.is_numeric():
        numbers = series.cast(pl.Float64)
    else:
        raise DataError(f"{raw.source}: column {column!r} holds {series.dtype}, not numbers")
    bad = ~numbers.is_finite().fill_null(False)
    if bad.any():
        value = series.filter(bad)[0]
        what = "nothing" if value in (None, "") else f"{value!r}"
        _refuse(raw, column, bad, f"{what} is not a finite number, so the item has no place")
    return numbers


def _refuse(raw: RawTable, column: str, bad: pl.Series, what: str) -> None:
    """:class:`DataError` at the first bad row, if there is one."""
    if bad.any():
        row = int(bad.arg_true()[0])
        raise DataError(f"{raw.place(row, column)}: {what}; correct or remove the row")


def _refuse_twice(
    raw: RawTable, frame: pl.DataFrame, column: str, twice: pl.Series, what: str
) -> None:
    if not twice.any():
        return
    # The second of the first two: it is the one that repeats.
    first = frame.row(int(twice.arg_true()[0]), named=True)
    same = frame.with_row_index("_row").filter(
        *(pl.col(name) == first[name] for name in ("shift", "user") if name in first), twice
    )
    key = "item" if "item" in what else "rank"
    row = int(same.filter(pl.col(key) == first[key])["_row"][1])
    raise DataError(
        f"{raw.place(row, column)}: the user {first['user']!r} has {what.format(**first)}; give "
        "each item of a user one row and one place"
    )


@dataclass(frozen=True)
class Placed:
    """Lists in the numbers of a dataset.

    Attributes
    ----------
    items
        ``(n_users, K)`` best first, -1 for none: of every user of the dataset.
    with_train
        The same before the training pairs were taken out of them.
    longest
        Items of the longest list as given.
    length
        Items left of a list that a quarter of the lists are no longer than.
    counts
        ``pairs`` that were given, and of them those of ``unknown_users``, ``unknown_items`` and
        in ``train``; ``users`` that have a list.
    """

    items: Tensor
    with_train: Tensor
    longest: int
    length: int
    counts: dict[str, int]


def place_lists(lists: Lists, dataset: Dataset, train: csr_array, k: int) -> Placed:
    """Bring lists into the numbers of a dataset, without what is unknown and what is in train.

    The first ``k`` places of each list are kept. What is in ``train (U, I)`` is left out, as of
    everybody's lists.
    """
    users = dataset.encode_users(lists.frame["user"])
    items = dataset.encode_items(lists.frame["item"])
    counts = {
        "pairs": len(users),
        "unknown_users": int((users < 0).sum()),
        "unknown_items": int(((items < 0) & (users >= 0)).sum()),
    }
    longest = int(lists.frame.group_by("user").len()["len"].to_numpy().max())
    known = (users >= 0) & (items >= 0)
    users, items = users[known], items[known]
    keys = np.repeat(np.arange(train.shape[0]), np.diff(train.indptr)) * train.shape[1]
    seen = np.isin(users * train.shape[1] + items, keys + train.indices)
    lengths = np.unique(users[~seen], return_counts=True)[1]
    length = int(np.quantile(lengths, 0.25, method="lower")) if len(lengths) else 0
    counts |= {"in_train": int(seen.sum()), "users": len(np.unique(users))}
    return Placed(
        _table(users[~seen], items[~seen], dataset.n_users, k),
        _table(users, items, dataset.n_users, k),
        longest,
        length,
        counts,
    )


def _table(users: NDArray[np.int64], items: NDArray[np.int64], n_users: int, k: int) -> Tensor:
    """``(n_users, k)`` the first items of each user, in the order given; -1 for none."""
    table = np.full((n_users, k), -1, dtype=np.int64)
    order = np.argsort(users, kind="stable")
    users, items = users[order], items[order]
    starts = np.searchsorted(users, users)
    place = np.arange(len(users)) - starts
    within = place < k
    table[users[within], place[within]] = items[within]
    return torch.from_numpy(table)
