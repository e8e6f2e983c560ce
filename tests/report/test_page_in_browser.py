"""The page in a real browser: tabs, themes, keyboard, saving, phone, print, no script."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import plotly.graph_objects as go
import polars as pl
import pytest
from chromium import find_chromium
from PIL import Image
from playwright.sync_api import Locator, Page, expect
from report_parts import HOSTILE

from cnsdiff.base.text import visible as to_the_letter
from cnsdiff.display.tables import Cell, Column, Table
from cnsdiff.report.charts import DARK, SPLITS
from cnsdiff.report.document import Document, Facts, Figure, Prose, Section, verbatim
from cnsdiff.report.html import write_html

pytestmark = pytest.mark.slow

SECTIONS = ["overview", "training", "settings"]


@pytest.fixture(scope="module")
def opened_once(open_page, page_file) -> Iterator[Page]:
    """Opened once for all tests of this file that leave it as it was."""
    with open_page(page_file, permissions=["clipboard-read", "clipboard-write"]) as page:
        yield page


@pytest.fixture
def page(opened_once: Page) -> Page:
    """The page as it opens: light, on its first section."""
    opened_once.emulate_media(media="screen", color_scheme="light")
    opened_once.set_viewport_size({"width": 1200, "height": 900})
    opened_once.click("#tab-overview")
    opened_once.evaluate("window.scrollTo(0, 0)")
    return opened_once


def arrived(page: Page, section: str) -> bool:
    """Whether that section alone is shown; a link within takes the browser a moment."""
    page.locator(f"#{section}").wait_for()
    return visible(page) == [section]


def visible(page: Page) -> list[str]:
    """The sections that are shown."""
    return page.eval_on_selector_all(
        ".panel", "all => all.filter(one => one.offsetParent !== null).map(one => one.id)"
    )


def drawn(page: Page) -> list[str]:
    """The figures whose plots are drawn."""
    return page.eval_on_selector_all(
        ".plot", "all => all.filter(one => one.querySelector('svg')).map(one => one.dataset.figure)"
    )


def picture(page: Page, selector: str = "") -> Image.Image:
    taken = page.locator(selector).first.screenshot() if selector else page.screenshot()
    return Image.open(io.BytesIO(taken)).convert("RGB")


def holds(image: Image.Image, colour: str) -> int:
    """Pixels of nearly that colour."""
    wanted = tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))
    near = lambda pixel: all(abs(a - b) < 6 for a, b in zip(pixel, wanted, strict=True))  # noqa: E731
    return sum(n for n, pixel in image.getcolors(10**6) if near(pixel))


def test_tabs(page):
    assert visible(page) == ["overview"]
    assert page.locator(".verdict").inner_text().startswith("Keeps 47%")
    for section in SECTIONS:
        page.click(f"#tab-{section}")
        assert visible(page) == [section]
        assert page.locator(f"#tab-{section}").get_attribute("aria-selected") == "true"
        assert page.url.endswith(f"#{section}")
    assert drawn(page) == ["figure-1", "figure-2", "figure-3"]
    page.go_back()
    assert arrived(page, "training")
    roles = page.eval_on_selector_all("[role=tab]", "all => all.map(one => one.tabIndex)")
    assert sorted(roles) == [-1, -1, 0]


def test_links_from_outside(open_page, page_file):
    """A link opens the section it names, or that of what it names; only what is seen is drawn."""
    with open_page(page_file, "#figure-3") as page:
        assert visible(page) == ["training"]
        assert drawn(page) == ["figure-3"]
        page.goto(f"{page_file.as_uri()}#settings")
        assert arrived(page, "settings")
        page.goto(f"{page_file.as_uri()}#no%such")
        assert visible(page) == ["settings"]
        page.click("#tab-overview")
        assert drawn(page) == ["figure-1", "figure-2", "figure-3"]


def test_links_within(page):
    page.click("text=to the settings")
    assert arrived(page, "settings")


def test_keyboard(open_page, page_file):
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    with open_page(page_file) as page:

        def focused() -> str:
            return page.evaluate("document.activeElement.id || document.activeElement.className")

        page.keyboard.press("Tab")
        assert focused() == "skip"
        assert page.locator(".skip").bounding_box()["x"] >= 0
        page.keyboard.press("Enter")
        assert focused() == "content"
        for wanted in ("tab-overview", "theme", "skip"):
            page.keyboard.press("Shift+Tab")
            assert focused() == wanted
            assert page.evaluate(outline) == "solid"
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        for key, section in (
            ("ArrowRight", "training"),
            ("End", "settings"),
            ("ArrowRight", "overview"),
            ("ArrowLeft", "settings"),
            ("Home", "overview"),
        ):
            page.keyboard.press(key)
            assert (focused(), visible(page)) == (f"tab-{section}", [section])
        # One stop for the strip of tabs, then on into the section, to everything in it.
        seen = []
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement === document.body"):
                break
            assert page.evaluate(outline) != "none"
            seen.append(page.evaluate("document.activeElement.innerText.trim().split('\\n')[0]"))
        buttons = [name.partition(" ")[0] for name in seen]
        assert buttons.count("SVG") == buttons.count("PNG") == 2
        assert buttons.count("CSV") == 3
        assert buttons.count("Numbers") == 2


def themed(page: Page, theme: str) -> None:
    """Wait until the page has followed the system."""
    expect(page.locator("html")).to_have_attribute("data-theme", theme)


def saved(page: Page, button: Locator) -> tuple[str, bytes]:
    """The name and the content of the file that the button saves."""
    page.wait_for_timeout(100)  # Chromium drops the eleventh download of a second
    with page.expect_download() as waiting:
        button.click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def test_what_is_saved(page):
    name, content = saved(page, page.locator("#figure-1 [data-save=svg]"))
    assert name == "first-of-two.svg"
    assert ElementTree.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
    assert SPLITS["test_ood"].colour in content.decode() or b"rgb(212, 116, 25)" in content
    assert "alert(1)" in content.decode()  # as text
    assert b"<script" not in content
    name, content = saved(page, page.locator("#figure-1 [data-save=png]"))
    assert name == "first-of-two.png"
    image = Image.open(io.BytesIO(content)).convert("RGB")
    assert image.width >= 640
    assert holds(image, SPLITS["test_ood"].colour) > 1000
    assert page.locator("#told").inner_text() == "Saved first-of-two.png"
    name, content = saved(page, page.locator("#figure-1 [data-save=csv]"))
    assert name == "first-of-two.csv"
    rows = list(csv.reader(io.StringIO(content.decode())))
    assert rows == [["item", "value"], ["a", "1.0"], [HOSTILE, "2.0"]]
    name, content = saved(page, page.locator("#table-1 [data-save=csv]"))
    assert name == "accuracy-of-a-few-methods-on-the-tests.csv"
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert [row["method"] for row in rows] == ["dns", HOSTILE, "ease"]
    assert [row["c0"] for row in rows] == ["0.1234567", "0.05", "0.04"]
    assert [row["c0_half_width"] for row in rows] == ["0.01", "", ""]
    assert [row["c1"] for row in rows] == ["0.5", "", "0.1"]


def test_every_figure_and_table_can_be_saved(page):
    n = 0
    for section in SECTIONS:
        page.click(f"#tab-{section}")
        for button in page.locator(f"#{section} [data-save]").all():
            assert len(saved(page, button)[1]) > 10
            n += 1
    assert n == 3 * 3 + 1


def test_copying(page):
    page.click("#tab-settings")
    page.click("[data-copy]")
    expect(page.locator("#told")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()").startswith(f"name: {HOSTILE}\n")


def test_themes(page):
    """The system's until the reader turns it, in the page and in every figure."""
    ood, iid = (SPLITS[split].colour for split in ("test_ood", "test_iid"))
    theme = "document.documentElement.dataset.theme"
    brightness = {}
    for scheme, other in (("light", "dark"), ("dark", "light")):
        inks = {"light": (ood, iid), "dark": (DARK[ood], DARK[iid])}
        page.emulate_media(color_scheme=scheme)
        themed(page, scheme)
        brightness[scheme] = sum(picture(page).resize((1, 1)).getpixel((0, 0)))
        assert holds(picture(page, "#figure-1 .plot"), inks[scheme][0]) > 1000
        page.click("#theme")
        assert page.evaluate(theme) == other
        pressed = page.locator("#theme").get_attribute("aria-pressed")
        assert pressed == ("true" if other == "dark" else "false")
        assert holds(picture(page, "#figure-1 .plot"), inks[other][0]) > 1000
        page.click("#tab-training")
        assert holds(picture(page, "#figure-3 .plot"), inks[other][1]) > 50
        page.click("#tab-overview")
        page.click("#theme")
        assert page.evaluate(theme) == scheme
    assert brightness["light"] > 600 > 200 > brightness["dark"]
    # What the reader chose outlives a change of the system.
    page.emulate_media(color_scheme="light")
    themed(page, "light")
    page.click("#theme")
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(100)
        assert page.evaluate(theme) == "dark"
    page.click("#theme")
    assert page.evaluate(theme) == "light"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_empty(page, scheme, width):
    page.emulate_media(color_scheme=scheme)
    themed(page, scheme)
    page.set_viewport_size({"width": width, "height": 780})
    for section in SECTIONS:
        page.click(f"#tab-{section}")
        for plot in page.locator(f"#{section} .plot").all():
            image = Image.open(io.BytesIO(plot.screenshot())).convert("RGB")
            assert len(image.getcolors(10**6)) > 20
            assert image.width > 0.4 * min(width, 1100)


def test_contrast(page):
    """Text has at least 4.5 : 1 against the paper in both themes (WCAG AA)."""

    def luminance(text: str) -> float:
        channels = [float(part) / 255 for part in text[text.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    parts = (
        ".mark", "#theme", ".judged", "h1", ".summary", "#tabs a", "h2", "h3", ".prose a",
        "figcaption p", "summary", ".quiet", "thead th", "tbody th", "td .width",
        ".notes", "dt", "dd", "pre code", "footer p",
    )  # fmt: skip
    colours = """one => {
        const found = [getComputedStyle(one).color];
        for (let at = one; at; at = at.parentElement) {
            found.push(getComputedStyle(at).backgroundColor);
        }
        return found;
    }"""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        themed(page, scheme)
        page.wait_for_timeout(200)  # colours that change gently
        for selector in parts:
            colour, *papers = page.eval_on_selector(selector, colours)
            paper = next(each for each in papers if not each.endswith(", 0)"))
            high, low = sorted((luminance(colour), luminance(paper)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, selector)


def test_phone(open_page, page_file):
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    with open_page(page_file, **phone) as page:
        for section in SECTIONS:
            page.click(f"#tab-{section}")
            assert page.evaluate("document.documentElement.scrollWidth") == 360
            page.evaluate("window.scrollTo(500, 0)")
            assert page.evaluate("window.scrollX") == 0
        page.click("#tab-overview")
        box = page.locator("#table-1 .scroll")
        assert box.evaluate("one => one.scrollWidth > one.clientWidth")
        box.evaluate("one => { one.scrollLeft = 80 }")
        assert box.evaluate("one => one.scrollLeft") == 80
        # Fingers find what they aim at.
        for button in page.locator("#overview button").all():
            assert button.bounding_box()["height"] >= 36


def test_without_javascript(open_page, page_file):
    with open_page(page_file, java_script_enabled=False, color_scheme="dark") as page:
        shown = [one for one in SECTIONS if page.locator(f"#{one}").is_visible()]
        assert shown == SECTIONS
        assert not page.locator("#theme").is_visible()
        assert not page.locator("[data-save]").first.is_visible()
        assert page.locator("text=needs JavaScript").count() == 3
        page.click("#figure-1 summary")
        assert HOSTILE in page.locator("#figure-1 .numbers table").inner_text()
        page.click("nav >> text=Settings")
        assert page.url.endswith("#settings")
        dark = picture(page).getpixel((2, 2))
        assert sum(dark) < 120


def test_printing(page):
    """All sections, on white paper, whatever the theme."""
    page.emulate_media(color_scheme="dark")
    themed(page, "dark")
    page.emulate_media(media="print")
    themed(page, "light")
    assert visible(page) == SECTIONS
    assert drawn(page) == ["figure-1", "figure-2", "figure-3"]
    assert not page.locator("#tabs").is_visible()
    assert sum(picture(page).getpixel((2, 2))) > 740
    assert holds(picture(page, "#figure-1 .plot"), SPLITS["test_ood"].colour) > 1000
    page.emulate_media(media="screen")
    themed(page, "dark")
    assert visible(page) == ["overview"]


def test_a_hostile_id_is_text(page):
    for section in SECTIONS:
        page.click(f"#tab-{section}")
    assert page.locator("script:has-text('alert(1)'):not([type])").count() == 0
    assert HOSTILE in page.locator("#table-1").inner_text()
    assert HOSTILE in page.locator("h1").inner_text()
    page.click("#tab-overview")
    # As the label of an axis, too.
    assert page.locator("#figure-1 svg text", has_text=HOSTILE).count() >= 1
    assert page.title() == f"A run on {HOSTILE}"


def test_the_policy_stops_what_would_get_in(browser, page_file, tmp_path):
    """Even a script in the page would not run, and nothing could be sent anywhere."""
    text = page_file.read_text(encoding="utf-8")
    file = tmp_path / "changed.html"
    bad = (
        "<script>window.ran = true</script>"
        "<img src='https://example.com/x.png' onerror='window.ran = true'>"
    )
    file.write_text(text.replace("</h1>", f"</h1>{bad}", 1), encoding="utf-8")
    page = browser.new_page()
    asked: list[str] = []
    page.route("**/*", lambda route: (asked.append(route.request.url), route.continue_())[1])
    page.goto(file.as_uri())
    assert page.evaluate("window.ran") is None
    page.evaluate("fetch('https://example.com/').catch(() => null)")
    assert not [url for url in asked if url.startswith("http")]
    page.close()


def test_names_of_landmarks_and_tables(page):
    for landmark in ("header", "nav", "main", "footer"):
        assert page.locator(f"body > {landmark}").count() == 1
    assert page.get_by_role("navigation", name="Sections").count() == 1
    assert page.get_by_role("tab", name="Training").count() == 1
    assert page.get_by_role("tabpanel", name="Overview").count() == 1
    assert page.get_by_role("img", name="First of two. What the bars are.").count() == 1
    table = page.get_by_role("table", name="Accuracy of a few methods on the tests")
    assert table.get_by_role("columnheader").count() == 11
    assert table.get_by_role("rowheader", name="dns").count() == 1
    assert page.get_by_role("button", name="SVG of First of two").count() == 1
    unnamed = "all => all.filter(one => !one.textContent.trim()).length"
    assert page.eval_on_selector_all("button, a", unnamed) == 0
    ids = page.eval_on_selector_all("[id]", "all => all.map(one => one.id)")
    own = [one for one in ids if not one.startswith(("clip", "topdefs", "defs", "legend"))]
    assert len(own) == len(set(own))


def test_the_browser_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNSDIFF_CHROMIUM", "/no/such/chromium")
    with pytest.raises(pytest.fail.Exception, match="run tests/install-services"):
        find_chromium()


def test_names_do_nothing_and_are_shown_to_the_letter(open_page, tmp_path):
    """In headings, tables, figures and hovers, on a phone: no script, no link, no formula."""
    names = [
        '"><img src=x onerror="window.PWNED=1">', "<b>bold</b>",
        "<a href='javascript:alert(1)'>a</a>", "$x^2$", "&lt;", "%{x}",
        "[a](#b) **c**", "\x1b[2J\u202eRTL", "x" * 300,
    ]  # fmt: skip
    figure = go.Figure()
    figure.add_scatter(x=list(range(9)), y=[name[:40] for name in names], name=names[0])
    figure.update_layout(showlegend=True, xaxis={"title": {"text": names[1]}})
    rows = tuple(((name,), (Cell(1.0),)) for name in names)
    table = Table(names[0], ("name",), (Column("value", names[1]),), rows, tuple(names))
    data = pl.DataFrame({"name": names})
    blocks = [
        Facts(list(zip(names, names, strict=True))),
        table,
        Figure(names[0], names[1], figure, data),
        Prose(" ".join(map(verbatim, names))),
    ]
    file = tmp_path / "hostile.html"
    write_html(Document(names[0], names[1], [Section(names[2], blocks)], ""), file)
    phone = {"viewport": {"width": 390, "height": 740}, "has_touch": True, "is_mobile": True}
    with open_page(file, **phone) as page:
        assert page.evaluate("window.PWNED") is None
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.locator("b, img, .plot a").count() == 0
        assert page.locator("tbody th").all_inner_texts()[:9] == list(map(to_the_letter, names))
        assert page.locator(".prose").inner_text() == " ".join(map(to_the_letter, names))
        # The numbers can be reached from a name of any length.
        assert page.locator("#table-1 tbody th").last.bounding_box()["width"] < 390
        drawn = page.locator(".plot text").all_text_contents()
        for name in names[:8]:
            assert any(to_the_letter(name[:40]) == text for text in drawn), (name, drawn)
