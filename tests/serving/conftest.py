"""A store on SQLite and the same on PostgreSQL, which the tests start as an ordinary user."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from cnsdiff.serving.store import Store

#: Runs the server until the test process says so, or ends, however it ends: then nobody holds the
#: pipe, and the folder goes, too. The server ends at once, as in a crash.
_SUPERVISED = """
folder=$1; shift
"$@" & read -r word
kill -QUIT $!; wait $!
[ "$word" = stop ] || rm -rf "$folder"
"""


def find_binaries() -> Path:
    """The folder of PostgreSQL's programs; the tests fail without one, with the way to get it."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda file: float(file.parts[-3])
    )
    on_path = shutil.which("postgres")
    if on_path:
        found.append(Path(on_path).resolve())
    if not found:
        pytest.fail(
            "the tests of the store need PostgreSQL: run tests/install-services.sh, or have "
            "postgres on the PATH",
            pytrace=False,
        )
    return found[-1].parent


class PostgreSQL:
    """A server of its own folder and socket, run by an ordinary user even where root tests."""

    def __init__(self) -> None:
        self.binaries = find_binaries()
        # Not below pytest's folder, which only its owner may enter.
        self.folder = Path(tempfile.mkdtemp(prefix="cnsdiff-pg-"))
        self._as = {}
        if os.geteuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._run("initdb", "-A", "trust", "-U", "cnsdiff", "-E", "UTF8", "--locale=C", "--no-sync")
        self.start()

    def _run(self, program: str, *words: str) -> None:
        command = [self.binaries / program, "-D", self.folder / "data", *words]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=False, **self._as
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        command = [self.binaries / "postgres", "-D", self.folder / "data", "-k", self.folder]
        # After a crash it would flush every file of every test by itself.
        for setting in (
            "listen_addresses=",
            "shared_buffers=16MB",
            "recovery_init_sync_method=syncfs",
        ):
            command += ["-c", setting]
        with (self.folder / "log").open("a") as log:
            self._server = subprocess.Popen(
                ["sh", "-c", _SUPERVISED, "sh", self.folder, *command],
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                **self._as,
            )
        ends = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.conninfo).close()
                return
            except psycopg.OperationalError:
                log = (self.folder / "log").read_text()
                assert self._server.poll() is None and time.monotonic() < ends, log
                time.sleep(0.02)

    def stop(self) -> None:
        self._server.communicate(b"stop\n", timeout=30)

    def remove(self) -> None:
        self._server.stdin.close()

    @property
    def conninfo(self) -> str:
        return f"host={self.folder} user=cnsdiff dbname=postgres"

    def url(self, schema: str, password: str = "") -> str:
        """The address of a schema that nobody has used yet."""
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {schema}")
        user = f"cnsdiff:{password}" if password else "cnsdiff"
        query = f"host={self.folder}&options=-csearch_path%3D{schema}"
        return f"postgresql+psycopg://{user}@/postgres?{query}"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    server = PostgreSQL()
    yield server
    server.remove()


_numbers = itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a store that does not exist yet, on each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store' / 'events.db'}"
    return request.getfixturevalue("postgresql").url(f"s{next(_numbers)}")


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store.open(store_url) as opened:
        yield opened
