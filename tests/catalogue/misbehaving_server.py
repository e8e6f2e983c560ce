"""A web server in a thread that misbehaves as it is told."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Reply:
    """How one request is answered; the defaults are a good server's.

    ``cut``: bytes after which the connection is closed; ``short``: bytes sent and announced.
    """

    code: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    short: int | None = None
    ranges: bool = True
    etag: str | None = '"one"'
    stall: float = 0.0
    body: bytes | None = None


@dataclass
class Web:
    """What is served, how, and what was asked for."""

    port: int
    files: dict[str, bytes] = field(default_factory=dict)
    replies: list[Reply] = field(default_factory=list)
    always: Reply = field(default_factory=Reply)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of each request."""
        return [headers.get("range") for _, headers in self.seen]


def handler_of(web: Callable[[], Web]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def log_message(self, *_: object) -> None:
            return None

        def do_GET(self) -> None:
            state = web()
            state.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
            reply = state.replies.pop(0) if state.replies else state.always
            name = self.path.lstrip("/")
            if reply.code != 200 or (reply.body is None and name not in state.files):
                self._empty(reply.code if reply.code != 200 else 404, reply.headers)
                return
            body = state.files[name] if reply.body is None else reply.body
            self._send(state, reply, body)

        def _empty(self, code: int, headers: dict[str, str]) -> None:
            self.send_response(code)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _send(self, state: Web, reply: Reply, body: bytes) -> None:
            start, whole = 0, body
            wanted = self.headers.get("Range")
            same = self.headers.get("If-Range") in (
                None,
                reply.etag,
                reply.headers.get("Last-Modified"),
            )
            if reply.short is not None:
                body = body[: reply.short]
            if reply.ranges and wanted and same:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                self.send_response(206)
                last = f"{len(whole) - 1}/{len(whole)}"
                self.send_header("Content-Range", f"bytes {start}-{last}")
            else:
                self.send_response(200)
            for key, value in reply.headers.items():
                self.send_header(key, value)
            if reply.etag:
                self.send_header("ETag", reply.etag)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            part = body[start:]
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(part if reply.cut is None else part[: reply.cut])
                self.wfile.flush()
                if reply.stall:
                    state.stop.wait(reply.stall)
            if reply.cut is not None:
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

    return Handler


class Quiet(ThreadingHTTPServer):
    """A server whose clients may vanish; closing it waits for its threads."""

    daemon_threads = False

    def handle_error(self, request: object, client_address: object) -> None:
        return None


@contextlib.contextmanager
def serving() -> Iterator[Web]:
    """A server on a free port of this machine."""
    state: list[Web] = []
    server = Quiet(("127.0.0.1", 0), handler_of(lambda: state[0]))
    state.append(Web(server.server_address[1]))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state[0]
    finally:
        state[0].stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
