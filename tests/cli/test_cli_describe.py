"""``cnsdiff data describe``: tables, JSON, figures and refusals."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cnsdiff import load_dataset, prepare_given
from cnsdiff.base.errors import CnsdiffWarning
from cnsdiff.diagnostics import describe

DAY = 86_400


@pytest.fixture(scope="session")
def shifted(tmp_path_factory) -> Path:
    """A dataset with times, periods, a name full of brackets, and splits that overlap."""
    random = np.random.default_rng(0)

    def log(first: int, last: int) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "user": random.integers(0, 40, 300),
                "item": random.integers(0, 30, 300),
                "timestamp": random.integers(first * DAY, last * DAY, 300),
                "environment": random.choice(["a [b]", "c"], 300),
            }
        )

    splits = {"valid": log(0, 90), "test_iid": log(0, 90), "test_ood": log(90, 120)}
    with pytest.warns(CnsdiffWarning):
        made = prepare_given(log(0, 90), **splits, name="[red]shop[/]")
    return made.save(tmp_path_factory.mktemp("describe") / "shifted")


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CNSDIFF_HOME", str(tmp_path_factory.mktemp("home")))


def test_help(cli):
    done = cli("data", "describe", "--help")
    assert (done.code, done.err) == (0, "")
    assert "Example: cnsdiff data describe" in done.out


def test_tables_of_one_dataset(cli, world, untouched):
    untouched()
    done = cli("data", "describe", world)
    assert (done.code, done.err) == (0, "")
    found = describe(load_dataset(world))
    ood = found.splits["test_ood"]
    shift = ood.shift["items"]
    for words in (
        "Distance from train",
        "In both of two splits",
        "OOD test",
        "by chance: the mean of 5 random divisions",
        f"{ood.pairs:,}",
        f"{shift.observed.js:.4f}",
        f"{shift.chance.js:.4f}",
        f"{shift.observed.wasserstein:.4f}",
        f"{100 * ood.head:.1f}",
    ):
        assert words.lower() in done.out.lower(), words
    untouched()


def test_times_periods_and_problems(cli, shifted):
    done = cli("data", "describe", shifted)
    assert done.code == 0
    found = describe(load_dataset(shifted))
    for words in ("Time (UTC)", "1970-01-01", "a [b]", "[red]shop[/] (given)", "periods"):
        assert words in done.out, words
    assert f"note: [red]shop[/]: {found.problems[0]}" in done.out


def test_tables_fit_a_file_and_cut_nothing(cli, shifted, world):
    for targets in ([shifted], [shifted, world]):
        done = cli("data", "describe", *targets)
        tables = [line for line in done.out.splitlines() if line[:1] in "┏┃┡│├└"]
        assert max(map(len, tables)) <= 120
        assert "…" not in done.out


def test_json(cli, shifted):
    report = cli("data", "describe", shifted, "--json").json
    found = describe(load_dataset(shifted))
    assert report == {"path": str(shifted), **json.loads(json.dumps(found.to_dict()))}
    other = cli("data", "describe", shifted, "--seed", 4, "--json").json
    assert other["seed"] == 4
    ours, theirs = (one["splits"]["test_ood"]["shift"]["items"] for one in (report, other))
    assert ours["observed"] == theirs["observed"]
    assert ours["chance"] != theirs["chance"]


def test_several_datasets_in_one_table(cli, shifted, world):
    done = cli("data", "describe", shifted, world)
    assert done.code == 0
    assert done.out.count("Distance from train") == 1
    for path in (shifted, world):
        dataset = load_dataset(path)
        found = describe(dataset)
        for name in ("valid", "test_ood"):
            shift = found.splits[name].shift["items"]
            row = f"{shift.observed.js:.4f} │ {shift.chance.js:.4f}"
            assert row in done.out
        assert dataset.name in done.out
    reports = cli("data", "describe", shifted, world, "--json").json
    assert [report["path"] for report in reports] == [str(shifted), str(world)]


def test_figures(cli, shifted, world, tmp_path, untouched):
    file = tmp_path / "new" / "shift.html"
    done = cli("data", "describe", shifted, world, "--figures", file)
    assert done.code == 0, done.err
    assert f"Wrote {file}." in done.out
    html = file.read_text(encoding="utf-8")
    titles = [f"{d.name} ({d.scenario})" for d in map(load_dataset, (shifted, world))]
    assert html.startswith("<!DOCTYPE html>")
    assert re.findall(r"<h2[^>]*>([^<]+)", html) == ["Comparison", *titles]
    untouched()
    cli("data", "describe", world, "--figures", file).refused("already exists", "--overwrite")
    cli("data", "describe", world, "--figures", tmp_path).refused("is a directory")
    untouched()
    report = cli("data", "describe", world, "--figures", file, "--overwrite", "--json").json
    assert report["name"] == load_dataset(world).name
    html = file.read_text(encoding="utf-8")
    assert re.findall(r"<h2[^>]*>([^<]+)", html) == ["Shift", "Numbers"]
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_a_full_disk_leaves_the_old_figures(cli, world, tmp_path, full_disk):
    file = tmp_path / "shift.html"
    file.write_text("old")
    with full_disk(100_000):
        done = cli("data", "describe", world, "--figures", file, "--overwrite")
    done.refused("disk is full", "shift.html", code=1)
    assert file.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["shift.html"]


def test_a_name_of_the_catalogue(cli, tmp_path, monkeypatch):
    from cnsdiff.catalogue import find, home

    entry = find("ml-100k")
    done = cli("data", "describe", "ml-100k")
    assert done.code == 0
    for words in (*entry.addresses, entry.licence, entry.terms, str(home()), "absent"):
        assert words in done.out.replace("\n", " "), words
    report = cli("data", "describe", "ml-100k", "--json").json
    assert report["addresses"] == list(entry.addresses)
    assert report["status"] == "absent"
    # A folder that only has the name is not taken for a dataset, a dataset is.
    monkeypatch.chdir(tmp_path)
    Path("ml-100k").mkdir()
    assert cli("data", "describe", "ml-100k", "--json").json["status"] == "absent"
    frame = pl.DataFrame({"user": [1, 2], "item": [3, 4]})
    prepare_given(frame, name="mine").save("ml-100k", overwrite=True)
    assert cli("data", "describe", "ml-100k", "--json").json["name"] == "mine"


def test_refusals(cli, world, tmp_path):
    refused = cli("data", "describe", "ml-10k").refused("neither a dataset directory nor")
    assert "(did you mean 'ml-1" in refused
    cli("data", "describe", tmp_path / "gone").refused("gone", "cnsdiff prepare")
    cli("data", "describe", tmp_path).refused("manifest.json", "cnsdiff prepare")
    cli("data", "describe", world, "ml-1m").refused("ml-1m", "nothing to measure")
    cli("data", "describe", "ml-1m", "--figures", tmp_path / "a.html").refused("nothing to measure")
    (tmp_path / "file.csv").write_text("user,item\n")
    cli("data", "describe", tmp_path / "file.csv").refused("file.csv", "at least one row")
    assert not (tmp_path / "a.html").exists()
    assert cli("data", "describe").code == 2
    assert cli("data", "describe", world, "--seed", -1).code == 2


def test_a_damaged_split(cli, shifted, tmp_path):
    import shutil

    copy = shutil.copytree(shifted, tmp_path / "copy")
    with (copy / "valid.parquet").open("ab") as file:
        file.write(b"x")
    cli("data", "describe", copy).refused("valid.parquet", "is changed")


def test_a_long_name_hides_no_number(cli, world, tmp_path):
    copies = [tmp_path / name for name in ("one", "two")]
    for copy in copies:
        shutil.copytree(world, copy)
        manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
        manifest["name"] = "[long] name" * 20
        (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    short = cli("data", "describe", world, world).out
    long = cli("data", "describe", *copies).out
    numbers = re.findall(r"\d+\.\d{4}", short)
    assert len(numbers) > 20
    assert re.findall(r"\d+\.\d{4}", long) == numbers
    assert "[long]" in long


def test_a_log_is_looked_at_whole(cli, tmp_path):
    rows = [f"u{n % 50},i{n % 37},{'buy' if n % 9 == 0 else 'view'},{n * 9000}" for n in range(900)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,event_type,time", *rows, "lonely"]))
    file = tmp_path / "log.csv"
    done = cli("data", "describe", file)
    assert (done.code, done.err) == (0, "")
    for row in (r"rows read +│ +901", r"fewer fields than 4 \(line 902\) +│ +-1", r"view +│ +800"):
        assert re.search(row, done.out), (row, done.out)
    assert "--events buy keeps only some, --events buy=1,view=0.5 weighs them" in done.out
    asked = ("--events", "buy", "--user-core", 2, "--event-col", "event_type")
    done = cli("data", "describe", file, *asked)
    after = "--event-col event_type --events buy --user-core 2 --skip-bad"
    assert f"cnsdiff audit {file} {after}" in " ".join(done.out.split())
    report = cli("data", "describe", file, *asked, "--json").json
    assert [step["name"] for step in report["funnel"]] == [
        *("read", "readable", "events", "pairs", "core"),
    ]
    assert report["events"] == {"buy": 100}
    assert sum(week["rows"] for week in report["weeks"]) == 100
    cli("data", "describe", file, file).refused("described alone")
    cli("data", "describe", file, "--events", "buy=-1").refused("--events", "give 0, or a")


def test_options_of_a_log_are_for_a_log(cli, shifted):
    cli("data", "describe", shifted, "--max-per-user", 9).refused("--max-per-user is for a log")


def test_a_threshold_is_chosen_as_an_audit_would(cli, tmp_path):
    rows = (f"u{n % 50},i{n % 37},{1 + n % 5}" for n in range(900))
    (tmp_path / "log.csv").write_text("\n".join(["user,item,stars", *rows]))
    done = cli("data", "describe", tmp_path / "log.csv")
    assert "look like ratings from 1 to 5, so those of 4 and more are positive" in done.out
    assert re.search(r"a rating below 4 +│ +-540", done.out)
    assert f"cnsdiff audit {tmp_path / 'log.csv'} --threshold 4" in " ".join(done.out.split())
    assert cli("data", "describe", tmp_path / "log.csv", "--json").json["threshold"] == 4
    own = cli("data", "describe", tmp_path / "log.csv", "--rating-col", "none", "--json").json
    assert (own["threshold"], own["funnel"][-1]["name"]) == (None, "pairs")
