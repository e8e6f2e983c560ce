"""Whatever is done to a store, in any order and through two connections, it is what a dict is."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cnsdiff.base.errors import InputError
from cnsdiff.serving.store import Answer, ConflictError, Event, Store, Version

# Few of each, so that they meet.
ids = st.sampled_from(["a", "b", "ü", "'"])
times = st.floats(-1e12, 1e12)
events = st.builds(
    Event, st.sampled_from("0123456789"), ids, ids, times, st.none() | st.just("click")
)
chances = st.floats(0, 1)
answers = st.builds(
    lambda shown, more, *rest: Answer(
        *rest, [item for item, _ in shown], [p for _, p in shown], *more
    ),
    st.lists(st.tuples(ids, chances), max_size=3),
    st.tuples(st.none() | st.just("{}"), st.none() | st.integers(0, 9)),
    st.sampled_from("0123456789"), times, ids, ids, ids, chances, ids, st.integers(0, 100),
)  # fmt: skip
features = st.dictionaries(ids, st.none() | st.booleans() | st.integers(-9, 9) | ids, max_size=2)

NO_TRIAL = (None, 0.0, None)


class StoreMachine(RuleBasedStateMachine):
    """``url`` gives the address of a store that does not exist yet."""

    def __init__(self, url) -> None:
        super().__init__()
        self.url = url()
        self.stores = [Store.open(self.url), Store.open(self.url)]
        self.events: dict[str, Event] = {}
        self.answers: dict[str, Answer] = {}
        self.items: dict[str, tuple[str | None, bool]] = {}
        self.history: list[tuple[str, str | None, bool]] = []
        self.versions: dict[str, Version] = {}
        # What a rollback goes back through, the active one last; canary, share and shadow.
        self.lineage: list[str] = []
        self.trial = NO_TRIAL
        self.forgotten: list[str] = []
        self.followed: list[tuple] = []
        self.followed_until = 0

    @rule(at=st.integers(0, 1), batch=st.lists(events, max_size=4))
    def add_events(self, at, batch):
        before = len(self.events)
        for event in batch:
            self.events.setdefault(event.event_id, event)
        assert self.stores[at].add_events(batch) == len(self.events) - before

    @rule(at=st.integers(0, 1), batch=st.lists(answers, max_size=3))
    def add_answers(self, at, batch):
        for answer in batch:
            self.answers.setdefault(answer.request_id, answer)
        self.stores[at].add_answers(batch)

    @rule(at=st.integers(0, 1), items=st.dictionaries(ids, features, max_size=2))
    def put_items(self, at, items):
        for item, values in items.items():
            self.change(item, json.dumps(values), False)
        self.stores[at].put_items(items)

    def change(self, item, values, withdrawn):
        """Those that change come last, and what they were is kept."""
        if self.items.get(item) != (values, withdrawn):
            self.items.pop(item, None)
            self.items[item] = values, withdrawn
            self.history.append((item, values, withdrawn))

    @rule(at=st.integers(0, 1), items=st.lists(ids, max_size=2))
    def withdraw(self, at, items):
        for item in dict.fromkeys(items):
            self.change(item, self.items.get(item, (None, False))[0], True)
        self.stores[at].withdraw(items)

    @rule(at=st.integers(0, 1), name=ids, path=ids, added=times, figures=features)
    def add_version(self, at, name, path, added, figures):
        known = self.versions.setdefault(name, Version(name, path, added, figures))
        if known.path == path:
            self.versions[name] = known._replace(figures=figures)
            self.stores[at].add_version(Version(name, path, added, figures))
        else:
            with pytest.raises(InputError, match="choose another name"):
                self.stores[at].add_version(Version(name, path, added, figures))

    @rule(
        at=st.integers(0, 1),
        name=ids,
        share=st.just(1.0) | st.floats(0.01, 1),
        shadow=st.booleans(),
        replace=st.booleans(),
    )
    def activate(self, at, name, share, shadow, replace):
        choices = {"share": 1.0 if shadow else share, "shadow": shadow, "replace": replace}
        tried, other = shadow or share < 1, self.trial[0] or self.trial[2]
        refusals = [
            ("is not in the store", name not in self.versions),
            ("as none is active", tried and not self.lineage),
            ("which it is", tried and self.lineage[-1:] == [name]),
            ("is on trial", other not in (None, name) and not replace),
        ]
        for words, refused in refusals:
            if refused:
                with pytest.raises(InputError, match=words):
                    self.stores[at].activate(name, **choices)
                return
        self.trial = (None, 0.0, name) if shadow else (name, share, None) if tried else NO_TRIAL
        if not tried:
            self.lineage = [before for before in self.lineage if before != name] + [name]
        self.same(self.stores[at].activate(name, **choices))

    @precondition(lambda self: self.lineage)
    @rule(at=st.integers(0, 1))
    def roll_back(self, at):
        seq = self.stores[at].activation().seq
        if self.trial == NO_TRIAL and len(self.lineage) == 1:
            with pytest.raises(ConflictError, match="no version was active before"):
                self.stores[at].rollback(seq)
            return
        if self.trial == NO_TRIAL:
            self.lineage.pop()
        self.trial = NO_TRIAL
        self.same(self.stores[at].rollback(seq))

    def same(self, activation):
        previous = self.lineage[-2] if len(self.lineage) > 1 else None
        own = activation.canary, activation.share, activation.shadow
        assert (activation.active, activation.previous, own) == (
            self.lineage[-1],
            previous,
            self.trial,
        )

    @rule(at=st.integers(0, 1), user=ids)
    def forget(self, at, user):
        rows = len(self.events) + len(self.answers)
        for kept in (self.events, self.answers):
            for key in [key for key, row in kept.items() if row.user == user]:
                del kept[key]
        rows -= len(self.events) + len(self.answers)
        self.followed = [row for row in self.followed if row[0] != user]
        self.forgotten = [other for other in self.forgotten if other != user] + [user]
        assert self.stores[at].forget(user) == rows

    @rule(limit=st.integers(1, 5))
    def follow(self, limit):
        frame = self.stores[0].events_after(self.followed_until, limit)
        if not frame.is_empty():
            self.followed_until = frame["seq"][-1]
        self.followed += frame.drop("seq").rows()
        expected = [event[1:] for event in self.events.values()]
        assert self.followed == expected[: len(self.followed)]

    @rule(at=st.integers(0, 1))
    def reopen(self, at):
        self.stores[at].close()
        self.stores[at] = Store.open(self.url, create=False)

    @invariant()
    def both_say_what_the_twin_says(self):
        for store in self.stores:
            assert store.events().drop("seq").rows() == [e[1:] for e in self.events.values()]
            of_two = [event[1:] for event in self.events.values() if event.user in "aü"]
            assert store.events_of(["ü", "a"]).drop("seq").rows() == of_two
            assert store.histories(["ü", "a"]) == [(e[0], e[1], e[3]) for e in of_two]
            firsts = {(event.user, event.item): event for event in reversed(self.events.values())}
            once = [event[1:] for event in self.events.values() if event in firsts.values()]
            assert store.events_after(0, repeats=False).drop("seq").rows() == once
            digests = [store.digest(user) for user in self.forgotten]
            assert store.forgotten_after(0)["digest"].to_list() == digests
            shown = [Answer(*row) for row in store.answers_after(0).drop("seq").rows()]
            assert shown == list(self.answers.values())
            numbers = store.answers_after(0, rules=False)["seq"].to_list()
            assert store.rules_of(numbers) == [answer.rules for answer in self.answers.values()]
            items = store.items_after(0).drop("seq").rows()
            assert items == [(item, *values) for item, values in self.items.items()]
            assert store.item_history().drop("seq").rows() == self.history
            order = sorted(
                self.versions.values(), key=lambda version: (version.added, version.name)
            )
            assert store.versions() == order
            if self.lineage:
                self.same(store.activation())
            else:
                assert store.activation() is None

    def teardown(self):
        assert self.stores[0].check() == []
        counts = self.stores[0].counts()
        assert counts["events"] == len(self.events)
        for store in self.stores:
            store.close()


@pytest.mark.parametrize(("database", "examples"), [("sqlite", 10), ("postgresql", 3)])
def test_a_store_is_what_a_dict_is(request, tmp_path, database, examples):
    numbers = itertools.count()
    if database == "sqlite":
        url = lambda: f"sqlite:///{tmp_path}/{next(numbers)}.db"  # noqa: E731
    else:
        server = request.getfixturevalue("postgresql")
        url = lambda: server.url(f"machine{next(numbers)}")  # noqa: E731
    run_state_machine_as_test(
        lambda: StoreMachine(url),
        settings=settings(
            max_examples=examples,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
