"""Whatever is sent to two services that share a store, lists hold what a dictionary says."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from service_parts import assert_as_made_anew, train

import cnsdiff
from cnsdiff.serving.config import ServiceConfig
from cnsdiff.serving.schemas import EventBody, ItemBody, RecommendRequest
from cnsdiff.serving.service import Service
from cnsdiff.serving.store import ConflictError, Store

NEW_ITEMS, NEW_USERS = ["9001", "9002"], ["ann", "bob"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three runs, some of their users and items, and what users had in training, as text."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [train(folder / f"run{n}", seed=n) for n in range(3)]
    model = cnsdiff.Recommender.load(runs[0])
    items = {str(item) for item in model.items_}
    users = model.users_[:2].to_list()
    lists = model.recommend(users, k=len(items)).group_by("user").agg("item").rows()
    had = {str(user): items - {str(item) for item in left} for user, left in lists}
    return runs, items, had


class ServiceMachine(RuleBasedStateMachine):
    """``url`` gives the address of a store that does not exist yet."""

    def __init__(self, url, world) -> None:
        super().__init__()
        runs, self.items, self.had = world
        self.url = url()
        self.stores = [Store.open(self.url) for _ in range(2)]
        self.services = [Service(store, ServiceConfig(types=("buy",))) for store in self.stores]
        self.services[0].serve(runs[0])
        more = [self.services[0].add_version(run) for run in runs[1:]]
        self.names = [self.services[0].state().active, *more]
        self.services[1].serve(runs[0])
        self.events: dict[str, tuple[str, str, str]] = {}
        self.added: set[str] = set()
        self.withdrawn: set[str] = set()
        self.forgotten: set[str] = set()
        # What a rollback goes back through, the active one last; the version on trial and how.
        self.lineage = [self.names[0]]
        self.trial: str | None = None
        self.share, self.shadow = 0.0, False
        # Of each user, the largest share without and the smallest with the canary.
        self.bounds: dict[str, tuple[float, float]] = {}
        some = sorted(self.items)[:6] + NEW_ITEMS
        self.some = st.sampled_from(some)
        self.users = st.sampled_from([*self.had, *NEW_USERS])

    @rule(data=st.data(), at=st.integers(0, 1), n=st.integers(0, 30), kind=st.sampled_from("bv"))
    def add_events(self, data, at, n, kind):
        user, item = data.draw(self.users), data.draw(self.some)
        kind = {"b": "buy", "v": "view"}[kind]
        new = str(n) not in self.events
        self.events.setdefault(str(n), (user, item, kind))
        body = EventBody(event_id=n, user=user, item=item, timestamp=1e9 + n, type=kind)
        assert self.services[at].add_events([body, body]) == new

    @rule(data=st.data(), at=st.integers(0, 1))
    def forget(self, data, at):
        user = data.draw(self.users)
        self.forgotten.add(user)
        self.events = {n: event for n, event in self.events.items() if event[0] != user}
        self.services[at].forget(user)

    @rule(data=st.data(), at=st.integers(0, 1))
    def put(self, data, at):
        item = data.draw(self.some)
        self.added.add(item)
        self.withdrawn.discard(item)
        features = data.draw(st.sampled_from([None, {"c": "x"}, {"c": ["x", "y"], "n": 3}]))
        self.services[at].put_items([ItemBody(item=item, features=features)])

    @rule(data=st.data(), at=st.integers(0, 1))
    def withdraw(self, data, at):
        item = data.draw(self.some)
        self.withdrawn.add(item)
        self.services[at].withdraw([item])

    @rule(
        at=st.integers(0, 1),
        n=st.integers(0, 2),
        how=st.sampled_from(["all", "shadow"]) | st.floats(0.01, 0.99),
        replace=st.booleans(),
    )
    def activate(self, at, n, how, replace):
        name, share = self.names[n], 1.0 if isinstance(how, str) else how
        choices = {"share": share, "shadow": how == "shadow", "replace": replace}
        service, before = self.services[at], self.state()
        if how != "all" and name == self.lineage[-1]:
            with pytest.raises(ConflictError, match="which it is; try another"):
                service.activate(name, **choices)
        elif self.trial not in (None, name) and not replace:
            with pytest.raises(ConflictError, match=f"as '{self.trial}' is on trial .*; end that"):
                service.activate(name, **choices)
        else:
            self.trial, self.share, self.shadow = name, share, how == "shadow"
            if how == "all":
                self.trial, self.share = None, 0.0
                self.lineage = [other for other in self.lineage if other != name] + [name]
            assert self.seen(service.activate(name, **choices)) == self.state()
            return
        service.follow()
        assert self.seen(service.state()) == self.state() == before

    @rule(at=st.integers(0, 1))
    def roll_back(self, at):
        if self.trial is None and len(self.lineage) == 1:
            with pytest.raises(ConflictError, match="no version was active before"):
                self.services[at].rollback()
            return
        if self.trial is None:
            self.lineage.pop()
        self.trial, self.share, self.shadow = None, 0.0, False
        assert self.seen(self.services[at].rollback()) == self.state()

    @rule(at=st.integers(0, 1))
    def roll_back_to_the_end(self, at):
        """Each version once at most, so that it ends."""
        for _ in range(len(self.lineage) - (self.trial is None)):
            self.roll_back(at)
        assert len(self.lineage) == 1
        self.roll_back(at)

    def state(self):
        """Active, previous, canary, share, shadow."""
        previous = self.lineage[-2] if len(self.lineage) > 1 else None
        canary, shadow = (None, self.trial) if self.shadow else (self.trial, None)
        return self.lineage[-1], previous, canary, 0.0 if self.shadow else self.share, shadow

    @staticmethod
    def seen(state):
        return state.active, state.previous, state.canary, state.share, state.shadow

    @rule(at=st.integers(0, 1))
    def refresh(self, at):
        self.services[at].refresh()

    @precondition(lambda self: self.events)
    @rule()
    def restart(self):
        self.services[1] = Service(self.stores[1], self.services[0].config).start()
        self.services[1].close()

    @rule(
        data=st.data(),
        k=st.integers(1, 60),
        seen=st.sampled_from(["all", "none"]),
    )
    def recommend(self, data, k, seen):
        exclude, session = (data.draw(st.lists(self.some, max_size=2)) for _ in range(2))
        pin = data.draw(st.lists(self.some, max_size=1))
        rules = {"k": k, "seen": seen, "exclude": exclude, "session": session, "pin": pin}
        users = [None, *self.had, *NEW_USERS]
        for service in self.services:
            service.follow()
            loaded = {name for name, own in service.state().versions.items() if own.loaded}
            assert loaded == {*self.lineage[-2:], self.trial} - {None}
            answers = service.recommend_many([RecommendRequest(user=u, **rules) for u in users])
            for user, answer in zip(users, answers, strict=True):
                self.judge(user, answer, k, seen, set(exclude), set(session), pin)

    def judge(self, user, answer, k, seen, exclude, session, pin):
        known = self.items | self.added
        own = {item for name, item, kind in self.events.values() if (name, kind) == (user, "buy")}
        trained = user in self.had and user not in self.forgotten
        has = own | session | (self.had[user] if trained else set())
        fit = known - self.withdrawn - exclude
        pinned = [item for item in pin if item in fit][:k]
        may = fit - (has if seen == "all" else set()) | set(pinned)
        shown = [str(ranked.item) for ranked in answer.items]
        assert len(set(shown)) == len(shown) == min(k, len(may))
        assert set(shown) <= may
        assert shown[: len(pinned)] == pinned
        scores = [ranked.score for ranked in answer.items[len(pinned) :]]
        assert scores == sorted(scores, reverse=True)
        # A service that began since a new item was withdrawn does not know it.
        sources = {
            self.source(trained, own & some, session & some)
            for some in (known, known - (self.withdrawn - self.items))
        }
        assert answer.source in sources
        self.judge_arm(user, answer)

    def judge_arm(self, user, answer):
        """Users stay in the canary while its share grows, and visitors are in none."""
        active, _, canary, share, _ = self.state()
        if canary is None or user is None:
            assert (answer.version, answer.arm) == (active, "main")
            return
        assert (answer.version, answer.arm) in {(active, "main"), (canary, "canary")}
        low, high = self.bounds.get(user, (0.0, 1.0))
        inside = answer.arm == "canary"
        self.bounds[user] = (low, min(high, share)) if inside else (max(low, share), high)
        assert self.bounds[user][0] <= self.bounds[user][1]

    @staticmethod
    def source(trained, own, now):
        if own or (now and trained):
            return "folded-in"
        if now:
            return "session"
        return "trained" if trained else "environment"

    def teardown(self):
        for service, store in zip(self.services, self.stores, strict=True):
            service.flush()
            assert service.lost_answers == 0
            assert service.problem is None
            for version in service._loaded.values():
                assert_as_made_anew(version)
            assert not set(store.answers_after(0)["user"]) - {*self.had, *NEW_USERS}
            assert store.check() == []
            store.close()


@pytest.mark.parametrize(("database", "examples"), [("sqlite", 8), ("postgresql", 2)])
def test_services_are_what_a_dict_is(request, tmp_path, world, database, examples):
    numbers = itertools.count()
    if database == "sqlite":
        url = lambda: f"sqlite:///{tmp_path}/{next(numbers)}.db"  # noqa: E731
    else:
        server = request.getfixturevalue("postgresql")
        url = lambda: server.url(f"services{next(numbers)}")  # noqa: E731
    run_state_machine_as_test(
        lambda: ServiceMachine(url, world),
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
