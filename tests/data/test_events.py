"""Types of events: guessed, chosen, weighed; and the funnel that a log goes through."""

from __future__ import annotations

import math

import polars as pl
import pytest

from cnsdiff.base.errors import DataError
from cnsdiff.data import read_interactions
from cnsdiff.shifts import Filters

CLICKS = """who_id,sku,event_type
a,x,view
a,x,buy
a,y,view
b,x,cart
,x,view
b,y,view
b,y,view
c,x
c,z,
"""


@pytest.fixture
def clicks(tmp_path):
    (tmp_path / "clicks.csv").write_text(CLICKS)
    return tmp_path / "clicks.csv"


def read(file, **options):
    return read_interactions(file, user="who_id", skip_bad=True, **options)


def test_a_guessed_column_of_events_is_read_and_changes_nothing_else(clicks):
    log, without = read(clicks), read(clicks, event="none")
    assert log.frame["event"].to_list() == ["view", "buy", "view", "cart", "view", "view", ""]
    assert log.frame.drop("event").equals(without.frame)
    assert log.columns["event"] == "event_type"
    assert [step.rows for step in log.funnel] == [9, 7]


def test_missing_ids_are_counted_apart_from_malformed_lines(clicks):
    left_out = {problem.reason: problem for problem in read(clicks).funnel[-1].left_out}
    assert left_out["fewer fields than 3"].missing is False
    assert left_out["an empty user"].missing is True
    words = pl.DataFrame({"user": ["1", "NULL", "1.2E+17", None, "2"], "item": list("abcde")})
    read_words = read_interactions(words, skip_bad=True)
    assert {p.reason: p.missing for p in read_words.problems} == {
        "an empty user": True,
        "a word for a missing user": True,
        "a user that is cut short": False,
    }


@pytest.mark.parametrize("values", [["one"] * 60, [f"text {n}" for n in range(60)]])
def test_a_column_of_one_value_or_of_texts_is_no_guess(values):
    frame = pl.DataFrame({"user": range(60), "item": range(60), "type": values})
    assert read_interactions(frame).frame.columns == ["user", "item"]
    assert "event" in read_interactions(frame, event="type").frame.columns


def test_a_pair_has_the_greatest_weight_of_its_events(clicks):
    log = read(clicks, events={"view": 0.1, "buy": 1})
    pairs, _ = Filters().clean(log, core=True)
    found = {(user, item): weight for user, item, weight in pairs.frame.drop("event").rows()}
    assert found == {("a", "x"): 1.0, ("a", "y"): 0.1, ("b", "y"): 0.1}
    funnel = {step.name: step for step in pairs.funnel}
    assert [step.rows for step in pairs.funnel] == [9, 7, 5, 3]
    assert {p.example: p.rows for p in funnel["events"].left_out} == {"cart": 1, "": 1}
    assert funnel["pairs"].left_out[0].rows == 2


def test_events_that_count_alike_have_no_weights(clicks):
    for events in (["buy", "cart"], "buy", {"buy": 0.5, "cart": 0.5}):
        log = read(clicks, events=events)
        assert "weight" not in log.frame.columns
        assert set(log.frame["event"]) <= {"buy", "cart"}


@pytest.mark.parametrize(
    ("events", "words"),
    [
        (["byu"], ["no event 'byu'", "did you mean 'buy'", "'view' (4)"]),
        ({"buy": -1}, ["'buy' is -1", "give 0, or a number from 0.000001 to 1,000,000"]),
        ({"buy": math.nan}, ["'buy' is nan"]),
        ({"buy": True}, ["'buy' is True"]),
        *(({"buy": w, "view": 1}, ["'buy'"]) for w in (1e300, 1e-300, math.nan, math.inf)),
        ({"buy": 0}, ["no event a weight above 0"]),
        ([], ["no event a weight above 0"]),
    ],
)
def test_what_no_events_are_is_a_sentence(clicks, events, words):
    with pytest.raises(DataError) as caught:
        read(clicks, events=events)
    for word in words:
        assert word in str(caught.value)


def test_without_a_column_of_events_the_columns_are_named(tmp_path):
    (tmp_path / "log.csv").write_text("user,item,price\na,b,3\nb,c,4\n")
    with pytest.raises(DataError, match=r"events.*'user', 'item', 'price'.*event='NAME'"):
        read_interactions(tmp_path / "log.csv", events=["buy"])
    with pytest.raises(DataError, match=r"holds Float64, not types of events"):
        read_interactions(pl.DataFrame({"user": [1], "item": [1], "e": [0.5]}), event="e")


def test_heavy_users_are_left_out_before_the_core():
    pairs = [(user, item) for user in range(5) for item in range(3 if user else 9)]
    log = read_interactions(pl.DataFrame(pairs, schema=["user", "item"], orient="row"))
    kept, counts = Filters(item_core=3, max_per_user=8).clean(log, core=True)
    assert set(kept.frame["user"]) == {1, 2, 3, 4}
    assert counts["of_heavy_users"] == 9
    assert kept.funnel[-2].left_out[0].reason == "1 user with more than 8 pairs"
    assert Filters(max_per_user=8).clean(log, core=False)[0].frame.equals(log.frame)
    assert "max_per_user" not in Filters().settings()
    with pytest.raises(DataError, match="every user has more than 2 pairs"):
        Filters(max_per_user=2).clean(log, core=True)
    with pytest.raises(DataError, match="whole number of 1 or more"):
        Filters(max_per_user=0)
