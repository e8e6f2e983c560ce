"""From the scores of one user to a list: who may be shown, and in which order.

A list never has fewer than ``k`` items while ``k`` may be shown: what goes beyond a quota, and
then what is buried, fills it up.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnsdiff.base.errors import InputError, did_you_mean
from cnsdiff.data.ids import IdIndex
from cnsdiff.evaluation.ranking import rank
from cnsdiff.serving.schemas import RecommendRequest, Rules

Numbers = NDArray[np.int64]
_NONE: Numbers = np.zeros(0, dtype=np.int64)
#: Bytes of a filter's result for each item (whether it is allowed, and a penalty in single
#: precision), and besides, the filter included. Characters of a filter whose result is kept.
_PER_ITEM, _PER_FILTER, _LONGEST_FILTER = 5, 10_000, 8_000


def value_key(value: object) -> str:
    """A value of an attribute as text: ``5``, ``5.0`` and ``"5"`` are the same."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


class Catalogue:
    """The items of a version, with their attributes.

    Parameters
    ----------
    index
        Their ids.
    attributes
        ``(I,)`` of each item by name; several values in a list, ``None`` where it has none.
    withdrawn
        Numbers of items that are not shown to anyone.
    memory
        Bytes of the results of filters that are kept; those of two are in any case.
    names
        Attributes that may be asked for although none of these items may have them.
    """

    def __init__(
        self,
        index: IdIndex,
        attributes: Sequence[Mapping[str, Any]],
        withdrawn: Numbers,
        memory: int = 0,
        names: Collection[str] = (),
    ) -> None:
        self.index, self._attributes, self._memory = index, attributes, memory
        self.shown = np.ones(len(index.ids), dtype=bool)
        self.shown[withdrawn] = False
        self._n_having = Counter(itertools.chain.from_iterable(attributes))
        self._tables: dict[str, _Values] = {}
        self._begin(names)

    def _begin(self, names: Collection[str]) -> None:
        """Keep no results of filters yet."""
        self.names = sorted({*names, *self._n_having})
        # Results are of one size, so that their number bounds their bytes.
        most = max(2, self._memory // (_PER_ITEM * len(self.shown) + _PER_FILTER))
        self._kept = lru_cache(maxsize=most)(self._filtered)

    def changed(
        self,
        index: IdIndex,
        rows: Mapping[int, Mapping[str, Any]],
        withdrawn: Numbers,
        names: Collection[str] = (),
    ) -> Self:
        """The catalogue after some items have changed, quickly for a few.

        What filters have computed of attributes is taken along, so that no request has to.

        Parameters
        ----------
        index
            The ids, new ones behind those before.
        rows
            The attributes of each item that changed, and of each new one.
        withdrawn
            Numbers of those of ``rows`` that are not shown to anyone.
        names
            As of the catalogue.
        """
        result = copy(self)
        n_new = len(index.ids) - len(self.shown)
        result.index, result._attributes = index, [*self._attributes, *([{}] * n_new)]
        result.shown = np.pad(self.shown, (0, n_new), constant_values=True)
        result.shown[list(rows)] = True
        result.shown[withdrawn] = False
        result._n_having = self._n_having.copy()
        before = {number: result._attributes[number] for number in rows}
        for number, row in rows.items():
            result._attributes[number] = row
            result._n_having.subtract(before[number].keys())
            result._n_having.update(row.keys())
        result._n_having = +result._n_having
        result._tables = {
            name: table.changed(len(result.shown), name, before, rows)
            for name, table in self._tables.copy().items()
        }
        result._begin(names)
        return result

    def numbers(self, ids: Sequence[str]) -> Numbers:
        """Of the ids that are known, in their order."""
        numbers = self.index.find_text(ids)
        return numbers[numbers >= 0]

    def allowed(self, rules: Rules) -> NDArray[np.bool_]:
        """``(I,)`` which items all users may be shown under some rules.

        Raises
        ------
        InputError
            A filter names an attribute that no item has.
        """
        allowed, _ = self._filter(_text_of(rules))
        if rules.only is not None:
            named = np.zeros(len(allowed), dtype=bool)
            named[self.numbers(rules.only)] = True
            allowed = allowed & named
        return allowed

    def penalties(self, rules: Rules) -> Tensor:
        """``(I,)`` float32: minus infinity for items that :meth:`allowed` rules out, else 0."""
        if rules.only is None:
            return self._filter(_text_of(rules))[1]
        return _penalty(self.allowed(rules))

    def _filter(self, where: str) -> tuple[NDArray[np.bool_], Tensor]:
        return (self._filtered if len(where) > _LONGEST_FILTER else self._kept)(where)

    def values(self, name: str, item: int) -> list[str]:
        """What an item has of an attribute, as text."""
        return _listed(self._attributes[item].get(name))

    def having(self, name: str, value: str | None = None) -> Numbers:
        """Numbers of the items that have an attribute, or a value of it."""
        places = self._values(name).places
        of_value = [*places.values()] if value is None else [places.get(value, _NONE)]
        return np.concatenate([_NONE, *of_value])

    def require(self, name: str) -> None:
        if name not in self.names:
            known = f"items have {', '.join(self.names)}" if self.names else "items have none"
            raise InputError(
                f"no item has an attribute {name!r}{did_you_mean(name, self.names)}; {known}"
            )

    def _filtered(self, where: str) -> tuple[NDArray[np.bool_], Tensor]:
        """``(I,)`` which items a filter allows, and minus infinity for the others."""
        result = self.shown.copy()
        for name, condition in json.loads(where).items():
            self.require(name)
            places, numbers = self._values(name)
            if isinstance(condition, dict):
                low, high = (condition[end] for end in ("min", "max"))
                result &= numbers >= (-np.inf if low is None else low)  # NaN never is
                result &= numbers <= (np.inf if high is None else high)
                continue
            some = np.zeros(len(result), dtype=bool)
            for value in condition if isinstance(condition, list) else [condition]:
                some[places.get(value_key(value), _NONE)] = True
            result &= some
        return result, _penalty(result)

    def _values(self, name: str) -> _Values:
        if name not in self._tables:
            rows = dict(enumerate(self._attributes))
            nothing = _Values({}, np.zeros(0))
            self._tables[name] = nothing.changed(len(self.shown), name, {}, rows)
        return self._tables[name]


class _Values(NamedTuple):
    """The items of each value of an attribute, and ``(I,)`` the values that are numbers, or NaN."""

    places: Mapping[str, Numbers]
    numbers: NDArray[np.float64]

    def changed(
        self,
        n_items: int,
        name: str,
        before: Mapping[int, Mapping[str, Any]],
        rows: Mapping[int, Mapping[str, Any]],
    ) -> Self:
        """The same after some rows of the items have changed, of ``n_items`` now."""
        places = dict(self.places)
        numbers = np.pad(self.numbers, (0, n_items - len(self.numbers)), constant_values=np.nan)
        gone: dict[str, list[int]] = {}
        come: dict[str, list[int]] = {}
        for item, row in rows.items():
            value = row.get(name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            numbers[item] = value if is_number else np.nan
            for text in _listed(before.get(item, {}).get(name)):
                gone.setdefault(text, []).append(item)
            for text in _listed(value):
                come.setdefault(text, []).append(item)
        for text in gone | come:
            own = places.pop(text, _NONE)
            if text in gone:
                own = own[~np.isin(own, gone[text])]
            own = np.concatenate([own, np.array(come.get(text, []), dtype=np.int64)])
            if len(own):
                places[text] = own
        return type(self)(places, numbers)


def _text_of(rules: Rules) -> str:
    """The filter of some rules, the same text for the same filter."""
    if not rules.where:
        return "{}"
    where = rules.model_dump(mode="json", include={"where"})["where"]
    return json.dumps(where, sort_keys=True)


def _penalty(allowed: NDArray[np.bool_]) -> Tensor:
    return torch.zeros(len(allowed)).masked_fill_(torch.from_numpy(~allowed), -torch.inf)


def _listed(value: object) -> list[str]:
    if value is None:
        return []
    return [value_key(each) for each in value] if isinstance(value, list) else [value_key(value)]


def arrange(
    scores: Tensor,
    request: RecommendRequest,
    catalogue: Catalogue,
    seen: Numbers,
    *,
    fill: bool = True,
) -> tuple[Numbers, NDArray[np.float32], int]:
    """The list of one user.

    Parameters
    ----------
    scores
        ``(I,)`` float32, which are overwritten.
    request
        Its rules; its ``dial``, ``user`` and ``session`` are not looked at.
    seen
        Numbers of items that the user has.
    fill
        Whether what is beyond quotas, or buried, fills the list up.

    Returns
    -------
    items
        Numbers, best first; fewer than ``k`` where fewer may be shown.
    scores
        Of them.
    pinned
        How many of the first are there because they were pinned.
    """
    # Boosts, in units of how far the scores spread over the catalogue.
    if request.boost:
        named = catalogue.index.find_text(list(request.boost))
        steps = np.array(list(request.boost.values()), dtype=np.float32)[named >= 0]
        spread = float(scores[torch.isfinite(scores)].std())
        scores[torch.from_numpy(named[named >= 0])] += spread * torch.from_numpy(steps)
    # Pinned items come first, seen or not, but under the filters.
    excluded = catalogue.numbers(request.exclude)
    first = np.zeros(0, dtype=np.int64)
    if request.pin:
        numbers = catalogue.numbers(list(dict.fromkeys(request.pin)))
        fit = catalogue.allowed(request)[numbers] & ~np.isin(numbers, excluded)
        first = numbers[fit][: request.k]
    first_scores = scores[torch.from_numpy(first)].numpy()
    # What is left is ranked, and buried items after it.
    scores += catalogue.penalties(request)
    out = [excluded, first, seen] if request.seen == "all" else [excluded, first]
    scores[torch.from_numpy(np.concatenate(out))] = -torch.inf
    left = request.k - len(first)
    if not request.bury:
        rest, rest_scores = _under_quotas(scores, left, request, catalogue, first, fill)
    else:
        buried = torch.from_numpy(catalogue.numbers(request.bury))
        last = scores[buried]
        scores[buried] = -torch.inf
        rest, rest_scores = _under_quotas(scores, left, request, catalogue, first, fill)
        scores.fill_(-torch.inf)
        if fill:
            scores[buried] = last
        more, more_scores = best(scores, left - len(rest))
        rest, rest_scores = np.append(rest, more), np.append(rest_scores, more_scores)
    items, values = np.concatenate([first, rest]), np.concatenate([first_scores, rest_scores])
    return items, values, len(first)


def best(scores: Tensor, k: int) -> tuple[Numbers, NDArray[np.float32]]:
    """The numbers and scores of the ``k`` best of ``(I,)``, without those at minus infinity.

    In the order of :func:`cnsdiff.evaluation.rank`, quicker for one user.
    """
    if k < 1:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    top = scores.topk(min(k + 1, len(scores)))
    values, items = top.values.numpy(), top.indices.numpy()
    if len(values) > k:
        if values[k - 1] == values[k] != -np.inf:  # which of those tied is for the index to tell
            every = rank(_Given(scores[None]), torch.zeros(1), k, item_chunk=len(scores))
            items, values = (each[0].numpy() for each in every)
        items, values = items[:k], values[:k]
    order = np.lexsort((items, -values))
    order = order[values[order] != -np.inf]
    return items[order], values[order]


class _Given:
    """Scores that are there already, as :func:`rank` asks for them."""

    def __init__(self, scores: Tensor) -> None:
        self._scores = scores
        self.n_users, self.n_items = scores.shape

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        return self._scores[users, start:stop]


def _under_quotas(
    scores: Tensor,
    k: int,
    request: RecommendRequest,
    catalogue: Catalogue,
    pinned: Numbers,
    fill: bool,
) -> tuple[Numbers, NDArray[np.float32]]:
    """The ``k`` best under quotas, filled up with the best beyond them if they are to be.

    Items of a value that is used up are ruled out together, so that it takes as many looks at the
    catalogue as there are items taken, at the most, and not one at each item.
    """
    if not request.quotas:
        return best(scores, k)
    used: Counter[tuple[str, str]] = Counter()
    free = scores.clone()

    def pairs(item: int) -> list[tuple[str, str]]:
        return [(name, value) for name in request.quotas for value in catalogue.values(name, item)]

    def used_up(items: Sequence[int]) -> set[tuple[str, str]]:
        own = {pair for item in items for pair in pairs(item)}
        return {(name, value) for name, value in own if used[name, value] >= request.quotas[name]}

    for name, quota in request.quotas.items():
        catalogue.require(name)
        if quota == 0:
            free[torch.from_numpy(catalogue.having(name))] = -torch.inf
    for item in pinned.tolist():
        used.update(pairs(item))
    ended = used_up(pinned.tolist())
    taken: list[int] = []
    values: list[float] = []
    while len(taken) < k:
        for name, value in ended:
            free[torch.from_numpy(catalogue.having(name, value))] = -torch.inf
        items, scores_of_items = best(free, 4 * k)
        if not len(items):
            break
        ended = set()
        for item, score in zip(items.tolist(), scores_of_items.tolist(), strict=True):
            own = pairs(item)
            if ended.isdisjoint(own):
                taken.append(item)
                values.append(score)
                used.update(own)
                ended |= used_up([item])
            if len(taken) == k:
                break
        free[torch.from_numpy(items)] = -torch.inf
    items, item_scores = np.array(taken, dtype=np.int64), np.array(values, dtype=np.float32)
    if len(taken) == k or not fill:
        return items, item_scores
    rest = scores.clone()
    rest[torch.from_numpy(items)] = -torch.inf
    more, more_scores = best(rest, k - len(taken))
    return np.append(items, more), np.append(item_scores, more_scores)
