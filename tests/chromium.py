"""The browser that tests open pages in."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find_chromium() -> str:
    """A Chromium on this machine; the tests fail without one, with the way to get it."""
    named = os.environ.get("CNSDIFF_CHROMIUM")
    found = next(filter(None, map(shutil.which, (named,) if named else NAMES)), None)
    if found is None:
        pytest.fail(
            "the tests of pages need Chromium: run tests/install-services.sh, or install one and "
            "export CNSDIFF_CHROMIUM=/path/to/chromium",
            pytrace=False,
        )
    return found


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """A browser without a window."""
    root = ["--no-sandbox"] if hasattr(os, "getuid") and os.getuid() == 0 else []
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=find_chromium(), args=root)
        yield made
        made.close()
