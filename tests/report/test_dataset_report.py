"""The report of datasets: its sentence, its tables, and the page."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from cnsdiff.diagnostics import describe
from cnsdiff.display.tables import Table
from cnsdiff.report.dataset import _verdict, descriptions_document
from cnsdiff.report.document import Figure, document_of
from cnsdiff.report.html import render_html, write_html
from cnsdiff.shifts import prepare_given


def log(seed: int, n: int, tilt: float) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    items = (40 * rng.random(n) ** tilt).astype(int)
    frame = pl.DataFrame({"user": rng.integers(0, 50, n), "item": items})
    return frame.unique(maintain_order=True)


@pytest.fixture(scope="module")
def shifted():
    """An OOD test of other items than those that are popular in train."""
    whole = log(0, 900, 2.5)
    odd = log(1, 300, 0.5).join(whole, on=["user", "item"], how="anti")
    return prepare_given(whole[:-100], test_iid=whole[-100:], test_ood=odd, name="shop <b>")


@pytest.fixture(scope="module")
def unshifted():
    whole = log(2, 900, 1.0)
    order = pl.Series(np.random.default_rng(3).permutation(whole.height))
    whole = whole[order]
    return prepare_given(whole[:-150], test_ood=whole[-150:], name="flat")


def tables(document) -> dict[str, Table]:
    blocks = (block for section in document.sections for block in section.blocks)
    return {block.title: block for block in blocks if isinstance(block, Table)}


def test_the_sentence_names_the_split_and_the_axis(shifted, unshifted):
    found = descriptions_document([describe(shifted)]).verdict
    assert found.startswith("In shop <b> the OOD test is shifted most in its items:")
    calm = descriptions_document([describe(unshifted)]).verdict
    assert calm == "No split of flat is further from train than chance could make it."


@pytest.mark.parametrize("chance", [0.000418, 0.0123, 0.21, 0.0])
def test_the_sentence_agrees_with_its_numbers(shifted, chance):
    def distance(js: float, by_chance: float) -> SimpleNamespace:
        return SimpleNamespace(
            observed=SimpleNamespace(js=js), chance=SimpleNamespace(js=by_chance)
        )

    split = SimpleNamespace(shift={"items": distance(0.635, chance)})
    said = _verdict(SimpleNamespace(name="x", splits={"test_ood": split}))
    if chance == 0:
        assert "far beyond chance (Jensen–Shannon 0.635, by chance nearly 0)" in said
        return
    times, js, by_chance = re.search(
        r"([\d,]+) times .* \(Jensen–Shannon (\S+) to (\S+)\)", said
    ).groups()
    assert float(js) / float(by_chance) == pytest.approx(
        float(times.replace(",", "")), rel=0.01, abs=0.5
    )


def test_of_a_directory(shifted, tmp_path):
    path = shifted.save(tmp_path / "shop")
    document = document_of(path)
    assert [section.title for section in document.sections] == ["Shift", "Numbers"]
    description = describe(shifted)
    counts = tables(document)["What is in each split"]
    pairs = {labels[0]: cells[0].value for labels, cells in counts.rows}
    assert pairs == {
        "train": description.splits["train"].pairs,
        "IID test": description.splits["test_iid"].pairs,
        "OOD test": description.splits["test_ood"].pairs,
    }
    distances = tables(document)["Distance from train"]
    js = {labels: cells[0].value for labels, cells in distances.rows}
    assert js["OOD test", "items"] == description.splits["test_ood"].shift["items"].observed.js
    drawn = [block for block in document.sections[0].blocks if isinstance(block, Figure)]
    assert [figure.title for figure in drawn][:2] == [
        "Distance from train",
        "Popularity of the items",
    ]
    assert render_html(document_of(path)) == render_html(document)


def test_several_side_by_side(shifted, unshifted):
    described = [describe(one) for one in (shifted, unshifted, shifted)]
    document = descriptions_document(described)
    assert [section.title for section in document.sections] == [
        "Comparison", "shop <b> (given)", "flat (given)", "shop <b> (given) 2",
    ]  # fmt: skip
    (table,) = document.sections[0].blocks
    assert {labels[0] for labels, _ in table.rows} == {"shop <b>", "flat"}
    assert document.verdict.endswith("And 1 more.")
    assert "<b>" not in render_html(document)


def test_problems_are_said(shifted):
    troubled = replace(describe(shifted), problems=("7 pairs are both in train and in valid",))
    first = descriptions_document([troubled]).sections[0].blocks[0]
    assert first.text == "Note: 7 pairs are both in train and in valid."


@pytest.mark.slow
def test_in_a_browser(shifted, tmp_path, open_page):
    file = tmp_path / "shop.html"
    write_html(descriptions_document([describe(shifted)]), file)
    with open_page(file, viewport={"width": 360, "height": 740}) as page:
        assert page.locator("#shift .plot svg.main-svg").count() > 4
        assert page.evaluate("document.documentElement.scrollWidth") == 360
