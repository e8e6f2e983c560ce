"""The documentation says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from cnsdiff.backbones.lightgcn import LightGCNConfig
from cnsdiff.cli.commands.train import train
from cnsdiff.content.model import ContentConfig
from cnsdiff.evaluation.anticipation import Anticipated
from cnsdiff.objectives.losses import ContrastiveConfig, PropensityConfig
from cnsdiff.objectives.objective import ObjectiveConfig
from cnsdiff.objectives.rivals import RivalConfig
from cnsdiff.recommender.config import Config, EvaluationConfig, StackConfig
from cnsdiff.recommender.presets import DEFAULT, PRESETS
from cnsdiff.references import CLOSED_FORM
from cnsdiff.samplers import SAMPLERS
from cnsdiff.samplers.cnsdiff import CNSDiffConfig
from cnsdiff.training.config import TrainingConfig

ROOT = Path(__file__).parents[1]
SECTIONS: dict[str, tuple[type[Any], set[str]]] = {
    "Top level": (
        Config,
        {"backbone", "sampler", "objective", "training", "evaluation", "stack", "content"},
    ),
    "backbone": (LightGCNConfig, {"name"}),
    "sampler": (CNSDiffConfig, {"name"}),
    "objective": (ObjectiveConfig, {"contrastive", "propensity", "rival"}),
    "objective.contrastive": (ContrastiveConfig, set()),
    "objective.propensity": (PropensityConfig, set()),
    "objective.rival": (RivalConfig, set()),
    "training": (TrainingConfig, set()),
    "evaluation": (EvaluationConfig, set()),
    "stack": (StackConfig, set()),
    "content": (ContentConfig, set()),
}


#: The samplers of our own that share one table: all but `cnsdiff`, which has its section.
OTHER_SAMPLERS = [
    name
    for name in SAMPLERS.names()
    if name != "cnsdiff" and SAMPLERS.find(name).__module__.startswith("cnsdiff.samplers")
]


def section_text(section: str) -> str:
    """What the configuration page says under a heading."""
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    return re.split(r"\n#+ ", text.split(f"# {section}\n", 1)[1])[0]


def documented(section: str) -> dict[str, str]:
    """Key and default of each row under a heading of the configuration page."""
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", section_text(section), flags=re.MULTILINE)
    return dict(rows)


def defaults(model: type[Any], elsewhere: set[str]) -> dict[str, str]:
    """The settings of a section and their defaults, as the page writes them."""
    fields = model.model_fields
    plain = json.loads(
        json.dumps({name: fields[name].default for name in fields if name not in elsewhere})
    )
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in plain.items()}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_documented_with_its_default(section: str) -> None:
    assert documented(section) == defaults(*SECTIONS[section])


@pytest.mark.parametrize("name", OTHER_SAMPLERS)
def test_every_setting_of_the_other_samplers_is_documented_with_its_default(name: str) -> None:
    row = rf"^\| `{name}` \| `(\w+)` \| `([^`]*)` \|"
    rows = re.findall(row, section_text("The other samplers"), flags=re.MULTILINE)
    assert dict(rows) == defaults(SAMPLERS.find(name).Config, {"name", "n_negatives"})
    assert len(rows) == len(dict(rows))


def test_every_setting_of_a_model_in_closed_form_is_documented_with_its_default() -> None:
    row = r"^\| `([\w-]+)` \| `(\w+)` \| `([^`]*)` \|"
    rows = re.findall(row, section_text("Models in closed form"), flags=re.MULTILINE)
    expected = [
        (name, key, default)
        for name, kind in CLOSED_FORM.items()
        for key, default in defaults(kind.Config, {"name"}).items()
    ]
    assert rows == expected


def test_the_table_of_the_other_samplers_holds_registered_ones_only() -> None:
    rows = re.findall(r"^\| `(\w+)`", section_text("The other samplers"), flags=re.MULTILINE)
    assert rows
    assert set(rows) <= set(OTHER_SAMPLERS)


def test_what_the_default_preset_sets_is_documented_beside_the_plain_settings() -> None:
    text = section_text("What the default preset sets")
    rows = re.findall(r"^\| `([\w.]+)` \| `([^`]*)` \| (.*) \|$", text, flags=re.MULTILINE)
    sections = {"backbone": LightGCNConfig, "objective": ObjectiveConfig}
    ours, plain = {}, {"sampler.name": "the one you name"}
    for section, settings in PRESETS[DEFAULT].items():
        for key, value in settings.items():
            ours[f"{section}.{key}"] = str(value)
            if section in sections:
                plain[f"{section}.{key}"] = f"`{sections[section].model_fields[key].default}`"
    del ours["backbone.name"], plain["backbone.name"]  # is lightgcn in both
    assert {key: value for key, value, _ in rows} == ours
    assert {key: value for key, _, value in rows} == plain


def test_every_preset_is_named_in_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"`--preset {name}`" in readme or f"`{name}`" in readme for name in PRESETS)


@pytest.mark.parametrize("option", ["sampler", "preset", "select_on"])
def test_help_and_readme_name_every_choice(option: str) -> None:
    choices = {
        "sampler": [*OTHER_SAMPLERS, "cnsdiff"],
        "preset": list(PRESETS),
        "select_on": ["valid", *get_args(Anticipated)],
    }[option]
    (about,) = get_type_hints(train, include_extras=True)[option].__metadata__
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for choice in choices:
        assert re.search(rf"(?<![\w-]){choice}(?![\w-])", about.help), choice
        assert choice == "valid" or re.search(rf"`[^`\n]*(?<![\w-]){choice}`", readme), choice


def test_every_equation_that_is_cited_exists() -> None:
    page = (ROOT / "docs/equations.md").read_text(encoding="utf-8")
    numbers = [int(number) for number in re.findall(r"^### (\d+)\. ", page, flags=re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    cited = set()
    for folder in ("src", "tests", "benchmarks"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            assert "METHOD \N{SECTION SIGN}" not in text, (
                f"{file} cites no page of the documentation"
            )
            for listed in re.findall(r"equations? (\d+(?:(?:,| and| to) \d+)*)", text, flags=re.I):
                cited |= set(map(int, re.findall(r"\d+", listed)))
    assert cited
    assert cited <= set(numbers)


def test_ci_runs_the_test_command_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [line for line in readme.splitlines() if "python3 -m venv" in line]
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
