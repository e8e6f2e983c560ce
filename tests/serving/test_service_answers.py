"""The lists of a run that was not served, from the log of one that was, and what they are worth."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from service_parts import N_ITEMS, event, train

from cnsdiff.audit.answers import Shown, lists_at, off_policy
from cnsdiff.serving.config import ServiceConfig
from cnsdiff.serving.records import Version
from cnsdiff.serving.schemas import EventBody, ItemBody, RecommendRequest
from cnsdiff.serving.service import Service
from cnsdiff.serving.store import Store
from cnsdiff.serving.version import LoadedVersion

KINDS = "abcd"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [train(folder / f"run{n}", seed=n) for n in range(2)]


class Clock:
    """A time that only the test moves."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def start(folder, run, **config):
    """A service whose items have a kind, and a clock from the end of the run's log on."""
    store, config = Store.open(f"sqlite:///{folder}/store.db"), ServiceConfig(**config)
    loaded = LoadedVersion(Version("run", str(run), 0.0, {}), config)
    service = Service(store, config, clock=Clock(loaded.moment + 10))
    service.serve(run)
    items = loaded.snapshot.model.items.to_list()
    service.put_items(
        [ItemBody(item=i, features={"kind": KINDS[n % 4]}) for n, i in enumerate(items)]
    )
    return service, items, loaded.snapshot.model.users.to_list()


def told_again(store, run, config=None, rules_of=None, nobody=()):
    """The answers of a log, and with which lists a run would have answered."""
    answers = store.answers_after(0, rules=False)
    version = LoadedVersion(Version("run", str(run), 0.0, {}), config or ServiceConfig())
    events = store.events()
    if config is not None and config.types is not None:
        events = events.filter(events["type"].is_in(config.types))
    rules_of = rules_of or store.rules_of
    return answers, lists_at(version, answers, events, store.item_history(), rules_of, nobody)


def some_request(rng, user, items):
    """With a few rules of any kind."""

    def some(n):
        return [int(item) for item in rng.choice(items, n, replace=False)]

    rules = {
        "exclude": some(3),
        "only": some(15),
        "where": {"kind": [str(kind) for kind in rng.choice([*KINDS], 2)]},
        "quotas": {"kind": 1},
        "pin": some(2),
        "boost": {item: float(rng.normal()) for item in some(3)},
        "bury": some(20),
        "session": some(2),
        "seen": "none",
        "dial": float(rng.normal()),
    }
    given = rng.choice([*rules], rng.integers(0, 4), replace=False)
    return RecommendRequest(user=user, k=int(rng.integers(1, 9)), **{r: rules[r] for r in given})


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_run_that_was_served_would_have_shown_what_it_showed(runs, tmp_path_factory, seed):
    """Whatever the rules, and while events come, items change, and some are new or withdrawn."""
    rng = np.random.default_rng(seed)
    service, items, users = start(tmp_path_factory.mktemp("store"), runs[0])
    everybody, requests, n_new = [*users[:5], "stranger"], [], 0
    with service.store:
        for n in range(20):
            now = service._clock()
            match rng.integers(5):
                case 0:
                    service.withdraw([str(rng.choice(items))])
                case 1:
                    changed = ItemBody(item=int(rng.choice(items)), features={"kind": "a"})
                    service.put_items([changed])
                case 2:
                    n_new += 1
                    service.put_items([ItemBody(item=1_000 + n_new, features={"kind": "b"})])
                case _:
                    known = [*items, *range(1_001, 1_001 + n_new), "unknown"]
                    taken = [
                        event(f"{n}-{m}", str(rng.choice(everybody)), str(rng.choice(known)), now)
                        for m in range(5)
                    ]
                    service.add_events([EventBody(**own) for own in taken])
            service.refresh()
            requests.append(some_request(rng, rng.choice(everybody), items))
            service.recommend(requests[-1])
        service.flush()
        answers, answered = told_again(service.store, runs[0])
        assert answered.lists == answers["items"].to_list() and not answered.left_out
        # A request comes back from its rules.
        rules = service.store.rules_of(answers["seq"].to_list())
        for request, own in zip(requests, rules, strict=True):
            again = {**json.loads(own), "user": request.user, "k": request.k}
            assert RecommendRequest(**again) == request


@pytest.fixture
def seeded(monkeypatch):
    """What the service draws is the same each time."""
    own, draw = np.random.default_rng(5), np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda *seed: draw(*seed) if seed else own)


def test_intervals_cover_what_another_run_is_worth_under_rules(runs, tmp_path, seeded):
    """A click is likely by a table; the truth is of the lists with which the other run answers."""
    rng = np.random.default_rng(1)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    setting = ServiceConfig(explore=0.6, explore_from=N_ITEMS, types=("view",))
    served, items, users = start(tmp_path / "a", runs[0], **setting.model_dump())
    other, *_ = start(tmp_path / "b", runs[1], types=("view",))
    rates = rng.uniform(0.1, 0.9, N_ITEMS)[None] * rng.uniform(0.4, 1.0, len(users))[:, None]
    place = {str(item): n for n, item in enumerate(items)}
    rules = [
        {"where": {"kind": "a"}},
        {"only": items[:9]},
        {"exclude": items[9:]},
        {"where": {"kind": ["b", "a"]}, "exclude": items[::3], "boost": {items[1]: 2.0}},
        {"only": items[5:14], "pin": [items[7]], "session": [items[0]]},
        {"only": items[20:30], "dial": 0.5, "bury": items[20:22]},
    ]
    n_rounds, truth, expected = 40, [], []
    with served.store, other.store:
        for service in (served, other):  # what is seen counts for taste, and is no click
            service.add_events([EventBody(**event("v", users[0], items[3], 1e6, type="view"))])
        for n in range(n_rounds):
            for service in (served, other):
                change = service.withdraw if n % 2 else service.put_items
                change([str(i) if n % 2 else ItemBody(item=i) for i in items[2:6]])
            requests = [
                RecommendRequest(user=user, k=3, seen="none", **rules[m % len(rules)])
                for m, user in enumerate(users)
            ]
            best = other.recommend_many(requests)
            clicks = []
            for m, answer in enumerate(served.recommend_many(requests)):
                expected.append([str(ranked.item) for ranked in best[m].items])
                truth.append(sum(rates[m, place[item]] for item in expected[-1]))
                for ranked in answer.items:
                    if rng.random() < rates[m, place[str(ranked.item)]]:
                        at = served._answers[m].at + 0.5
                        number = f"{n}-{m}-{ranked.item}"
                        clicks.append(event(number, users[m], ranked.item, at, type="click"))
            served.flush()
            served.add_events([EventBody(**own) for own in clicks])
        served._clock.now += 100
        served.add_events([EventBody(**event("last", "nobody", "x", served._clock.now))])
        answers, answered = told_again(served.store, runs[1], setting)
        _, without = told_again(
            served.store,
            runs[1],
            setting,
            rules_of=lambda numbers: ['{"seen":"none"}'] * len(numbers),
        )
        events = served.store.events()
    assert answered.lists == expected and not answered.left_out
    shown = Shown.of(answers, events, 1.0, ("click",))
    covered = {name: np.zeros(2) for name in ("ips", "snips", "dr")}
    for n in range(n_rounds):
        own = np.arange(len(answers)) // len(users) == n
        value = float(np.mean(np.array(truth)[own]))
        for kind, lists in enumerate((answered.lists, without.lists)):
            mine = [lists[row] for row in np.flatnonzero(own)]
            estimate = off_policy(shown.only(own), mine)
            for name, count in covered.items():
                interval = getattr(estimate, name)
                count[kind] += interval.low <= value <= interval.high
    for name, (under_rules, _) in covered.items():
        assert under_rules >= 0.85 * n_rounds, (name, covered)
    # As if nobody had asked for anything, it is another value.
    assert covered["ips"][1] <= 0.2 * n_rounds, covered


def test_rules_that_are_too_long_are_not_logged_and_a_forgotten_user_has_none(runs, tmp_path):
    service, _, users = start(tmp_path, runs[0])
    with service.store as store:
        many = [f"no-item-{n}" for n in range(2_000)]
        service.recommend(RecommendRequest(user=users[0], exclude=many))
        service.recommend(RecommendRequest(user=users[1], session=["secret"]))
        service.flush()
        long, short = store.rules_of(store.answers_after(0)["seq"].to_list())
        assert long is None and json.loads(short) == {"session": ["secret"]}
        _, answered = told_again(store, runs[0])
        assert answered.lists[0] is None and len(answered.lists[1]) == 20
        ((reason, n),) = answered.left_out.items()
        assert "rules were not logged" in reason and n == 1
        service.forget(str(users[1]))
        assert store.answers_after(0)["rules"].to_list() == [None]
        for file in tmp_path.glob("store.db*"):
            assert b"secret" not in file.read_bytes()
        # Who comes back is one whom the run does not know.
        service._clock.now = time.time()
        service.recommend(RecommendRequest(user=users[1], k=5))
        service.flush()
        answers, answered = told_again(store, runs[0], nobody={str(users[1])})
        assert answered.lists[1] == answers["items"].to_list()[1]
        assert told_again(store, runs[0])[1].lists[1] != answered.lists[1]
