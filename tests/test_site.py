"""The documentation site builds without a warning, its links lead somewhere; it loads nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

import cnsdiff

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]

#: Attributes by which a page has something loaded; ``href`` of a link in the text is not one.
LOADS = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src", "srcdoc"),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "object": ("data",),
    "embed": ("src",),
    "link": ("href",),
    "use": ("href", "xlink:href"),
}
#: A ``<link>`` that names a page and loads nothing.
NAMES_A_PAGE = {"canonical", "next", "prev", "alternate"}


@dataclass
class Page(HTMLParser):
    """What a built page refers to."""

    path: Path
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    maths: list[str] = field(default_factory=list)
    _in_maths: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        relation = set(given.get("rel", "").split())
        if not (tag == "link" and relation & NAMES_A_PAGE):
            self.loads += [given[name] for name in LOADS.get(tag, ()) if name in given]
        self._in_maths |= tag == "math"

    def handle_endtag(self, tag: str) -> None:
        self._in_maths &= tag != "math"

    def handle_data(self, data: str) -> None:
        if self._in_maths:
            self.maths.append(data)


@dataclass(frozen=True)
class Site:
    """The built site."""

    folder: Path
    log: str
    pages: dict[Path, Page]

    def __iter__(self) -> Iterator[Page]:
        return iter(self.pages.values())

    def target(self, page: Page, link: str) -> tuple[Path, str]:
        """File and anchor that a link within the site leads to."""
        parts = urlsplit(link)
        file = page.path if not parts.path else (page.path.parent / unquote(parts.path)).resolve()
        return (file / "index.html" if file.is_dir() else file), unquote(parts.fragment)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site").resolve()
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = {path: Page(path) for path in sorted(folder.rglob("*.html"))}
    return Site(folder, done.stderr, pages)


def external(link: str) -> bool:
    return bool(urlsplit(link).scheme or urlsplit(link).netloc)


def test_it_builds_without_a_warning(site: Site) -> None:
    assert "Documentation built" in site.log
    assert not re.findall(r"^(?:WARNING|ERROR).*", site.log, flags=re.MULTILINE)
    # Pages that are in no menu are not even a warning by default.
    assert {path.stem for path in site.pages} >= {page.stem for page in ROOT.glob("docs/*.md")}


def test_every_link_within_the_site_leads_to_a_place(site: Site) -> None:
    dead = []
    for page in site:
        if page.path.name == "404.html":
            continue  # its links are absolute: nobody knows where it is shown
        for link in page.links:
            if external(link):
                continue
            file, anchor = site.target(page, link)
            there = file.is_file() and (
                not anchor or file not in site.pages or anchor in site.pages[file].ids
            )
            if not there:
                dead.append((page.path.name, link))
    assert not dead


def test_links_to_elsewhere_are_addresses(site: Site) -> None:
    """No machine of ours reaches them; what can be known is that they are well formed."""
    strange = {
        link
        for page in site
        for link in page.links
        if external(link)
        and not re.fullmatch(r"(https://[\w.-]+\.[a-z]{2,}(/[^\s<>\"]*)?|mailto:\S+@\S+)", link)
    }
    assert not strange


def test_whatever_a_page_loads_is_part_of_the_site(site: Site) -> None:
    missing = []
    for page in site:
        for source in page.loads:
            if page.path.name == "404.html":
                here = not external(source)
            else:
                data = source.startswith("data:")
                here = data or (not external(source) and site.target(page, source)[0].is_file())
            if not here:
                missing.append((page.path.name, source))
    assert not missing


def test_no_style_sheet_loads_anything_from_elsewhere(site: Site) -> None:
    inline = r"<style[^>]*>(.*?)</style>|style=\"([^\"]*)\""
    sheets = {path.name: path.read_text("utf-8") for path in site.folder.rglob("*.css")}
    for page in site:
        found = re.findall(inline, page.path.read_text("utf-8"), flags=re.DOTALL)
        sheets[page.path.name] = "\n".join("".join(pair) for pair in found)
    loaded = re.compile(r"""(?:url\(\s*|@import\s+)["']?(?:https?:)?//""")
    assert not [name for name, text in sheets.items() if loaded.search(text)]


def test_equations_are_drawn(site: Site) -> None:
    """Nothing of LaTeX is left: neither an equation nor a command within one.

    And no root: browsers take its sign from a font for mathematics, and show nothing where there
    is none. Write a power.
    """
    assert len(site.pages[site.folder / "equations.html"].maths) > 500
    for page in site:
        assert not [text for text in page.maths if "\\" in text], page.path.name
        text = page.path.read_text("utf-8")
        assert 'class="arithmatex"' not in text, page.path.name
        assert not re.findall("<m(?:sqrt|root)", text), page.path.name


def test_docstrings_are_shown_without_the_marks_of_another_tool(site: Site) -> None:
    text = (site.folder / "api.html").read_text("utf-8")
    assert not re.findall(r":(?:class|func|meth|mod|data|attr|exc):", text)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_of_what_is_no_part_of_the_site_lead_to_files(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = [urlsplit(link) for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    assert not [link.path for link in links if not link.scheme and not (ROOT / link.path).exists()]


# -- what the pages promise ------------------------------------------------------------------------


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/_mkdocs/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_equation_has_a_number_its_maths_and_its_code() -> None:
    text = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    assert [int(section.partition(".")[0]) for section in sections] == [
        *range(1, len(sections) + 1)
    ]
    for section in sections:
        names = re.findall(r"^```source\n(.*)\n```$", section, flags=re.MULTILINE)
        assert "$$" in section and names, section[:40]
        for name in names:
            file, code = hook("sources").code_of(name)
            assert (ROOT / file).is_file()
            assert name.rpartition(".")[2] in code.partition("\n")[0] or code.startswith("@")
            assert '"""' not in code


def test_a_function_that_is_gone_stops_the_build() -> None:
    with pytest.raises(LookupError, match="has no 'nothing'"):
        hook("sources").code_of("cnsdiff.objectives.losses.nothing")
    with pytest.raises(LookupError, match="no such module"):
        hook("sources").code_of("nowhere.losses.bpr")


def test_the_python_page_has_every_public_name_and_no_more_than_twenty_five() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    names = re.findall(r"^::: ([\w.]+)$", page, flags=re.MULTILINE)
    assert len(names) == len(set(names)) <= 25
    assert {f"cnsdiff.{name}" for name in cnsdiff.__all__} <= set(names)
