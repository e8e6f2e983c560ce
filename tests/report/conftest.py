"""Reports opened in a real browser, which may load nothing but the file itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from report_parts import full_document

from cnsdiff.report.html import write_html

#: ``with open_page(file, …) as page:`` — offline; no error, and no request but the file.
OpenPage = Callable[..., contextlib.AbstractContextManager[Page]]


@pytest.fixture(scope="session")
def open_page(browser: Browser) -> OpenPage:
    @contextlib.contextmanager
    def opened(file: Path, place: str = "", **options: Any) -> Iterator[Page]:
        usual = {"offline": True, "viewport": {"width": 1200, "height": 900}}
        context = browser.new_context(**{**usual, **options})
        context.set_default_timeout(60_000)
        page = context.new_page()
        problems: list[str] = []
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda said: problems.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        page.goto(file.as_uri() + place)
        yield page
        context.close()
        assert not problems
        own = (file.as_uri(), "data:", "blob:")
        assert not [url for url in asked if not url.startswith(own)]
        assert asked[0].startswith(file.as_uri())

    return opened


@pytest.fixture(scope="session")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of everything that a report can hold."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    write_html(full_document(), file)
    return file
