"""The page on tuning names every space that a setting declares."""

from __future__ import annotations

import re
from pathlib import Path

from cnsdiff.base.search_space import declared_spaces
from cnsdiff.recommender.config import resolve_config
from cnsdiff.references import CLOSED_FORM
from cnsdiff.samplers import SAMPLERS

PAGE = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text(encoding="utf-8")


def test_spaces_of_all_configurations():
    rows = dict(re.findall(r"^\| `([\w.]+)` \| `([^`]+)` \|$", PAGE, flags=re.MULTILINE))
    spaces = declared_spaces(resolve_config())
    everywhere = {k: str(space) for k, space in spaces.items() if not k.startswith("sampler.")}
    assert rows == everywhere


def test_spaces_of_the_samplers():
    rows = re.findall(r"^\| `(\w+)` \| `(sampler\.\w+)` \| `([^`]+)` \|$", PAGE, flags=re.MULTILINE)
    expected = [
        (name, key, str(space))
        for name in SAMPLERS.names()
        if SAMPLERS.find(name).__module__.startswith("cnsdiff.samplers")
        for key, space in sorted(
            declared_spaces(resolve_config({"sampler": {"name": name}})).items()
        )
        if key.startswith("sampler.")
    ]
    assert sorted(rows) == sorted(expected)


def test_spaces_of_models_in_closed_form():
    page = (Path(__file__).parents[2] / "docs" / "closed-form.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `(\w+)` \| `(backbone\.\w+)` \| `([^`]+)` \|$", page, flags=re.MULTILINE
    )
    expected = [
        (name, f"backbone.{key}", str(space))
        for name in sorted(CLOSED_FORM)
        for key, space in sorted(declared_spaces(CLOSED_FORM[name].Config(name=name)).items())
    ]
    assert rows == expected
