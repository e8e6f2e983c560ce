"""``cnsdiff store``: a backup that is a store, and a check that finds what is wrong."""

from __future__ import annotations

import pytest

from cnsdiff.serving.store import Event, Store

OTHERS = ("answers", "items", "former_items", "versions", "activations", "forgotten")


@pytest.fixture
def url(tmp_path) -> str:
    url = f"sqlite:///{tmp_path}/events.db"
    with Store.open(url) as store:
        store.add_events([Event("e1", "ann", "i", 1.0)])
    return url


def test_backup_and_check(cli, url, tmp_path):
    copy = tmp_path / "copy.db"
    done = cli("store", "backup", url, copy)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Backup written: {copy} (")
    assert cli("store", "check", f"sqlite:///{copy}", "--json").json == {
        "store": f"sqlite:///{copy}",
        "problems": [],
        "rows": {"events": 1} | dict.fromkeys(OTHERS, 0),
    }
    cli("store", "backup", url, copy).refused("copy.db: already exists", "--overwrite")
    assert cli("store", "backup", url, copy, "--overwrite", "--json").json == {
        "path": str(copy),
        "bytes": copy.stat().st_size,
    }
    assert f"{url} is sound: 1 events, 0 answers" in cli("store", "check", url).out


def test_the_file_of_a_store_names_it(cli, url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("events.db", tmp_path / "events.db"):
        done = cli("store", "check", name, "--json").json
        assert (done["store"], done["rows"]["events"]) == (f"sqlite:///{name}", 1)
    assert cli("store", "backup", "events.db", "copy.db").code == 0
    assert cli("store", "check", "copy.db").code == 0
    (tmp_path / "log.csv").write_text("user,item\n" * 100)
    cli("store", "check", "log.csv").refused("log.csv: is damaged, or not a SQLite file")
    cli("store", "check", "none.db").refused(
        "neither a URL nor the path of a file that is there", "sqlite:///events.db"
    )


def test_a_check_that_finds_something_ends_with_1(cli, url):
    with Store.open(url) as store:
        store.database.write(lambda c: c.exec_driver_sql("UPDATE events SET item = ''"))
    done = cli("store", "check", url)
    assert (done.code, done.err) == (1, "")
    assert done.out.splitlines() == [
        f"{url} has 1 problem:",
        "  events, seq 1: an id is empty, or not text",
    ]
    done = cli("store", "check", url, "--json")
    assert done.code == 1
    assert '"rows": null' in done.out and "seq 1: an id is empty" in done.out


def test_a_store_that_is_not_there(cli, tmp_path):
    for command in (("check",), ("backup",)):
        words = [tmp_path / "copy.db"] if command == ("backup",) else []
        cli("store", *command, f"sqlite:///{tmp_path}/no.db", *words).refused("there is no store")
    assert not list(tmp_path.iterdir())
