"""What goes wrong around a service: runs that are gone, clocks, and a store that is not there."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import psycopg
import pytest
from fastapi.testclient import TestClient
from service_parts import listening, train

import cnsdiff
from cnsdiff.base.errors import InputError, RunError
from cnsdiff.serving.app import create_app
from cnsdiff.serving.config import ServiceConfig
from cnsdiff.serving.database import _WRITING
from cnsdiff.serving.schemas import EventBody, ItemBody, RecommendRequest
from cnsdiff.serving.service import Service
from cnsdiff.serving.store import Store


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [train(folder / f"run{n}", seed=n) for n in range(3)]


@pytest.fixture(scope="module")
def model(runs):
    return cnsdiff.Recommender.load(runs[0])


def ids(answer):
    return [ranked.item for ranked in answer.items]


def event(n, user, item, timestamp):
    return EventBody(event_id=f"e{n}", user=str(user), item=str(item), timestamp=timestamp)


# -- runs that are gone ----------------------------------------------------------------------------


def ruin(run, damage):
    """Leave of a run what a copy that was cut off, or somebody who tidies up, leaves of it."""
    if damage == "gone":
        shutil.rmtree(run)
    elif damage == "half":
        largest = max(run.rglob("*.safetensors"), key=lambda file: file.stat().st_size)
        content = largest.read_bytes()
        largest.write_bytes(content[: len(content) // 2])
    elif damage == "lacking":
        for file in run.rglob("*.safetensors"):
            file.unlink()
    else:
        (run / "manifest.json").write_text('{"format')


DAMAGE = ["gone", "half", "lacking", "manifest"]
on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


@on_sqlite
@pytest.mark.parametrize("damage", DAMAGE)
def test_an_activation_of_a_run_that_is_gone_changes_nothing(runs, store, tmp_path, damage):
    torn = shutil.copytree(runs[1], tmp_path / "torn")
    service, other = Service(store, ServiceConfig(refresh=1e-9)), Service(store)
    first = service.serve(runs[0])[len("serving the version ") :]
    name = other.add_version(torn)
    before = ids(service.recommend(RecommendRequest(user="2", k=5)))
    ruin(torn, damage)
    with pytest.raises(RunError):
        service.activate(name)
    assert store.activation().active == first, "refused before the store names it"
    # Another process may load it in time.
    shutil.rmtree(torn, ignore_errors=True)
    shutil.copytree(runs[1], torn)
    other.activate(name)
    ruin(torn, damage)
    service.follow()
    answer = service.recommend(RecommendRequest(user="2", k=5))
    assert (answer.version, ids(answer)) == (first, before)
    assert str(torn) in service.status().problem
    assert "all is served as before" in service.problem
    # Back in its place, it is taken.
    shutil.rmtree(torn, ignore_errors=True)
    shutil.copytree(runs[1], torn)
    service.follow()
    assert service.recommend(RecommendRequest(user="2")).version == name
    assert service.status().problem is None


@on_sqlite
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_start_falls_back_to_the_version_before(runs, store, tmp_path, caplog, damage):
    torn = shutil.copytree(runs[1], tmp_path / "torn")
    service = Service(store)
    service.serve(runs[0])
    first = service.state().active
    second = service.add_version(torn)
    service.activate(second)
    ruin(torn, damage)
    again = Service(store)
    with caplog.at_level(logging.WARNING, logger="cnsdiff"):
        again.start()
    again.close()
    assert again.recommend(RecommendRequest(k=1)).version == first
    assert f"until it can be loaded, {first} answers all users" in caplog.text
    assert store.activation().active == second, "others may have it"
    assert f"until it can be loaded, {first} answers" in Service(store).serve(runs[0])
    # A run that is new to the store is activated, as ever.
    assert Service(store).serve(runs[2]) == f"serving the version {store.activation().active}"


def test_a_start_without_any_run_is_refused(runs, store, tmp_path):
    torn = shutil.copytree(runs[1], tmp_path / "torn")
    service = Service(store)
    service.serve(torn)
    ruin(torn, "gone")
    with pytest.raises(RunError, match="torn: is not a run directory"):
        Service(store).start()
    # A run that the store knows, and that is there, answers meanwhile.
    spare = Service(store)
    name = service.add_version(runs[0])
    assert f"until it can be loaded, {name} answers all users" in spare.serve(runs[0])
    assert spare.recommend(RecommendRequest(k=1)).version == name


def test_a_rollback_to_a_run_that_is_gone_changes_nothing(runs, store, tmp_path):
    torn = shutil.copytree(runs[1], tmp_path / "torn")
    service = Service(store)
    service.serve(torn)
    second = service.add_version(runs[0])
    service.activate(second)
    ruin(torn, "gone")
    again = Service(store)
    again.serve(runs[0])
    with pytest.raises(RunError, match="torn: is not a run directory"):
        again.rollback()
    assert store.activation().active == second
    assert again.problem is None


@on_sqlite
def test_versions_that_nobody_gets_any_more_leave_the_memory(runs, store):
    service = Service(store)
    service.serve(runs[0])
    names = [service.state().active]
    for run in runs[1:]:
        names.append(service.add_version(run))
        service.activate(names[-1])
    assert [service.state().versions[name].loaded for name in names] == [False, True, True]
    assert service.activate(names[0]).active == names[0]


# -- clocks ----------------------------------------------------------------------------------------


def test_one_event_of_a_wrong_clock_ends_no_environment(runs, store, model):
    """Ten years ahead all that was counted is long past, and what comes counts for nothing."""
    moment = model.model_.activity.moment
    now = moment + 100.0
    service = Service(store, clock=lambda: now)
    service.serve(runs[0])
    live = service._now().arm_of(None)[1]
    item = int(np.argmin(model.model_.activity.counts))
    usual = [event(n, f"v{n}", model.items_[item], moment + 50) for n in range(50)]
    service.add_events(usual)
    service.refresh()
    expected = live.snapshot.bias.clone()
    # The clock runs ahead, and takes what comes; then it is put right.
    now += 3e8
    service.add_events([event("late", "v", model.items_[item], now)])
    service.refresh()
    assert live.snapshot.activity.moment == now
    assert service.environment_age == 0
    now -= 3e8
    service.refresh()
    assert live.snapshot.bias.equal(expected)
    assert service.environment_age == 0
    again = Service(store, clock=lambda: now)
    again.serve(runs[0])
    np.testing.assert_allclose(again._now().arm_of(None)[1].snapshot.bias, expected, atol=1e-5)


@on_sqlite
def test_the_environment_ages_without_events(runs, store, model):
    trained = model.model_.activity
    half_lives = np.array(trained.half_lives) * trained.span
    now = trained.moment
    service = Service(store, clock=lambda: now)
    service.serve(runs[0])
    live = service._now().active
    assert live.snapshot.bias.equal(model.model_.live_bias(trained))
    for minute in (1, 2, 3):
        now = trained.moment + minute * half_lives[-1]
        service.refresh()
        aged = live.snapshot.activity
        assert aged.moment == service.status().environment_moment == now
        faded = trained.decayed * 0.5 ** ((now - trained.moment) / half_lives)
        np.testing.assert_allclose(aged.decayed, faded)
        assert aged.counts.tolist() == trained.counts.tolist()
        expected = model.model_.live_bias(replace(trained, decayed=faded, moment=now))
        np.testing.assert_allclose(live.snapshot.bias, expected, rtol=1e-4, atol=1e-4)
    assert not live.snapshot.bias.equal(model.model_.live_bias(trained))
    # An event that comes late counts as it would have in time; one ahead of the clock goes first.
    times = np.array([trained.moment + 1, now + 9])
    service.add_events([event(n, f"v{n}", model.items_[n], at) for n, at in enumerate(times)])
    service.refresh()
    assert live.snapshot.activity.moment == now + 9
    expected = trained.followed_by(np.array([0, 1]), times)
    np.testing.assert_allclose(live.snapshot.activity.decayed, expected.decayed)


@on_sqlite
def test_a_log_of_the_past_stays_at_its_last_event(runs, store, model):
    trained = model.model_.activity
    memory = max(trained.half_lives) * trained.span
    now = trained.moment + 1.01 * memory
    service = Service(store, clock=lambda: now)
    service.serve(runs[0])
    live = service._now().active
    service.refresh()
    assert live.snapshot.activity.moment == trained.moment
    assert live.snapshot.bias.equal(model.model_.live_bias(trained))
    service.add_events([event(1, "v", model.items_[0], trained.moment + 0.005 * memory)])
    service.refresh()
    assert live.snapshot.activity.moment == trained.moment + 0.005 * memory
    # From an event on that is near the clock's time, the environment goes with the clock.
    service.add_events([event(2, "v", model.items_[1], trained.moment + 0.5 * memory)])
    for _ in range(3):
        service.refresh()
        assert live.snapshot.activity.moment == now
        now += 0.9 * memory
    # Where the clock goes back, so does the environment.
    now = trained.moment + 0.6 * memory
    service.refresh()
    assert live.snapshot.activity.moment == max(now, trained.moment + 0.5 * memory)


@on_sqlite
def test_events_out_of_order_count_as_if_in_order(runs, store, model):
    moment = model.model_.activity.moment
    service = Service(store, clock=lambda: moment + 1000)
    service.serve(runs[0])
    live = service._now().arm_of(None)[1]
    rng = np.random.default_rng(0)
    items, times = rng.integers(0, len(model.items_), 90), moment + rng.uniform(-50, 1200, 90)
    moments = []
    for start in range(0, 90, 30):
        part = range(start, start + 30)
        service.add_events([event(n, f"v{n}", model.items_[int(items[n])], times[n]) for n in part])
        service.refresh()
        moments.append(live.snapshot.activity.moment)
    assert moments == sorted(moments)
    later = times > moment
    activity = model.model_.activity.followed_by(items[later], times[later])
    np.testing.assert_allclose(
        live.snapshot.bias, model.model_.live_bias(activity), rtol=1e-4, atol=1e-4
    )
    with pytest.raises(InputError, match="lies in the future"):
        service.add_events([event("x", "v", model.items_[0], moment + 1400)])


@on_sqlite
def test_times_of_other_units_are_told_when_a_run_is_loaded(runs, store, model, caplog):
    service = Service(store, clock=lambda: model.model_.activity.moment - 1e6)
    with caplog.at_level(logging.WARNING, logger="cnsdiff"):
        service.serve(runs[0])
    assert "in the future, so that no event moves its environment" in caplog.text


def test_who_is_forgotten_stays_so_when_the_clock_goes_back(runs, store, model, monkeypatch):
    service = Service(store)
    service.serve(runs[0])
    user = str(model.users_[0])
    assert service.recommend(RecommendRequest(user=user)).source == "trained"
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 1e6)
    service.forget(user)
    assert service.recommend(RecommendRequest(user=user)).source == "environment"


def test_an_answer_on_its_way_is_not_logged_of_who_was_forgotten(runs, store, model):
    now = time.time()
    one, other = Service(store, clock=lambda: now), Service(store)
    one.serve(runs[0])
    other.serve(runs[0])
    user = str(model.users_[0])
    one.recommend(RecommendRequest(user=user))
    one.recommend(RecommendRequest(user="somebody"))
    other.forget(user)
    one.follow()
    one.flush()
    assert store.answers_after(0)["user"].to_list() == ["somebody"]
    now += 1000
    one.recommend(RecommendRequest(user=user))
    one.flush()
    assert store.answers_after(0)["user"].to_list() == ["somebody", user]


def test_an_event_from_before_a_list_does_not_count_for_it(runs, store, model):
    now = 2e9
    service = Service(store, clock=lambda: now)
    service.serve(runs[0])
    answer = service.recommend(RecommendRequest(user="visitor", k=3))
    service.flush()
    service._count_arms()
    service.add_events([event(1, "visitor", ids(answer)[0], now - 10)])
    service._count_arms()
    assert [arm.taken for arm in service._arms.figures()] == [0]
    service.add_events([event(2, "visitor", ids(answer)[1], now + 10)])
    service._count_arms()
    assert [arm.taken for arm in service._arms.figures()] == [1]


# -- features that a run's content cannot take -----------------------------------------------------


@pytest.fixture(scope="module")
def content_run(tmp_path_factory):
    """A run that tells the vectors of new items from numbers, and from a vector of their own."""
    world = cnsdiff.ConfoundedWorld(n_users=60, n_items=60, exposures=40, seed=0).dataset()
    table = world.table("item_features")
    image = np.random.default_rng(0).normal(size=(len(table), 3)).astype(np.float32)
    world._tables["item_features"] = table.with_columns(
        pl.Series("image", image.tolist(), dtype=pl.List(pl.Float32))
    )
    model = cnsdiff.Recommender("mf", training={"epochs": 2}, content={"prior": "ridge"})
    model.fit(world)
    assert model.content_.used
    return model.save(tmp_path_factory.mktemp("content") / "run")


WRONG = [
    {"content_0": "cheap"},
    {"content_0": [1.0, 2.0]},
    {"image": [1.0]},
    {"image": "a picture"},
    {"image": ["a", "b", "c"]},
]


@on_sqlite
def test_features_of_a_wrong_kind_end_no_service(content_run, store, caplog):
    """They are refused; where the store has them from elsewhere, they count as missing."""
    service = Service(store)
    service.serve(content_run)
    right = {"content_0": 0.5, "image": [0.1, 0.2, 0.3]}
    for features in ({}, right, {"content_0": True}, {"content_0": "0.5"}):
        service.put_items([ItemBody(item=9000, features=features)])
        service.put_items([ItemBody(item=9000, features=right), ItemBody(item=8000)])
    for features in WRONG:
        with pytest.raises(InputError):
            service.put_items([ItemBody(item=9001, features=features)])
        store.put_items({"9002": right, "9003": features})
        service.follow()
        service.refresh()
        again = Service(store)
        again.serve(content_run)
        bare = Service(store)
        store.put_items({"9003": {}})
        bare.serve(content_run)
        request = RecommendRequest(k=100, only=["9002", "9003"])
        expected = service.recommend(request)
        assert sorted(ids(expected)) == [9002, 9003]
        assert again.recommend(request).items == expected.items == bare.recommend(request).items
    assert "the item '9003' counts as one without features" in caplog.text
    assert 9001 not in ids(service.recommend(RecommendRequest(k=100)))


# -- a store that is slow, held, full or away ------------------------------------------------------


@contextlib.contextmanager
def served(run, url, *, timeout=60.0, patience=60.0):
    """A client of a service that waits so long for its store, which waits so long for others."""
    with Store.open(url, timeout=timeout) as store:
        service = Service(store, ServiceConfig(timeout=patience, follow=600, refresh=600))
        service.serve(run)
        with TestClient(
            create_app(service), "http://localhost", raise_server_exceptions=False
        ) as client:
            yield client, service


@contextlib.contextmanager
def held(store):
    """Another process that writes, and does not end."""
    if store.database.path:
        other = sqlite3.connect(store.database.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
    else:
        other = psycopg.connect(
            f"host={store.database.url.query['host']} user=cnsdiff dbname=postgres"
        )
        other.execute("SELECT pg_advisory_xact_lock(%s)", (_WRITING,))
    try:
        yield
    finally:
        other.rollback()
        other.close()


def body(n, user="ann", item=26):
    return {"events": [{"event_id": f"e{n}", "user": user, "item": item, "timestamp": 1e9}]}


def test_lists_go_on_while_every_writer_waits_for_the_store(runs, store_url):
    """More writers than a server has threads: if lists shared them, none would come."""
    with (
        served(runs[0], store_url) as (client, service),
        ThreadPoolExecutor(120) as pool,
    ):
        assert client.post("/events", json=body(0)).status_code == 200
        with held(service.store):
            waiting = [pool.submit(client.post, "/events", json=body(n)) for n in range(1, 121)]
            for k in range(1, 21):
                answer = client.post("/recommend", json={"user": "ann", "k": k}).json()
                assert answer["source"] == "folded-in"
            assert client.get("/health/ready").status_code == 200
            assert client.get("/status").status_code == 200
            assert not any(future.done() for future in waiting)
        assert [future.result().json()["new"] for future in waiting] == [1] * 120
        assert len(service.store.events()) == 121


def test_a_store_held_for_too_long(runs, store_url):
    with (
        served(runs[0], store_url, timeout=0.2) as (client, service),
        held(service.store),
    ):
        refused = client.post("/events", json=body(1))
        assert refused.status_code == 503
        assert "another process has held it for 0.2 s" in refused.json()["error"]
        assert client.post("/recommend", json={"user": "ann"}).status_code == 200
        service.flush()
        assert service.lost_answers == 1
        assert "cnsdiff_answers_lost 1.0" in client.get("/metrics").text


@on_sqlite
def test_an_answer_waits_for_a_store_that_hangs_no_longer_than_is_set(runs, store_url, monkeypatch):
    hangs, histories = threading.Event(), Store.histories

    def hanging(self, users):
        assert hangs.wait(60)
        return histories(self, users)

    with (
        served(runs[0], store_url, patience=0.3) as (client, _),
        ThreadPoolExecutor(50) as pool,
    ):
        monkeypatch.setattr(Store, "histories", hanging)
        ask = lambda n: client.post("/recommend", json={"user": str(n)})  # noqa: E731
        answers = list(pool.map(ask, range(50)))
        assert {answer.status_code for answer in answers} == {503}
        assert "the store has not answered for 0.3 s" in answers[0].json()["error"]
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 503
        assert client.post("/events", json=body(1)).status_code == 200
        hangs.set()
        assert ask(1).status_code == 200
        assert client.get("/health/ready").status_code == 200


def test_tables_that_cannot_be_read(runs, postgresql):
    url = postgresql.url("unreadable")
    with served(runs[0], url, timeout=0.2) as (client, service):
        schema = service.store.database.url.query["options"].partition("=")[2]
        with psycopg.connect(postgresql.conninfo) as other:
            other.execute(f"LOCK TABLE {schema}.events IN ACCESS EXCLUSIVE MODE")
            refused = client.post("/recommend", json={"user": "ann"})
            assert refused.status_code == 503
            assert "another process has held it for 0.2 s" in refused.json()["error"]
            assert client.get("/health/ready").status_code == 503
            # Of a visitor the store knows nothing.
            assert client.post("/recommend", json={"session": ["26"]}).status_code == 200
        assert client.get("/health/ready").status_code == 200


@on_sqlite
def test_a_full_disk_costs_what_is_written_and_no_list(runs, store_url, full_disk):
    with served(runs[0], store_url) as (client, service):
        assert client.post("/events", json=body(0)).status_code == 200
        client.post("/recommend", json={"user": "ann"})
        service.flush()
        with full_disk(service.store.wal_bytes()):
            refused = client.post("/events", json=body(1, "x" * 400))
            assert refused.status_code == 503
            assert "was not written" in refused.json()["error"]
            answer = client.post("/recommend", json={"user": "ann"})
            assert answer.json()["source"] == "folded-in"
            assert client.post("/recommend", json={"user": "x" * 400}).json()["source"] == (
                "environment"
            )
            service.flush()
            assert service.lost_answers == 2
            assert client.get("/health/ready").status_code == 200
        assert client.post("/events", json=body(1, "x" * 400)).json()["new"] == 1
        assert service.store.check() == []


@on_sqlite
def test_swaps_over_http_fail_no_request_and_mix_no_answer(runs, store):
    service = Service(store)
    service.serve(runs[0])
    names, users = [service.state().active, service.add_version(runs[1])], range(2, 6)
    done, wrong, lists = threading.Event(), [], {}
    with listening(create_app(service)) as place, httpx.Client(base_url=place) as client:
        for name in names:
            client.post("/activate", json={"version": name})
            for user in users:
                answer = client.post("/recommend", json={"user": user, "k": 5})
                lists[name, user] = answer.json()["items"]
        assert any(lists[names[0], user] != lists[names[1], user] for user in users)

        def ask(user):
            with httpx.Client(base_url=place) as own:
                while not done.is_set():
                    answer = own.post("/recommend", json={"user": user, "k": 5})
                    shown = answer.json()
                    if not answer.is_success or shown["items"] != lists[shown["version"], user]:
                        wrong.append(answer.text)

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask, user) for user in users]
            for n in range(100):
                body = {"version": names[0]} if n % 2 == 0 else None
                swap = client.post("/activate" if body else "/rollback", json=body)
                assert swap.json()["active"] == names[n % 2]
            done.set()
            for future in asking:
                future.result()
    assert not wrong


# -- kills -----------------------------------------------------------------------------------------

CAMPAIGN = Path(__file__).parents[2] / "benchmarks" / "reliability" / "service.py"


@pytest.mark.slow
@on_sqlite
def test_kills_under_load_lose_and_double_nothing(store_url):
    """A hundred are left to the command itself."""
    command = [sys.executable, str(CAMPAIGN), "--kills", "2", "--url", store_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "none lost, doubled or torn, no list wrong" in done.stdout
