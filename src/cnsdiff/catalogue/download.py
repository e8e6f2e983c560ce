"""Fetching one file over HTTP: resumed, retried, verified, and there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from cnsdiff.base.errors import CnsdiffError
from cnsdiff.base.storage import read_json, storage_error, write_json
from cnsdiff.catalogue.progress import Reporter
from cnsdiff.display.wording import byte_size


@dataclass(frozen=True)
class Checksum:
    """A published digest of a file."""

    algorithm: Literal["sha256", "md5"]
    """``"sha256"``, or ``"md5"`` where the publisher gives no better."""
    digest: str
    """In hexadecimal, lower case."""

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digest}"

    def of(self, path: Path) -> Checksum:
        """The digest of a file's bytes by the same algorithm."""
        with path.open("rb") as file:
            return Checksum(self.algorithm, hashlib.file_digest(file, self.algorithm).hexdigest())


class Part:
    """The bytes received so far, and what it takes to go on with them.

    ``NAME.part`` holds the bytes, ``NAME.part.json`` their address, the validator that the server
    gave (an ETag or a date) and the length of the whole.
    """

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self._notes = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        """Bytes received; 0 if there are none."""
        return self.path.stat().st_size if self.path.exists() else 0

    def notes(self, address: str) -> dict[str, Any]:
        """The record of the received part, if it came from ``address``."""
        try:
            notes = read_json(self._notes)
        except (OSError, ValueError):
            return {}
        same = isinstance(notes, dict) and notes.get("address") == address
        return notes if same and self.size else {}

    def begin(self, address: str, validator: str | None, total: int | None) -> None:
        """Forget what was there; the body starts at its first byte."""
        self.remove()
        write_json(self._notes, {"address": address, "validator": validator, "total": total})
        self.path.touch()

    def remove(self) -> None:
        """Forget it all."""
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        """The bytes are complete: put them in place in one step."""
        self.path.replace(target)
        self._notes.unlink(missing_ok=True)


_BUSY = {408, 425, 429, 500, 502, 503, 504}


class DownloadError(CnsdiffError):
    """A file could not be had from any of its addresses."""


@dataclass(frozen=True)
class Retry:
    """Patience of a download."""

    attempts: int = 6
    """How often in a row an address may fail before the next is tried; receiving
    ``worthwhile`` more bytes than ever before starts the count again."""
    first_wait: float = 1.0
    longest_wait: float = 60.0
    """Seconds before the second attempt, doubled before each one after it, up to the longest."""
    longest_request: float = 120.0
    """Seconds of a server's ``Retry-After`` that are honoured at most."""
    connect_timeout: float = 15.0
    read_timeout: float = 60.0
    """Seconds for a connection to stand, and between two pieces of the body."""
    worthwhile: int = 1 << 20
    sleep: Callable[[float], None] = time.sleep
    """What waits (tests give their own)."""

    def wait(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        return min(self.first_wait * 2.0 ** (failures - 1), self.longest_wait)


class _Refused(Exception):
    """The address will not give the file, however often it is asked."""


class _Failed(Exception):
    """It did not work this time; ``wait`` is what the server asked for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def download(
    addresses: Sequence[str],
    target: Path,
    *,
    checksum: Checksum | None = None,
    retry: Retry | None = None,
    report: Reporter | None = None,
    advice: str = "",
    trust: ssl.SSLContext | None = None,
) -> str:
    """Fetch a file from the first of its addresses that gives it; returns that address.

    What arrives is written to ``TARGET.part``, and stays there when the download is interrupted:
    the next call asks the same address for the rest only, on condition that the file is still the
    same (RFC 9110, ``If-Range``). ``target`` itself appears in one step, complete and verified
    against its ``checksum``, or without one against its length.

    Addresses are tried in order, each as patiently as ``retry`` says. ``advice`` on what the caller
    can do instead ends the sentence of a failure; ``trust`` are certificates in place of the
    system's and certifi's.

    Raises
    ------
        DownloadError
            No address gave the file, or not the one with this checksum (which is then removed).
        StorageError
            It cannot be written, for instance on a full disk; nothing is left behind.
    """
    retry, report, part = retry or Retry(), report or Reporter(), Part(target)
    failures: list[str] = []
    client = httpx.Client(
        follow_redirects=True,
        verify=trust or trusted(),
        timeout=httpx.Timeout(retry.read_timeout, connect=retry.connect_timeout),
        headers={"User-Agent": f"cnsdiff/{version('cnsdiff')}", "Accept-Encoding": "identity"},
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with client:
            for address in addresses:
                try:
                    _receive(client, address, part, retry, report)
                    _verify(part, checksum)
                except _Refused as reason:
                    failures.append(f"{address}: {reason}")
                    report.note(failures[-1])
                    continue
                part.finish(target)
                return address
    except OSError as error:
        with contextlib.suppress(OSError):
            part.remove()  # a part that fills the disk helps nobody
        raise storage_error(target, error) from error
    raise DownloadError("; ".join([*failures, advice] if advice else failures))


def trusted() -> ssl.SSLContext:
    """The system's certificates (which closed networks extend) and those of certifi."""
    context = httpx.create_ssl_context()
    context.load_default_certs()
    return context


def _receive(
    client: httpx.Client, address: str, part: Part, retry: Retry, report: Reporter
) -> None:
    """Try until the part is complete or patience ends."""
    failures, most = 0, part.size
    while True:
        try:
            _attempt(client, address, part, retry, report)
        except _Failed as failure:
            if part.size >= most + retry.worthwhile:
                failures, most = 0, part.size
            failures += 1
            if failures >= retry.attempts:
                times = f" ({failures} attempts)" if failures > 1 else ""
                raise _Refused(f"{failure}{times}") from failure
            wait = retry.wait(failures) if failure.wait is None else failure.wait
            report.note(f"{address}: {failure}; trying again in {wait:.0f} s")
            retry.sleep(wait)
        else:
            return


def _attempt(
    client: httpx.Client, address: str, part: Part, retry: Retry, report: Reporter
) -> None:
    """Ask once for what is missing, and write it."""
    notes = part.notes(address)
    have = part.size
    if notes and notes.get("total") == have:
        return
    headers = {}
    # Without a validator nothing tells whether the rest belongs to what is here.
    if notes.get("validator"):
        headers = {"Range": f"bytes={have}-", "If-Range": notes["validator"]}
    try:
        with client.stream("GET", address, headers=headers) as response:
            _check_status(response, part, retry)
            total = _total(response)
            if response.status_code == httpx.codes.PARTIAL_CONTENT:
                if _start(response) != have or not headers:
                    part.remove()
                    raise _Failed("the server sent another part of the file than was asked for")
            else:
                part.begin(address, _validator(response), total)
                have = 0
            report.begin(_name(address), have, total)
            with part.path.open("ab") as file:
                # As it comes: a chunk size would hold bytes back, and lose them when it breaks.
                for block in response.iter_raw():
                    file.write(block)
                    report.advance(len(block))
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise _Refused(f"cannot be asked for ({error})") from error
    except httpx.TransportError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise _Refused("the server's certificate is not trusted on this machine") from error
        raise _Failed(_broken(error, part.size - have)) from error
    if total is not None and part.size != total:
        received = part.size
        if received > total:
            part.remove()
        raise _Failed(f"{byte_size(received)} of {byte_size(total)} arrived")


def _check_status(response: httpx.Response, part: Part, retry: Retry) -> None:
    code = response.status_code
    if code in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
        return
    reason = f"the server says {code} {response.reason_phrase}".rstrip()
    if code in _BUSY:
        raise _Failed(reason, _retry_after(response, retry.longest_request))
    if code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        part.remove()
        raise _Failed("the server no longer has the part that was missing")
    raise _Refused(reason)


def _retry_after(response: httpx.Response, longest: float) -> float | None:
    """Seconds until the server wants to be asked again; it may name seconds or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
        except ValueError:
            return None
        seconds = (date - datetime.now(date.tzinfo and UTC)).total_seconds()
    return min(max(seconds, 0.0), longest) if seconds == seconds else None


def _total(response: httpx.Response) -> int | None:
    """Bytes of the whole file, if the server says."""
    if response.status_code == httpx.codes.PARTIAL_CONTENT:
        text = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _start(response: httpx.Response) -> int | None:
    """First byte of a partial answer."""
    unit, _, span = response.headers.get("Content-Range", "").partition(" ")
    first = span.partition("-")[0]
    return int(first) if unit == "bytes" and first.isdecimal() else None


def _validator(response: httpx.Response) -> str | None:
    """The validator for ``If-Range``: a strong ETag, else the date of the last change."""
    tag: str = response.headers.get("ETag", "")
    if tag and not tag.startswith("W/"):
        return tag
    changed: str | None = response.headers.get("Last-Modified")
    return changed


def _broken(error: httpx.TransportError, received: int) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "the server does not answer in time"
    if isinstance(error, httpx.ConnectError):
        return f"cannot be reached ({error})"
    return f"the connection broke after {byte_size(max(received, 0))}"


def _verify(part: Part, checksum: Checksum | None) -> None:
    if checksum is None:
        return
    digest = checksum.of(part.path)
    if digest != checksum:
        part.remove()
        raise _Refused(
            f"the file that came is not the published one (expected {checksum}, found {digest}) "
            "and was removed"
        )


def _name(address: str) -> str:
    return urlsplit(address).path.rpartition("/")[2] or address
