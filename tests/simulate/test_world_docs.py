"""docs/world.md says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cnsdiff.base.settings import Settings
from cnsdiff.simulate import ShiftSettings, WorldSettings

PAGE = (Path(__file__).parents[2] / "docs" / "world.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("heading", "model"),
    [("Of `ConfoundedWorld(...)`:", WorldSettings), ("Of `world.dataset(...)`:", ShiftSettings)],
)
def test_every_setting_is_documented_with_its_default(heading: str, model: type[Settings]) -> None:
    table = PAGE.split(heading)[1].strip().split("\n\n")[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", table, flags=re.MULTILINE))
    defaults = {name: field.default for name, field in model.model_fields.items()}
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in defaults.items()}
    assert documented == texts
