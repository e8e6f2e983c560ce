"""The service over HTTP: what is sent, refused, counted and shown; on each database."""

from __future__ import annotations

import json
import logging
import re
import shlex
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from service_parts import event, train

import cnsdiff
from cnsdiff.base.errors import ConfigError
from cnsdiff.serving.app import create_app
from cnsdiff.serving.config import ServiceConfig, read_config
from cnsdiff.serving.service import Service
from cnsdiff.serving.store import Store

QUICKLY = settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
ADDRESS = "http://127.0.0.1:8000"
LOCAL = "http://localhost"
JSON = {"Content-Type": "application/json"}
TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def serve(run, store_url):
    """Open a client of a service with some settings."""
    opened = []

    def start(**config):
        store = Store.open(store_url)
        service = Service(store, ServiceConfig(**config))
        service.serve(run)
        client = TestClient(create_app(service), LOCAL, raise_server_exceptions=False)
        client.__enter__()
        opened.append((client, store))
        return client

    yield start
    for client, store in opened:
        client.__exit__(None, None, None)
        store.close()


@pytest.fixture
def client(serve):
    return serve()


def test_from_an_event_to_an_answer(client):
    first = client.post("/recommend", json={"user": 2, "k": 3}).json()
    assert first.keys() == {"items", "source", "version", "arm", "request_id"}
    item = first["items"][0]["item"]
    sent = client.post("/events", json={"events": [event(1, 2, item), event(1, 2, item)]})
    assert sent.json() == {"new": 1, "repeated": 1}
    second = client.get("/recommend", params={"user": "2", "k": 3}).json()
    assert second["source"] == "folded-in"
    assert item not in [ranked["item"] for ranked in second["items"]]
    batch = {"requests": [{"user": "2", "k": 3}, {"k": 1}]}
    answers = client.post("/recommend/batch", json=batch).json()["answers"]
    assert answers[0]["items"] == second["items"]
    assert len(answers[1]["items"]) == 1


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"k": 0}, "k: must be at least 1, not 0"),
        ({"k": True}, "k: must be a whole number, not true"),
        ({"dial": True}, "dial: must be a number, not true"),
        ({"boost": {"i1": True}}, "boost.i1: must be a number, not true"),
        ({"users": 1}, "the body: has no field 'users' (did you mean 'user'?); its fields are k, "),
        ({"user": ""}, "user: must have at least 1 character"),
        ({"user": True}, "user: must be text"),
        ({"where": {"brand": "x"}}, "no item has an attribute 'brand'; items have none"),
        ({"user": "a\u0000b"}, "must not hold a null character"),
    ],
)
def test_a_wrong_request_is_told_in_a_sentence(client, body, sentence):
    answer = client.post("/recommend", json=body)
    assert answer.status_code == 422
    assert sentence in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_what_is_no_json(client):
    answer = client.post("/recommend", content=b"{", headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("the body is not JSON, at character 1 (")


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000,
        '{"where":' * 5_000 + "1" + "}" * 5_000,
        f'{{"k": {"9" * 5_000}}}',
        f'{{"k": {"9" * 4_000}}}',
        '{"k": NaN}',
        b'{"user": "\xff"}',
        '{"user": "\\ud800"}',
    ],
    ids=["depth", "objects", "digits", "number", "nan", "bytes", "surrogate"],
)
def test_a_hostile_body_is_refused(client, body):
    answer = client.post("/recommend", content=body, headers=JSON)
    assert answer.status_code == 422
    assert answer.json().keys() == {"error"}


def test_a_number_too_large_to_compute_with_is_no_feature(client):
    """It would fail every later request that filters by it."""
    for digits, code in ((400, 422), (3, 204)):
        body = f'{{"items": [{{"item": 26, "features": {{"price": {"9" * digits}}}}}]}}'
        assert client.put("/items", content=body, headers=JSON).status_code == code
    answer = client.post("/recommend", json={"where": {"price": {"min": 999}}})
    assert [ranked["item"] for ranked in answer.json()["items"]] == [26]


def test_an_id_that_the_store_cannot_hold_costs_no_answer_of_others(client):
    assert client.post("/recommend", json={"user": "ann"}).status_code == 200
    answer = client.post("/recommend", json={"user": "\U0001d11e" * 400})
    assert answer.status_code == 422
    assert answer.json()["error"] == "user: must have at most 1,000 bytes in UTF-8"
    client.app.state.service.flush()
    assert client.app.state.service.store.answers_after(0)["user"].to_list() == ["ann"]


def test_a_place_that_is_none(client):
    for method, path, code in (("GET", "/nothing", 404), ("PUT", "/recommend", 405)):
        answer = client.request(method, path)
        assert answer.status_code == code
        assert answer.json()["error"] == (
            f"{method} {path}: is no request of this service; all requests are described at /docs"
        )


def test_a_failure_of_our_own_is_told_and_counted(client, monkeypatch):
    monkeypatch.setattr(Service, "similar", lambda self, request: 1 / 0)
    answer = client.post("/similar", json={"item": 26})
    assert answer.status_code == 500
    assert answer.json() == {"error": "the service failed at this request; its log says how"}
    counted = 'cnsdiff_requests_total{route="/similar",status="500"} 1.0'
    assert counted in client.get("/metrics").text


def test_times_of_events(client):
    dated = event(1, "u", "i", "2001-09-09T01:46:40Z")
    assert client.post("/events", json={"events": [dated]}).status_code == 200
    for wrong in ("yesterday", None, [5], True, 1e400):
        body = json.dumps({"events": [event(2, "u", "i", wrong)]})
        answer = client.post("/events", content=body, headers=JSON)
        assert answer.status_code == 422, wrong
        assert "timestamp" in answer.json()["error"]
    late = client.post("/events", json={"events": [event(3, "u", "i", 1.7e12)]})
    assert "in the future; give seconds since 1970" in late.json()["error"]


def test_writing_takes_a_token(serve):
    client = serve(tokens=("other", "secret"))
    writes = [
        ("POST", "/events", {"events": [event(1, "u", "i")]}),
        ("PUT", "/items", {"items": [{"item": 1}]}),
        ("DELETE", "/items/1", None),
        ("DELETE", "/users/1", None),
        ("POST", "/versions", {"path": "x"}),
        ("POST", "/activate", {"version": "x"}),
        ("POST", "/rollback", None),
    ]
    documented = client.get("/openapi.json").json()["paths"]
    assert len(writes) == sum(
        "security" in op for path in documented.values() for op in path.values()
    )
    for method, path, body in writes:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            refused = client.request(method, path, json=body, headers=headers)
            assert refused.status_code == 401, path
            assert "Authorization: Bearer TOKEN" in refused.json()["error"]
        assert client.request(method, path, json=body, headers=TOKEN).status_code != 401, path
    assert client.post("/recommend", json={}).status_code == 200


def test_no_token_of_a_configuration_is_empty():
    """An empty one would let everybody in who sends none."""
    for token in ("", " ", "a b", "\u00fc"):
        with pytest.raises(ConfigError, match="tokens"):
            read_config(None, tokens=[token])


def test_a_page_of_somebody_else_changes_nothing(serve):
    """A browser on this machine sends what any page tells it to; it says which page that is."""
    client = serve()
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        refused = client.post("/rollback", headers={"Origin": origin})
        assert refused.status_code == 401, origin
        assert refused.json()["error"].startswith("a page of another site may not write here")
    # Without one to roll back to.
    assert client.post("/rollback", headers={"Origin": LOCAL}).status_code == 409


def test_bodies_are_bounded(serve):
    client = serve(max_body=2000, max_events=3)
    events = {"events": [event(n, "u", "i") for n in range(4)]}
    answer = client.post("/events", json=events)
    assert answer.status_code == 422
    assert answer.json()["error"] == (
        "events: 4 in one request; give at most 3, in several requests"
    )
    large = json.dumps({"user": "x" * 3000}).encode()
    for content in (large, iter([large[:1500], large[1500:]])):  # with a length, and without
        answer = client.post("/recommend", content=content)
        assert answer.status_code == 413
        assert "more than 2,000 bytes" in answer.json()["error"]


def test_a_rate_is_bounded(serve):
    client = serve(rate=5.0)
    codes = [client.get("/health/live").status_code for _ in range(20)]
    assert codes[:5] == [200] * 5
    assert 429 in codes
    refused = next(
        a for a in (client.get("/health/live") for _ in range(20)) if a.status_code == 429
    )
    assert refused.headers["Retry-After"] == "1"


def test_ids_are_never_interpreted(client):
    strange = [
        "../../etc/passwd",
        "a/b",
        "%",
        "' OR 1=1 --",
        "<b>x</b>",
        "*",
        "é\u202e",
        "𝄞",
        "a\nb",
    ]
    for n, user in enumerate(strange):
        assert client.post("/events", json={"events": [event(n, user, 26)]}).json()["new"] == 1
        answer = client.get("/recommend", params={"user": user})
        assert answer.json()["source"] == "folded-in", user
    for user in strange:
        path = f"/users/{''.join(f'%{byte:02x}' for byte in user.encode())}"
        assert client.delete(path).json()["rows"] >= 1, user


def test_health_metrics_and_status(client):
    assert client.get("/health/live").json() == {"status": "live"}
    assert client.get("/health/ready").json() == {"status": "ready"}
    client.post("/recommend", json={"user": "nobody"})
    text = client.get("/metrics").text
    assert 'cnsdiff_lists_total{arm="main",source="environment"} 1.0' in text
    assert 'cnsdiff_requests_total{route="/recommend",status="200"} 1.0' in text
    status = client.get("/status").json()
    assert status["active"].startswith("run-")
    assert status["minutes"] == [{"minute": 0, "requests": 1, "events": 0}] or status["minutes"]


def test_logs_hold_no_ids(client, caplog):
    with caplog.at_level(logging.INFO, logger="cnsdiff.serving.requests"):
        client.get("/recommend", params={"user": "personal"})
        client.delete("/users/personal")
    lines = [json.loads(record.message) for record in caplog.records if "route" in record.message]
    assert [line["route"] for line in lines] == ["/recommend", "/users/{user:whole}"]
    assert "personal" not in caplog.text


def test_versions(client, run, tmp_path):
    other = train(tmp_path / "other", seed=1)
    first = client.get("/versions").json()["active"]
    added = client.post("/versions", json={"path": str(other), "name": "next"})
    assert (added.status_code, added.json()) == (201, {"version": "next"})
    assert client.post("/activate", json={"version": "next"}).json()["active"] == "next"
    assert client.post("/rollback").json()["active"] == first
    for path in (str(tmp_path / "none"), "../../../../etc/passwd", "/", "/dev/null", "a\0b"):
        missing = client.post("/versions", json={"path": path})
        assert missing.status_code == 422, path
        assert "is not a run directory" in missing.json()["error"], path
    assert client.post("/activate", json={"version": "none"}).status_code == 404


def test_a_trial_is_ended_by_nobody_unawares(client, run, tmp_path):
    first = client.get("/versions").json()["active"]
    for seed, name in ((1, "next"), (2, "third")):
        path = str(train(tmp_path / name, seed=seed))
        client.post("/versions", json={"path": path, "name": name})

    def activate(**body):
        answer = client.post("/activate", json=body)
        return answer.status_code, answer.json()

    assert activate(version="next", share=0.1)[1]["canary"] == "next"
    for body in ({"shadow": True}, {"share": 0.5}, {}):
        assert activate(version="third", **body) == (
            409,
            {
                "error": "the version 'third' is not activated, as 'next' is on trial (a canary "
                "for 0.1 of the users); end that with a rollback, or activate with replace=true"
            },
        )
    code, refused = activate(version=first, share=0.1)
    assert (code, "which it is; try another" in refused["error"]) == (409, True)
    assert activate(version="third", share=0.2, shadow=True)[0] == 422
    assert activate(version="next", share=0.3)[1]["share"] == 0.3
    assert activate(version="third", shadow=True, replace=True)[1]["shadow"] == "third"
    assert activate(version="third")[1]["active"] == "third"
    assert client.post("/rollback").json()["active"] == first
    refused = client.post("/rollback")
    assert refused.status_code == 409
    assert refused.json()["error"] == (
        f"no version was active before {first!r}; activate another one"
    )


def test_a_broken_store_is_told(serve, monkeypatch):
    client = serve()
    from cnsdiff.base.errors import StorageError

    def fail(self, events):
        raise StorageError("store.db: the disk is full; free some space")

    monkeypatch.setattr(Store, "add_events", fail)
    answer = client.post("/events", json={"events": [event(1, "u", "i")]})
    assert (answer.status_code, answer.json()["error"][:8]) == (503, "store.db")


@pytest.mark.slow
def test_the_description_is_true(run, store_url):
    """Whatever the OpenAPI document allows or forbids, the service answers as it says."""
    store = Store.open(store_url)
    service = Service(store, ServiceConfig(tokens=("secret",), hosts=("testserver",)))
    service.serve(run)
    app = create_app(service)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)

    # What a schema cannot say is refused, too: an attribute that no item has, a time to come.
    beyond = [schemathesis.checks.CHECKS.get_one("positive_data_acceptance")]
    with TestClient(app):
        for operation in schema.get_all_operations():

            @settings(
                max_examples=15,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.ok().as_strategy())
            def check(case):
                case.call_and_validate(headers=TOKEN, excluded_checks=beyond)

            check()
    store.close()


def test_the_environment_of_python(monkeypatch):
    monkeypatch.setenv("CNSDIFF_TOKENS", "a, b,")
    assert read_config(None, environment="trained").tokens == ("a", "b")


def test_what_the_documentation_sends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    log = pl.DataFrame(
        {
            "user": rng.integers(0, 60, 3000),
            "item": rng.integers(0, 40, 3000),
            "timestamp": rng.integers(1_600_000_000, 1_620_000_000, 3000),
        }
    )
    dataset = cnsdiff.prepare(log, "temporal", item_core=0, user_core=0)
    for name in ("shop", "next"):
        cnsdiff.Recommender("mf", training={"epochs": 1}).fit(dataset).save(Path("runs") / name)
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    commands = re.findall(r"^curl .*$", page, re.MULTILINE)
    with Store.open("sqlite:///store.db") as store:
        service = Service(store)
        service.serve(Path("runs/shop"))
        with TestClient(create_app(service), LOCAL) as client:
            for command in commands:
                words = shlex.split(command)[1:]
                body = words[words.index("--json") + 1] if "--json" in words else None
                method = words[words.index("-X") + 1] if "-X" in words else "POST"
                url = next(word for word in words if word.startswith("http"))
                answer = client.request(
                    method, url.removeprefix(ADDRESS), content=body, headers=JSON
                )
                assert answer.is_success, (command, answer.text)
    assert len(commands) >= 10
