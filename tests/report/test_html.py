"""The file itself: what stands in it, what is escaped, what is refused."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import plotly.graph_objects as go
import polars as pl
import pytest
from report_parts import HOSTILE, full_document

from cnsdiff.base.errors import InputError
from cnsdiff.base.text import visible
from cnsdiff.display.tables import Cell, Column, Table
from cnsdiff.report.document import Document, Facts, Figure, Prose, Section, Source, verbatim
from cnsdiff.report.html import ROWS_SHOWN, is_report, render_html, table_csv, write_html

PLOTLY = files("cnsdiff.report").joinpath("plotly-basic.min.js").read_text(encoding="utf-8")


class Parsed(HTMLParser):
    """Tags with their attributes, text by the tag it stands in, and the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):  # which have no end
            self._open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        tag = self._open[-1] if self._open else ""
        if tag == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        else:
            self.text[tag] = self.text.get(tag, "") + data


@pytest.fixture(scope="module")
def html() -> str:
    return render_html(full_document())


@pytest.fixture(scope="module")
def parsed(html: str) -> Parsed:
    return Parsed(html)


def shown(*blocks) -> Parsed:
    return Parsed(render_html(Document("t", "v", [Section("Only", blocks)])))


def test_the_same_at_every_call(html):
    assert render_html(full_document()) == html


def test_nothing_is_loaded(parsed):
    loading = {"src", "srcset", "action", "data", "poster"}
    assert not [(tag, at) for tag, at in parsed.tags if loading & at.keys()]
    links = [at["href"] for tag, at in parsed.tags if tag in ("a", "link")]
    assert all(link.startswith("#") or link == "data:," for link in links)


def test_the_policy_names_the_scripts_and_allows_no_connection(parsed):
    (policy,) = (
        at["content"] for _, at in parsed.tags if at.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    running = [text for at, text in parsed.scripts if "type" not in at]
    assert len(running) == 2  # plotly.js, and ours
    hashes = {
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in running
    }
    assert set(rules["script-src"].split()) == hashes
    assert rules["img-src"] == "data: blob:"
    assert "connect-src" not in rules and "http" not in policy


def test_plotly_is_in_it_once_and_only_for_figures(parsed):
    assert sum(len(text) > 1_000_000 for _, text in parsed.scripts) == 1
    without = shown(Prose("Words."))
    assert [len(text) > 1_000_000 for _, text in without.scripts] == [False, False]
    (policy,) = (at["content"] for _, at in without.tags if "http-equiv" in at)
    assert policy.count("sha256-") == 1


def test_user_text_is_text(html, parsed):
    assert HOSTILE not in html
    assert len(parsed.scripts) == 3
    for tag in ("title", "h1", "p", "th", "td", "dd", "code", "li"):
        assert HOSTILE in parsed.text[tag], tag
    (stored,) = (json.loads(text) for at, text in parsed.scripts if "type" in at)
    assert HOSTILE in stored["csv"]["figure-1"]
    # In a figure plotly.js would read it as HTML.
    assert (
        stored["figures"]["figure-1"]["data"][0]["x"][1] == "&lt;script&gt;alert(1)&lt;/script&gt;"
    )


def test_hover_templates_are_ours():
    figure = go.Figure()
    figure.add_scatter(x=["<b>"], y=[1], hovertemplate="%{x}<extra></extra>", name="a & b")
    found = shown(Figure("F", "c", figure, pl.DataFrame({"x": ["<b>"]})))
    (stored,) = (json.loads(text) for at, text in found.scripts if "type" in at)
    (trace,) = stored["figures"]["figure-1"]["data"]
    assert trace["hovertemplate"] == "%{x}<extra></extra>"
    assert (trace["x"], trace["name"]) == (["&lt;b&gt;"], "a &amp; b")


def test_markup_of_prose():
    text = "**Bold <b>** and `a < b`, [here](#only) ** *\n\nSecond, [no link](http://x)."
    found = shown(Prose(text))
    assert found.text["strong"] == "Bold <b>"
    assert found.text["code"] == "a < b"
    assert ("a", {"href": "#only"}) in found.tags
    assert "[no link](http://x)" in found.text["p"]
    assert not [tag for tag, _ in found.tags if tag == "b"]


def test_a_link_to_nowhere_is_refused():
    with pytest.raises(InputError, match="links to #Elsewhere"):
        shown(Prose("[there](#Elsewhere)"))


def test_sections_have_names_of_their_own():
    with pytest.raises(InputError, match="two sections 'shift'"):
        render_html(Document("t", "v", [Section("shift", []), Section("shift", [])]))
    pair = [Section("a b", []), Section("a-b", [])]  # of datasets, say
    found = Parsed(render_html(Document("t", "v", pair)))
    assert [at["id"] for tag, at in found.tags if tag == "section"] == ["a-b", "a-b-section-2"]
    found = Parsed(render_html(Document("t", "v", [Section("Сдвиг", []), Section("Ось", [])])))
    ids = [at["id"] for tag, at in found.tags if tag == "section"]
    assert ids == ["section-1", "section-2"]


def test_numbers_of_a_table_in_full():
    table = Table(
        "T",
        ("group", "method"),
        (Column("a", "A", 2), Column("b", "B", 1, percent=True)),
        (
            (("g", "one, two"), (Cell(1 / 3, 0.1), Cell(0.5))),
            (("g", "three"), (Cell(float("nan"), float("nan")), Cell(-0.25))),
        ),
    )
    assert table_csv(table).splitlines() == [
        "group,method,a,a_half_width,b",
        f'g,"one, two",{1 / 3},0.1,0.5',
        "g,three,,,-0.25",
    ]
    found = shown(table)
    values = [at.get("class") for tag, at in found.tags if tag == "td"]
    assert values == ["number"] * 4
    assert found.text["span"].split()[:1] == ["0.33"]
    assert "± 0.10" in found.text["span"]
    assert "+50.0%" in found.text["span"]


def test_rows_of_one_group_share_its_name():
    rows = tuple(
        ((group, name), (Cell(1.0),)) for group, name in (("a", "x"), ("a", "y"), ("b", "z"))
    )
    found = shown(Table("T", ("group", "method"), (Column("v", "V"),), rows))
    heads = [(at.get("scope"), at.get("rowspan")) for tag, at in found.tags if tag == "th"]
    assert heads[3:] == [
        ("rowgroup", "2"), ("row", None), ("row", None), ("rowgroup", "1"), ("row", None)
    ]  # fmt: skip


def test_small_figures_and_tables_stand_side_by_side():
    small = Figure("F", "c", go.Figure(), pl.DataFrame({"x": [1]}), small=True)
    table = Table("T", ("a",), (Column("v", "V"),), ((("x",), (Cell(1.0),)),))
    found = shown(small, small, table, table, small, Prose("w"), table, *[small] * 3)
    rows = [at["class"] for tag, at in found.tags if at.get("class") in ("pair", "trio", "tables")]
    assert rows == ["pair", "tables", "trio"]


def test_of_many_rows_the_first_are_shown_and_all_are_kept():
    data = pl.DataFrame({"x": range(ROWS_SHOWN + 7), "y": [0.1 + 0.2] * (ROWS_SHOWN + 7)})
    found = shown(Figure("F", "c", go.Figure(), data))
    assert f"The first {ROWS_SHOWN} of {ROWS_SHOWN + 7} rows" in found.text["p"]
    (stored,) = (json.loads(text) for at, text in found.scripts if "type" in at)
    assert stored["csv"]["figure-1"] == data.write_csv()
    assert found.text["td"].count("0.3") == ROWS_SHOWN


def test_a_source_is_shown_to_the_letter():
    text = "a: 1\n\n  b: '<c>' & d\n"
    found = shown(Source("config.yaml", text))
    assert found.text["code"] == text


def test_figures_keep_no_theme_and_no_width_of_their_own():
    figure = go.Figure(layout={"template": "plotly_white", "width": 900, "height": 333})
    found = shown(Figure("F", "c", figure, pl.DataFrame({"x": [1]})))
    (stored,) = (json.loads(text) for at, text in found.scripts if "type" in at)
    assert stored["figures"]["figure-1"]["layout"] == {"height": 333}
    (plot,) = (at for tag, at in found.tags if at.get("class") == "plot")
    assert plot["style"] == "height:333px"


def test_ours_is_told_from_other_files(tmp_path):
    file = tmp_path / "a.html"
    write_html(Document("t", "v", []), file)
    assert is_report(file)
    file.write_text("<!DOCTYPE html><title>mine</title>")
    assert not is_report(file)
    file.write_bytes(b"\xff\xfe\x00")
    assert not is_report(file)
    assert not is_report(tmp_path / "none.html")


def test_no_asset_names_another_place():
    for name in ("page.css", "page.js", "page.html.j2"):
        text = files("cnsdiff.report").joinpath(name).read_text(encoding="utf-8")
        assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest", text), name


NAMES = [
    "[a](#b)", "**bold**", "`code`", "a`", "[x](#only)", "* [ `", "\x1b[2J\x9b", "\u202eRTL",
    "\n\n",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_in_prose_are_no_marks(name):
    found = shown(Prose(f"**All {verbatim(name)}**, `run {verbatim(name)}`, {verbatim(name)}."))
    seen = visible(name)
    assert found.text["strong"] == f"All {seen}"
    assert found.text["code"] == f"run {seen}"
    assert f", {seen}." in found.text["p"]
    links = [at["href"] for tag, at in found.tags if tag == "a"]
    assert links == ["#content"]  # to skip to the results


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_everywhere_are_shown_to_the_letter(name):
    figure = go.Figure()
    figure.add_scatter(x=[name], y=[1], name=name)
    table = Table(name, (name,), (Column("c", name),), (((name,), (Cell(1.0),)),), (name,))
    text = render_html(
        Document(
            name,
            name,
            [
                Section(
                    name,
                    [
                        Facts([(name, name)]),
                        Source(name, f"{name}\nsecond"),
                        table,
                        Figure(name, name, figure, pl.DataFrame({name: [name]})),
                    ],
                )
            ],
        )
    )
    found = Parsed(text)
    seen = visible(name)
    for tag in ("title", "h1", "h2", "h3", "dt", "dd", "th", "li", "caption"):
        assert seen in found.text[tag], tag
    assert f"{visible(name, keep=chr(10))}\nsecond" in found.text["code"]
    (stored,) = (json.loads(script) for at, script in found.scripts if "type" in at)
    assert stored["figures"]["figure-1"]["data"][0]["x"] == [seen]
    csv_text = stored["csv"]["figure-1"]
    assert [row[0] for row in csv.reader(io.StringIO(csv_text, newline=""))] == [name, name]
    own = text.replace(PLOTLY, "")
    assert visible(own, keep="\n") == own


def test_no_name_is_a_formula_in_a_spreadsheet():
    names = ["=1+1", "+cmd|calc", "-2+3", "@SUM(A1)", "\tx", "plain", "a=b"]
    rows = tuple(((name,), (Cell(-1.0),)) for name in names)
    table = Table("t", ("name",), (Column("value", "value"),), rows)
    data = pl.DataFrame({"name": names, "value": [-1.0] * len(names)})
    found = shown(table, Figure("f", "c", go.Figure(), data))
    (stored,) = (json.loads(text) for at, text in found.scripts if "type" in at)
    for key in ("table-1", "figure-1"):
        written = list(csv.reader(io.StringIO(stored["csv"][key], newline="")))[1:]
        assert [row[0] for row in written] == [
            "'=1+1", "'+cmd|calc", "'-2+3", "'@SUM(A1)", "'\tx", "plain", "a=b",
        ]  # fmt: skip
        assert {row[1] for row in written} == {"-1.0"}
