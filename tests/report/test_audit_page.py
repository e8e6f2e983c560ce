"""The page of an audit in a real browser, on a desk and on a phone."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from playwright.sync_api import Page, expect

from cnsdiff.audit.audit import run_audit
from cnsdiff.audit.log import Reading
from cnsdiff.audit.splits import Options
from cnsdiff.report.audit import audit_document
from cnsdiff.report.html import write_html

pytestmark = pytest.mark.slow

#: An item as a hostile shop could call it.
HOSTILE = "<img src=x onerror=alert(1)>**b**[IID](?iid)"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def audit_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of an audit of two shifts."""
    folder = tmp_path_factory.mktemp("audit-page")
    rng = np.random.default_rng(0)
    users = rng.integers(0, 200, 4000)
    items = (users % 5 * 12 + 12 * rng.beta(1, 3, 4000) + 60 * (rng.random(4000) < 0.2)).astype(int)
    names = [HOSTILE if item == 0 else f"item {item}" for item in items]
    times = 1_600_000_000 + 3600 * np.arange(4000)
    log = pl.DataFrame({"user": users, "item": names, "timestamp": times})
    log.write_csv(folder / "shop.csv")
    pl.DataFrame(
        {
            "item": list(dict.fromkeys(names)),
            "title": [f"Title {n}" for n in range(len(set(names)))],
        }
    ).write_csv(folder / "items.csv")
    reading = Reading(str(folder / "shop.csv"), item_features=folder / "items.csv")
    shifts = ("temporal", "popularity")
    run_audit(Options(reading, folder / "audit", budget=12.0, shifts=shifts, threads=1))
    write_html(audit_document(folder / "audit"), folder / "report.html")
    return folder / "report.html"


def outline(page: Page) -> list[tuple[int, str]]:
    """The headings of all sections, as a screen reader lists them."""
    return [
        (int(level), text)
        for level, text in page.eval_on_selector_all(
            "h1, h2, h3, h4, h5, h6", "all => all.map(one => [one.tagName[1], one.textContent])"
        )
    ]


def test_the_verdict_comes_first_and_levels_are_not_skipped(open_page, audit_page):
    with open_page(audit_page) as page:
        headings = outline(page)
        assert headings[0][0] == 1
        # Which model that is, time decides: the audit has a budget.
        assert re.match(r".+ would ", headings[0][1])
        assert [level for level, _ in headings].count(1) == 1
        for (before, _), (after, text) in itertools.pairwise(headings):
            assert after <= before + 1, text
        sections = [text for level, text in headings if level == 2]
        assert sections == ["Shifts", "Log", "People", "Numbers", "Limits"]
        at = sections.index("Shifts")
        assert [t for level, t in headings if level == 3][at : at + 2] == ["Time", "Popularity"]
    assert audit_page.stat().st_size < 2_000_000


def test_a_card_says_what_to_do(open_page, audit_page):
    with open_page(audit_page, permissions=["clipboard-read", "clipboard-write"]) as page:
        card = page.get_by_role("article", name="Time", exact=True)
        assert re.search(
            r"of 100 people \d+ find something they want among the first 20; then",
            card.inner_text(),
        )
        assert card.locator(".badge").inner_text() in (
            "sure",
            "fairly sure",
            "unsure",
            "no verdict",
        )
        card.get_by_role("button", name="Copy").click()
        expect(page.locator("#told")).to_have_text("Copied")
        command = page.evaluate("navigator.clipboard.readText()")
        assert command.startswith("cnsdiff train ")
        assert "\n" not in command


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_lies_beside_the_screen(open_page, audit_page, width, scheme):
    options = PHONE if width == 390 else {"viewport": {"width": width, "height": 900}}
    with open_page(audit_page, color_scheme=scheme, **options) as page:
        for section in ("shifts", "log", "people", "numbers", "limits"):
            page.click(f"#tab-{section}")
            page.evaluate("for (const f of document.querySelectorAll('.fold')) f.open = true")
            assert page.evaluate("document.documentElement.scrollWidth") == width
            # No column of a table either.
            hidden = """all => all.filter(
                (one) => one.offsetParent && one.scrollWidth > one.clientWidth + 1
            ).map((one) => one.getAttribute("aria-labelledby"))"""
            tables = page.eval_on_selector_all(f"#{section} .block > .scroll", hidden)
            assert tables == []


@pytest.mark.parametrize("phone", [False, True])
def test_a_word_explains_itself(open_page, audit_page, phone):
    with open_page(audit_page, **(PHONE if phone else {})) as page:
        word = page.get_by_role("button", name="validation", exact=True).first
        tip = page.get_by_role("tooltip").filter(has_text="Pairs held out to choose by")
        expect(tip).to_be_hidden()
        if phone:
            word.tap()
        else:
            word.hover()
        expect(tip).to_be_visible()
        box = tip.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= page.viewport_size["width"]
        page.mouse.move(0, 0)
        if not phone:
            expect(tip).to_be_hidden()
        # By keyboard, and away again.
        word.focus()
        expect(tip).to_be_visible()
        page.keyboard.press("Escape")
        expect(tip).to_be_hidden()
        described = word.get_attribute("aria-describedby")
        assert page.locator(f"#{described}").inner_text(timeout=1000) is not None


def test_a_fold_opens_by_its_link_and_draws_then(open_page, audit_page):
    with open_page(audit_page, "#numbers") as page:
        figure = page.locator(".fold figure").first
        assert not figure.is_visible()
        assert figure.locator("svg").count() == 0
        place = figure.get_attribute("id")
        page.goto(f"{audit_page.as_uri()}#{place}")
        assert figure.is_visible()
        expect(figure.locator("svg.main-svg").first).to_be_visible()


def test_what_a_shop_calls_its_items_is_text(open_page, audit_page):
    with open_page(audit_page) as page:
        page.click("#tab-people")
        people = page.locator("#people")
        page.evaluate("for (const f of document.querySelectorAll('.fold')) f.open = true")
        assert people.locator("img, .term").count() == 0
        text = people.inner_text()
        assert HOSTILE in text
        assert "(Title " in text
