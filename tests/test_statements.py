"""The statements of docs/theory.md hold to the tolerances that its command states."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scripts import load_script

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def theory():
    """The module ``benchmarks/theory.py``."""
    return load_script("benchmarks/theory.py")


@pytest.mark.parametrize("number", range(1, 8))
def test_each_check_holds(theory, number):
    checks = list(theory.STATEMENTS[number]())
    assert len(checks) >= 4
    assert [check for check in checks if not check.holds] == []


def test_the_page_has_the_statements_of_the_command(theory):
    page = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    numbers = [int(number) for number in re.findall(r"^## (\d)\. ", page, re.MULTILINE)]
    assert numbers == list(theory.STATEMENTS)


def test_a_check_that_is_too_far_apart_fails(theory):
    assert not theory.Check("", 2.0, 1.0).holds
    assert not theory.Check("", float("nan"), 1.0).holds
