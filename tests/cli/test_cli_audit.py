"""``cnsdiff audit``: a file as people have them, judged; interrupted, refused, shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from cnsdiff.base.errors import RunError
from cnsdiff.base.storage import locked
from cnsdiff.benchmark.progress import PlainReporter

#: Names as people have them: spaces, letters of other scripts, a comma in quotes.
NAMES = ("Łódź 東京", "Ana María", "Müller, Jürgen", "Иван")


def windows_file(path: Path) -> Path:
    """CSV as a spreadsheet on Windows writes it: a BOM, CRLF, quotes, names of its own."""
    rng = np.random.default_rng(5)
    n_users, n_items, rows = 120, 60, 20
    taste = rng.normal(size=(n_users, 3)) @ rng.normal(size=(3, n_items))
    scores = 2 * taste + rng.normal(size=n_items) + rng.gumbel(size=(n_users, n_items))
    lines = ["Customer ID,Product,Stars,Date"]
    for user, items in enumerate(np.argsort(-scores, axis=1)[:, :rows]):
        for place, item in enumerate(items):
            day = f"2024-{1 + int(rng.integers(12)):02d}-{1 + int(rng.integers(28)):02d}"
            name = f'"{NAMES[user % 4]} {user}"'
            lines.append(f"{name},Tee N° {item},{5 if place < 15 else 2},{day}")
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, ""]).encode())
    return path


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    return windows_file(tmp_path_factory.mktemp("windows") / "shop.csv")


def test_a_windows_file_with_names_from_first_line_to_report(cli, shop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("audit", shop, "--budget", "6s", "--shifts", "temporal", "--threads", "1")
    assert done.code == 0, done.err
    advice = json.loads((tmp_path / "audits/shop/audit.json").read_text())["shifts"][0]
    for command in advice["recommendation"]["commands"]:
        assert command in done.out
    assert "Report: audits/shop/report.html" in done.out
    assert "look like ratings from 2 to 5" in done.err
    assert "--threshold changes that" in done.err
    result = json.loads((tmp_path / "audits/shop/audit.json").read_text())
    assert result["verdict"] in done.out
    assert [shift["name"] for shift in result["shifts"]] == ["temporal"]
    assert result["log"]["columns"] == {
        "user": "Customer ID",
        "item": "Product",
        "rating": "Stars",
        "timestamp": "Date",
    }
    funnel = result["log"]["funnel"]
    assert [step["name"] for step in funnel] == ["read", "readable", "positive", "pairs"]
    for step in funnel:
        assert re.search(rf"{step['rows']:,}  ", done.err)
    assert (tmp_path / "audits/shop/report.html").read_text().startswith("<!DOCTYPE html>")
    train = (tmp_path / "audits/shop/temporal/train.csv").read_text()
    assert "Łódź 東京 0" in train
    # The same command again trains nothing and says the same.
    again = cli(
        *("audit", shop, "--budget", "6s", "--shifts", "temporal", "--threads", "1"),
        "--json",
    ).json
    kept = [row["method"] for row in result["shifts"][0]["table"]]
    assert {row["method"] for row in again["shifts"][0]["table"]} >= set(kept)
    assert again["report"] == "audits/shop/report.html"


def test_splits_for_a_system_of_ones_own_and_its_lists(cli, shop, tmp_path):
    out = tmp_path / "a"
    told = cli("audit", shop, "--splits-only", "--out", out, "--shifts", "popularity")
    assert told.code == 0
    assert "train your recommender on" in told.out
    assert "--recommendations popularity=FILE" in told.out
    found = cli("audit", shop, "--splits-only", "--out", out, "--shifts", "popularity", "--json")
    train = Path(found.json["splits"]["popularity"]["train"])
    assert train.is_file()
    lists = tmp_path / "lists.csv"
    users = {
        line.rpartition(",")[0].split(",Tee")[0] for line in train.read_text().splitlines()[1:]
    }
    rows = [f"{user},Tee N° {item},{item}" for user in sorted(users) for item in range(12)]
    lists.write_text("\n".join(["user,item,rank", *rows]))
    done = cli(
        *("audit", shop, "--out", out, "--shifts", "popularity", "--budget", "5s"),
        *("--threads", "1", "--recommendations", f"popularity={lists}"),
    )
    assert done.code == 0, done.err
    (one,) = json.loads((out / "audit.json").read_text())["shifts"][0]["outside"]
    assert (one["name"], one["metric"]) == ("yours", "ndcg@5")
    assert one["warnings"] == []
    assert one["counts"]["longest"] == 12
    assert any("judged by NDCG@5" in note for note in one["notes"])
    assert "yours reaches" in done.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--budget", "10"), ("--budget 10", "write 10s for seconds or 10m for minutes")),
        (("--metric", "ndcg@7"), ("--metric ndcg@7", "did you mean 'ndcg@")),
        (("--shifts", "weather"), ("--shifts", "'weather'", "popularity")),
        (("--recommendations", "nobody.csv"), ("--recommendations nobody.csv", "no file")),
        (("--user-col", "who"), ("no column 'who'", "--user-col")),
        (("--threshold", "9"), ("no rating reaches", "lower --threshold")),
    ],
)
def test_what_is_wrong_is_one_sentence_before_anything_is_trained(
    cli, shop, tmp_path, options, words
):
    done = cli("audit", shop, "--out", tmp_path / "a", *options)
    assert (done.code, done.out) == (2, "")
    *said, last = done.err.splitlines()
    assert all(line.startswith("audit: ") for line in said)
    assert last.startswith("cnsdiff: ")
    for word in words:
        assert word in last
    assert not (tmp_path / "a" / "benchmark").exists()


def test_a_missing_log_is_refused(cli, tmp_path):
    cli("audit", tmp_path / "nothing.csv").refused("nothing.csv", "no such file")


def test_only_an_audit_is_started_anew(cli, shop, tmp_path, untouched):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep me")
    cli("audit", shop, "--out", mine, "--overwrite").refused("holds no audit", "--overwrite")
    assert (mine / "notes.txt").exists()
    out = tmp_path / "a"
    plain = ("audit", shop, "--out", out, "--shifts", "popularity", "--splits-only")
    assert cli(*plain).code == 0
    done = cli(*plain, "--threshold", "2")
    assert done.code == 2
    assert "differs in --threshold" in done.err
    (out / "benchmark").mkdir(exist_ok=True)
    untouched()
    assert cli("audit", tmp_path / "no.csv", *plain[2:], "--overwrite").code == 2
    untouched()  # what is given is read before what is there goes
    with locked(out / "benchmark", RunError("held")):
        done = cli(*plain, "--threshold", "2", "--overwrite")
    assert (done.code, "another command is writing here" in done.err) == (2, True)
    untouched()
    assert cli(*plain, "--threshold", "2", "--overwrite").code == 0
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.name[0] == ".") == []


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(cli, shop, tmp_path, monkeypatch):
    out = tmp_path / "a"
    command = ("audit", shop, "--out", out, "--shifts", "popularity", "--threads", "1", "--budget")
    real, left = PlainReporter.done, 3

    def press(self, *task):
        nonlocal left
        real(self, *task)
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PlainReporter, "done", press)
        stopped = cli(*command, "5m")
    assert (stopped.code, stopped.out) == (130, "")
    assert "audit: 3/6" in stopped.err
    assert "Traceback" not in stopped.err
    assert "the same command goes on" in stopped.err.splitlines()[-1]
    kept = {file.name for file in (out / "benchmark/records").iterdir()}
    assert len(kept) == 3
    done = cli(*command, "5s")
    assert done.code == 0, done.err
    assert "of them done before" in done.err
    assert kept <= {file.name for file in (out / "benchmark/records").iterdir()}
    assert (out / "report.html").is_file()
