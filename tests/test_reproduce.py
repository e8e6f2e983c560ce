"""The list of measured tables: its commands exist, and the smallest come out as the pages say."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from scripts import load_script

ROOT = Path(__file__).parents[1]
BOOK = yaml.safe_load((ROOT / "benchmarks" / "tables.yaml").read_text(encoding="utf-8"))
SCRIPT = ROOT / "benchmarks" / "reproduce.py"


@pytest.fixture(scope="module")
def reproduce():
    """The module ``benchmarks/reproduce.py``."""
    return load_script("benchmarks/reproduce.py")


@pytest.mark.parametrize("name", BOOK["tables"])
def test_pages_scripts_and_datasets_exist(name):
    table = BOOK["tables"][name]
    assert table.keys() <= {"page", "minutes", "run", "expect"}
    assert (ROOT / "docs" / table["page"]).exists()
    first, *rest = shlex.split(table["run"])
    if first == "-m":
        assert (ROOT / rest[2]).exists()
    else:
        assert (ROOT / first).exists()
    for word in rest:
        if word.startswith("$DATA/"):
            assert word.removeprefix("$DATA/") in BOOK["data"]


def test_the_list_and_an_unknown_table():
    listed = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True)
    assert all(name in listed.stdout for name in BOOK["tables"])
    bad = subprocess.run(
        [sys.executable, SCRIPT, "no"], capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2 and "no table no; there are theory" in bad.stderr


def test_values_out_of_their_tolerance_are_told(reproduce):
    rows = [{"method": "a", "fhn": 0.5}, {"method": "b", "fhn": 0.2}]
    within = {"where": {"method": "a"}, "field": "fhn", "value": 0.48, "within": 0.05}
    assert reproduce.differences(rows, [within]) == []
    beyond = {**within, "value": 0.4}
    assert reproduce.differences(rows, [beyond]) == [
        "fhn of {'method': 'a'} is 0.5, not within 0.05 of 0.4"
    ]
    missing = {**within, "where": {"method": "c"}}
    assert reproduce.differences(rows, [missing]) == ["no row of {'method': 'c'} has fhn"]


@pytest.mark.slow
def test_the_smallest_table_comes_out_as_its_page_says(tmp_path):
    command = [sys.executable, SCRIPT, "alarm", "--work", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("alarm: as the page says\n")
