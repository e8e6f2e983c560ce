"""``cnsdiff report``: where it is written, what it prints, what it refuses."""

from __future__ import annotations

import shlex
import shutil

import pytest

from cnsdiff import Recommender, load_dataset


def test_of_a_run(cli, run):
    done = cli("report", run)
    assert done.code == 0, done.err
    file = run / "report.html"
    assert f"Wrote {file}." in done.out
    assert "report: fitting ease" in done.err.splitlines()
    html = file.read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>")
    verdict = done.out.splitlines()[0]
    assert "NDCG@20" in verdict and verdict in html.replace("&#39;", "'")
    assert cli("evaluate", run).code == 0, "the run is as good as it was"
    for line, words in commands(html):
        short = ("--set", "training.epochs=1") if words[0] == "train" else ()
        again = cli(*words, *short)
        assert again.code == 0, (line, again.err)


def commands(html: str) -> list[tuple[str, list[str]]]:
    """What a report says to run next."""
    source = html.partition('<code id="source-1">')[2].partition("</code>")[0]
    lines = source.replace("&#39;", "'").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    found = [(line, shlex.split(line)) for line in lines]
    assert [words[:2] for _, words in found] == [
        ["cnsdiff", name] for name in ("recommend", "train", "train", "train", "evaluate")
    ]
    return [(line, words[1:]) for line, words in found]


def test_json_and_a_dataset_that_has_moved(cli, run, world, tmp_path):
    moved = shutil.copytree(world, tmp_path / "moved")
    file = tmp_path / "new" / "a.html"
    found = cli("report", run, "--dataset", moved, "--out", file, "--json").json
    assert found["report"] == str(file) and file.exists()
    assert list(found["sections"])[:2] == ["Accuracy", "Slices"]
    rows = found["sections"]["Accuracy"][0]["rows"]
    own = Recommender.load(run).evaluate(load_dataset(world))
    assert rows[0]["method"] == "random (this run)"
    value = rows[0]["values"]["test_ood/ndcg@20"]["value"]
    assert value == pytest.approx(own["test_ood"]["ndcg@20"])
    assert f"{own['test_ood']['ndcg@20']:.4f}" in found["verdict"]
    other = tmp_path / "other"
    cli("simulate", "--out", other, "--seed", 5)
    cli("report", run, "--dataset", other).refused("is not the dataset that")
    cli("report", run, "--dataset", tmp_path / "none").refused("none")


def test_a_report_of_ours_is_replaced(cli, world, tmp_path, monkeypatch, full_disk):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    data = shutil.copytree(world, tmp_path / "data")
    file = data / "report.html"
    for _ in range(2):
        done = cli("report", data, "--open")
        assert done.code == 0, done.err
    assert "train" in done.out.splitlines()[0]
    assert opened == [file.resolve().as_uri()] * 2
    assert len(load_dataset(data).split("train"))  # it is a dataset as before
    before = file.read_bytes()
    with full_disk(100_000):
        done = cli("report", data)
    assert "disk is full" in done.err and done.code == 1
    assert file.read_bytes() == before


def test_refusals(cli, run, tmp_path, untouched):
    mine = tmp_path / "mine.html"
    mine.write_text("<!DOCTYPE html><title>mine</title>")
    (tmp_path / "empty").mkdir()
    untouched()
    cli("report", run, "--out", mine).refused("is not a report of cnsdiff", "another --out")
    cli("report", run, "--out", tmp_path).refused("is a directory")
    cli("report", tmp_path / "empty").refused("was not written by cnsdiff", "cnsdiff train")
    cli("report", tmp_path / "gone").refused("does not exist")
    cli("report", run / "config.yaml").refused("is a file of a run")
    untouched()
