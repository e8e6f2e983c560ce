"""What goes wrong around a store: other writers, kills, full disks, damage, lost servers."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import psycopg
import pytest
import sqlalchemy as sa

from cnsdiff.base.errors import InputError, StorageError
from cnsdiff.base.text import install_command
from cnsdiff.serving import database as module
from cnsdiff.serving.store import Activation, Answer, Event, Store, Version


def event(number: int, user: str = "ann", item: str = "i") -> Event:
    return Event(f"e{number}", user, item, float(number))


# -- a server that goes away: first, while it has few files to look after -------------------------


def test_postgresql_goes_away_and_comes_back(postgresql):
    """Down, the sentence keeps the password to itself; up again, nobody need open it again."""
    url = postgresql.url("restarted", password="hunter2")
    idle, busy = Store.open(url, timeout=2), Store.open(url, timeout=2)
    for store in (idle, busy):
        store.add_events([event(1)])
        store.events()
    postgresql.stop()
    try:
        for act in (
            lambda: busy.add_events([event(2)]),
            busy.events,
            lambda: busy.histories(["ann"]),
            lambda: Store.open(url),
        ):
            with pytest.raises(StorageError, match="PostgreSQL does not answer") as refused:
                act()
            assert "hunter2" not in str(refused.value)
    finally:
        postgresql.start()
    for number, store in enumerate((idle, busy), start=3):
        assert store.add_events([event(1), event(number)]) == 1
    assert idle.events()["timestamp"].to_list() == busy.events()["timestamp"].to_list() == [1, 3, 4]
    for store in (idle, busy):
        assert store.check() == []
        store.close()


# -- many writers ----------------------------------------------------------------------------------

#: Adds the events of the numbers on standard input, in batches, and prints of each that was
#: acknowledged how many were new, and the numbers.
WRITER = """
import json, os, sys, threading
from cnsdiff.serving.store import Event, Store
url, name, threads, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
numbers = json.load(sys.stdin)
store = Store.open(url)
def add(own):
    for start in range(0, len(own), batch):
        part = own[start : start + batch]
        new = store.add_events([Event(f"e{n}", name, name, float(n)) for n in part])
        line = f"{new} {' '.join(map(str, part))}\\n"
        os.write(1, line.encode())  # in one piece, and at once
print("ready", flush=True)
everyone = [threading.Thread(target=add, args=(numbers[at::threads],)) for at in range(threads)]
for thread in everyone: thread.start()
for thread in everyone: thread.join()
"""


@contextlib.contextmanager
def writer(url: str, name: str, numbers: list[int], *, threads: int, batch: int):
    """Another process that adds events; dead at the end."""
    command = [sys.executable, "-c", WRITER, url, name, str(threads), str(batch)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    running = subprocess.Popen(command, **pipes, text=True)
    try:
        json.dump(numbers, running.stdin)
        running.stdin.close()
        assert running.stdout.readline() == "ready\n"
        yield running
    finally:
        running.kill()
        running.wait()
        running.stdout.close()


def test_threads_and_processes_add_the_same_ids(store_url):
    """Each is kept once, whole, and counted as new by one; a follower sees all, in order."""
    numbers, draw = list(range(300)), random.Random(0)
    orders = [draw.sample(numbers, len(numbers)) for _ in range(8)]
    new: list[int] = []
    seen: list[pl.DataFrame] = []
    done = threading.Event()

    def add(at: int) -> None:
        with Store.open(store_url) if at % 4 == 0 else contextlib.nullcontext(store) as own:
            for start in range(0, len(numbers), 7):
                batch = [event(n, f"t{at}", f"t{at}") for n in orders[at][start : start + 7]]
                new.append(own.add_events(batch))

    def follow() -> None:
        while True:
            last = done.is_set()
            after = seen[-1]["seq"][-1] if seen else 0
            part = store.events_after(after, limit=50)
            seen.extend([part] if not part.is_empty() else [])
            if last and part.is_empty():
                return

    with Store.open(store_url) as store, writer(
        store_url, "process", draw.sample(numbers, 300), threads=4, batch=5
    ) as other:  # fmt: skip
        follower = threading.Thread(target=follow)
        everyone = [threading.Thread(target=add, args=(at,)) for at in range(8)]
        for thread in [follower, *everyone]:
            thread.start()
        for thread in everyone:
            thread.join()
        there = sum(int(line.split()[0]) for line in other.stdout)
        done.set()
        follower.join()
        assert sum(new) + there == len(numbers)
        events = store.events()
        assert pl.concat(seen).equals(events)
        assert sorted(events["timestamp"]) == numbers
        assert events.filter(pl.col("user") != pl.col("item")).is_empty()
        assert store.check() == []


def test_many_open_a_new_store_at_once(store_url):
    barrier, stores = threading.Barrier(6), []

    def opening() -> None:
        barrier.wait()
        stores.append(Store.open(store_url))

    threads = [threading.Thread(target=opening) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 6
    for number, store in enumerate(stores):
        store.add_events([event(number)])
    assert [store.events().height for store in stores] == [6] * 6
    for store in stores:
        store.close()


def test_two_processes_change_what_they_have_read(store_url):
    """Between the reading and the writing of one, nothing of the other comes."""
    with Store.open(store_url) as one, Store.open(store_url) as two:
        for number in range(40):
            one.add_version(Version(f"v{number}", "/runs", 1.0, {}))

        def activate(store: Store, own: range) -> list[Activation]:
            return [store.activate(f"v{number}") for number in own]

        with ThreadPoolExecutor() as pool:
            calls = [
                pool.submit(activate, one, range(20)),
                pool.submit(activate, two, range(20, 40)),
            ]
            activations = sorted(one for call in calls for one in call.result())
        assert [each.previous for each in activations] == [
            None, *(each.active for each in activations[:-1])
        ]  # fmt: skip
        assert len({each.salt for each in activations}) == 1


@pytest.mark.parametrize("theirs", ["SELECT * FROM theirs", "INSERT INTO theirs VALUES (1)"])
def test_opening_waits_for_who_uses_a_file_that_has_no_log_yet(tmp_path, theirs):
    path = tmp_path / "events.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    for statement in ("CREATE TABLE theirs (x)", "BEGIN", theirs):
        other.execute(statement).fetchall()
    release = threading.Timer(0.2, other.execute, ["COMMIT"])
    release.start()
    with Store.open(f"sqlite:///{path}") as store:
        assert store.add_events([event(1)]) == 1
    release.join()
    other.close()


def test_of_a_group_only_the_batch_that_fails_is_refused(store):
    """Three wait while the writer is held; the second fails inside the transaction."""
    held, go = threading.Event(), threading.Event()

    def hold(connection: sa.Connection) -> None:
        held.set()
        go.wait()

    def insert(number: int):
        row = {"event_id": f"e{number}", "user": "ann", "item": "i", "timestamp": 0, "received": 0}
        query = sa.text(
            'INSERT INTO events (event_id, "user", item, timestamp, received) '
            "VALUES (:event_id, :user, :item, :timestamp, :received)"
        )
        return lambda connection: connection.execute(query, row).rowcount

    first = store.database.submit(hold)
    held.wait()
    calls = [store.database.submit(insert(number)) for number in (1, 1, 2)]
    go.set()
    assert first.result() is None
    assert [call.result() for call in (calls[0], calls[2])] == [1, 1]
    with pytest.raises(StorageError, match=r"UNIQUE|unique"):
        calls[1].result()
    assert store.events().height == 2
    store.close()
    with pytest.raises(StorageError, match="is closed; open it again"):
        store.add_events([event(3)])


# -- kills -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_killed_at_any_moment_no_acknowledged_event_is_lost_and_none_doubled(
    request, tmp_path, database
):
    url = f"sqlite:///{tmp_path}/events.db"
    if database == "postgresql":
        url = request.getfixturevalue("postgresql").url("killed")
    draw, acknowledged = random.Random(1), []
    numbers = list(range(100_000))
    for _ in range(2):
        with writer(url, "process", numbers, threads=4, batch=3) as process:
            lines = [process.stdout.readline() for _ in range(draw.randrange(1, 40))]
            time.sleep(draw.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        acknowledged += [line for line in lines if line.endswith("\n")]
        numbers = numbers[len(numbers) // 2 :]
    of_acknowledged = {int(word) for line in acknowledged for word in line.split()[1:]}
    with Store.open(url) as store:
        there = Counter(store.events()["timestamp"])
        assert of_acknowledged <= there.keys()
        assert set(there.values()) == {1}
        assert store.check() == []
        # All again, as who got no answer does.
        again = [event(int(number)) for number in range(300)]
        assert store.add_events(again) == sum(float(n) not in there for n in range(300))


# -- other processes, disks and damage ------------------------------------------------------------


def test_another_process_writes(request, store_url):
    store = Store.open(store_url, timeout=0.2)
    store.add_events([event(1)])
    if store.database.path:
        other = sqlite3.connect(store.database.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
    else:
        server = request.getfixturevalue("postgresql")
        other = psycopg.connect(server.conninfo)
        schema = store.database.url.query["options"].partition("=")[2]
        other.execute(f"LOCK TABLE {schema}.events IN EXCLUSIVE MODE")
    calls = [
        store.database.submit(lambda c: c.execute(sa.text("DELETE FROM events"))) for _ in "ab"
    ]
    with pytest.raises(StorageError, match=r"another process has held it for 0\.2 s"):
        store.add_events([event(2)])
    for call in calls:
        with pytest.raises(StorageError, match="another process"):
            call.result()
    assert store.events().height == 1, "reading goes on"
    other.rollback() if store.database.path is None else other.execute("ROLLBACK")
    assert store.add_events([event(2)]) == 1
    other.close()
    store.close()


def test_a_full_disk_keeps_what_was_there(tmp_path, full_disk):
    with Store.open(f"sqlite:///{tmp_path}/events.db") as store:
        store.add_events([event(number) for number in range(10)])
        before = store.events()
        with (
            full_disk(store.wal_bytes() + 20_000),
            pytest.raises(StorageError, match=r"events\.db: the disk .*was not written.* full"),
        ):
            store.add_events([event(number) for number in range(10, 5000)])
        assert store.events().equals(before)
        assert store.add_events([event(number) for number in range(5000)]) == 4990
        assert store.check() == []
        with full_disk(1000), pytest.raises(StorageError):
            store.backup(tmp_path / "copy.db")
        assert not [file for file in tmp_path.iterdir() if "copy" in file.name]


def test_a_database_that_may_not_grow(tmp_path):
    """SQLite's own word for a full disk."""
    with Store.open(f"sqlite:///{tmp_path}/events.db") as store:

        def fill(connection: sa.Connection) -> None:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
            connection.exec_driver_sql("CREATE TABLE filler AS SELECT randomblob(100000)")

        with pytest.raises(StorageError, match="the disk is full, so this was not written"):
            store.database.write(fill)


@pytest.mark.parametrize("damage", ["head", "middle", "cut", "other"])
def test_a_damaged_file(tmp_path, damage):
    path = tmp_path / "events.db"
    with Store.open(f"sqlite:///{path}") as store:
        store.add_events([event(number) for number in range(3000)])
    content = bytearray(path.read_bytes())
    if damage == "head":
        content[:200] = random.Random(0).randbytes(200)
    elif damage == "middle":
        at = len(content) // 2
        content[at : at + 20_000] = random.Random(0).randbytes(20_000)
    elif damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[:] = b"user,item\n1,2\n" * 100
    path.write_bytes(content)
    if damage == "middle":  # which is found by who reads it
        with Store.open(f"sqlite:///{path}") as store:
            assert store.check()
        return
    with pytest.raises(InputError, match=r"events\.db: is damaged, or not a SQLite file .*backup"):
        Store.open(f"sqlite:///{path}")
    assert path.read_bytes() == content


def test_a_folder_that_may_not_be_written():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.db"
        Store.open(f"sqlite:///{path}").close()
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        user = os.geteuid()
        if user == 0:  # whom nothing stops
            os.seteuid(65534)
        try:
            for place in (path, Path(folder) / "new.db", Path(folder) / "new" / "events.db"):
                with pytest.raises(
                    StorageError, match=r"cannot be written.*permissions"
                ) as refused:
                    Store.open(f"sqlite:///{place}")
                assert refused.value.exit_code == 2
        finally:
            os.seteuid(user)
            Path(folder).chmod(0o755)


def test_a_reader_that_holds_the_log(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "_LONG_LOG", 200_000)
    monkeypatch.setattr(module, "_LOOK", 0.01)
    monkeypatch.setattr(module, "_LOOK_WAITS", 0.01)
    with Store.open(f"sqlite:///{tmp_path}/events.db") as store:
        store.add_events([event(0)])
        reader = sqlite3.connect(store.database.path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM events").fetchall()
        with caplog.at_level(logging.WARNING, logger="cnsdiff"):
            number = 0
            while not caplog.messages:
                number += 1
                store.add_events([event(number * 1000 + n) for n in range(1000)])
        assert "events.db: its write-ahead log has " in caplog.messages[0]
        assert store.wal_bytes() > 200_000
        reader.close()
        store.add_events([event(1)])
        while store.wal_bytes() > 200_000:
            time.sleep(0.01)
        assert store.events().height == number * 1000 + 2


# -- forgetting and copying ------------------------------------------------------------------------


def holders(folder: Path, word: str) -> list[str]:
    return [file.name for file in folder.iterdir() if word.encode() in file.read_bytes()]


def test_no_byte_of_who_is_forgotten_stays(tmp_path):
    draw = random.Random(3)
    with Store.open(f"sqlite:///{tmp_path}/events.db") as store:
        number = 0
        for last in (False, False, True):
            names = [f"{draw.randrange(10**9)}-{'x' * draw.randrange(40)}" for _ in range(60)]
            users = draw.choices(names, k=800)
            events = [event(n + number, user, f"i{n % 9}") for n, user in enumerate(users)]
            store.add_events(events)
            store.add_answers(
                [
                    Answer(f"r{number + n}", 0.0, user, "v", "a", 1.0, "s", 1, ["i"], [1.0])
                    for n, user in enumerate(users[:300])
                ]
            )
            number += len(users)
            gone = draw.sample(sorted(set(users)), 10)
            reader = sqlite3.connect(store.database.path, isolation_level=None)
            if last:  # somebody reads meanwhile: the log is emptied later
                reader.execute("BEGIN")
                reader.execute("SELECT * FROM events").fetchall()
            for user in gone:
                assert store.forget(user) > 0
            if last:
                assert holders(tmp_path, f"{gone[-1]}i")
            reader.close()
            ends = time.monotonic() + 20
            while any(holders(tmp_path, f"{user}i") for user in gone) and time.monotonic() < ends:
                time.sleep(0.1)
            # In a row of events the item follows the user.
            assert not [user for user in gone if holders(tmp_path, f"{user}i")]
        left = set(store.events()["user"])
        assert left and not left & set(gone)
        assert store.check() == []


def test_a_backup_of_a_store_in_use(tmp_path):
    copy = tmp_path / "copies" / "copy.db"
    with Store.open(f"sqlite:///{tmp_path}/events.db") as store:
        store.add_version(Version("v1", "/runs/one", 1.0, {}))
        store.activate("v1")
        stop = threading.Event()

        def write() -> None:
            number = 0
            while not stop.is_set():
                store.add_events([event(number + n) for n in range(5)])
                number += 5

        thread = threading.Thread(target=write)
        thread.start()
        while store.events_after(0, 100).height < 100:
            time.sleep(0.01)
        store.backup(copy)
        stop.set()
        thread.join()
        with Store.open(f"sqlite:///{copy}", create=False) as backup:
            assert backup.check() == []
            events = backup.events()
            assert events.height >= 100 and events.height % 5 == 0
            assert events.equals(store.events()[: events.height])
            assert backup.activation() == store.activation()
        with pytest.raises(InputError, match=r"copy\.db: already exists; .*overwrite=True"):
            store.backup(copy)
        store.backup(copy, overwrite=True)
        for ending in ("", "-wal"):
            with pytest.raises(InputError, match="is the store itself"):
                store.backup(tmp_path / "copies" / f"../events.db{ending}", overwrite=True)
        with Store.open(f"sqlite:///{copy}") as backup:
            assert backup.events().equals(store.events())


def test_postgresql_makes_its_own_backups(postgresql, tmp_path):
    with (
        Store.open(postgresql.url("copied", password="hunter2")) as store,
        pytest.raises(InputError, match=r"run: pg_dump -Fc -f .*copy ") as refused,
    ):
        store.backup(tmp_path / "copy")
    assert "hunter2" not in str(refused.value)
    command = str(refused.value).partition("run: pg_dump ")[2]
    done = subprocess.run(
        ["sh", "-c", f"{postgresql.binaries / 'pg_dump'} {command}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copy").read_bytes().startswith(b"PGDMP")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE events SET item = ''", "events, seq 1: an id is empty"),
        ("UPDATE events SET timestamp = 9e999", "events, seq 1: a time is not a finite"),
        ("UPDATE answers SET items = '['", "answers, seq 1: items is not a JSON list"),
        ("UPDATE answers SET items = '[1]'", "answers, seq 1: items is not a JSON list"),
        ("UPDATE answers SET propensities = '[\"a\"]'", "seq 1: propensities is not a JSON list"),
        ("UPDATE answers SET propensities = '[]'", "seq 1: has 1 items and 0 propensities"),
        ("UPDATE answers SET at = 9e999", "seq 1: a number of it is not finite"),
        ("UPDATE items SET features = '3'", "items, seq 1: features is not a JSON object"),
        ("UPDATE versions SET figures = 'x'", "versions, name v1: figures is not a JSON object"),
        ("DELETE FROM versions", "activations, seq 1: names the version 'v1', which is not"),
        ("UPDATE answers SET rules = 'x'", "answers, seq 1: rules is not a JSON object"),
        ("UPDATE activations SET share = 2", "activations, seq 1: share is 2.0, not in"),
        ("INSERT INTO meta VALUES ('x', 'y')", "meta, key x: is not of this version"),
        ("UPDATE forgotten SET digest = 'ann'", "forgotten, seq 1: digest is not one of"),
        ("UPDATE events SET seq = 99", "events: numbers go on after 1, and 99 is taken"),
    ],
)
def test_a_check_names_the_row(store, change, words):
    store.add_events([event(1)])
    store.add_answers([Answer("r1", 0.0, "ann", "v1", "a", 1.0, "s", 1, ["i"], [1.0])])
    store.put_items({"i": {}})
    store.add_version(Version("v1", "/runs/one", 1.0, {}))
    store.activate("v1")
    store.forget("bob")
    assert store.check() == []
    change = change.replace("9e999", "'Infinity'") if store.database.path is None else change
    store.database.write(lambda connection: connection.exec_driver_sql(change))
    (problem,) = store.check()
    assert words in problem


def test_a_check_counts_what_it_does_not_name(store):
    store.put_items({f"i{number}": {} for number in range(9)})
    store.database.write(lambda c: c.exec_driver_sql("UPDATE items SET features = 'x'"))
    problems = store.check()
    assert len(problems) == 6 and problems[-1] == "items: 4 more rows are wrong"


# -- addresses, servers and versions ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (
            "events.db",
            "neither a URL nor the path of a file .*; write sqlite:///events.db or",
        ),
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("sqlite:///x.db?mode=memory&uri=true", "must be a file"),
        ("sqlite://host/x.db", "must be a file"),
        ("mysql://u:hunter2@host/d", "mysql: not a kind of store; write sqlite"),
        ("postgresql+psycopg2://u:hunter2@host/d", r"postgresql\+psycopg2: not a kind of store"),
        ("postgresql://u:hunter2@host:port/d", "neither a URL"),
        ("postgresql:/u:hunter2@host/d", "neither a URL"),
        (".", "neither a URL"),
    ],
)
def test_addresses_that_are_none(url, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words) as refused:
        Store.open(url)
    assert "hunter2" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("table", "create"), [("notes", False), ("events", True)])
def test_a_file_of_others_is_left_as_it_is(tmp_path, table, create):
    path = tmp_path / "theirs.db"
    with contextlib.closing(sqlite3.connect(path)) as theirs:
        theirs.execute(f"CREATE TABLE {table} (a)")
        theirs.commit()
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"no store|not of cnsdiff"):
        Store.open(f"sqlite:///{path}", create=create)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["theirs.db"]


def test_nothing_is_made_where_a_store_must_exist(store_url, tmp_path):
    with pytest.raises(InputError, match="there is no store; name the one of cnsdiff serve"):
        Store.open(store_url, create=False)
    assert not list(tmp_path.iterdir())


def test_a_driver_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError) as refused:
        Store.open("postgresql+psycopg://u:hunter2@host/d")
    assert str(refused.value) == (
        "postgresql+psycopg://u:***@host/d: needs psycopg; install it with: "
        f"{install_command('postgresql')}"
    )


def test_a_database_of_something_else(store_url):
    Store.open(store_url).close()
    engine = sa.create_engine(store_url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE meta SET value = '99'"))
    with pytest.raises(InputError, match="has schema version 99, and this cnsdiff reads 2; use"):
        Store.open(store_url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE meta"))
    with pytest.raises(
        InputError, match=r"has a table '.*' that is not of cnsdiff; give the store"
    ):
        Store.open(store_url)
    engine.dispose()


def test_what_is_promised_by_postgresql_is_switched_on(postgresql):
    with psycopg.connect(postgresql.conninfo, autocommit=True) as connection:
        connection.execute("ALTER ROLE cnsdiff SET synchronous_commit = off")
        try:
            with Store.open(postgresql.url("durable")) as store, store.database.read() as reading:
                assert reading.scalar(sa.text("SHOW synchronous_commit")) == "on"
        finally:
            connection.execute("ALTER ROLE cnsdiff RESET synchronous_commit")


def test_what_sqlite_promises_is_switched_on(tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/events.db") as store, store.database.read() as reading:
        settings = {
            name: reading.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "secure_delete", "busy_timeout")
        }
    assert settings == {
        "journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "busy_timeout": 5000,
    }  # fmt: skip
