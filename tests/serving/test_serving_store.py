"""The store, on SQLite and on PostgreSQL: what it keeps, in which order, and what it refuses."""

from __future__ import annotations

import math
from random import Random

import polars as pl
import pytest

from cnsdiff.base.errors import InputError
from cnsdiff.serving.store import (
    LONGEST_ID,
    Activation,
    Answer,
    ConflictError,
    Event,
    Store,
    Version,
)

AWKWARD = ["5", "", "user", "ünï 日本 🎉", "a'b\"c;--", "%_\\", " ", "\u202e", "\x1b[2J", "x" * 500]


def event(number: int, user: str = "ann", **fields: object) -> Event:
    return Event(f"e{number}", user, f"i{number}", float(number), "click")._replace(**fields)


def answer(number: int, user: str = "ann") -> Answer:
    return Answer(
        f"r{number}", float(number), user, "v1", "active", 0.9, "model", 2, ["b", "a"], [0.5, 1.0]
    )


def test_events_come_back_in_the_order_in_which_they_were_kept(store):
    assert store.add_events([event(2), event(1, "bob", type=None)]) == 2
    assert store.add_events([event(3, timestamp=-1e-300)]) == 1
    frame = store.events()
    assert frame.schema == {
        "seq": pl.Int64, "user": pl.String, "item": pl.String,
        "timestamp": pl.Float64, "type": pl.String,
    }  # fmt: skip
    assert frame.drop("seq").rows() == [
        ("ann", "i2", 2.0, "click"), ("bob", "i1", 1.0, None), ("ann", "i3", -1e-300, "click"),
    ]  # fmt: skip
    assert frame["seq"].is_sorted() and frame["seq"].is_unique().all()
    assert store.events_of(["ann", "nobody"])["item"].to_list() == ["i2", "i3"]
    assert store.events_of(["bob", "ann", "bob"]).rows() == frame.rows()
    assert store.events_of([]).schema == store.events_of(["ann"]).schema
    assert store.add_events([]) == 0


def test_a_follower_reads_on_from_what_it_has_seen(store):
    store.add_events([event(number) for number in range(5)])
    first = store.events_after(0, limit=2)
    rest = store.events_after(first["seq"][-1])
    assert pl.concat([first, rest]).equals(store.events())
    none = store.events_after(rest["seq"][-1])
    assert none.is_empty() and none.schema == first.schema


def test_the_first_of_an_event_id_is_kept(store, store_url):
    assert store.add_events([event(1), event(1, item="other"), event(2)]) == 2
    assert store.add_events([event(2, timestamp=9.0), event(3)]) == 1
    with Store.open(store_url) as another:
        assert another.add_events([event(number) for number in range(5)]) == 2
    assert store.events()["item"].to_list() == ["i1", "i2", "i3", "i0", "i4"]


def test_ids_are_text_to_the_letter(store):
    users = list(filter(None, AWKWARD))
    store.add_events([Event(f"{user[:490]}{n}", user, user, 0.0) for n, user in enumerate(users)])
    assert store.events()["user"].to_list() == users
    for user in users:
        assert store.events_of([user])["item"].to_list() == [user]
        assert store.forget(user) == 1
    assert store.events().is_empty()


def test_the_longest_ids_fit_into_every_index(store):
    letters = Random(0).choices([chr(code) for code in range(0x4E00, 0x9FFF)], k=LONGEST_ID // 3)
    longest = "".join(letters) + "x" * (LONGEST_ID % 3)
    assert len(longest.encode()) == LONGEST_ID
    store.add_events([Event(longest, longest, longest, 0.0, longest)])
    store.add_answers([answer(1, longest)._replace(request_id=longest)])
    store.put_items({longest: {}})
    assert store.forget(longest) == 2


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"user": ""}, "user: is empty"),
        ({"item": "xx" + "日" * (LONGEST_ID // 3)}, "item: 'xx日.*more than 1,000 bytes"),
        ({"event_id": "a\0"}, r"event_id: 'a\\x00' holds a NUL"),
        ({"user": "\ud800"}, "user: .* not Unicode"),
        ({"type": ""}, "type: is empty"),
        ({"timestamp": math.nan}, "timestamp: nan is not"),
        ({"timestamp": math.inf}, "timestamp: inf is not"),
    ],
)
def test_what_no_database_holds_is_refused_and_nothing_kept(store, wrong, words):
    with pytest.raises(InputError, match=words):
        store.add_events([event(1), event(2, **wrong)])
    assert store.events().is_empty()


def test_answers_are_lists_again(store):
    answers = [answer(1), answer(2, "bob")._replace(items=[], propensities=[], k=0)]
    answers.append(answer(3)._replace(items=AWKWARD[2:], propensities=[0.1] * 8))
    store.add_answers(answers[:2])
    store.add_answers([answers[1]._replace(user="eve"), answers[2]])
    store.add_answers([])
    frame = store.answers_after(0)
    assert frame.columns == ["seq", *Answer._fields]
    assert [Answer(*row[1:]) for row in frame.rows()] == answers
    assert frame.schema["items"] == pl.List(pl.String)
    assert frame.schema["propensities"] == pl.List(pl.Float64)
    assert store.answers_after(frame["seq"][0], limit=1).equals(frame[1:2])
    assert store.answers_after(frame["seq"][-1]).schema == frame.schema


def test_items_are_followed_by_their_latest_row(store):
    store.put_items({"a": {"price": 1.5}, "b": {"tags": ["x", None]}})
    seen = store.items_after(0)["seq"].max()
    store.put_items({})
    store.withdraw(["a", "c", "a"])
    store.withdraw([])
    frame = store.items_after(seen)
    assert frame.drop("seq").rows() == [("a", '{"price": 1.5}', True), ("c", None, True)]
    store.put_items({"a": {}})
    assert store.items_after(frame["seq"].max()).drop("seq").rows() == [("a", "{}", False)]
    assert sorted(store.items_after(0)["item"]) == ["a", "b", "c"]
    assert store.items_after(0)["seq"].is_unique().all()
    with pytest.raises(InputError, match="a: cannot be written as JSON"):
        store.put_items({"b": {}, "a": {"price": math.nan}})
    assert store.items_after(seen)["item"].to_list() == ["c", "a"]


def test_a_store_of_version_1_is_brought_up_to_date(store_url):
    with Store.open(store_url) as store:
        store.add_answers([answer(1)])
        store.put_items({"a": {"price": 1.5}})
        for statement in (
            "ALTER TABLE answers DROP COLUMN rules",
            "ALTER TABLE answers DROP COLUMN item_seq",
            "DROP TABLE former_items",
            "UPDATE meta SET value = '1' WHERE key = 'schema_version'",
        ):
            store.database.write(lambda c, s=statement: c.exec_driver_sql(s) and None)
    for _ in range(2):
        with Store.open(store_url, create=False) as store:
            assert Answer(*store.answers_after(0).row(0)[1:]) == answer(1)
    with Store.open(store_url) as store:
        store.add_answers([answer(2)._replace(rules='{"k":1}', item_seq=7)])
        store.withdraw(["a"])
        assert store.rules_of(store.answers_after(0)["seq"].to_list()) == [None, '{"k":1}']
        assert store.item_history()["withdrawn"].to_list() == [False, True]
        assert store.check() == []


def test_versions_keep_their_path(store):
    first = Version("v1", "/runs/one", 1.0, {"ndcg@20": 0.1})
    assert store.versions() == []
    store.add_version(Version("v2", "/runs/two", 2.0, {}))
    store.add_version(first)
    store.add_version(first._replace(figures={"kept": {"ndcg@20": 0.7}}, added=9.0))
    assert store.versions() == [
        first._replace(figures={"kept": {"ndcg@20": 0.7}}),
        Version("v2", "/runs/two", 2.0, {}),
    ]
    with pytest.raises(InputError, match="version 'v1': is /runs/one already"):
        store.add_version(first._replace(path="/runs/two"))


def test_activations_say_what_to_roll_back_to(store):
    assert store.activation() is None
    for name in ("v1", "v2", "v3"):
        store.add_version(Version(name, f"/runs/{name}", 1.0, {}))
    first = store.activate("v1")
    assert first == Activation(first.seq, first.at, "v1", None, None, 0.0, None, first.salt)
    assert first.salt and store.activation() == first
    assert store.activate("v1") == first, "nothing changes"
    trial = store.activate("v2", share=0.25)
    assert trial[2:] == ("v1", None, "v2", 0.25, None, first.salt)
    second = store.activate("v2")  # ends its own trial
    assert second[2:] == ("v2", "v1", None, 0.0, None, first.salt)
    shadow = store.activate("v3", shadow=True)
    assert shadow[2:] == ("v2", "v1", None, 0.0, "v3", first.salt)
    assert first.seq < trial.seq < second.seq < shadow.seq
    ended = store.rollback(shadow.seq)
    assert ended[2:] == second[2:]
    back = store.rollback(ended.seq)
    assert back[2:] == first[2:]
    assert store.activation() == back
    for seq, words in ((ended.seq, "another activation came first"), (back.seq, "before 'v1'")):
        with pytest.raises(ConflictError, match=words):
            store.rollback(seq)


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        ({"version": "v9"}, "version 'v9': is not in the store"),
        ({"version": "v9", "share": 0.5}, "version 'v9'"),
        ({"version": "v1", "share": 0.5}, "'v1' cannot be tried beside the active one, which it"),
        ({"version": "v1", "shadow": True}, "'v1' cannot be tried beside the active one, which it"),
        ({"version": "v1", "share": 1.1}, "share=1.1: must be"),
        ({"version": "v1", "share": 0}, "share=0: must be"),
        ({"version": "v1", "share": math.nan}, "share=nan: must be"),
        ({"version": "v1", "share": 0.5, "shadow": True}, "share=0.5: a shadow answers nobody"),
    ],
)
def test_no_activation_of_what_is_not_there(store, arms, words):
    store.add_version(Version("v1", "/runs/one", 1.0, {}))
    before = store.activate("v1")
    with pytest.raises(InputError, match=words):
        store.activate(**arms)
    assert store.activation() == before


def test_forgetting_takes_every_row_of_a_user_and_of_nobody_else(store):
    store.add_events([event(1), event(2, "bob"), event(3)])
    store.add_answers([answer(1), answer(2, "bob")])
    assert store.forget("ann") == 3
    assert store.forget("ann") == 0
    assert store.events()["user"].to_list() == ["bob"]
    assert store.answers_after(0)["user"].to_list() == ["bob"]


def test_who_was_forgotten_is_known_by_a_digest(store, store_url):
    assert store.forgotten_after(0).is_empty()
    store.forget("ann")
    store.forget("bob")
    frame = store.forgotten_after(0)
    assert frame["digest"].to_list() == [store.digest("ann"), store.digest("bob")]
    store.forget("ann")
    again = store.forgotten_after(frame["seq"][-1])
    assert again["digest"].to_list() == [store.digest("ann")]
    assert store.forgotten_after(0).height == 2
    with Store.open(store_url) as another:
        assert another.digest("ann") == store.digest("ann") != store.digest("an")


def test_no_number_is_given_again(store, store_url):
    """A follower has seen the last number; what comes must come after it."""
    store.add_events([event(1), event(2, "bob")])
    last = store.events()["seq"][-1]
    store.forget("bob")
    store.close()
    with Store.open(store_url) as again:
        again.add_events([event(3)])
        assert again.events_after(last)["item"].to_list() == ["i3"]
