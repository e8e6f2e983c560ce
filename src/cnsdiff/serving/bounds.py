"""What a request may take: its host, the size and the time of its body, and how many come."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cnsdiff.base.text import visible
from cnsdiff.serving.config import ServiceConfig

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
#: Called after each request: its scope, the status of its answer, and the seconds that it took.
Observe = Callable[[Scope, int, float], None]
#: Addresses whose rate is remembered.
_CLIENTS = 10_000
#: Characters of a Host header that a refusal repeats.
_SHOWN = 100


class BoundError(Exception):
    """A request is beyond a bound: the status and the headers of the refusal, and a sentence."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers

    @property
    def response(self) -> JSONResponse:
        """The refusal."""
        return JSONResponse({"error": visible(self)}, self.status, self.headers)


class Rates:
    """How much each client address may ask for: a bucket that fills with ``rate`` a second.

    Parameters
    ----------
    rate
        Lists, events, items and other requests a second; 0 for no limit.
    """

    def __init__(self, rate: float) -> None:
        self._rate, self._most = rate, max(rate, 1.0)
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, scope: Scope, number: float = 1.0, *, left: float = 1.0) -> None:
        """Count ``number`` for the client of a request if it has ``left``; :class:`BoundError`.

        What a body turns out to hold may be more than is left. It is answered, and the client
        waits the longer afterwards: so a batch may be larger than ``rate``.
        """
        if not self._rate:
            return
        client, now = (scope.get("client") or ("", 0))[0], time.monotonic()
        own, at = self._clients.pop(client, (self._most, now))
        own = min(self._most, own + (now - at) * self._rate)
        enough = own >= left
        self._clients[client] = own - number if enough else own, now
        if len(self._clients) > _CLIENTS:
            self._clients.popitem(last=False)
        if not enough:
            wait = max(1, math.ceil((left - own) / self._rate))
            raise BoundError(
                429,
                f"this address is over its rate of {self._rate:g} a second (lists, events, items "
                f"and other requests together); wait {wait:,} s",
                **{"Retry-After": str(wait)},
            )

    def take_all(self, request: Request, number: int) -> None:
        """Count a request whose body holds ``number`` lists or events, not one."""
        self.take(request.scope, number - 1, left=0.0)


class Bounds:
    """Middleware that refuses what is beyond the bounds, and observes every request.

    Plain ASGI: a body is counted as it comes in, so that one without a length is bounded, too. It
    is read before anything is refused: a client that still sends would not read the refusal.
    """

    def __init__(self, app: Any, config: ServiceConfig, rates: Rates, observe: Observe) -> None:
        self.app, self.config, self.rates, self.observe = app, config, rates, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            await send(message)

        try:
            body = await self._body(receive)
            _require_host(scope, self.config.hosts)
            self.rates.take(scope)
            await self.app(scope, _again(body, receive), watched)
        except BoundError as error:
            await error.response(scope, receive, watched)
        except Exception:
            status = status or 500  # which is answered further out
            raise
        finally:
            self.observe(scope, status, time.perf_counter() - started)

    async def _body(self, receive: Receive) -> bytes:
        """The whole body."""
        parts, size, more = bytearray(), 0, True
        try:
            async with asyncio.timeout(self.config.transfer_timeout):
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise BoundError(499, "the client is gone")  # nobody reads this
                    part = message.get("body", b"")
                    size += len(part)
                    if size <= self.config.max_body:
                        parts += part
                    more = message.get("more_body", False)
        except TimeoutError as error:
            raise BoundError(
                408,
                f"the body did not come within {self.config.transfer_timeout:g} s; send it at "
                "once, or in smaller parts",
                Connection="close",
            ) from error
        if size > self.config.max_body:
            raise BoundError(
                413, f"the body has more than {self.config.max_body:,} bytes; send it in parts"
            )
        return bytes(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """The body as one message, then whatever else comes."""
    first = True

    async def once() -> Message:
        nonlocal first
        if not first:
            return await receive()
        first = False
        return {"type": "http.request", "body": body, "more_body": False}

    return once


def _require_host(scope: Scope, hosts: Sequence[str]) -> None:
    """Refuse a request that asks for another host.

    A page of somebody else's, open in a browser that reaches the service, may have the name of its
    own host resolve to the service's address, and then read the answers. It cannot have the
    browser ask for an address, or for a name of ours.
    """
    given = next((value for name, value in scope["headers"] if name == b"host"), None)
    if given is None:  # of no browser
        return
    host = given.decode("latin-1").lower()
    name, bracket, _ = host.removeprefix("[").partition("]")
    if not bracket:
        name = host.partition(":")[0]
    if name == "localhost" or _is_address(name):
        return
    for own in map(str.lower, hosts):
        if own in ("*", name) or (own.startswith("*.") and name.endswith(own[1:])):
            return
    raise BoundError(
        400,
        f"the host {name[:_SHOWN]!r} is none of this service's; ask for its address, or name the "
        "host under 'hosts' in the settings of the service",
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def protocol(seconds: float) -> type[HttpToolsProtocol]:
    """A protocol of uvicorn that hangs up on clients that stand still for some time.

    That is, on who sends no whole head of a request, and on who does not read the answer.
    """

    class Impatient(HttpToolsProtocol):
        """Uvicorn by itself waits without end."""

        _waiting: asyncio.TimerHandle | None = None

        def _wait(self) -> None:
            self._cease()
            # Not close, which waits until all that is written was read.
            self._waiting = self.loop.call_later(seconds, self.transport.abort)

        def _cease(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._wait()

        def on_headers_complete(self) -> None:
            self._cease()
            super().on_headers_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._wait()

        def resume_writing(self) -> None:
            self._cease()
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cease()
            super().connection_lost(exc)

    return Impatient
