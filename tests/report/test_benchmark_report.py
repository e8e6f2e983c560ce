"""The report of a benchmark: of all results, of some, of none, and of what failed."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
import torch

from cnsdiff.base.errors import RunError
from cnsdiff.benchmark.findings import benchmark_verdict, find, read_stored
from cnsdiff.benchmark.grid import Grid
from cnsdiff.benchmark.plan import materialise, plan
from cnsdiff.benchmark.run import run
from cnsdiff.benchmark.store import Store
from cnsdiff.benchmark.workers import ThisProcess
from cnsdiff.display.tables import Table
from cnsdiff.report.benchmark import benchmark_document
from cnsdiff.report.document import Figure, Source, document_of
from cnsdiff.report.html import render_html, write_html

GRID = {
    "name": "tiny",
    "datasets": {
        "world": {
            "simulate": {"n_users": 60, "n_items": 50, "exposures": 20, "shift": "popularity"},
            "anticipate": "inverse-popularity",
            "scenario": "popularity",
        },
        "later": {
            "simulate": {"n_users": 60, "n_items": 50, "exposures": 20, "shift": "temporal"},
            "scenario": "temporal",
        },
    },
    "methods": {
        "mostpop": {"reference": "mostpop", "group": "reference"},
        "random": {"set": {"sampler.name": "random"}},
        "dns": {"set": {"sampler.name": "dns"}},
        # What the default was called in earlier results, which must stay readable.
        "cnsdiff": {"set": {"sampler.name": "exposure"}, "group": "ours"},
        "flat": {"set": {"sampler.name": "popularity"}, "group": "ablation"},
    },
    "seeds": [0, 1],
    "budget": {"epochs": 2},
    "set": {"backbone": {"name": "mf", "dim": 4}, "training": {"batch_size": 64}},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    before = torch.get_num_threads()
    path = tmp_path_factory.mktemp("benchmark") / "tiny"
    grid = Grid.model_validate(GRID)
    store = Store(path)
    store.open(grid)
    places = {name: materialise(name, entry, store.data) for name, entry in grid.datasets.items()}
    with ThisProcess() as workers:
        run(plan(grid, places, threads=1), store, workers)
    torch.set_num_threads(before)
    return path


@pytest.fixture(scope="module")
def report(results):
    return benchmark_document(results)


def blocks(document, title, kind):
    (found,) = (section for section in document.sections if section.title == title)
    return [block for block in found.blocks if isinstance(block, kind)]


def test_sections(report):
    assert [section.title for section in report.sections] == [
        "Overview", "IID and OOD", "Leaderboards", "Headline", "Significance", "Ablation", "Cost",
        "Grid",
    ]  # fmt: skip
    assert report.title == "Benchmark tiny"


def test_the_verdict_is_the_best_average_rank(results, report):
    grid, found = read_stored(results)
    findings = find(grid, found)
    assert report.verdict == benchmark_verdict(findings.summary, "ndcg@20")
    (ranks,) = blocks(report, "Overview", Figure)
    best = ranks.data.sort("rank_ood")["method"][0]
    assert f": {best} with " in report.verdict
    assert "flat" not in ranks.data["method"]  # a part of ours is no rival


def test_points_are_the_means_of_the_summary(results, report):
    grid, found = read_stored(results)
    summary = find(grid, found).summary
    figures = blocks(report, "IID and OOD", Figure)
    assert [figure.title for figure in figures] == ["world", "later"]
    for figure, selection in zip(figures, ("inverse-popularity", "valid"), strict=True):
        assert selection in figure.caption
        for row in figure.data.iter_rows(named=True):
            wanted = summary.filter(
                dataset=figure.title, selection=selection, method=row["method"], metric="ndcg@20"
            )
            for split, name in (("test_iid", "iid"), ("test_ood", "ood")):
                one = wanted.filter(split=split)
                assert row[name] == one["mean"].item()
                if one["n_seeds"].item() > 1:
                    assert row[f"{name}_low"] == one["low"].item()


def test_the_ablation_is_beside_the_whole(report):
    found = blocks(report, "Ablation", Table)[0]
    assert [labels for labels, _ in found.rows] == [("ours", "cnsdiff"), ("ablation", "flat")]
    values = {labels[1]: [cell.value for cell in cells] for labels, cells in found.rows}
    whole, part = values["cnsdiff"], values["flat"]
    assert whole[1] == 0
    assert part[1] == pytest.approx(part[0] / whole[0] - 1)


def test_significance_marks_what_the_tests_say(results, report):
    grid, found = read_stored(results)
    comparison = find(grid, found).comparison.filter(metric="ndcg@20")
    shown = blocks(report, "Significance", Table)
    assert sum(len(table.rows) for table in shown) == comparison.height
    marked = sum(cells[0].differs for table in shown for _, cells in table.rows)
    assert marked == comparison.filter(pl.col("p_holm") < 0.05).height


def test_the_grid_is_shown_to_the_letter(results, report):
    (source,) = blocks(report, "Grid", Source)
    assert source.text == (results / "grid.yaml").read_text()
    assert render_html(benchmark_document(results)) == render_html(report)


def test_what_is_missing_and_what_failed_is_said(results, tmp_path):
    copy = shutil.copytree(results, tmp_path / "copy")
    _, whole = read_stored(copy)
    keys = whole.table.filter(method="dns")["key"].unique()
    for key in keys:
        (copy / "records" / f"{key}.parquet").unlink()
    _, part = read_stored(copy)
    assert part.missing == len(keys)
    first = whole.table.filter(method="random")["key"][0]
    file = copy / "records" / f"{first}.parquet"
    record = pl.read_parquet(file).head(1)
    failed = record.with_columns(status=pl.lit("failed"), error=pl.lit("it <b>burst</b>"))
    failed.write_parquet(file)
    found = benchmark_document(copy)
    assert f"Still missing: {len(keys)} results" in found.summary
    assert "1 task failed" in found.summary
    assert "it <b>burst</b>" in blocks(found, "Grid", Source)[0].text
    assert "<b>" not in render_html(found)
    for record in (copy / "records").iterdir():
        record.unlink()
    nothing = document_of(copy)
    assert nothing.verdict == "There are no results yet."
    assert "go" in nothing.summary
    render_html(nothing)


def test_a_grid_of_an_earlier_version_names_the_group_of_our_methods_cnsdiff(results, tmp_path):
    copy = shutil.copytree(results, tmp_path / "copy")
    file = copy / "grid.yaml"
    text = file.read_text()
    assert text.count("group: ours") == 1
    file.write_text(text.replace("group: ours", "group: cnsdiff"))
    (grid, found), (same_grid, same) = read_stored(results), read_stored(copy)
    assert same_grid == grid and same.missing == 0 and same.table.equals(found.table)
    assert find(same_grid, same).headline.ranks.filter(group="ours")["method"].to_list()


def test_without_its_datasets(results, tmp_path):
    copy = shutil.copytree(results, tmp_path / "copy")
    shutil.rmtree(copy / "data")
    with pytest.raises(RunError, match="the dataset 'world' of the benchmark is gone"):
        benchmark_document(copy)
    (copy / "grid.yaml").write_text("name: tiny\nmethods: 3\n")
    with pytest.raises(RunError, match=r"grid\.yaml: .*use the version of cnsdiff"):
        benchmark_document(copy)
    (copy / "grid.yaml").write_text("name: [\n")
    with pytest.raises(RunError, match="cannot be read"):
        benchmark_document(copy)


def test_many_methods_are_named_by_group(results, report, monkeypatch):
    monkeypatch.setattr("cnsdiff.report.benchmark.NAMED", 3)
    figure = blocks(benchmark_document(results), "IID and OOD", Figure)[0].figure
    named = [trace.name for trace in figure.data if trace.showlegend]
    assert named == ["reference", "sampler", "ours", "ablation"]
    looks = {(t.legendgroup, t.marker.color) for t in figure.data if t.mode == "markers"}
    assert len(looks) == 4


@pytest.mark.slow
def test_in_a_browser(report, tmp_path, open_page):
    file = tmp_path / "report.html"
    write_html(report, file)
    with open_page(file, color_scheme="dark") as page:
        for tab in page.locator("[role=tab]").all():
            tab.click()
        undrawn = "all => all.filter(one => !one.querySelector('svg')).length"
        assert page.eval_on_selector_all(".plot", undrawn) == 0
        page.set_viewport_size({"width": 360, "height": 740})
        for tab in page.locator("[role=tab]").all():
            tab.click()
            assert page.evaluate("document.documentElement.scrollWidth") == 360
