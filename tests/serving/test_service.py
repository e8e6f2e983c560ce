"""Answers, what they follow, and versions, without HTTP; on each database."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest
from service_parts import assert_as_made_anew, train

import cnsdiff
from cnsdiff.base.errors import InputError, RunError
from cnsdiff.environment.covariates import Covariates
from cnsdiff.serving.config import ServiceConfig
from cnsdiff.serving.schemas import (
    EventBody,
    ExplainRequest,
    ItemBody,
    RecommendRequest,
    SimilarRequest,
)
from cnsdiff.serving.service import NotReadyError, Service, UnknownError
from cnsdiff.serving.store import ConflictError, Store
from cnsdiff.serving.version import LoadedVersion


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [train(folder / f"run{n}", seed=n) for n in range(2)]


@pytest.fixture(scope="module")
def model(runs):
    return cnsdiff.Recommender.load(runs[0])


@pytest.fixture
def service(store, runs):
    service = Service(store)
    service.serve(runs[0])
    return service


def ids(answer):
    return [ranked.item for ranked in answer.items]


def event(n, user, item, timestamp=1.6e9):
    return EventBody(event_id=f"e{n}", user=str(user), item=str(item), timestamp=timestamp)


def test_a_known_user_gets_what_the_model_recommends(service, model):
    users = model.users_.to_list()
    answers = service.recommend_many([RecommendRequest(user=user, k=7) for user in users])
    table = model.recommend(users, k=7)
    for user, answer in zip(users, answers, strict=True):
        own = table.filter(pl.col("user") == user)
        assert ids(answer) == own["item"].to_list()
        np.testing.assert_allclose([r.score for r in answer.items], own["score"], rtol=1e-5)
        assert (answer.source, answer.arm) == ("trained", "main")


def test_a_batch_is_its_requests_one_by_one(service, model):
    users = model.users_.to_list()
    requests = [
        RecommendRequest(user=users[0], k=3),
        RecommendRequest(user="nobody", k=5),
        RecommendRequest(user=users[1], k=4, session=[model.items_[3]], dial=0.5),
        RecommendRequest(k=2, session=[model.items_[5], "unknown"]),
        RecommendRequest(user=users[0], k=3, seen="none"),
    ]
    together = service.recommend_many(requests)
    for request, answer in zip(requests, together, strict=True):
        alone = service.recommend(request)
        assert ids(alone) == ids(answer)
        assert alone.source == answer.source
    assert [a.source for a in together] == [
        *("trained", "environment", "folded-in", "session", "trained")
    ]


def test_an_unknown_user_gets_the_environment(service, model):
    answer = service.recommend(RecommendRequest(user="nobody", k=len(model.items_)))
    order = np.argsort(-model.model_.bias.numpy(), kind="stable")
    assert ids(answer) == model.items_.gather(order).to_list()
    assert answer.source == "environment"


def test_without_an_environment_an_unknown_user_gets_what_is_popular(tmp_path, store):
    world = cnsdiff.ConfoundedWorld(n_users=60, n_items=40, exposures=20, seed=0)
    dataset = world.dataset("popularity")
    model = cnsdiff.Recommender("mf", training={"epochs": 1, "dial": "off"}).fit(dataset)
    model.save(tmp_path / "run")
    service = Service(store)
    service.serve(tmp_path / "run")
    answer = service.recommend(RecommendRequest(k=1))
    counts = np.asarray(model.model_.dial_step)
    assert ids(answer) == [model.items_[int(np.argmax(counts))]]


def test_the_next_answer_has_seen_the_last_event(service, model):
    user = model.users_[0]
    first = service.recommend(RecommendRequest(user=user, k=5))
    assert service.add_events([event(1, user, first.items[0].item)]) == 1
    assert service.add_events([event(1, user, first.items[0].item)]) == 0
    second = service.recommend(RecommendRequest(user=user, k=5))
    assert first.items[0].item not in ids(second)
    assert second.source == "folded-in"
    again = service.recommend(RecommendRequest(user=user, k=len(model.items_), seen="none"))
    assert first.items[0].item in ids(again)


def test_events_of_an_unknown_user_make_a_taste(service, model):
    assert service.recommend(RecommendRequest(user="new")).source == "environment"
    service.add_events([event(1, "new", model.items_[3])])
    answer = service.recommend(RecommendRequest(user="new", k=len(model.items_)))
    assert answer.source == "folded-in"
    assert model.items_[3] not in ids(answer)
    assert len(answer.items) == len(model.items_) - 1


def test_types_of_events_that_do_not_count(store, runs, model):
    service = Service(store, ServiceConfig(types=("buy",)))
    service.serve(runs[0])
    user, item = model.users_[0], service.recommend(RecommendRequest(user=model.users_[0], k=1))
    body = event(1, user, item.items[0].item).model_copy(update={"type": "view"})
    service.add_events([body])
    assert service.recommend(RecommendRequest(user=user, k=1)).source == "trained"
    service.add_events([body.model_copy(update={"type": "buy", "event_id": "e2"})])
    assert service.recommend(RecommendRequest(user=user, k=1)).source == "folded-in"


def test_events_of_the_future_are_refused(service, model):
    with pytest.raises(InputError, match="'e1' has the timestamp 1600000000000, which lies in"):
        service.add_events([event(1, "u", "i", 1.6e12)])


def test_the_environment_follows_events(service, model, store):
    live = service._now().arm_of(None)[1]
    assert live.follows
    before = live.snapshot.bias.clone()
    moment = model.model_.activity.moment
    rare = int(np.argmin(model.model_.activity.counts))
    events = [event(n, f"visitor{n}", model.items_[rare], moment + 3600 + n) for n in range(200)]
    service.add_events(events)
    assert live.snapshot.bias.equal(before)  # not yet
    service.refresh()
    activity = model.model_.activity.followed_by(
        np.full(200, rare), np.array([e.timestamp for e in events])
    )
    expected = model.model_.live_bias(activity)
    np.testing.assert_allclose(live.snapshot.bias, expected, rtol=1e-4, atol=1e-4)
    # Another process, which begins later, computes the same from the store.
    other = Service(store)
    other.start()
    other.close()
    bias = other._now().arm_of(None)[1].snapshot.bias
    np.testing.assert_allclose(bias, live.snapshot.bias, rtol=1e-5, atol=1e-5)


def test_a_trained_environment_stays(store, runs, model):
    service = Service(store, ServiceConfig(environment="trained"))
    service.serve(runs[0])
    service.add_events([event(n, f"v{n}", model.items_[0]) for n in range(50)])
    service.refresh()
    snapshot = service._now().arm_of(None)[1].snapshot
    assert snapshot.bias.equal(model.model_.bias)
    assert service.status().environment == "trained"


def test_an_environment_of_a_file(store, runs, model, tmp_path):
    table = tmp_path / "bias.csv"
    pl.DataFrame({"item": model.items_[:2], "bias": [1e6, 2e6]}).write_csv(table)
    service = Service(store, ServiceConfig(environment=str(table)))
    service.serve(runs[0])
    answer = service.recommend(RecommendRequest(user="nobody", k=2))
    assert ids(answer) == [model.items_[1], model.items_[0]]
    pl.DataFrame({"item": model.items_[:2], "weight": [1, 2]}).write_csv(table)
    with pytest.raises(InputError, match=r"bias\.csv: has no column 'bias' of numbers"):
        Service(store, ServiceConfig(environment=str(table))).serve(runs[0])


def test_items_come_and_go(service, model):
    fresh = max(model.items_) + 1
    service.put_items([ItemBody(item=fresh, features={"category": "new"})])
    only = RecommendRequest(user=model.users_[0], k=3, where={"category": "new"})
    assert ids(service.recommend(only)) == [fresh]
    user = next(u for u in model.users_ if u is not model.users_[0])
    service.add_events([event(1, user, fresh)])
    service.refresh()
    assert ids(service.recommend(only.model_copy(update={"user": str(user)}))) == []
    service.withdraw([str(fresh)])
    assert ids(service.recommend(only)) == []
    known = ids(service.recommend(RecommendRequest(user=model.users_[0], k=1)))[0]
    service.withdraw([str(known)])
    assert known not in ids(service.recommend(RecommendRequest(user=model.users_[0], k=40)))
    service.put_items([ItemBody(item=known)])
    assert ids(service.recommend(RecommendRequest(user=model.users_[0], k=1))) == [known]


@pytest.mark.parametrize("environment", ["live", "trained", "file"])
def test_items_that_come_one_by_one_are_served_as_those_that_were_there(
    store, runs, model, tmp_path, environment
):
    if environment == "file":
        environment = str(tmp_path / "bias.csv")
        pl.DataFrame({"item": model.items_[:2], "bias": [1.0, 2.0]}).write_csv(environment)
    service = Service(store, ServiceConfig(environment=environment))
    service.serve(runs[0])
    version, fresh = service._now().active, max(model.items_) + 1
    filtered = RecommendRequest(k=99, where={"kind": "a"})
    moment = model.model_.activity.moment
    for n in range(6):
        service.put_items([ItemBody(item=fresh + n, features={"kind": "ab"[n % 2], "n": n})])
        kinds = ids(service.recommend(filtered))
        assert set(kinds) == {fresh + own for own in range(0, n + 1, 2)}
    service.put_items(
        [ItemBody(item=fresh, features={"kind": "b"}), ItemBody(item=model.items_[0])]
    )
    service.withdraw([str(fresh + 1), str(model.items_[1]), "unknown"])
    assert set(ids(service.recommend(filtered))) == {fresh + 2, fresh + 4}
    assert_as_made_anew(version)
    # One that had clicks before it came begins with these.
    events = [event(n, u, fresh + 9, moment + 1 + n) for n, u in enumerate(model.users_[:5])]
    service.add_events(events)
    service.refresh()
    service.put_items([ItemBody(item=fresh + 9)])
    snapshot = version.snapshot
    assert not snapshot.model.item_embeddings[-1].equal(snapshot.model.item_embeddings[-2])
    assert snapshot.activity is None or snapshot.activity.counts[-1] == 5
    assert_as_made_anew(version)


def test_answers_do_not_wait_for_new_items(service, model, monkeypatch):
    fresh, begun, go = max(model.items_) + 1, threading.Event(), threading.Event()
    renew_items = LoadedVersion.renew_items

    def slowly(version):
        begun.set()
        go.wait(60)
        renew_items(version)

    monkeypatch.setattr(LoadedVersion, "renew_items", slowly)
    thread = threading.Thread(target=service.put_items, args=[[ItemBody(item=fresh)]])
    thread.start()
    begun.wait(60)
    before = service.recommend_many([RecommendRequest(user=user, k=99) for user in model.users_])
    assert not any(fresh in ids(answer) for answer in before)
    assert thread.is_alive()
    go.set()
    thread.join()
    assert fresh in ids(service.recommend(RecommendRequest(k=99)))


def test_similar_and_explain(service, model):
    item = model.items_[0]
    answer = service.similar(SimilarRequest(item=item, k=4, exclude=[model.items_[1]]))
    expected = model.similar([item], 4, exclude=[model.items_[1]])["similar"].to_list()
    assert ids(answer) == expected
    user = model.users_[0]
    why = service.explain(ExplainRequest(user=user, item=item))
    assert why.score == pytest.approx(float(model.score([user], [item])[0]), rel=1e-5)
    assert why.score == pytest.approx(why.taste + why.environment)
    assert sum(why.covariates.values()) == pytest.approx(why.environment, rel=1e-4)
    # Columns that say nearly the same are one part; each is against the mean item.
    inner = model.model_
    parts = Covariates.of(inner.activity).values * inner.environment.coefficients * inner.sigma
    aged = np.array(inner.environment.names) == "age"
    assert why.covariates == pytest.approx(
        {"use": parts[0, ~aged].sum(), "age": parts[0, aged].sum()}, rel=1e-4
    )
    totals = parts.sum(axis=1)
    assert why.environment_share == pytest.approx((totals < totals[0]).mean())
    assert totals.mean() == pytest.approx(0, abs=1e-9)
    tastes = [service.explain(ExplainRequest(user=user, item=own)).taste for own in model.items_]
    assert why.taste_share == pytest.approx(np.mean(np.array(tastes) < why.taste))
    assert (why.arm, answer.arm) == ("main", "main")


def test_an_unknown_item_is_told_with_what_is_nearly_written_so(service, model):
    item = str(model.items_[0])
    for wrong in (f" {item}", f"{item}.0", f"00{item}"):
        with pytest.raises(UnknownError) as refused:
            service.similar(SimilarRequest(item=wrong))
        mend = f"(did you mean {item!r}?); see how its id is written, or add it with PUT /items"
        assert mend in str(refused.value)
    with pytest.raises(UnknownError, match=r"'x' is not known to the version '.*'; see how its id"):
        service.explain(ExplainRequest(item="x"))


def test_activate_and_roll_back(service, runs):
    first = service.state().active
    second = service.add_version(runs[1])
    assert service.state().active == first
    service.activate(second)
    assert service.state().active == second
    assert service.recommend(RecommendRequest(k=1)).version == second
    service.rollback()
    assert service.state().active == first
    with pytest.raises(UnknownError, match="there is no version 'third'; those added are"):
        service.activate("third")


def test_nothing_to_roll_back_to_or_to_try_beside(service, store, runs, tmp_path):
    with pytest.raises(ConflictError, match="no version was active before"):
        service.rollback()
    with Store.open(f"sqlite:///{tmp_path}/empty.db") as empty:
        first = Service(empty)
        name = first.add_version(runs[0])
        for trial in ({"share": 0.5}, {"shadow": True}):
            with pytest.raises(ConflictError, match="as none is active; activate one for all"):
                first.activate(name, **trial)
        assert empty.activation() is None
        assert not first._loaded
    with pytest.raises(NotReadyError, match="no version is active"):
        Service(store).recommend(RecommendRequest())


def test_a_run_that_is_new_ends_no_trial(service, runs, store, tmp_path):
    first = service.state().active
    second = service.add_version(runs[1])
    service.activate(second, share=0.5)
    new = shutil.copytree(runs[1], tmp_path / "new")
    manifest = json.loads((new / "manifest.json").read_text())
    manifest["dataset"]["name"] = "another"
    (new / "manifest.json").write_text(json.dumps(manifest))
    other = Service(store)
    told = other.serve(new)
    assert told.startswith(f"serving the version {first}, as the version 'new-")
    assert f"as {second!r} is on trial" in told
    assert other.state().canary == second
    assert other.recommend(RecommendRequest()).version == first


@pytest.fixture(scope="module")
def tagged_runs(tmp_path_factory):
    """A run whose items have a colour, one with a size, and one that is not told of either."""
    folder = tmp_path_factory.mktemp("tagged")
    world = cnsdiff.ConfoundedWorld(n_users=60, n_items=40, exposures=20, seed=0)
    runs = []
    for name in ("colour", "size", None):
        dataset = world.dataset("temporal")
        if name is not None:
            values = [n % 3 for n in range(len(dataset.items))]
            dataset._tables["item_features"] = pl.DataFrame({name: values})
            dataset.save(folder / name)
            dataset = cnsdiff.load_dataset(folder / name)
        model = cnsdiff.Recommender("mf", training={"epochs": 1})
        runs.append(model.fit(dataset).save(folder / f"run-{name}"))
    return runs


def test_a_filter_is_allowed_in_each_arm_or_in_none(store, tagged_runs):
    """Attributes are of the service, whichever run tells them, and whoever was asked first."""
    service, other = Service(store), Service(store)
    service.serve(tagged_runs[0])
    other.serve(tagged_runs[0])
    names = [service.state().active, *map(service.add_version, tagged_runs[1:])]
    items = cnsdiff.Recommender.load(tagged_runs[0]).items_.to_list()
    service.put_items([ItemBody(item=10**6, features={"brand": "x"})])
    service.withdraw([str(10**6)])
    users = [f"user {n}" for n in range(40)]
    filters = {"colour": items[1::3], "size": items[2::3], "brand": []}
    values = {"colour": 1, "size": 2, "brand": "x"}
    trials = [{}, {"share": 0.5}, {"shadow": True}, {}]
    for name, trial in itertools.product(names[::-1], trials):
        if trial and name == service.state().active:
            continue
        service.activate(name, **trial, replace=True)
        late = Service(store)  # begins now
        late._begin()
        for each in (service, other, late):
            each.follow()
            for attribute, expected in filters.items():
                where = {attribute: values[attribute]}
                requests = [RecommendRequest(user=user, k=40, where=where) for user in users]
                for answer in each.recommend_many(requests):
                    assert sorted(ids(answer)) == sorted(expected)
            with pytest.raises(InputError, match="items have brand, colour, size"):
                each.recommend(RecommendRequest(user="user 1", where={"colours": 1}))


def test_an_attribute_whose_table_is_gone_is_known_by_name(store, tagged_runs, tmp_path):
    service = Service(store)
    service.serve(tagged_runs[0])
    service.activate(service.add_version(tagged_runs[2]))
    late, table = Service(store), tagged_runs[0].parent / "colour"
    table.rename(tmp_path / "away")
    try:
        late._begin()
    finally:
        (tmp_path / "away").rename(table)
    where = {"colour": 1}
    assert ids(service.recommend(RecommendRequest(k=40, where=where)))
    assert ids(late.recommend(RecommendRequest(k=40, where=where))) == []


def test_loading_a_version_keeps_nobody_waiting(service, runs, store, model, monkeypatch):
    """However long it takes: lists, events, items, refreshes and what is forgotten go on."""
    first, second = service.state().active, service.add_version(runs[1])
    began, go_on = threading.Event(), threading.Event()
    build = LoadedVersion.__init__

    def build_slowly(self, *given):
        began.set()
        assert go_on.wait(60)
        build(self, *given)

    monkeypatch.setattr(LoadedVersion, "__init__", build_slowly)
    user, item = str(model.users_[0]), str(model.items_[0])
    moment = model.model_.activity.moment

    def go_about():
        service.add_events([event(1, user, item, moment + 1), event(2, "b", item, moment + 2)])
        service.put_items([ItemBody(item=item, features={"c": "x"})])
        service.withdraw([str(model.items_[1])])
        service.forget("b")
        service.refresh()
        service.flush()
        service.status()
        return service.recommend(RecommendRequest(user=user, k=40))

    with ThreadPoolExecutor(2) as pool:
        activating = pool.submit(service.activate, second)
        assert began.wait(60)
        try:
            answer = pool.submit(go_about).result(timeout=60)
        finally:
            go_on.set()
        assert answer.version == first
        assert activating.result(timeout=60).active == second
    # The new one knows by then what happened meanwhile.
    after = service.recommend(RecommendRequest(user=user, k=40))
    assert (after.version, set(ids(after))) == (second, set(ids(answer)))
    assert ids(service.recommend(RecommendRequest(where={"c": "x"}))) == [model.items_[0]]
    counts = service._now().active.snapshot.activity.counts
    np.testing.assert_array_equal(counts - model.model_.activity.counts, 0)


def test_only_what_is_served_or_rolled_back_to_is_in_memory(service, runs, store):
    first = service.state().active
    second = service.add_version(runs[1])

    def loaded():
        return [name for name, own in service.state().versions.items() if own.loaded]

    assert loaded() == [first]
    service.activate(second, shadow=True)
    assert loaded() == [first, second]
    service.rollback()
    assert loaded() == [first]
    service.activate(second)
    assert loaded() == [first, second]
    service.rollback()
    assert loaded() == [first]


def test_a_canary_goes_to_a_share_of_the_users_and_stays_with_them(service, runs, model):
    second = service.add_version(runs[1])
    service.activate(second, share=0.3)
    requests = [RecommendRequest(user=f"user {n}", k=1) for n in range(2000)]
    arms = [answer.arm for answer in service.recommend_many(requests)]
    for request, arm in zip(requests[:20], arms[:20], strict=True):
        why = service.explain(ExplainRequest(user=request.user, item=model.items_[0]))
        assert (why.arm, why.version == second) == (arm, arm == "canary")
    share = arms.count("canary") / len(arms)
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 2000)
    assert [answer.arm for answer in service.recommend_many(requests)] == arms
    # Ended, all get the first again.
    service.rollback()
    assert {answer.arm for answer in service.recommend_many(requests)} == {"main"}


def test_answers_are_logged_with_their_arms(service, runs, store):
    second = service.add_version(runs[1])
    service.activate(second, shadow=True)
    answer = service.recommend(RecommendRequest(user="someone", k=4))
    service.flush()
    table = store.answers_after(0)
    assert table["arm"].to_list() == ["main", "shadow"]
    shown = table.filter(pl.col("arm") == "main").to_dicts()[0]
    assert shown["items"] == [str(item) for item in ids(answer)]
    assert shown["propensities"] == [1.0] * 4
    assert (shown["request_id"], shown["arm_probability"]) == (answer.request_id, 1.0)


def test_exploration_shows_items_as_often_as_it_says(store, runs, model):
    service = Service(store, ServiceConfig(explore=0.5, explore_from=6))
    service.serve(runs[0])
    user, k, n = model.users_[0], 4, 3000
    plain = model.recommend([user], k + 6)["item"].to_list()
    answers = service.recommend_many([RecommendRequest(user=user, k=k)] * n)
    service.flush()
    logged = store.answers_after(0).explode("items", "propensities")
    for item in plain:
        rows = logged.filter(pl.col("items") == str(item))
        expected = 1 - 0.5 / k if item in plain[:k] else 0.5 / 6
        assert rows["propensities"].unique().to_list() == pytest.approx([expected])
        assert abs(len(rows) / n - expected) < 5 * np.sqrt(expected * (1 - expected) / n)
    assert all(len(set(ids(answer))) == k for answer in answers)


def test_swaps_under_load_fail_no_request_and_mix_no_answer(service, runs, model):
    names = [service.state().active, service.add_version(runs[1])]
    users = [str(user) for user in model.users_[:5]]
    expected = {}
    for name in names:
        service.activate(name)
        for user in users:
            expected[name, user] = ids(service.recommend(RecommendRequest(user=user, k=5)))
    assert any(expected[names[0], user] != expected[names[1], user] for user in users)
    done, wrong = threading.Event(), []

    def ask(user):
        while not done.is_set():
            try:
                answer = service.recommend(RecommendRequest(user=user, k=5))
            except Exception as error:
                wrong.append(error)
                return
            if ids(answer) != expected[answer.version, user]:
                wrong.append(answer)

    threads = [threading.Thread(target=ask, args=[user]) for user in users]
    for thread in threads:
        thread.start()
    for n in range(100):
        service.activate(names[n % 2])
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_run_whose_content_changed_is_refused(runs, store, tmp_path):
    run = shutil.copytree(runs[0], tmp_path / "run")
    Service(store).serve(run)
    shutil.rmtree(run)
    shutil.copytree(runs[1], run)
    with pytest.raises(RunError, match="is not the run any more that was added as 'run-"):
        Service(store).start()


def test_a_restart_keeps_what_was_activated(runs, store):
    service = Service(store)
    assert service.serve(runs[0]).startswith("serving the version run0-")
    name = service.add_version(runs[1])
    service.activate(name)
    again = Service(store)
    assert again.serve(runs[0]).startswith(f"serving the version {name}, which was activated")
    assert again.recommend(RecommendRequest(k=1)).version == name


def test_another_process_follows_activations_and_items(runs, store, model):
    one, other = Service(store), Service(store)
    one.serve(runs[0])
    other.start()
    other.close()
    name = one.add_version(runs[1])
    one.activate(name)
    item = str(model.items_[0])
    one.withdraw([item])
    other.follow()
    answer = other.recommend(RecommendRequest(k=40))
    assert answer.version == name
    assert model.items_[0] not in ids(answer)


def test_the_vector_of_a_new_item_forgets_a_user_with_the_service(service, model):
    service.put_items([ItemBody(item="901"), ItemBody(item="902")])
    users = model.users_.to_list()[:2]

    def vectors():
        service.refresh()
        return service._now().active.snapshot.model.item_embeddings[-2:].clone()

    before = vectors()
    service.add_events([event(n, user, "901") for n, user in enumerate(users)])
    both = vectors()
    assert not both[0].equal(before[0]) and both[1].equal(before[1])
    service.forget(str(users[0]))
    one = vectors()
    assert not one[0].equal(both[0])
    service.forget(str(users[1]))
    np.testing.assert_allclose(vectors(), before, atol=1e-6)


def test_a_forgotten_user_is_unknown(service, model, store):
    user = str(model.users_[0])
    service.add_events([event(1, user, model.items_[0])])
    service.recommend(RecommendRequest(user=user))
    service.forget(user)
    answer = service.recommend(RecommendRequest(user=user, k=40))
    assert answer.source == "environment"
    assert len(answer.items) == len(model.items_)
    service.flush()
    assert not len(store.events_of([user]))


def test_ids_are_text_to_the_letter(service, model):
    user, fresh = model.users_[0], max(model.items_) + 1
    assert service.recommend(RecommendRequest(user=f"{user}.0")).source == "environment"
    with pytest.raises(InputError, match="cannot be added"):
        service.put_items([ItemBody(item=f"{fresh}.0")])
    service.put_items([ItemBody(item=str(fresh)), ItemBody(item=str(fresh + 1))])
    for item in (fresh, fresh + 1):
        assert ids(service.recommend(RecommendRequest(only=[str(item)]))) == [item]
    service.forget(str(user))
    for own in (f"{user}", f"{user}.0"):
        assert service.recommend(RecommendRequest(user=own)).source == "environment"


def test_a_purchase_counts_after_a_view(store, runs, model):
    service = Service(store, ServiceConfig(types=("buy",)))
    service.serve(runs[0])
    item, moment = model.items_[0], model.model_.activity.moment
    events = []
    for n in range(20):
        for kind in ("view", "buy"):
            own = event(f"{n}{kind}", f"v{n}", item, moment + 10 + n)
            events.append(own.model_copy(update={"type": kind}))
    service.add_events(events)
    service.refresh()
    counts = service._now().active.snapshot.activity.counts
    assert counts[0] == model.model_.activity.counts[0] + 20


def test_the_shadow_fails_no_request(service, runs, monkeypatch):
    name = service.add_version(runs[1])
    service.activate(name, shadow=True)

    def fail(*_):
        raise RuntimeError

    monkeypatch.setattr(service, "_shadow", fail)
    assert service.recommend(RecommendRequest(user="u", k=1)).arm == "main"


def test_a_version_added_later_tells_nothing_of_the_forgotten(service, runs, model, store):
    user = str(model.users_[0])
    service.forget(user)
    name = service.add_version(runs[1])
    service.activate(name)
    assert service.recommend(RecommendRequest(user=user)).source == "environment"
    # Nor does one that begins anew, or an answer that waited elsewhere to be written.
    other = Service(store)
    other.serve(runs[0])
    assert other.recommend(RecommendRequest(user=user)).source == "environment"
    other.recommend(RecommendRequest(user="later"))
    service.forget("later")
    other.flush()
    assert "later" not in store.answers_after(0)["user"].to_list()


def test_exploring_keeps_to_quotas_and_buries(store, runs, model):
    service = Service(store, ServiceConfig(explore=1.0, explore_from=20))
    service.serve(runs[0])
    kinds = {i: "a" if n % 2 else "b" for n, i in enumerate(model.items_)}
    service.put_items([ItemBody(item=i, features={"c": kind}) for i, kind in kinds.items()])
    user, bury = model.users_[0], [str(item) for item in model.items_[:6]]
    plain = RecommendRequest(user=user, k=4, bury=bury, quotas={"c": 3})
    answers = service.recommend_many([plain] * 300)
    assert len({tuple(ids(answer)) for answer in answers}) > 2
    for answer in answers:
        assert not set(map(str, ids(answer))) & set(bury)
        assert 1 <= sum(kinds[item] == "a" for item in ids(answer)) <= 3
    # What nobody logs is not explored.
    visitors = [RecommendRequest(k=4)] * 50
    assert len({tuple(ids(answer)) for answer in service.recommend_many(visitors)}) == 1


def test_visitors_are_in_no_trial(service, runs):
    active = service.state().active
    service.activate(service.add_version(runs[1]), share=0.99)
    assert service.recommend(RecommendRequest()).version == active
    assert service.similar(SimilarRequest(item="26")).version == active


def test_features_stay_where_none_are_given(service, model):
    item = model.items_[0]
    service.put_items([ItemBody(item=item, features={"c": "x"})])
    service.withdraw([str(item)])
    service.put_items([ItemBody(item=item)])
    assert ids(service.recommend(RecommendRequest(where={"c": "x"}))) == [item]
    service.withdraw(["987654"])  # of an item that nobody knows
    with pytest.raises(UnknownError):
        service.similar(SimilarRequest(item="987654"))


def test_an_unknown_user_is_explained_as_ranked(tmp_path, store):
    world = cnsdiff.ConfoundedWorld(n_users=60, n_items=40, exposures=20, seed=0)
    dataset = world.dataset("popularity")
    model = cnsdiff.Recommender("mf", training={"epochs": 1, "dial": "off"}).fit(dataset)
    model.save(tmp_path / "run")
    service = Service(store)
    service.serve(tmp_path / "run")
    top = service.recommend(RecommendRequest(k=1)).items[0]
    assert service.explain(ExplainRequest(item=str(top.item))).score == pytest.approx(top.score)
    assert ids(service.recommend(RecommendRequest(k=1, dial=0.0))) == [top.item]


def test_a_run_that_was_moved_is_the_same_version(runs, store, tmp_path):
    Service(store).serve(runs[0])
    moved = shutil.copytree(runs[0], tmp_path / runs[0].name)
    assert Service(store).serve(moved) == f"serving the version {store.activation().active}"
    assert store.versions()[0].path == str(moved)
