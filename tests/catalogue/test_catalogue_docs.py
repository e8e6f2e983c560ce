"""The catalogue's page names what the catalogue has."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnsdiff.catalogue import ENTRIES

PAGE = (Path(__file__).parents[2] / "docs" / "catalogue.md").read_text(encoding="utf-8")
ONE_EACH = [name for name in ENTRIES if "/" not in name]


@pytest.mark.parametrize("name", ONE_EACH)
def test_data_sets(name):
    entry = ENTRIES[name]
    (row,) = (
        line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |") and "≥" in line
    )
    assert f"≥ {entry.threshold:g}" in row
    assert f"| {entry.shift} |" in row
    for layout in entry.layouts:
        for file in layout.required:
            assert f"`{file}`" in PAGE or (name == "yahoo-r3" and file.endswith("-test.txt"))


def test_amazon():
    categories = [name for name in ENTRIES if name.startswith("amazon-2023/")]
    assert f"{len(categories)} categories" in PAGE
    assert "`amazon-2023/Video_Games`" in PAGE
    assert "amazon-2023/Video_Games" in categories
