"""Getting a wheel from the package index this machine is set up for.

Where data servers are out of reach, a package index often is not. pip knows its address,
certificates, proxies and passwords, so pip is asked first: the running interpreter's, or any on
the path (an environment made with ``--without-pip`` has none of its own). Without any pip, the
index's own pages (PEP 503, PEP 691) lead to the file.
"""

from __future__ import annotations

import configparser
import html.parser
import importlib.util
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urldefrag, urljoin

import httpx

from cnsdiff.base.text import parameter
from cnsdiff.catalogue.download import Checksum, DownloadError, Retry, download, trusted
from cnsdiff.catalogue.progress import Reporter

PYPI = "https://pypi.org/simple"
_PIP_TIMEOUT = 600  # seconds for all of pip's work
_SIMPLE = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


@dataclass(frozen=True)
class Wheel:
    """A Python package that carries the data set."""

    project: str
    version: str
    """As on the package index."""
    file: str
    """Name of the wheel there."""
    checksum: Checksum
    """Of the wheel."""


def fetch_wheel(
    wheel: Wheel, target: Path, *, retry: Retry | None = None, report: Reporter | None = None
) -> str:
    """Bring a wheel to ``target``; returns where it came from, in words.

    :class:`DownloadError` if neither pip nor the index gives the wheel with this checksum.
    """
    report = report or Reporter()
    failures = []
    command = pip_command()
    if command is not None:
        report.note(f"asking pip for {wheel.project} {wheel.version}")
        try:
            _with_pip(command, wheel, target)
            return f"{wheel.project}=={wheel.version} by pip"
        except DownloadError as error:
            failures.append(str(error))
            report.note(str(error))
    try:
        return _from_index(wheel, target, retry or Retry(), report)
    except DownloadError as error:
        failures.append(str(error))
    raise DownloadError(
        f"{'; '.join(failures)}; check pip's settings (PIP_INDEX_URL) or choose another "
        f"{parameter('route')}"
    )


def pip_command() -> list[str] | None:
    """The command of pip here: the interpreter's own, else any on the path, else None."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    for name in ("pip3", "pip", "python3", "python"):
        path = shutil.which(name)
        command = [path, "-m", "pip"] if path and name.startswith("python") else [path or ""]
        if path and _works([*command, "--version"]):
            return command
    return None


def _works(command: list[str]) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _with_pip(command: list[str], wheel: Wheel, target: Path) -> None:
    requirement = f"{wheel.project}=={wheel.version}"
    with tempfile.TemporaryDirectory() as folder:
        # The wheel is opened, not run, so whatever Python it asks for does not matter.
        options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--no-input"]
        try:
            done = subprocess.run(
                [*command, "download", *options, "--dest", folder, requirement],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PIP_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DownloadError(f"pip did not bring {requirement} ({error})") from error
        file = Path(folder) / wheel.file
        if done.returncode or not file.is_file():
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = lines[-1].removeprefix("ERROR: ") if lines else "it gave another file"
            raise DownloadError(f"pip did not bring {requirement} ({reason.rstrip('.')})")
        digest = wheel.checksum.of(file)
        if digest != wheel.checksum:
            raise DownloadError(
                f"pip brought another {wheel.file} than the known one (expected "
                f"{wheel.checksum}, found {digest})"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _from_index(wheel: Wheel, target: Path, retry: Retry, report: Reporter) -> str:
    page = f"{index_address().rstrip('/')}/{wheel.project}/"
    trust = trusted()
    own = os.environ.get("PIP_CERT") or _pip_setting("cert")
    if own and Path(own).is_file():
        trust.load_verify_locations(own)
    address = _link(page, wheel.file, trust, retry)
    return download(
        [address], target, checksum=wheel.checksum, retry=retry, report=report, trust=trust
    )


def index_address() -> str:
    """The package index: ``$PIP_INDEX_URL``, else pip's configuration, else PyPI."""
    return os.environ.get("PIP_INDEX_URL") or _pip_setting("index-url") or PYPI


def _pip_setting(name: str) -> str | None:
    """A setting of ``[global]`` in pip's configuration files, the nearest file first."""
    for path in _pip_files():
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue
        value = parser.get("global", name, fallback="").strip()
        if value:
            return value
    return None


def _pip_files() -> Iterator[Path]:
    named = os.environ.get("PIP_CONFIG_FILE")
    if named:
        yield Path(named)
    yield Path(sys.prefix) / "pip.conf"
    yield Path.home() / ".config" / "pip" / "pip.conf"
    yield Path.home() / ".pip" / "pip.conf"
    yield Path("/etc/pip.conf")


def _link(page: str, file: str, trust: ssl.SSLContext, retry: Retry) -> str:
    """Address of a file on a project's page of the index."""
    timeout = httpx.Timeout(retry.read_timeout, connect=retry.connect_timeout)
    try:
        with httpx.Client(verify=trust, timeout=timeout, follow_redirects=True) as client:
            answer = client.get(page, headers={"Accept": _SIMPLE})
            answer.raise_for_status()
            links = _links(answer)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise DownloadError(f"{page}: the package index does not answer ({reason})") from error
    for link in links:
        address = urldefrag(urljoin(str(answer.url), link)).url
        if address.rpartition("/")[2] == file:
            return address
    raise DownloadError(f"{page}: the package index does not have {file}")


def _links(answer: httpx.Response) -> list[str]:
    if "json" in answer.headers.get("Content-Type", ""):
        return [str(file["url"]) for file in answer.json().get("files", [])]
    parser = _Anchors()
    parser.feed(answer.text)
    return parser.links


class _Anchors(html.parser.HTMLParser):
    """The targets of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]
