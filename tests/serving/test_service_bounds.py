"""What the service refuses before it computes: hosts, halves of requests, and too much at once."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from urllib.parse import urlsplit

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from service_parts import event, listening, train

from cnsdiff.base.errors import ConfigError
from cnsdiff.data.ids import IdIndex
from cnsdiff.serving.app import create_app
from cnsdiff.serving.bounds import BoundError, Rates, protocol
from cnsdiff.serving.config import ServiceConfig, read_config
from cnsdiff.serving.ranking import Catalogue
from cnsdiff.serving.schemas import RecommendRequest
from cnsdiff.serving.service import Service
from cnsdiff.serving.store import Store

ADDRESS = {"client": ("10.0.0.1", 5)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def app(run, tmp_path):
    """The application of a service with some settings."""
    with contextlib.ExitStack() as stack:

        def make(**config):
            store = stack.enter_context(Store.open(f"sqlite:///{tmp_path}/store.db"))
            service = Service(store, ServiceConfig(**config))
            service.serve(run)
            return create_app(service)

        yield make


@pytest.fixture
def serve(app):
    with contextlib.ExitStack() as stack:
        yield lambda **config: stack.enter_context(TestClient(app(**config), "http://localhost"))


# -- hosts -----------------------------------------------------------------------------------------


def test_a_page_cannot_have_its_own_host_resolve_to_the_service(serve):
    client = serve(hosts=("Shop.example", "*.inner"))
    ours = [
        *("localhost", "localhost:8000", "127.0.0.1:8000", "192.168.1.5", "[::1]:80", "[::1]"),
        *("shop.example", "SHOP.EXAMPLE:8000", "a.inner", "a.b.inner:1"),
    ]
    for host in ours:
        assert client.get("/versions", headers={"Host": host}).status_code == 200, host
    theirs = [
        *(
            "evil.example",
            "evil.example:8000",
            "inner",
            "xinner",
            "shop.example.evil",
            "127.0.0.1.x",
        ),
        *("localhost.evil", "[evil]", "user@localhost", ""),
    ]
    for host in theirs:
        for path in ("/versions", "/", "/docs"):
            refused = client.get(path, headers={"Host": host})
            assert refused.status_code == 400, host
    error = client.post("/recommend", json={}, headers={"Host": "evil.example:8000"}).json()[
        "error"
    ]
    assert error == (
        "the host 'evil.example' is none of this service's; ask for its address, or name the host "
        "under 'hosts' in the settings of the service"
    )
    assert 'status="400"' in client.get("/metrics").text


def test_any_host_where_the_settings_say_so(serve):
    client = serve(hosts=("*",))
    assert client.get("/versions", headers={"Host": "any.example"}).status_code == 200


@pytest.mark.parametrize("host", ["", "http://x", "x:80", "*x", "a.*", "a b"])
def test_a_host_of_the_settings_is_a_name(host):
    with pytest.raises(ConfigError, match="hosts"):
        read_config(None, hosts=[host])


# -- halves of requests ----------------------------------------------------------------------------

HEAD = b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def hung_up(place, sent):
    """What comes until the service ends the connection."""
    with socket.create_connection((urlsplit(place).hostname, urlsplit(place).port)) as connection:
        connection.settimeout(60)
        connection.sendall(sent)
        answer = b""
        while part := connection.recv(10_000):
            answer += part
    return answer


def test_who_sends_half_a_body_is_not_waited_for(app):
    halves = [
        b"Content-Length: 1000\r\n\r\n{",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
        b"Content-Length: 9000000\r\n\r\n" + b" " * 2000,  # too large besides
    ]
    with listening(app(transfer_timeout=0.2, max_body=1000), http=protocol(60)) as place:
        for half in halves:
            head, _, body = hung_up(place, HEAD + half).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408"), half
            assert b"connection: close" in head
            assert json.loads(body)["error"] == (
                "the body did not come within 0.2 s; send it at once, or in smaller parts"
            )


def test_who_sends_half_a_head_is_not_waited_for(app):
    with listening(app(), http=protocol(1.0)) as place:
        for half in (HEAD, b""):
            assert hung_up(place, half) == b""
        # After a whole request, the same.
        twice = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea"
        assert hung_up(place, twice).count(b"HTTP/1.1 200") == 1


def test_who_does_not_read_the_answer_is_not_waited_for(app):
    body = json.dumps({"requests": [{"k": 40}] * 1000}).encode()
    head = f"POST /recommend/batch HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    lost = threading.Event()
    patient = protocol(0.5)

    class Watched(patient):
        def connection_made(self, transport):
            own = transport.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            super().connection_made(transport)

        def connection_lost(self, exc):
            super().connection_lost(exc)
            lost.set()

    with (
        listening(app(), http=Watched, timeout_keep_alive=600) as place,
        socket.socket() as connection,
    ):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((urlsplit(place).hostname, urlsplit(place).port))
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        assert lost.wait(60)


# -- too much at once ------------------------------------------------------------------------------


def test_the_lists_of_a_request_are_bounded_together(serve):
    client = serve(max_k=50, max_ids=6)
    batch = [{"k": 20}, {"k": 30}]
    assert client.post("/recommend/batch", json={"requests": batch}).status_code == 200
    refused = client.post("/recommend/batch", json={"requests": [*batch, {"k": 1}]})
    assert (refused.status_code, refused.json()["error"]) == (
        422,
        "k: the lists of this request have 51 items together; ask for at most 50 in one request",
    )
    named = {"exclude": ["1"], "only": ["2"], "session": ["3"], "pin": ["4"], "bury": ["5"]}
    assert client.post("/recommend", json={**named, "boost": {"6": 1}}).status_code == 200
    for path, body in (
        ("/recommend", {**named, "boost": {"6": 1, "7": 1}}),
        ("/recommend/batch", {"requests": [{"exclude": ["1", "2"]}] * 4}),
        ("/similar", {"item": "26", "exclude": ["1"] * 4, "only": ["1"] * 3}),
        ("/recommend", {"k": 51}),
    ):
        refused = client.post(path, json=body)
        assert refused.status_code == 422, body
        assert refused.json()["error"].endswith("in one request")


def test_lists_and_events_count_and_not_requests(serve):
    for path, body in (
        ("/recommend/batch", {"requests": [{"k": 1}] * 30}),
        ("/events", {"events": [event(n, "u", "26") for n in range(30)]}),
    ):
        client = serve(rate=1.0)
        assert (
            client.post(path, json=body).status_code == 200
        )  # more than a second's, but the first
        refused = client.get("/health/live")
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 30
        assert refused.json()["error"].startswith(
            "this address is over its rate of 1 a second (lists, events, items and other"
        )
    client = serve(rate=1.0)
    put = {"items": [{"item": 9000 + n} for n in range(30)]}
    assert client.put("/items", json=put).status_code == 204
    assert client.get("/health/live").status_code == 429


@given(
    rate=st.floats(0.5, 100),
    asked=st.lists(st.tuples(st.floats(0, 5), st.integers(1, 50)), min_size=1, max_size=40),
)
def test_no_client_gets_more_than_its_rate(rate, asked):
    """Whatever it asks for: a second's worth at first, and one request that may be larger."""
    now, granted, last = 0.0, 0.0, 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.monotonic", lambda: now)
        rates = Rates(rate)
        for pause, number in asked:
            now += pause
            with contextlib.suppress(BoundError):
                rates.take(ADDRESS)
                granted, last = granted + 1, 0
                rates.take(ADDRESS, number - 1, left=0.0)
                granted, last = granted + number - 1, number - 1
            assert granted - last <= max(rate, 1.0) + rate * now + 1e-6


def test_requests_that_came_at_once_are_not_all_larger_than_what_is_left():
    rates = Rates(3.0)
    for _ in range(3):
        rates.take(ADDRESS)  # their bodies are not read yet
    rates.take(ADDRESS, 99, left=0.0)
    with pytest.raises(BoundError):
        rates.take(ADDRESS, 99, left=0.0)
    rates.take({"client": ("10.0.0.2", 5)})


def test_the_results_of_filters_are_bounded_by_their_bytes():
    n = 1000
    ids, rows = IdIndex(pl.Series(range(n))), [{"price": item} for item in range(n)]

    def held(memory, filters, length=1):
        catalogue = Catalogue(ids, rows, np.zeros(0, dtype=int), memory)
        for value in range(filters):
            rules = RecommendRequest(where={"price": [value] * length})
            assert catalogue.allowed(rules).nonzero()[0].tolist() == [value]
        return catalogue._kept.cache_info().currsize

    for memory in (0, 100_000, 1_000_000):
        most = max(2, memory // (5 * n + 10_000))
        assert held(memory, 100) == min(100, most)
    assert held(10**6, 5, length=1000) == 5
    catalogue = Catalogue(ids, rows, np.zeros(0, dtype=int), 10**6)
    long = RecommendRequest(where={"price": ["x" * 500] * 999 + [7]})
    assert catalogue.penalties(long).isfinite().nonzero().tolist() == [[7]]
    assert catalogue._kept.cache_info().currsize == 0


def test_a_batch_is_computed_in_parts(run, tmp_path, monkeypatch):
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store:
        service = Service(store)
        service.serve(run)
        requests = [RecommendRequest(user=user, k=3) for user in (*range(20), "nobody")]
        whole = service.recommend_many(requests)
        n_items = len(service._now().active.snapshot.model.items)
        monkeypatch.setattr("cnsdiff.serving.service._SCORES_AT_ONCE", 4 * n_items)
        sizes = []
        product = type(service._now().active.snapshot).tastes
        monkeypatch.setattr(
            "cnsdiff.serving.version.Snapshot.tastes",
            lambda self, part, *rest: sizes.append(len(part)) or product(self, part, *rest),
        )
        parts = service.recommend_many(requests)
    assert sizes == [4, 4, 4, 4, 4, 1]
    for one, other in zip(whole, parts, strict=True):
        assert [ranked.item for ranked in one.items] == [ranked.item for ranked in other.items]
        assert one.source == other.source
