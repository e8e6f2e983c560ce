"""What the service keeps: events, answers, items, versions and which of them is active.

One set of tables over SQLite and PostgreSQL. Ids of users and items are text here. A row has a
number, ``seq``; rows become visible in the order of their numbers, so that whoever follows a table
asks for what comes after the last number that it has seen.
"""

from __future__ import annotations

# Before SQLAlchemy: it says how to install that.
from cnsdiff.serving.database import NO_STORE, Database, NewRows

# isort: split
import hashlib
import json
import math
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Self, TypeAlias

import polars as pl
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    MetaData,
    Row,
    Select,
    Table,
    Text,
    delete,
    exists,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)

from cnsdiff.base.errors import CnsdiffError, ConflictError, InputError
from cnsdiff.base.storage import first_line
from cnsdiff.base.text import parameter, visible
from cnsdiff.serving.records import Activation, Answer, Event, Version

_Row: TypeAlias = dict[str, object]

SCHEMA_VERSION = 2
#: Bytes of an id in UTF-8: an index of PostgreSQL takes 2,700 for two of them.
LONGEST_ID = 1000
#: Rows that are read at once where all are, and ids that are asked for at once.
_ROWS, _IDS = 100_000, 10_000
#: Wrong rows of a table that :meth:`Store.check` names.
_SHOWN = 5


def _text(name: str, **options: Any) -> Column[str]:
    return Column(name, Text, nullable=options.pop("nullable", False), **options)


def _number(name: str) -> Column[float]:
    return Column(name, Double, nullable=False)


def _table(name: str, *columns: Any) -> Table:
    """A table numbered by ``seq``; SQLite gives no number again after the last row is deleted."""
    seq: Column[int] = Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    return Table(name, _METADATA, seq, *columns, sqlite_autoincrement=True)


_METADATA = MetaData()
_META = Table("meta", _METADATA, _text("key", primary_key=True), _text("value"))
_EVENTS = _table(
    "events",
    _text("event_id", unique=True),
    _text("user"),
    _text("item"),
    _number("timestamp"),
    _text("type", nullable=True),
    _number("received"),
    Index("events_user", "user", "item"),
)
_ANSWERS = _table(
    "answers",
    _text("request_id", unique=True),
    _number("at"),
    _text("user"),
    _text("version"),
    _text("arm"),
    _number("arm_probability"),
    _text("source"),
    Column("k", Integer, nullable=False),
    _text("items"),
    _text("propensities"),
    _text("rules", nullable=True),
    Column("item_seq", BigInteger, nullable=True),
    Index("answers_user", "user"),
)
_ITEMS = _table(
    "items",
    _text("item", unique=True),
    _text("features", nullable=True),
    Column("withdrawn", Boolean, nullable=False),
)
#: What rows of items were before they changed, by the number that they had.
_FORMER_ITEMS = Table(
    "former_items",
    _METADATA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    _text("item"),
    _text("features", nullable=True),
    Column("withdrawn", Boolean, nullable=False),
)
_VERSIONS = Table(
    "versions",
    _METADATA,
    _text("name", primary_key=True),
    _text("path"),
    _number("added"),
    _text("figures"),
)
_ACTIVATIONS = _table(
    "activations",
    _number("at"),
    _text("active"),
    _text("previous", nullable=True),
    _text("canary", nullable=True),
    _number("share"),
    _text("shadow", nullable=True),
    _text("salt"),
)
#: Users who were forgotten, as digests: who holds the store cannot list them.
_FORGOTTEN = _table("forgotten", _text("digest", unique=True), _number("at"))

_EVENT_FRAME = {
    "seq": pl.Int64,
    "user": pl.String,
    "item": pl.String,
    "timestamp": pl.Float64,
    "type": pl.String,
}
_ANSWER_FRAME = {
    "seq": pl.Int64,
    "request_id": pl.String,
    "at": pl.Float64,
    "user": pl.String,
    "version": pl.String,
    "arm": pl.String,
    "arm_probability": pl.Float64,
    "source": pl.String,
    "k": pl.Int64,
    "items": pl.String,
    "propensities": pl.String,
    "rules": pl.String,
    "item_seq": pl.Int64,
}
_ITEM_FRAME = {
    "seq": pl.Int64,
    "item": pl.String,
    "features": pl.String,
    "withdrawn": pl.Boolean,
}


class Store:
    """The tables of a service; every method may be called from any thread.

    What changes is durable when its method returns: a process killed at any later moment, or a
    machine that loses its power, does not lose it. All that several threads change at once shares
    one commit.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    @classmethod
    def open(cls, url: str, *, timeout: float = 5.0, create: bool = True) -> Self:
        """The store at an address; its tables are made where there are none.

        Those of an earlier version of cnsdiff are brought up to date.

        Parameters
        ----------
        url
            ``sqlite:///events.db`` or ``postgresql+psycopg://user@host/database``, or the path of
            a SQLite file that is there.
        timeout
            Seconds to wait for another process that writes, and for a connection.
        create
            Whether to make what does not exist.

        Raises
        ------
        InputError
            The URL is wrong, or what is there is no store that this version reads.
        StorageError
            It cannot be reached or written.
        """
        database = Database(url, timeout=timeout, create=create)
        try:
            with database.read() as connection:
                version = _version(connection, database.place)
            if version is None and not create:
                raise InputError(f"{database.place}: {NO_STORE}")
            database.write_ahead()
            if version != SCHEMA_VERSION:
                database.write(lambda connection: _make_tables(connection, database.place))
        except BaseException:
            database.close()
            raise
        return cls(database)

    # -- events ----------------------------------------------------------------------------------

    def add_events(self, events: Sequence[Event]) -> int:
        """Keep events; the number of those that are new.

        Of events with the same ``event_id``, in one call or in several and from whichever process,
        the first is kept, also where a later one says something else.

        Raises
        ------
        InputError
            An id is empty, too long or not Unicode, or a time is not finite; nothing is kept.
        StorageError
            It could not be written; nothing is kept.
        """
        _require_ids("event_id", (event.event_id for event in events))
        _require_ids("user", (event.user for event in events))
        _require_ids("item", (event.item for event in events))
        _require_ids("type", (event.type for event in events if event.type is not None))
        _require_finite("timestamp", (event.timestamp for event in events))
        if not events:
            return 0
        received = time.time()
        rows = [{**event._asdict(), "received": received} for event in events]
        return self.database.write(NewRows(_EVENTS, "event_id", rows))

    def events_after(
        self,
        seq: int,
        limit: int = 100_000,
        *,
        repeats: bool = True,
        types: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """The first ``limit`` events after a number: seq, user, item, timestamp, type.

        Those of some ``types`` alone, where they are given; without ``repeats``, of those the
        first event of each user with each item.
        """
        columns = (_EVENTS.c[name] for name in _EVENT_FRAME)
        query = select(*columns).where(_EVENTS.c.seq > seq).order_by(_EVENTS.c.seq).limit(limit)
        if types is not None:
            query = query.where(_EVENTS.c.type.in_(types))
        if not repeats:
            earlier = _EVENTS.alias()
            same = (earlier.c.user == _EVENTS.c.user) & (earlier.c.item == _EVENTS.c.item)
            if types is not None:
                same &= earlier.c.type.in_(types)
            query = query.where(~exists().where(same & (earlier.c.seq < _EVENTS.c.seq)))
        return self._frame(query, _EVENT_FRAME)

    def events_of(self, users: Sequence[str]) -> pl.DataFrame:
        """All events of some users, in the order of their numbers, as :meth:`events`."""
        query = select(*(_EVENTS.c[name] for name in _EVENT_FRAME))
        names = list(dict.fromkeys(users))
        parts = [
            self._frame(query.where(_EVENTS.c.user.in_(names[start : start + _IDS])), _EVENT_FRAME)
            for start in range(0, max(len(names), 1), _IDS)
        ]
        return pl.concat(parts).sort("seq")

    def histories(self, users: Sequence[str]) -> list[tuple[Any, ...]]:
        """User, item and type of all events of some users, in order; quick for a few users."""
        rows: list[tuple[Any, ...]] = []
        for start in range(0, len(users), _IDS):
            part = users[start : start + _IDS]
            marks = ",".join([self.database.placeholder] * len(part))
            rows += self.database.look_up(
                f'SELECT "user", item, type FROM events WHERE "user" IN ({marks}) ORDER BY seq',
                *part,
            )
        return rows

    def events(self) -> pl.DataFrame:
        """All events that there are at this moment: seq, user, item, timestamp, type."""
        chunks = self._chunks(_EVENTS, (_EVENTS.c[name] for name in _EVENT_FRAME))
        frames = [_frame_of(rows, _EVENT_FRAME) for rows in chunks]
        return pl.concat(frames or [_frame_of([], _EVENT_FRAME)])

    # -- answers ---------------------------------------------------------------------------------

    def add_answers(self, answers: Sequence[Answer]) -> None:
        """Keep lists that were shown; of those with the same ``request_id``, the first."""
        for name in ("request_id", "user", "version", "arm", "source"):
            _require_ids(name, (getattr(answer, name) for answer in answers))
        _require_ids("items", chain.from_iterable(answer.items for answer in answers))
        for name in ("at", "arm_probability"):
            _require_finite(name, (getattr(answer, name) for answer in answers))
        for answer in answers:
            if len(answer.items) != len(answer.propensities):
                raise InputError(
                    f"answer {answer.request_id!r}: has {len(answer.items):,} items and "
                    f"{len(answer.propensities):,} propensities; give one for each item"
                )
        rows = [
            {
                **answer._asdict(),
                "items": _json("items", answer.items),
                "propensities": _json("propensities", answer.propensities),
            }
            for answer in answers
        ]
        if rows:
            self.database.write(NewRows(_ANSWERS, "request_id", rows))

    def answers_after(self, seq: int, limit: int = 100_000, *, rules: bool = True) -> pl.DataFrame:
        """The first ``limit`` answers after a number: seq and the fields; two are lists.

        ``rules``, the largest of the fields, can be left out.
        """
        schema = {name: own for name, own in _ANSWER_FRAME.items() if rules or name != "rules"}
        columns = (_ANSWERS.c[name] for name in schema)
        query = select(*columns).where(_ANSWERS.c.seq > seq).order_by(_ANSWERS.c.seq).limit(limit)
        return self._frame(query, schema).with_columns(
            pl.col("items").str.json_decode(pl.List(pl.String)),
            pl.col("propensities").str.json_decode(pl.List(pl.Float64)),
        )

    def rules_of(self, numbers: Sequence[int]) -> list[str | None]:
        """The rules of some answers; ``None`` where they are not known."""
        rules: dict[int, str | None] = {}
        query = select(_ANSWERS.c.seq, _ANSWERS.c.rules)
        with self.database.read() as connection:
            for start in range(0, len(numbers), _IDS):
                some = _ANSWERS.c.seq.in_(numbers[start : start + _IDS])
                rules.update(row._tuple() for row in connection.execute(query.where(some)))
        return [rules.get(number) for number in numbers]

    # -- items -----------------------------------------------------------------------------------

    def put_items(self, items: Mapping[str, Mapping[str, object] | None]) -> None:
        """Set the features of items, known or new; one that was withdrawn is back.

        ``None`` leaves the features as they are.
        """
        _require_ids("item", items)
        rows: list[_Row] = [
            {
                "item": item,
                "features": None if features is None else _json(item, features),
                "withdrawn": False,
            }
            for item, features in items.items()
        ]
        if rows:
            self.database.write(lambda connection: _replace_items(connection, rows))

    def withdraw(self, items: Sequence[str]) -> None:
        """Let no list show these items, until they are put again; their features stay."""
        _require_ids("item", items)
        rows: list[_Row] = [
            {"item": item, "features": None, "withdrawn": True} for item in dict.fromkeys(items)
        ]
        if rows:
            self.database.write(lambda connection: _replace_items(connection, rows))

    def items_after(self, seq: int) -> pl.DataFrame:
        """Items changed after a number: seq, item, features (JSON or null), withdrawn."""
        columns = (_ITEMS.c[name] for name in _ITEM_FRAME)
        query = select(*columns).where(_ITEMS.c.seq > seq).order_by(_ITEMS.c.seq)
        return self._frame(query, _ITEM_FRAME)

    def item_history(self) -> pl.DataFrame:
        """Items as they are and as they were, by number; the columns of :meth:`items_after`."""
        former = [_FORMER_ITEMS.c.number, *(_FORMER_ITEMS.c[n] for n in [*_ITEM_FRAME][1:])]
        with self.database.read() as connection:  # all of one moment
            rows = [
                *connection.execute(select(*former)).all(),
                *connection.execute(select(*(_ITEMS.c[name] for name in _ITEM_FRAME))).all(),
            ]
        return _frame_of(rows, _ITEM_FRAME).unique("seq", keep="last").sort("seq")

    # -- versions --------------------------------------------------------------------------------

    def add_version(self, version: Version) -> None:
        """Keep a version; one of a known name replaces its figures.

        Raises
        ------
        InputError
            The name is known with another path: what was served under a name stays what it was.
        """
        _require_ids("version", [version.name])
        _require_ids("path", [version.path], longest=4096)
        _require_finite("added", [version.added])
        figures = _json(version.name, version.figures)

        def work(connection: Connection) -> None:
            known = _VERSIONS.c.name == version.name
            query = select(_VERSIONS.c.path, _VERSIONS.c.figures).where(known)
            path, before = connection.execute(query).one_or_none() or (None, "{}")
            content = version.figures.get("content")
            same = content is not None and json.loads(before).get("content") == content
            if path is None:
                row = {**version._asdict(), "figures": figures}
                connection.execute(insert(_VERSIONS), row)
            elif path == version.path or same:  # the same run may be at another place now
                values = {"path": version.path, "figures": figures}
                connection.execute(update(_VERSIONS).where(known).values(values))
            else:
                raise InputError(
                    f"version {version.name!r}: is {path} already; choose another name for "
                    f"{version.path}"
                )

        self.database.write(work)

    def versions(self) -> list[Version]:
        """All versions, the oldest first."""
        query = select(*(_VERSIONS.c[name] for name in Version._fields))
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(_VERSIONS.c.added, _VERSIONS.c.name)).all()
        return [Version(row.name, row.path, row.added, json.loads(row.figures)) for row in rows]

    def activate(
        self, version: str, *, share: float = 1.0, shadow: bool = False, replace: bool = False
    ) -> Activation:
        """Have a version answer all users from now on, or try it beside the active one.

        Parameters
        ----------
        share
            Below 1, a trial as a canary: the version answers this share of the users. Who is in it
            is told by a hash of the user, the same for all trials.
        shadow
            A trial that nobody sees: the version is asked as well, and its answers are only kept.
        replace
            Whether this may end the trial of another version. That of the same version goes on
            with another share, or ends when all users get it.

        Returns
        -------
        The activation in force, which is the one before if it says the same.

        Raises
        ------
        InputError
            The version is unknown, or the share is not in (0, 1] or that of a shadow.
        ConflictError
            Another version is on trial, or there is no active version, or only this one, to try it
            beside.
        """
        if not 0 < share <= 1:
            raise InputError(f"share={share:g}: must be more than 0 and at most 1")
        if shadow and share < 1:
            raise InputError(f"share={share:g}: a shadow answers nobody; leave out one of the two")

        def work(connection: Connection) -> Activation:
            if version not in set(connection.scalars(select(_VERSIONS.c.name))):
                raise InputError(f"version {version!r}: is not in the store; add it first")
            before = _last_activation(connection)
            on_trial = shadow or share < 1
            if before is None:
                if on_trial:
                    raise ConflictError(
                        f"the version {version!r} cannot be tried beside the active one, as none "
                        "is active; activate one for all users first"
                    )
                salt = secrets.token_hex(8)
                return _add_activation(connection, Activation(0, 0.0, version, salt=salt))
            if on_trial and version == before.active:
                raise ConflictError(
                    f"the version {version!r} cannot be tried beside the active one, which it is; "
                    "try another"
                )
            other = before.trial
            if other not in (None, version) and not replace:
                raise ConflictError(
                    f"the version {version!r} is not activated, as {other!r} is on trial "
                    f"({before.kind}); end that with a rollback, or activate with replace=true"
                )
            ended = before._replace(canary=None, share=0.0, shadow=None)
            if shadow:
                after = ended._replace(shadow=version)
            elif on_trial:
                after = ended._replace(canary=version, share=float(share))
            elif version == before.active:
                after = ended
            else:
                after = ended._replace(active=version, previous=before.active)
            return before if after == before else _add_activation(connection, after)

        return self.database.write(work)

    def rollback(self, seq: int) -> Activation:
        """End the trial of an activation; without one, go back to what was active before it.

        What was active is gone back through from the latest to the first, each version once: none
        that a rollback left comes back by another one, until it is activated again.

        Parameters
        ----------
        seq
            Of the activation to undo.

        Raises
        ------
        ConflictError
            It is not in force any more, or there is nothing to go back to.
        """

        def work(connection: Connection) -> Activation:
            before = _last_activation(connection)
            if before is None or before.seq != seq:
                raise ConflictError(
                    "another activation came first; see which version is active now, and roll "
                    "back again if that is still wanted"
                )
            after = before._replace(canary=None, share=0.0, shadow=None)
            if before.trial is None:
                *earlier, _ = _history(connection)
                if not earlier:
                    raise ConflictError(
                        f"no version was active before {before.active!r}; activate another one"
                    )
                previous = earlier[-2] if len(earlier) > 1 else None
                after = after._replace(active=earlier[-1], previous=previous)
            return _add_activation(connection, after)

        return self.database.write(work)

    def activation(self) -> Activation | None:
        """The activation in force; ``None`` before the first."""
        with self.database.read() as connection:
            return _last_activation(connection)

    # -- the whole -------------------------------------------------------------------------------

    def forget(self, user: str) -> int:
        """Delete every row of a user; their number.

        That the user was forgotten is kept as a digest, so that no run from before tells anything
        of them (:meth:`forgotten_after`).

        SQLite overwrites the bytes with zeros, those of its log once no reader needs it;
        PostgreSQL frees them by its vacuum. Backups keep what they have.
        """
        _require_ids("user", [user])

        def work(connection: Connection) -> int:
            # No version that is there may tell of the user, whatever the clock says now.
            added = connection.scalar(select(func.max(_VERSIONS.c.added)))
            row = {"digest": self.digest(user), "at": max(time.time(), added or 0.0)}
            connection.execute(delete(_FORGOTTEN).where(_FORGOTTEN.c.digest == row["digest"]))
            connection.execute(insert(_FORGOTTEN), row)
            tables = (_EVENTS, _ANSWERS)
            return sum(
                connection.execute(delete(table).where(table.c.user == user)).rowcount
                for table in tables
            )

        rows = self.database.write(work)
        self.database.empty_log(forgotten=True)
        return rows

    def digest(self, user: str) -> str:
        """What stands for a user who was forgotten: a hash under the key of this store."""
        return digest(user, self.key)

    @cached_property
    def key(self) -> bytes:
        """Of digests, made when the store was."""
        with self.database.read() as connection:
            key = connection.scalar(select(_META.c.value).where(_META.c.key == "key"))
        return bytes.fromhex(str(key))

    def forgotten_after(self, seq: int) -> pl.DataFrame:
        """Users forgotten after a number, and when: seq, digest, at."""
        schema = {"seq": pl.Int64, "digest": pl.String, "at": pl.Float64}
        columns = (_FORGOTTEN.c[name] for name in schema)
        query = select(*columns).where(_FORGOTTEN.c.seq > seq).order_by(_FORGOTTEN.c.seq)
        return self._frame(query, schema)

    def wal_bytes(self) -> int:
        """Size of SQLite's write-ahead log; 0 for PostgreSQL."""
        return self.database.wal_bytes()

    def backup(self, path: Path, *, overwrite: bool = False) -> None:
        """Write a consistent copy to a file, in one step, while others go on writing.

        Raises
        ------
        InputError
            The file exists and is not to be overwritten, or is the store itself; or the store is
            PostgreSQL, which has ``pg_dump``.
        StorageError
            The file cannot be written; what was there before is untouched.
        """
        if path.exists() and not overwrite:
            raise InputError(
                f"{path}: already exists; choose another file or pass "
                f"{parameter('overwrite', True)}"
            )
        self.database.copy(path)

    def check(self) -> list[str]:
        """What is wrong with the store, a sentence each; reads every row."""
        problems = self.database.problems()
        try:
            for table in _METADATA.sorted_tables:
                problems += self._problems_of(table)
        except CnsdiffError as error:
            problems.append(str(error))
        return list(dict.fromkeys(problems))

    def counts(self) -> dict[str, int]:
        """Rows of each table."""
        with self.database.read() as connection:
            return {
                name: connection.scalar(select(func.count()).select_from(table)) or 0
                for name, table in _METADATA.tables.items()
                if table is not _META
            }

    def _problems_of(self, table: Table) -> Iterator[str]:
        """What is wrong with the rows of a table: the first few, and how many more."""
        with self.database.read() as connection:
            names = set(connection.scalars(select(_VERSIONS.c.name)))
        judge = _JUDGES[table.name]
        (key,) = table.primary_key
        wrong = 0
        for row in chain.from_iterable(self._chunks(table, table.c)):
            problem = judge(row, names)
            wrong += problem is not None
            if problem is not None and wrong <= _SHOWN:
                yield f"{table.name}, {key.name} {visible(row._mapping[key])}: {problem}"
        if wrong > _SHOWN:
            yield f"{table.name}: {wrong - _SHOWN:,} more rows are wrong"
        if key.name == "seq":
            with self.database.read() as connection:
                last = connection.scalar(select(func.max(key))) or 0
                given = self.database.last_number(connection, table.name)
            if given < last:
                yield (
                    f"{table.name}: numbers go on after {given:,}, and {last:,} is taken; restore "
                    "a whole backup"
                )

    def close(self) -> None:
        """Finish what other threads are writing, and close all connections."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- reading ---------------------------------------------------------------------------------

    def _frame(self, query: Select[Any], schema: Mapping[str, Any]) -> pl.DataFrame:
        with self.database.read() as connection:
            return _frame_of(connection.execute(query).all(), schema)

    def _chunks(self, table: Table, columns: Iterable[Column[Any]]) -> Iterator[Sequence[Row[Any]]]:
        """All rows there are now, in order, and some at a time.

        A reader that takes long keeps SQLite's log from ending.
        """
        (key,) = table.primary_key
        with self.database.read() as connection:
            last = connection.scalar(select(func.max(key)))
        query = select(*columns).order_by(key).limit(_ROWS)
        rows: Sequence[Row[Any]] = ()
        while last is not None and (not rows or len(rows) == _ROWS):
            rest = query.where(key <= last)
            if rows:
                rest = rest.where(key > rows[-1]._mapping[key])
            with self.database.read() as connection:
                rows = connection.execute(rest).all()
            if not rows:
                return
            yield rows


def _frame_of(rows: Sequence[Row[Any]], schema: Mapping[str, Any]) -> pl.DataFrame:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pl.DataFrame(dict(zip(schema, columns, strict=True)), schema=dict(schema))


def digest(user: str, key: bytes) -> str:
    """What stands for a user who was forgotten."""
    return hashlib.blake2b(user.encode(), key=key, digest_size=16).hexdigest()


def _version(connection: Connection, place: str) -> int | None:
    """Of the tables, if they are there; refuses those of others, and of a later version."""
    names = set(inspect(connection).get_table_names())
    ours = set(_METADATA.tables)
    if not names & ours:
        return None
    found = None
    if ours - {_FORMER_ITEMS.name} <= names:
        found = connection.scalar(select(_META.c.value).where(_META.c.key == "schema_version"))
    if found is None:
        raise InputError(
            f"{place}: has a table {min(names & ours)!r} that is not of cnsdiff; give the store a "
            "database of its own"
        )
    if found not in ("1", str(SCHEMA_VERSION)):
        raise InputError(
            f"{place}: has schema version {found}, and this cnsdiff reads {SCHEMA_VERSION}; use "
            "the version of cnsdiff that wrote it"
        )
    return int(found)


def _make_tables(connection: Connection, place: str) -> None:
    """Make the tables, or bring them up to date, unless another process was first."""
    version = _version(connection, place)
    if version is None:
        _METADATA.create_all(connection)
        values = {"schema_version": str(SCHEMA_VERSION), "key": secrets.token_hex(32)}
        rows = [{"key": key, "value": value} for key, value in values.items()]
        connection.execute(insert(_META), rows)
    elif version == 1:  # of its answers, the new columns stay null: they are not known
        for column in ("rules TEXT", "item_seq BIGINT"):
            connection.execute(text(f"ALTER TABLE answers ADD COLUMN {column}"))
        _FORMER_ITEMS.create(connection)
        known = _META.c.key == "schema_version"
        connection.execute(update(_META).where(known).values(value=str(SCHEMA_VERSION)))


def _replace_items(connection: Connection, rows: list[_Row]) -> None:
    """Give each row that changes a new number, for those who follow, and keep what it was.

    Without features, it has those that it had.
    """
    columns = [_ITEMS.c[name] for name in _ITEM_FRAME]
    before: dict[object, Row[Any]] = {}
    for start in range(0, len(rows), _IDS):
        some = _ITEMS.c.item.in_([row["item"] for row in rows[start : start + _IDS]])
        before |= {old.item: old for old in connection.execute(select(*columns).where(some))}
    new, former = [], []
    for row in rows:
        old = before.get(row["item"])
        if old is not None:
            if row["features"] is None:
                row = {**row, "features": old.features}
            if (old.features, old.withdrawn) == (row["features"], row["withdrawn"]):
                continue
            former.append({**old._mapping, "number": old.seq})
        new.append(row)
    for start in range(0, len(former), _IDS):
        gone = [row["number"] for row in former[start : start + _IDS]]
        connection.execute(delete(_ITEMS).where(_ITEMS.c.seq.in_(gone)))
    for table, changes in ((_FORMER_ITEMS, former), (_ITEMS, new)):
        if changes:
            connection.execute(insert(table), changes)


def _last_activation(connection: Connection) -> Activation | None:
    query = select(*(_ACTIVATIONS.c[name] for name in Activation._fields))
    row = connection.execute(query.order_by(_ACTIVATIONS.c.seq.desc()).limit(1)).one_or_none()
    return None if row is None else Activation(*row)


def _add_activation(connection: Connection, activation: Activation) -> Activation:
    row = activation._replace(at=time.time())
    values = {name: value for name, value in row._asdict().items() if name != "seq"}
    done = connection.execute(insert(_ACTIVATIONS), values)
    assert done.inserted_primary_key is not None
    return row._replace(seq=done.inserted_primary_key[0])


def _history(connection: Connection) -> list[str]:
    """What a rollback goes back through, each version once, the active one last.

    An activation's ``previous`` is what was active until then; a rollback's is another, as what
    was active until then is gone from the history.
    """
    query = select(_ACTIVATIONS.c.active, _ACTIVATIONS.c.previous).order_by(_ACTIVATIONS.c.seq)
    history: list[str] = []
    for active, previous in connection.execute(query):
        if history and active == history[-1]:  # a trial begins or ends
            continue
        if history and previous != history[-1]:
            history.pop()
        if active in history:
            history.remove(active)
        history.append(active)
    return history


def _require_ids(field: str, values: Iterable[str], longest: int = LONGEST_ID) -> None:
    """Refuse what one of the two databases cannot hold, whichever it is."""
    for value in values:
        # Most ids are short and plain, and are looked at no further; a character has 4 bytes.
        if not 0 < len(value) <= longest // 4 or not value.isprintable():
            _require_id(field, value, longest)


def _require_id(field: str, value: str, longest: int) -> None:
    if not value:
        raise InputError(f"{field}: is empty; every id has at least one character")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InputError(f"{field}: {value!r} is not Unicode text; mend its encoding") from None
    if size > longest:
        raise InputError(f"{field}: {value[:20]!r}… has more than {longest:,} bytes; shorten it")
    if "\0" in value:
        raise InputError(f"{field}: {value!r} holds a NUL character; leave it out")


def _require_finite(field: str, values: Iterable[float]) -> None:
    for value in values:
        if not math.isfinite(value):
            raise InputError(f"{field}: {value} is not a finite number; mend what sends it")


def _json(name: str, value: object) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{name}: cannot be written as JSON ({first_line(error)})") from error


# -- what a row must be --------------------------------------------------------------------------


def _judge_meta(row: Row[Any], versions: set[str]) -> str | None:
    return None if row.key in ("schema_version", "key") else "is not of this version of cnsdiff"


def _judge_event(row: Row[Any], versions: set[str]) -> str | None:
    if not all(isinstance(value, str) and value for value in (row.event_id, row.user, row.item)):
        return "an id is empty, or not text"
    return None if _are_finite(row.timestamp, row.received) else "a time is not a finite number"


def _judge_answer(row: Row[Any], versions: set[str]) -> str | None:
    items, propensities = _from_json(row.items), _from_json(row.propensities)
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        return "items is not a JSON list of ids"
    if not isinstance(propensities, list) or not _are_finite(*propensities):
        return "propensities is not a JSON list of numbers"
    if len(items) != len(propensities):
        return f"has {len(items):,} items and {len(propensities):,} propensities"
    if row.rules is not None and not isinstance(_from_json(row.rules), dict):
        return "rules is not a JSON object"
    return None if _are_finite(row.at, row.arm_probability) else "a number of it is not finite"


def _judge_item(row: Row[Any], versions: set[str]) -> str | None:
    whole = row.features is None or isinstance(_from_json(row.features), dict)
    return None if whole else "features is not a JSON object"


def _judge_version(row: Row[Any], versions: set[str]) -> str | None:
    return None if isinstance(_from_json(row.figures), dict) else "figures is not a JSON object"


def _judge_activation(row: Row[Any], versions: set[str]) -> str | None:
    for name in (row.active, row.previous, row.canary, row.shadow):
        if name is not None and name not in versions:
            return f"names the version {name!r}, which is not there"
    in_range = _are_finite(row.share) and 0 <= row.share <= 1
    return None if in_range else f"share is {row.share!r}, not in [0, 1]"


def _judge_forgotten(row: Row[Any], versions: set[str]) -> str | None:
    return None if re.fullmatch("[0-9a-f]{32}", row.digest) else "digest is not one of this store"


_JUDGES = {
    "meta": _judge_meta,
    "events": _judge_event,
    "answers": _judge_answer,
    "items": _judge_item,
    "former_items": _judge_item,
    "versions": _judge_version,
    "activations": _judge_activation,
    "forgotten": _judge_forgotten,
}


def _from_json(text: str) -> object:
    """The value, or ``None`` where it is not JSON; the columns never hold a bare null."""
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None


def _are_finite(*values: object) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)
