"""SQLite or PostgreSQL behind one door: durable writes in groups, and failures in a sentence."""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, overload

from cnsdiff.base.errors import CnsdiffError, InputError, StorageError
from cnsdiff.base.storage import atomic_file, first_line, storage_error
from cnsdiff.base.text import install_command, shell_word, visible

try:
    from sqlalchemy import (
        URL,
        Connection,
        Table,
        create_engine,
        event,
        func,
        make_url,
        select,
        text,
    )
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError
except ModuleNotFoundError as error:
    raise InputError(
        f"serving needs {error.name}; install it with: {install_command('serve')}"
    ) from error

T = TypeVar("T")
logger = logging.getLogger(__name__)

#: How the places of a store are written.
FORMS = "sqlite:///events.db or postgresql+psycopg://user@host/database"
NO_STORE = "there is no store; name the one of cnsdiff serve"
#: Endings of the names of SQLite's files.
_FILES = ("", "-wal", "-shm", "-journal")
#: Calls that share a transaction at most.
_GROUP = 1000
#: Number of the lock in PostgreSQL that whoever writes holds until its rows can be seen.
_WRITING = 0x636E7364
#: Bytes of SQLite's write-ahead log that are worth a warning, and seconds between two of them.
_LONG_LOG, _BETWEEN_WARNINGS = 256 << 20, 60.0
#: Seconds between two looks at the log, and that a look may wait for readers.
_LOOK, _LOOK_WAITS = 1.0, 0.2

_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_REFUSED = ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")


class NewRows(NamedTuple):
    """Rows for a table; those whose ``key`` is there already are left out, the first of two stays.

    As work for the writer its result is the number of new ones.
    """

    table: Table
    key: str
    rows: list[dict[str, object]]


class _Call(NamedTuple, Generic[T]):
    """Work for the writer, and where its caller waits."""

    work: Callable[[Connection], T] | NewRows
    answer: Future[T]


class Database:
    """Reads from any thread; writes by one thread, all that wait in one transaction.

    A commit costs a flush of the disk, whatever is in it: callers that come during one share the
    next. PostgreSQL's writers hold a lock from their first row until it can be seen, as SQLite's
    do anyway: numbers that rows are given in order become visible in order, and a reader that asks
    for what follows the last number it has seen misses nothing.

    Parameters
    ----------
    url
        ``sqlite:///events.db`` or ``postgresql+psycopg://user@host/database``, or the path of a
        SQLite file that is there.
    timeout
        Seconds to wait for another process that writes, and for a connection.
    create
        Whether SQLite may make a new file.

    Raises
    ------
    InputError
        The URL is wrong, its driver is not installed, or what is there is no such database.
    StorageError
        It cannot be reached or written.
    """

    def __init__(self, url: str, *, timeout: float = 5.0, create: bool = True) -> None:
        parts = _parsed(url)
        self.place = visible(parts.set(query={}).render_as_string(hide_password=True))
        self.url = parts
        self.timeout = timeout
        self.path = Path(str(parts.database)) if parts.get_backend_name() == "sqlite" else None
        options: dict[str, float]
        if self.path is None:
            options = {"connect_timeout": max(2, round(timeout)), "tcp_user_timeout": 10_000}
            options = {name: value for name, value in options.items() if name not in parts.query}
        else:
            self._require_file(self.path, create)
            options = {"timeout": timeout}
        try:
            self._engine = create_engine(
                parts,
                connect_args=options,
                pool_pre_ping=self.path is None,
                # A connection for each thread of a web server.
                max_overflow=40,
                # Parameters are people's ids, and messages go to logs.
                hide_parameters=True,
            )
        except ModuleNotFoundError as error:
            raise InputError(
                f"{self.place}: needs {error.name}; install it with: "
                f"{install_command('postgresql')}"
            ) from error
        self._insert = _insert_of(self._engine.dialect.name)
        event.listen(self._engine, "connect", self._prepare)
        if self.path is not None:
            event.listen(self._engine, "begin", _begin)
        self._calls: queue.SimpleQueue[_Call[Any] | None] = queue.SimpleQueue()
        self._closed = False
        self._emptying = threading.Lock()
        self._forgotten = False
        self._looked = self._warned = float("-inf")
        self._writer = threading.Thread(target=self._write, name="cnsdiff-writer", daemon=True)
        self._writer.start()

    # -- opening -------------------------------------------------------------------------------

    def _require_file(self, path: Path, create: bool) -> None:
        if not create and not path.is_file():
            raise InputError(f"{path}: {NO_STORE}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(path, error) from error

    def _prepare(self, connection: Any, _: object) -> None:
        if self.path is None:
            with connection.cursor() as cursor:
                wait = f"{round(self.timeout * 1000)}ms"
                cursor.execute("SELECT set_config('lock_timeout', %s, false)", (wait,))
                cursor.execute(
                    "SELECT set_config('synchronous_commit', 'on', false) "
                    "WHERE current_setting('synchronous_commit') = 'off'"
                )
            connection.commit()
            return
        connection.isolation_level = None  # else Python begins transactions of its own
        for setting in ("synchronous = FULL", "fullfsync = ON", "secure_delete = ON"):
            connection.execute(f"PRAGMA {setting}")

    def write_ahead(self) -> None:
        """Let SQLite write ahead into a log, so that readers and the writer do not wait.

        It changes the file, so that of others is refused before.
        """
        if self.path is None:
            return
        ends = time.monotonic() + self.timeout
        with self._failures():
            while True:
                try:
                    with self._raw() as connection:
                        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
                    break
                except sqlite3.OperationalError as error:  # this one does not wait by itself
                    if not _is_busy(error) or time.monotonic() > ends:
                        raise
                    time.sleep(0.01)
        if mode != "wal":
            raise InputError(
                f"{self.path}: is on a file system without locks that SQLite could use; put it on "
                "a local disk, or use PostgreSQL"
            )

    # -- reading and writing -------------------------------------------------------------------

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection to read with; all it reads on SQLite is of one moment."""
        with self._failures(), self._engine.connect() as connection:
            yield connection

    def look_up(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """The rows of one statement in the driver's own words, for what every answer asks for."""
        with self._failures():
            connection = self._engine.raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute(statement, parameters)
                return list(cursor.fetchall())
            finally:
                connection.close()

    @cached_property
    def placeholder(self) -> str:
        """What stands for a parameter in the driver's words."""
        return "?" if self._engine.dialect.paramstyle == "qmark" else "%s"

    @overload
    def submit(self, work: NewRows) -> Future[int]: ...
    @overload
    def submit(self, work: Callable[[Connection], T]) -> Future[T]: ...
    def submit(self, work: Callable[[Connection], Any] | NewRows) -> Future[Any]:
        """Have the writer do ``work``; the future has its result once that is durable.

        ``work`` is done again, alone, if the transaction fails that it shared.
        """
        if self._closed:
            raise StorageError(f"{self.place}: is closed; open it again")
        answer: Future[Any] = Future()
        self._calls.put(_Call(work, answer))
        return answer

    @overload
    def write(self, work: NewRows) -> int: ...
    @overload
    def write(self, work: Callable[[Connection], T]) -> T: ...
    def write(self, work: Callable[[Connection], Any] | NewRows) -> Any:
        """The result of ``work``, once it is durable."""
        return self.submit(work).result()

    def _write(self) -> None:
        """Serve the calls until one is ``None``."""
        more = True
        while more:
            calls: list[_Call[Any]] = []
            with contextlib.suppress(queue.Empty):
                call = self._calls.get(timeout=_LOOK)
                while call is not None:
                    if call.answer.set_running_or_notify_cancel():
                        calls.append(call)
                    if len(calls) == _GROUP:
                        break
                    call = self._calls.get_nowait()
                more = call is not None
            if calls:
                self._commit(calls)
            self._look_after_log()

    def _commit(self, calls: list[_Call[Any]]) -> bool:
        """Do all in one transaction, or each in its own; whether the database can be written."""
        begun = False
        try:
            with self._failures(), self._transaction() as connection:
                begun = True
                results = self._results(connection, [call.work for call in calls])
        except Exception as error:
            if begun and len(calls) > 1:
                for number, call in enumerate(calls, start=1):
                    if not self._commit([call]):
                        _refuse(calls[number:], error)
                        return False
                return True
            _refuse(calls, error)
            return begun
        for call, result in zip(calls, results, strict=True):
            call.answer.set_result(result)
        return True

    def _results(
        self, connection: Connection, works: Sequence[Callable[[Connection], Any] | NewRows]
    ) -> list[Any]:
        """Do all; new rows of a table first, those of all calls in one statement."""
        rows: dict[tuple[Table, str], list[dict[str, object]]] = {}
        for work in works:
            if isinstance(work, NewRows):
                rows.setdefault((work.table, work.key), []).extend(work.rows)
        new = {
            table: set(
                connection.scalars(
                    self._insert(table).on_conflict_do_nothing().returning(table.c[key]), together
                )
            )
            for (table, key), together in rows.items()
        }
        results: list[Any] = []
        for work in works:
            if isinstance(work, NewRows):
                own = {row[work.key] for row in work.rows} & new[work.table]
                new[work.table] -= own  # the same in a later call is not new
                results.append(len(own))
            else:
                results.append(work(connection))
        return results

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            connection.execution_options(writes=True)
            with connection.begin():
                if self.path is None:
                    connection.execute(select(func.pg_advisory_xact_lock(_WRITING)))
                yield connection

    @contextlib.contextmanager
    def _raw(self) -> Iterator[Any]:
        """A connection of the driver, outside of any transaction."""
        pooled = self._engine.raw_connection()
        try:
            yield pooled.driver_connection
        finally:
            pooled.close()

    def close(self) -> None:
        """Finish what waits, and close all connections."""
        if not self._closed:
            self._closed = True
            self._calls.put(None)
            self._writer.join()
            self._engine.dispose()

    # -- SQLite's log ----------------------------------------------------------------------------

    def wal_bytes(self) -> int:
        """Size of SQLite's write-ahead log; 0 for PostgreSQL."""
        if self.path is None:
            return 0
        try:
            return self.path.with_name(f"{self.path.name}-wal").stat().st_size
        except OSError:
            return 0

    def empty_log(self, *, forgotten: bool = False) -> bool:
        """Move SQLite's log into the file and cut it off; False while readers need it.

        With ``forgotten``, it holds what was deleted: the writer tries again until it succeeds.
        """
        if self.path is None:
            return True
        with self._emptying, self._failures(), self._raw() as connection:
            self._forgotten |= forgotten
            connection.execute(f"PRAGMA busy_timeout = {round(_LOOK_WAITS * 1000)}")
            try:
                ((busy, *_),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                connection.execute(f"PRAGMA busy_timeout = {round(self.timeout * 1000)}")
            self._forgotten &= bool(busy)
        return not busy

    def _look_after_log(self) -> None:
        now = time.monotonic()
        if self.path is None or now - self._looked < _LOOK:
            return
        self._looked = now
        if not self._forgotten and self.wal_bytes() <= _LONG_LOG:
            return
        with contextlib.suppress(CnsdiffError):
            self.empty_log()
        size = self.wal_bytes()
        if size > _LONG_LOG and now - self._warned > _BETWEEN_WARNINGS:
            self._warned = now
            logger.warning(
                "%s: its write-ahead log has %d MB, because a reader has held it for long; end "
                "the process that reads it (a backup, a shell), or the disk fills",
                self.place,
                size >> 20,
            )

    # -- backups and checks ----------------------------------------------------------------------

    def copy(self, path: Path) -> None:
        """Write all that SQLite has committed to a file, in one step, while others go on writing.

        Raises
        ------
        InputError
            The database is PostgreSQL, or the file is its own.
        """
        if self.path is None:
            address = self.url._replace(drivername="postgresql", password=None)
            raise InputError(
                f"{self.place}: PostgreSQL makes its own backups; run: pg_dump -Fc "
                f"-f {shell_word(path)} {shell_word(address.render_as_string())}"
            )
        own = {self.path.with_name(self.path.name + ending).resolve() for ending in _FILES}
        if path.resolve() in own:
            raise InputError(f"{path}: is the store itself; choose another file")
        with atomic_file(path) as temporary, self._failures(), self._raw() as connection:
            connection.execute("VACUUM INTO ?", (str(temporary),))

    def problems(self) -> list[str]:
        """What is wrong with the pages of SQLite, or with how PostgreSQL is set up."""
        try:
            if self.path is not None:
                with self._failures(), self._raw() as connection:
                    rows = connection.execute("PRAGMA integrity_check(20)").fetchall()
                lines = "\n".join(row for (row,) in rows if row != "ok").splitlines()
                return [visible(line) for line in lines if not line.startswith("***")]
            with self.read() as connection:
                return [
                    f"{name} is off, so that a crash loses events; switch it on in postgresql.conf"
                    for name in ("fsync", "full_page_writes")
                    if connection.scalar(select(func.current_setting(name))) == "off"
                ]
        except CnsdiffError as error:
            return [str(error)]

    def last_number(self, connection: Connection, table: str) -> int:
        """The last number that a table has given to a row."""
        if self.path is not None:
            query = text("SELECT seq FROM sqlite_sequence WHERE name = :name")
        else:
            query = text("SELECT pg_sequence_last_value(pg_get_serial_sequence(:name, 'seq'))")
        return connection.scalar(query, {"name": table}) or 0

    # -- failures --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error) as error:
            raise self._sentence(error) from error

    def _sentence(self, error: Exception) -> CnsdiffError:
        """What a driver's error means here, and the mend."""
        cause = getattr(error, "orig", None) or error
        words = visible(first_line(cause))
        if self.url.password:
            words = words.replace(str(self.url.password), "***")
        name = getattr(cause, "sqlite_errorname", "")
        state = getattr(cause, "sqlstate", None) or ""
        place = self.place
        if _is_busy(cause) or state == "55P03":
            return StorageError(
                f"{place}: another process has held it for {self.timeout:g} s, so this was not "
                "done; try again, or end that process"
            )
        if name == "SQLITE_FULL" or state == "53100":
            return StorageError(
                f"{place}: the disk is full, so this was not written (what was there before is "
                "untouched); free some space and try again"
            )
        if name.startswith("SQLITE_IOERR"):
            return StorageError(
                f"{place}: the disk refused ({words}), so this was not written; see whether it is "
                "full or failing"
            )
        if name.startswith(_REFUSED):
            refused = StorageError(
                f"{place}: cannot be written ({words}); check the permissions of the file and its "
                "folder"
            )
            refused.exit_code = InputError.exit_code
            return refused
        if name.startswith(_DAMAGED) or words.startswith("Could not decode"):
            return InputError(
                f"{place}: is damaged, or not a SQLite file ({words}); restore a backup, or name "
                "another file"
            )
        if self.path is None and (not state or state[:2] in ("08", "28", "3D", "53", "57")):
            return StorageError(
                f"{place}: PostgreSQL does not answer ({words}); check that it runs, and the "
                "address, user and password"
            )
        return StorageError(
            f"{place}: the database refused ({words}); check it with: cnsdiff store check"
        )


def _parsed(url: str) -> URL:
    """The parts of a store's URL; what is wrong with it never repeats it, for its password."""
    if "://" not in url and Path(url).is_file():
        return URL.create("sqlite", database=url)
    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        raise InputError(
            "the address of the store is neither a URL nor the path of a file that is there; "
            f"write {FORMS}"
        ) from None
    if parts.drivername == "postgresql":
        parts = parts.set(drivername="postgresql+psycopg")
    if parts.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise InputError(f"{visible(parts.drivername)}: not a kind of store; write {FORMS}")
    in_file = parts.database not in (None, "", ":memory:") and not parts.query and not parts.host
    if parts.get_backend_name() == "sqlite" and not in_file:
        raise InputError(
            "the store must be a file, so that events outlive the process; write "
            "sqlite:///events.db"
        )
    return parts


def _insert_of(dialect: str) -> Any:
    """``insert`` as the dialect has it, with ``on_conflict_do_nothing``."""
    if dialect == "sqlite":
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]
    return insert


def _begin(connection: Connection) -> None:
    """A writer takes SQLite's lock at once: with rows read before, it could not wait for it."""
    immediate = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _is_busy(error: object) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def _refuse(calls: list[_Call[Any]], error: Exception) -> None:
    for call in calls:
        # Each its own: raised in two threads at once, one would get the other's traceback.
        own = type(error)(*error.args) if isinstance(error, CnsdiffError) else error
        call.answer.set_exception(own)
