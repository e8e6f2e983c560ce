"""``cnsdiff report``: where it is written, what it prints, what it refuses."""

from __future__ import annotations

import shlex
import shutil

import pytest

from cnsdiff import Recommender, load_dataset


def test_of_a_run(cli, run, untouched):
    done = cli("report", run)
    assert done.code == 0, done.err
    file = run / "report.html"
    assert f"Wrote {file}." in done.out
    assert "report: fitting ease" in done.err.splitlines()
    html = file.read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>")
    verdict = done.out.splitlines()[0]
    assert "NDCG@20" in verdict and verdict in html.replace("&#39;", "'")
    # A report of ours is replaced; nothing else of the run is touched.
    first = html
    untouched()
    assert cli("report", run).code == 0
    assert file.read_text(encoding="utf-8") == first
    untouched()
    assert cli("evaluate", run).code == 0, "the run is as good as it was"


def test_json(cli, run, world, tmp_path):
    found = cli("report", run, "--out", tmp_path / "a.html", "--json").json
    assert found["report"] == str(tmp_path / "a.html")
    assert list(found["sections"])[:2] == ["Accuracy", "Slices"]
    rows = found["sections"]["Accuracy"][0]["rows"]
    own = Recommender.load(run).evaluate(load_dataset(world))
    assert rows[0]["method"] == "random (this run)"
    value = rows[0]["values"]["test_ood/ndcg@20"]["value"]
    assert value == pytest.approx(own["test_ood"]["ndcg@20"])
    assert f"{own['test_ood']['ndcg@20']:.4f}" in found["verdict"]


def test_of_a_dataset(cli, world, tmp_path):
    done = cli("report", world, "--out", tmp_path / "new" / "shift.html")
    assert done.code == 0, done.err
    assert (tmp_path / "new" / "shift.html").exists()
    assert "train" in done.out.splitlines()[0]


def test_a_dataset_that_has_moved(cli, run, world, tmp_path):
    moved = shutil.copytree(world, tmp_path / "moved")
    found = cli("report", run, "--dataset", moved, "--json").json
    assert "Accuracy" in found["sections"]
    other = tmp_path / "other"
    cli("simulate", "--out", other, "--seed", 5)
    cli("report", run, "--dataset", other).refused("is not the dataset that")
    cli("report", run, "--dataset", tmp_path / "none").refused("none")


def test_what_it_says_to_run_next_runs(cli, run):
    cli("report", run)
    html = (run / "report.html").read_text(encoding="utf-8")
    source = html.partition('<code id="source-1">')[2].partition("</code>")[0]
    lines = [
        line for line in source.replace("&#39;", "'").splitlines() if line[:1] not in ("#", "")
    ]
    assert [shlex.split(line)[1] for line in lines] == ["recommend", "train", "train", "evaluate"]
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "cnsdiff"
        short = ("--set", "training.epochs=1") if words[0] == "train" else ()
        done = cli(*words, *short)
        assert done.code == 0, (line, done.err)


def test_open(cli, run, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert cli("report", run, "--open").code == 0
    assert opened == [(run / "report.html").resolve().as_uri()]


def test_refusals(cli, run, tmp_path, untouched):
    mine = tmp_path / "mine.html"
    mine.write_text("<!DOCTYPE html><title>mine</title>")
    (tmp_path / "empty").mkdir()
    untouched()
    cli("report", run, "--out", mine).refused("is no report of cnsdiff", "another --out")
    cli("report", run, "--out", tmp_path).refused("is a directory")
    cli("report", tmp_path / "empty").refused("is none of ours", "cnsdiff train")
    cli("report", tmp_path / "gone").refused("does not exist")
    cli("report", run / "config.yaml").refused("is a file of a run")
    untouched()


def test_a_full_disk_leaves_the_old_report(cli, run, full_disk):
    assert cli("report", run).code == 0
    before = (run / "report.html").read_bytes()
    with full_disk(100_000):
        done = cli("report", run)
    assert "disk is full" in done.err and done.code == 2
    assert (run / "report.html").read_bytes() == before
