"""What comes from outside is data: the main job with hostile ids and names, in a hostile folder."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from cnsdiff import Recommender, load_dataset
from cnsdiff.base.text import visible

#: A pattern that fits its neighbour, and more letters with a meaning to some reader.
FOLDER, NEIGHBOUR = "x[1]*?{a}", "x1"
NAME = "d\x1b[2J [/] <b>"
ITEMS = [
    "Song 3 [live]", "[/]", "[red]x[/red]", "\x1b[2J\x1b[31mEVIL", "\x07bell", "\u202eRTL",
    "\u2028sep", "\x9b2J", "<script>window.PWNED=1</script>", "=HYPERLINK(\"http://evil\")",
    "+cmd|calc", "*", "~", "a b", "😀", "%00", "{{7*7}}", "${HOME}", "nan", "'", "x" * 300,
]  # fmt: skip
#: The sequences that rich writes itself, for colours and styles.
STYLE = re.compile(r"\x1b\[[0-9;]*m")
HIDDEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e]")


def hostile_log(folder: Path) -> Path:
    """A log in which every id could do harm."""
    rows = [
        (f"u{user}[/]", item, 5, 1_600_000_000 + 1000 * user + at)
        for user in range(40)
        for at, item in enumerate(ITEMS)
        if (user * 7 + at * 3) % 5 < 3
    ]
    file = folder / "log.csv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([("user", "item", "rating", "timestamp"), *rows])
    return file


def neighbour(place: Path) -> None:
    """The same files in the folder that the name of ``place`` fits as a pattern, of other rows."""
    shutil.copytree(place, NEIGHBOUR, dirs_exist_ok=True)
    for file in Path(NEIGHBOUR).rglob("*.parquet"):
        file.write_bytes(b"PAR1 of the neighbour")


@pytest.fixture
def safe(cli):
    """Runs a command that must succeed and send nothing that a terminal obeys."""

    def run(*arguments: object) -> str:
        done = cli(*arguments)
        assert done.code == 0, (arguments, done.err)
        for text in (done.out, done.err):
            plain = STYLE.sub("", text)
            assert not HIDDEN.search(plain), (arguments, HIDDEN.search(plain))
        return done.out

    return run


def test_the_main_job_with_hostile_ids_in_a_hostile_folder(safe, fast, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wide = 800  # no id is broken
    monkeypatch.setenv("COLUMNS", str(wide))
    place = Path(FOLDER)
    data, run = place / "data", place / "run"
    place.mkdir()
    named = ("--threshold", 1, "--name", NAME, "--scenario", "popularity", "--out", data)
    assert "[/] <b>" in safe("prepare", hostile_log(place), *named, "--literal-ids")
    neighbour(place)
    safe("train", data, "--out", run, *fast, "--backbone", "mf")
    neighbour(place)
    known = {f"u{user}[/]" for user in range(40)}
    assert set(load_dataset(data).users) == known
    assert set(Recommender.load(run).items_) == set(ITEMS)

    shown = safe("data", "describe", data)
    assert "d\\x1b[2J [/] <b> (popularity)" in shown
    shown = safe("evaluate", run, "--references")
    assert "d\\x1b[2J [/] <b> (popularity)" in shown
    assert "cnsdiff report 'x[1]*?{a}/run'" in shown
    shown = safe("recommend", run, "--users", "u0[/]", "--k", 99)
    listed = safe("recommend", run, "--users", "u0[/]", "--k", 99, "--json")
    items = [row["item"] for row in json.loads(listed)]
    assert set(items) < set(ITEMS)
    for item in items:
        if item != "x" * 300:
            assert item.encode("unicode_escape").decode() in shown or item in shown
    safe("recommend", run, "--all-users", "--out", place / "lists.csv")
    lists = pl.read_csv(io.BytesIO((place / "lists.csv").read_bytes()), infer_schema=False)
    assert set(lists["item"]) <= set(ITEMS)
    assert set(lists["user"]) == known

    safe("report", run)
    for form in ("parquet", "numpy"):
        safe("export", run, "--to", form)
    vectors = io.BytesIO((place / "run-parquet" / "items.parquet").read_bytes())
    assert set(pl.read_parquet(vectors)["id"]) == set(ITEMS)
    for form in ("csv", "parquet"):
        safe("data", "export", data, "--to", form)
    train = io.BytesIO((place / "data-csv" / "train.csv").read_bytes())
    assert set(pl.read_csv(train, infer_schema=False)["item"]) <= set(ITEMS)


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "no\x1b[2J[/]such", "--out", "run"),
        ("data", "describe", "no\x1b[2J[/]such"),
        ("recommend", "RUN", "--users", "no\x1b[2J[/]such"),
        ("prepare", "no\x1b[2J[/]such", "--scenario", "temporal"),
        ("evaluate", "no\x1b[2J[/]such"),
        ("no\x1b[2J[/]such",),
        ("train", "--no\x1b[2J[/]such"),
    ],
)
def test_refusals(cli, kept_run, arguments):
    given = [kept_run if word == "RUN" else word for word in arguments]
    cli(*given).refused("no\\x1b[2J[/]such")
    told = json.loads(cli(*given, "--json").out)["error"]["message"]
    assert "no\\x1b[2J[/]such" in visible(told)


def test_paths_that_are_not_unicode(cli, safe, world, tmp_path):
    """What is there is read; nothing is written where the writers of tables could not go."""
    place = tmp_path / "caf\udce9"
    try:
        shutil.copytree(world, place)
    except OSError:
        pytest.skip("this file system has names in Unicode only")
    assert "caf\\udce9" in safe("data", "describe", place, "--json")
    told = cli("data", "export", place, "--to", "csv").refused("caf\\udce9-csv", "not UTF-8")
    assert "choose another" in told


@pytest.mark.parametrize("name", ["../outside", "/outside", "..", "a\x1b[2J", "x" * 300])
def test_a_name_is_no_path(cli, tmp_path, monkeypatch, untouched, name):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    log = hostile_log(here)
    untouched()
    told = cli("prepare", log, "--scenario", "temporal", "--name", name).refused("--out DIR")
    assert len(told) < 400
    untouched()
