"""Lists under rules, against a twin that looks at one item after the other."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnsdiff.base.errors import InputError
from cnsdiff.data.ids import IdIndex
from cnsdiff.serving.ranking import Catalogue, arrange
from cnsdiff.serving.schemas import RecommendRequest

N = 12
IDS = [f"i{n}" for n in range(N)]


def twin(scores, request, attributes, withdrawn, seen):
    """The list, one item after the other, as the documentation says."""

    def fits(item):
        row = attributes[item]
        for name, condition in request.where.items():
            value = row.get(name)
            if isinstance(condition, list):
                if value not in condition:
                    return False
            elif hasattr(condition, "min"):
                if value is None or value < condition.min or value > condition.max:
                    return False
            elif value != condition:
                return False
        return request.only is None or IDS[item] in request.only

    def may_be_shown(item):
        return item not in withdrawn and fits(item) and IDS[item] not in request.exclude

    scores = scores.copy()
    spread = torch.from_numpy(scores).std().item()
    for name, step in request.boost.items():
        if name in IDS:
            scores[IDS.index(name)] += np.float32(spread) * np.float32(step)
    order = sorted(range(N), key=lambda item: (-scores[item], item))
    pins = [IDS.index(i) for i in dict.fromkeys(request.pin) if i in IDS]
    result = [item for item in pins if may_be_shown(item)][: request.k]
    hidden = set(seen) if request.seen == "all" else set()
    rest = [i for i in order if may_be_shown(i) and i not in result and i not in hidden]
    plain = [i for i in rest if IDS[i] not in request.bury]
    used = Counter((n, attributes[i].get(n)) for n in request.quotas for i in result)
    beyond = []
    for item in plain:
        own = [(n, attributes[item][n]) for n in request.quotas if n in attributes[item]]
        if any(used[key] >= request.quotas[key[0]] for key in own):
            beyond.append(item)
        elif len(result) < request.k:
            used.update(own)
            result.append(item)
    result += beyond[: request.k - len(result)]
    result += [i for i in rest if IDS[i] in request.bury][: request.k - len(result)]
    return [IDS[item] for item in result], scores


some_ids = st.lists(st.sampled_from([*IDS, "unknown"]), max_size=5)
attributes_of_all = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "category": st.sampled_from(["a", "b", "c"]),
            "price": st.integers(0, 5),
            "stock": st.booleans(),
        },
    ),
    min_size=N,
    max_size=N,
).filter(lambda rows: {"category", "price", "stock"} <= {name for row in rows for name in row})
wheres = st.fixed_dictionaries(
    {},
    optional={
        "category": st.one_of(
            st.sampled_from(["a", "b", "other"]),
            st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=2),
        ),
        "price": st.builds(
            lambda low, high: {"min": low, "max": high}, st.integers(0, 5), st.integers(0, 5)
        ),
        "stock": st.booleans(),
    },
)
requests = st.builds(
    RecommendRequest,
    k=st.integers(1, N + 2),
    exclude=some_ids,
    only=st.none() | some_ids,
    where=wheres,
    quotas=st.fixed_dictionaries(
        {}, optional={"category": st.integers(0, 2), "stock": st.integers(0, 3)}
    ),
    pin=some_ids,
    boost=st.dictionaries(st.sampled_from([*IDS, "unknown"]), st.integers(-2, 2), max_size=3),
    bury=some_ids,
    seen=st.sampled_from(["all", "none"]),
)


@settings(max_examples=300, deadline=None)
@given(
    scores=st.lists(st.integers(-3, 3), min_size=N, max_size=N),
    request_=requests,
    attributes=attributes_of_all,
    withdrawn=st.sets(st.integers(0, N - 1), max_size=3),
    seen=st.sets(st.integers(0, N - 1), max_size=4),
)
def test_arranging_is_the_twins_list(scores, request_, attributes, withdrawn, seen):
    scores = np.array(scores, dtype=np.float32)
    catalogue = Catalogue(
        IdIndex(pl.Series(IDS)), attributes, np.array(sorted(withdrawn), dtype=int)
    )
    items, values, _ = arrange(
        torch.from_numpy(scores.copy()), request_, catalogue, np.array(sorted(seen), dtype=np.int64)
    )
    expected, boosted = twin(scores, request_, attributes, withdrawn, seen)
    assert [IDS[item] for item in items] == expected
    np.testing.assert_allclose(values, boosted[items], rtol=1e-5)


@settings(max_examples=100, deadline=None)
@given(
    attributes=attributes_of_all,
    later=attributes_of_all,
    changed=st.sets(st.integers(0, N - 1)),
    withdrawn=st.sets(st.integers(0, N - 1), max_size=3),
    n=st.integers(1, N),
    wheres=st.lists(requests.map(lambda request: request.where), min_size=1, max_size=4),
)
def test_a_catalogue_that_changed_is_one_made_anew(
    attributes, later, changed, withdrawn, n, wheres
):
    """Of ``n`` items, some change, are withdrawn or come back, and the others come."""

    def numbers(items):
        return np.array(sorted(items), dtype=int)

    def answers(catalogue, where):
        try:
            allowed = catalogue.allowed(RecommendRequest(where=where)).tolist()
        except InputError as error:
            return str(error)
        return allowed, [sorted(catalogue.having(name)) for name in catalogue.names]

    before = {item for item in withdrawn if item < n and item % 2}
    catalogue = Catalogue(IdIndex(pl.Series(IDS[:n])), attributes[:n], numbers(before))
    for where in wheres:
        answers(catalogue, where)  # so that something is taken along
    earlier = [answers(catalogue, where) for where in wheres]
    changed |= withdrawn | set(range(n, N))
    rows = {item: later[item] for item in sorted(changed)}
    index = IdIndex(pl.Series(IDS[:n])).with_more(pl.Series(IDS[n:], dtype=pl.String))
    grown = catalogue.changed(index, rows, numbers(withdrawn))
    every = [rows.get(item, attributes[item]) for item in range(N)]
    anew = Catalogue(IdIndex(pl.Series(IDS)), every, numbers(withdrawn))
    assert grown.names == anew.names
    for where in wheres:
        assert answers(grown, where) == answers(anew, where)
    assert [answers(catalogue, where) for where in wheres] == earlier


def test_values_are_the_same_however_they_are_written():
    rows = [{"size": 5}, {"size": "5"}, {"size": 5.0}, {"size": [4, "5"]}, {"size": True}, {}]
    catalogue = Catalogue(IdIndex(pl.Series(IDS[:6])), rows, np.zeros(0, dtype=int))
    for value in (5, "5", 5.0):
        allowed = catalogue.allowed(RecommendRequest(where={"size": value}))
        assert allowed.tolist() == [True, True, True, True, False, False]
    assert catalogue.allowed(RecommendRequest(where={"size": True})).tolist()[4]
    assert catalogue.allowed(RecommendRequest(where={"size": {"min": 5}})).tolist() == [
        *(True, False, True, False, False, False)
    ]


def test_an_attribute_that_no_item_has_is_named():
    catalogue = Catalogue(IdIndex(pl.Series(["x"])), [{"category": "a"}], np.zeros(0, dtype=int))
    with pytest.raises(
        InputError, match=r"'categori' \(did you mean 'category'\?\); items have cat"
    ):
        catalogue.allowed(RecommendRequest(where={"categori": "a"}))
    with pytest.raises(InputError, match="no item has an attribute 'brand'"):
        arrange(
            torch.zeros(1), RecommendRequest(quotas={"brand": 1}), catalogue, np.zeros(0, dtype=int)
        )


def test_a_quota_does_not_look_at_each_item(monkeypatch):
    n, k, looks = 5000, 60, []
    rows = [{"category": item % 50, "kind": item % 7} for item in range(n)]
    catalogue = Catalogue(IdIndex(pl.Series(range(n))), rows, np.zeros(0, dtype=int))
    values = Catalogue.values
    monkeypatch.setattr(Catalogue, "values", lambda *own: looks.append(own) or values(*own))
    scores = torch.arange(n, 0, -1).float()
    for quotas, first in (
        ({"category": 0}, []),
        ({"category": 1}, list(range(50))),
        ({"category": 1, "kind": 1}, list(range(7))),
    ):
        looks.clear()
        request_ = RecommendRequest(k=k, quotas=quotas)
        items, _, _ = arrange(scores.clone(), request_, catalogue, np.zeros(0, dtype=np.int64))
        left = [item for item in range(n) if item not in first]
        assert items.tolist() == [*first, *left][:k]
        assert len(looks) < 1000
