"""Threshold, duplicates and k-core."""

from __future__ import annotations

from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnsdiff.base.errors import DataError
from cnsdiff.data import Interactions

ID = st.integers(0, 6)


def make(rows, columns=("user", "item")) -> Interactions:
    return Interactions(pl.DataFrame(rows, schema=list(columns), orient="row"), "log.csv", 2)


def test_positives():
    log = make([(1, 2, 3.0), (1, 3, 4.0), (2, 2, 5.0)], ("user", "item", "rating"))
    assert log.positives(None) is log
    kept = log.positives(4)
    assert kept.frame["rating"].to_list() == [4.0, 5.0]
    assert (kept.source, kept.skipped) == ("log.csv", 2)
    with pytest.raises(DataError, match=r"log.csv: no rating reaches the threshold 6 .*is 5"):
        log.positives(6)
    with pytest.raises(DataError, match=r"needs ratings.*rating='NAME'"):
        make([(1, 2)]).positives(4)


def test_deduplicated_keeps_the_earliest_and_the_order():
    columns = ("user", "item", "timestamp", "rating")
    rows = [(1, 1, 9, 1.0), (2, 1, 5, 2.0), (1, 1, 3, 3.0), (1, 2, 4, 4.0), (1, 1, 3, 5.0)]
    assert make(rows, columns).deduplicated().frame.rows() == [rows[1], rows[2], rows[3]]
    plain = make([(1, 1), (2, 1), (1, 1)])
    assert plain.deduplicated().frame.rows() == [(1, 1), (2, 1)]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(ID, ID), max_size=40), st.integers(0, 4), st.integers(0, 4))
def test_k_core_against_brute_force(rows, user, item):
    left = list(rows)
    while True:
        users, items = Counter(u for u, _ in left), Counter(i for _, i in left)
        kept = [(u, i) for u, i in left if users[u] >= user and items[i] >= item]
        if kept == left:
            break
        left = kept
    schema = {"user": pl.Int64, "item": pl.Int64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    assert Interactions(frame, "x").k_core(user, item).frame.rows() == left


def test_k_core_of_text_ids_and_of_negative_counts():
    log = make([("a", "x"), ("a", "y"), ("b", "x")])
    assert log.k_core(2, 1).frame.rows() == [("a", "x"), ("a", "y")]
    with pytest.raises(DataError, match="0 or more"):
        log.k_core(-1, 0)
