"""The service over HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.convertors import Convertor, register_url_convertor

from cnsdiff.base.errors import InputError, StorageError
from cnsdiff.serving.bounds import Bounds, Rates, Scope
from cnsdiff.serving.refusals import TokenError, add_refusals, may_be
from cnsdiff.serving.schemas import (
    ActivateRequest,
    BatchAnswer,
    BatchRequest,
    EventsAnswer,
    EventsRequest,
    ExplainAnswer,
    ExplainRequest,
    Id,
    ItemsRequest,
    RecommendAnswer,
    RecommendRequest,
    Rules,
    SimilarAnswer,
    SimilarRequest,
    SimpleRequest,
    State,
    Status,
    VersionRequest,
)
from cnsdiff.serving.service import Service


class _Whole(Convertor[str]):
    """The rest of a path, whatever is in it: an id may hold slashes and line breaks."""

    regex = "(?s:.+)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("whole", _Whole())
requests_log = logging.getLogger("cnsdiff.serving.requests")
T = TypeVar("T")
_PAGE = (Path(__file__).parent / "status.html").read_text(encoding="utf-8")
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
}
_BEARER = HTTPBearer(auto_error=False, description="One of the service's tokens.")
#: Routes whose times the page shows.
_ANSWERS = ("/recommend", "/similar", "/explain")
#: Threads that answer, each with a connection to the store, and that wait for what is written.
_ANSWERING, _WRITING = 32, 64
#: Rules of a list that hold ids.
_HOLD_IDS = ("exclude", "only", "session", "pin", "boost", "bury")


class Metrics:
    """What ``/metrics`` shows."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter(
            "cnsdiff_requests", "Requests by route and status.", ["route", "status"], registry=own
        )
        self.seconds = Histogram(
            "cnsdiff_request_seconds",
            "Time to answer.",
            ["route"],
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
            registry=own,
        )
        self.events = Counter("cnsdiff_events", "New events.", registry=own)
        self.lists = Counter(
            "cnsdiff_lists", "Lists by arm and source.", ["arm", "source"], registry=own
        )
        self.age = Gauge(
            "cnsdiff_environment_age_seconds", "Since the environment was computed.", registry=own
        )
        self.drift = Gauge(
            "cnsdiff_drift_nats",
            "Divergence of the latest events from training, and its level by chance.",
            ["level"],
            registry=own,
        )
        self.alarm = Gauge("cnsdiff_drift_alarm", "1 while the environment moves.", registry=own)
        self.hits = Gauge(
            "cnsdiff_hit_rate",
            "Share of users' next events that their last list held; before: what it fell from.",
            ["when"],
            registry=own,
        )
        self.wal = Gauge("cnsdiff_store_wal_bytes", "SQLite's write-ahead log.", registry=own)
        self.problem = Gauge(
            "cnsdiff_problem", "1 while the store cannot be followed.", registry=own
        )
        self.lost = Gauge("cnsdiff_answers_lost", "Answers that could not be logged.", registry=own)


def create_app(service: Service) -> FastAPI:
    """The application over a service; it starts and closes the service itself."""
    config, metrics = service.config, Metrics()
    # Apart, so that writers who wait for a slow disk keep nobody waiting who reads.
    answering = ThreadPoolExecutor(_ANSWERING, thread_name_prefix="cnsdiff-answering")
    writing = ThreadPoolExecutor(_WRITING, thread_name_prefix="cnsdiff-writing")

    async def answer(work: Callable[..., T], *arguments: Any) -> T:
        """The result of work that reads, which is not waited for without end."""
        doing = asyncio.get_running_loop().run_in_executor(answering, partial(work, *arguments))
        done, _ = await asyncio.wait([doing], timeout=config.timeout)
        if not done:
            doing.cancel()
            raise StorageError(
                f"the store has not answered for {config.timeout:g} s; try again, or see what "
                "holds it"
            )
        return doing.result()

    async def write(work: Callable[..., T], *arguments: Any) -> T:
        doing = asyncio.get_running_loop().run_in_executor(writing, partial(work, *arguments))
        return await doing

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()
        for pool in (answering, writing):
            pool.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title="cnsdiff",
        summary="Recommendations that follow the environment.",
        version="1",
        lifespan=lifespan,
        responses=may_be(400, 408, 413, 422, 429, 503),
        docs_url="/docs",
        redoc_url=None,
    )
    app.state.service = service
    rates = Rates(config.rate)

    def observe(scope: Scope, status: int, seconds: float) -> None:
        """Count and log a request by its route, not its path, which may hold an id."""
        route = getattr(scope.get("route"), "path", "unknown")
        metrics.requests.labels(route, status).inc()
        metrics.seconds.labels(route).observe(seconds)
        if route.startswith(_ANSWERS):
            service.traffic.add(requests=1, seconds=seconds)
        entry = {"method": scope["method"], "route": route, "status": status}
        requests_log.info(json.dumps({**entry, "ms": round(1000 * seconds, 2)}))

    app.add_middleware(Bounds, config=config, rates=rates, observe=observe)
    add_refusals(app)

    tokens = [_digest(token) for token in config.tokens]

    def authorised(
        request: Request,
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
    ) -> None:
        if not tokens:
            # A page of somebody else's, open in a browser on this machine, may send requests here.
            origin = request.headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
                raise TokenError(
                    "a page of another site may not write here; if it is yours, give the service "
                    "tokens, and send one with the header Authorization: Bearer TOKEN"
                )
            return
        token = _digest("" if given is None else given.credentials)
        # All are compared, in constant time, so that nothing is told by how long it takes.
        known = [hmac.compare_digest(token, own) for own in tokens]
        if not any(known):
            raise TokenError

    def require_bounded(lists: Sequence[Rules]) -> None:
        """Refuse lists that are too much for one request together; each alone is bounded."""
        k = sum(rules.k for rules in lists)
        if k > config.max_k:
            raise InputError(
                f"k: the lists of this request have {k:,} items together; ask for at most "
                f"{config.max_k:,} in one request"
            )
        ids = sum(len(getattr(rules, name, None) or ()) for rules in lists for name in _HOLD_IDS)
        if ids > config.max_ids:
            raise InputError(
                f"{', '.join(_HOLD_IDS)}: the rules of this request name {ids:,} ids together; "
                f"name at most {config.max_ids:,} in one request"
            )

    writes = APIRouter(dependencies=[Depends(authorised)], responses=may_be(401))

    @app.post("/recommend", tags=["answers"])
    async def recommend(body: RecommendRequest) -> RecommendAnswer:
        """The list of one user, known or not."""
        require_bounded([body])
        own = await answer(service.recommend, body)
        metrics.lists.labels(own.arm, own.source).inc()
        return own

    @app.get("/recommend", tags=["answers"])
    async def recommend_simply(query: Annotated[SimpleRequest, Query()]) -> RecommendAnswer:
        """The same, for what fits into an address."""
        return await recommend(RecommendRequest(**query.model_dump()))

    @app.post("/recommend/batch", tags=["answers"])
    async def recommend_batch(request: Request, body: BatchRequest) -> BatchAnswer:
        """The lists of several users, from one product."""
        rates.take_all(request, len(body.requests))
        require_bounded(body.requests)
        answers = await answer(service.recommend_many, body.requests)
        for own in answers:
            metrics.lists.labels(own.arm, own.source).inc()
        return BatchAnswer(answers=answers)

    @app.post("/similar", tags=["answers"], responses=may_be(404))
    async def similar(body: SimilarRequest) -> SimilarAnswer:
        """The items nearest to one."""
        require_bounded([body])
        return await answer(service.similar, body)

    @app.post("/explain", tags=["answers"], responses=may_be(404))
    async def explain(body: ExplainRequest) -> ExplainAnswer:
        """A score in parts: the user's taste, and the environment."""
        return await answer(service.explain, body)

    @writes.post("/events", tags=["log"])
    async def events(request: Request, body: EventsRequest) -> EventsAnswer:
        """Keep what users did. The answer comes when it is on the disk; repeats count once."""
        rates.take_all(request, len(body.events))
        if len(body.events) > config.max_events:
            raise InputError(
                f"events: {len(body.events):,} in one request; give at most "
                f"{config.max_events:,}, in several requests"
            )
        new = await write(service.add_events, body.events)
        metrics.events.inc(new)
        return EventsAnswer(new=new, repeated=len(body.events) - new)

    @writes.put("/items", tags=["catalogue"], status_code=204)
    async def put_items(request: Request, body: ItemsRequest) -> None:
        """Add items, or change their features; those withdrawn are shown again."""
        rates.take_all(request, len(body.items))
        await write(service.put_items, body.items)

    @writes.delete("/items/{item:whole}", tags=["catalogue"], status_code=204)
    async def withdraw(item: Id) -> None:
        """Show an item to nobody from now on."""
        await write(service.withdraw, [item])

    @writes.delete("/users/{user:whole}", tags=["log"])
    async def forget(user: Id) -> dict[str, int]:
        """Forget a user: events, answers, and what training knows."""
        return {"rows": await write(service.forget, user)}

    @app.get("/versions", tags=["versions"])
    def versions() -> State:
        """Who gets which version."""
        return service.state()

    @writes.post("/versions", tags=["versions"], status_code=201)
    async def add_version(body: VersionRequest) -> dict[str, str]:
        """Make a run known that can be activated then, when it is loaded."""
        return {"version": await write(service.add_version, Path(body.path), body.name)}

    @writes.post("/activate", tags=["versions"], responses=may_be(404, 409))
    async def activate(body: ActivateRequest) -> State:
        """Give a version to all users, or try it: on a share of them, or on the log alone.

        The answer comes when the version is loaded; all is served as before meanwhile.
        """
        choices = body.model_dump(exclude={"version"})
        return await write(partial(service.activate, body.version, **choices))

    @writes.post("/rollback", tags=["versions"], responses=may_be(409))
    async def rollback() -> State:
        """End a trial; without one, give all users the version before, and so on to the first."""
        return await write(service.rollback)

    app.include_router(writes)

    @app.get("/", include_in_schema=False)
    def page() -> HTMLResponse:
        return HTMLResponse(_PAGE, headers=_PAGE_HEADERS)

    @app.get("/status", tags=["health"])
    def status() -> Status:
        """What the page at ``/`` shows."""
        return service.status()

    @app.get("/health/live", tags=["health"])
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "live"}

    @app.get("/health/ready", tags=["health"])
    async def ready() -> dict[str, str]:
        """Sampled requests were answered as they should be, and the store can be read."""
        await answer(service.replay)
        return {"status": "ready"}

    @app.get("/metrics", tags=["health"], response_class=Response)
    def show_metrics() -> Response:
        """For Prometheus."""
        metrics.age.set(service.environment_age or 0.0)
        metrics.lost.set(service.lost_answers)
        metrics.problem.set(service.problem is not None)
        metrics.wal.set(service.store.wal_bytes())
        if (drift := service.drift) is not None:
            metrics.drift.labels("live").set(drift.js)
            metrics.drift.labels("chance").set(drift.chance)
            metrics.alarm.set(drift.alarm)
        if (hits := service.hits) is not None:
            metrics.hits.labels("latest").set(hits.rate)
            # The same where it did not fall.
            metrics.hits.labels("before").set(hits.rate if hits.before is None else hits.before)
        return Response(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4")

    return app


def _digest(token: str) -> bytes:
    """Of the same length for every token."""
    return hashlib.sha256(token.encode()).digest()
